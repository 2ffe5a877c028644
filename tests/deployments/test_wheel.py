"""The wheel, installed by itself, used from a folder whose own ``flows``, ``tasks`` and ``catalog`` are not ours.

The environment has the wheel and, through a ``.pth`` file, the libraries that these tests run with, but not the source
tree.
"""

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import threading
import venv
from pathlib import Path

import pytest

from tests.flows.tiny import settings

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("flows", "tasks", "catalog", "pipeline_core")
HOSTILE = "import os\nopen(os.environ['BETRAYED'], 'a').write(__file__)\nraise ImportError('not ours: ' + __file__)\n"

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The folder of the installed command."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for room in ROOMS:
        shutil.copytree(ROOT / room, source / room, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder]
    subprocess.run([*pip, "wheel", *options, source], check=True)
    venv.create(folder / "env", symlinks=True)
    python = folder / "env" / "bin" / "python"
    [wheel] = folder.glob("*.whl")
    subprocess.run([*pip, "--python", python, "install", "--no-deps", "--no-index", wheel], check=True)
    [packages] = (folder / "env" / "lib").glob("python*/site-packages")
    libraries = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    (packages / "libraries.pth").write_text("\n".join(libraries) + "\n")
    shutil.rmtree(source)
    return python.parent


@pytest.fixture
def here(tmp_path):
    """A user's folder: a manifest, and folders with the names of our rooms that must never be imported."""
    folder = tmp_path / "here"
    for room in ROOMS:
        (folder / room).mkdir(parents=True)
        (folder / room / "__init__.py").write_text(HOSTILE)
    (folder / "props.csv").write_text("id,prompt,seed\nmug,a thing the judge has no words for,1\n")
    yield folder
    assert not (tmp_path / "betrayed").exists(), (tmp_path / "betrayed").read_text()


@pytest.fixture
def splatmill(installed, here, tmp_path):
    """The installed command, run from ``here``: returns what it printed, and fails where it fails."""
    theirs = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "SPLATMILL_", "PYTHON"))}
    own = {"BETRAYED": str(tmp_path / "betrayed"), "SPLATMILL_STATE": str(tmp_path / "state")}
    quick = {"SPLATMILL_THREADS": "1", "OMP_NUM_THREADS": "1", "PREFECT_WORKER_QUERY_SECONDS": "0.5"}

    def run(*arguments, start=False, code=0):
        command = [installed / "splatmill", *map(str, arguments)]
        how = {"cwd": here, "env": theirs | own | quick, "text": True}
        if start:
            return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **how)
        done = subprocess.run(command, capture_output=True, timeout=400, **how)
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout

    return run


def test_the_wheel_has_every_file_of_ours_no_tests_and_is_what_runs(installed):
    code = "import flows, tasks, catalog, pipeline_core as p; print(p.__file__)"
    found = subprocess.run([installed / "python", "-c", code], capture_output=True, text=True, cwd="/").stdout.strip()
    packages = Path(found).parents[1]
    assert packages.is_relative_to(installed.parent) and not (packages / "tests").exists()
    for room in ROOMS:
        ours, there = files(ROOT / room), files(packages / room)
        assert ours == there, ours ^ there


def files(folder):
    """Code, weights, SQL and the gallery's files, relative to the folder that the room is in."""
    found = [path for path in folder.rglob("*") if path.is_file() and path.suffix not in (".pyc", ".nbi", ".nbc")]
    return {path.relative_to(folder.parent).as_posix() for path in found}


def test_a_batch_is_made_and_asked_about_from_a_folder_with_our_rooms_names(splatmill, here, tiny):
    made = json.loads(splatmill("run", "props.csv", "--json", *settings(tiny | {"init.point_prior": "starter"})))
    assert made["ok"] and made["made"] == ["mug"]
    [row] = json.loads(splatmill("sql", "select asset_id, status, glb_path from assets", "--format", "json"))
    assert (row["asset_id"], row["status"]) == ("mug", "unjudged") and (here / "library" / row["glb_path"]).is_file()
    page = Path(here / splatmill("gallery").strip())
    assert page.is_file() and "mug" in page.read_text()
    found = {each["what"]: each["state"] for each in json.loads(splatmill("doctor", "--json"))}
    assert found["image model of factory"] == found["points model of factory"] == found["library"] == "ok"


def test_a_farm_works_from_a_folder_with_our_rooms_names(splatmill, here, tiny):
    """Server, registration, worker and the worker's flow runs are processes of their own."""
    splatmill("server", "start", "--port", "0")
    running = []
    try:
        splatmill("deploy", "--library", "library", "--file", ROOT / "deployments" / "prefect.yaml")
        running.append(splatmill("worker", start=True))
        splatmill("submit", "props.csv", *settings(tiny))
        running.append(splatmill("reconcile", "--every", "1", start=True))
        patience = threading.Timer(400, running[1].kill)
        patience.start()
        assert any("the run is over" in line for line in running[1].stdout)
        assert (here / "library" / "assets" / "mug" / "asset.glb").is_file()
        patience.cancel()
    finally:
        for process in running:
            process.terminate()
            process.communicate(timeout=60)
        splatmill("server", "stop")
