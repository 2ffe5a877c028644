"""What made an asset: the code (the package's version and a hash of its sources, which tells a changed checkout too),
and what besides code, models and settings decides which bytes come out."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("catalog", "flows", "pipeline_core", "tasks")
LIBRARIES = (
    "torch", "numpy", "numba", "scipy", "PyMCubes", "xatlas", "pillow", "diffusers", "transformers", "tokenizers",
    "gsplat",
)  # fmt: skip
"""Distributions whose code makes numbers or files of an asset."""


@lru_cache(maxsize=1)
def code_version() -> str:
    """For example ``0.1.0+src.3f9c0d1e2a4b``."""
    try:
        version = metadata.version("splatmill")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        version = "0.0.0"
    root = Path(__file__).resolve().parent.parent
    total = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            total.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return f"{version}+src.{total.hexdigest()[:12]}"


def made_with() -> dict[str, str]:
    """Versions, threads, processor and precision of this process: with code, models, settings and inputs, all that a
    stage's bytes depend on. What is not installed or not loaded is left out."""
    from pipeline_core.device import default_dtype, thread_count

    told = {"python": platform.python_version(), **_libraries(), "cpu": _processor()}
    told["threads"] = os.environ.get("OMP_NUM_THREADS") or str(thread_count())
    if torch := sys.modules.get("torch"):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        told["precision"] = str(default_dtype(device)).removeprefix("torch.")
    return told


@lru_cache(maxsize=1)
def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@lru_cache(maxsize=1)
def _processor() -> str:
    """The kind of processor, by which libraries choose their kernels: name, family and model where Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    known = [told[name] for name in ("model name", "cpu family", "model") if name in told]
    return " ".join([platform.machine(), *(known or [platform.processor()])])
