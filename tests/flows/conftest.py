"""Fixtures of the flows' tests: tiny random priors in the starter's own format; the command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.flows.tiny import TINY
from tests.pipeline_core.priors.checkpoints import write_starter_image, write_starter_points

ROOT = Path(__file__).resolve().parents[2]
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@pytest.fixture(scope="session")
def tiny_prior(tmp_path_factory):
    """A folder with ``image`` and ``points``: random weights, real formats."""
    folder = tmp_path_factory.mktemp("prior") / "tiny"
    for name, write in (("image", write_starter_image), ("points", write_starter_points)):
        (folder / name).mkdir(parents=True)
        write(folder / name)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_prior):
    """Dotted overrides of a tiny journey."""
    return TINY | {"image_prior": str(tiny_prior), "init.point_prior": str(tiny_prior)}


@pytest.fixture
def manifest(tmp_path):
    """Two small requests."""
    path = tmp_path / "props.csv"
    path.write_text("id,prompt,seed\nmug,a blue mug,1\nmushroom,a red mushroom,2\n")
    return path


def environment(prefect_url=None, **more):
    """A clean environment for a child: no user's Prefect settings, and one thread in every pool.

    Bytes are compared, and this process's own pools may be larger: with two threads MKL's sums vary with the load.
    """
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "SPLATMILL_"))}
    env |= {"PYTHONPATH": str(ROOT), "SPLATMILL_THREADS": "1"} | dict.fromkeys(POOLS, "1") | more
    if prefect_url:
        env["PREFECT_API_URL"] = prefect_url
    return env


def splatmill(*arguments, env, start=False, **options):
    """Run the command (or start it, in a session of its own)."""
    command = [sys.executable, "-m", "flows.cli", *map(str, arguments)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "env": env, "cwd": "/", **options}
    if start:
        return subprocess.Popen(command, start_new_session=True, **pipes)
    return subprocess.run(command, timeout=600, **pipes)


@pytest.fixture
def request_of(tmp_path):
    """A function that gives the request of a CSV of these lines."""
    from flows.batch import BatchRequest

    def get(*rows, **options):
        path = tmp_path / "props.csv"
        path.write_text("\n".join(rows))
        return BatchRequest(manifest=str(path), library=str(tmp_path / "library"), recipe="draft", **options)

    return get
