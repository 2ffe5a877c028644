"""gsplat's CUDA kernels: what is missing to have them, and building them once on a machine.

PyPI's gsplat holds sources; the first import of its kernels compiles them with ``nvcc``, for minutes. Two processes
that do so at the same time remove each other's lock files and load a half-written module. :func:`build` is therefore
called before workers fan out and before an engine starts on a GPU: the first process compiles, the others wait for it.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import torch

from pipeline_core.errors import RequestError
from pipeline_core.files import cache_folder, lock

RELEASE = "1.5.3"
"""The newest release on PyPI."""
TRIED_CUDA = (13, 0)
"""Newest CUDA whose compiler was seen to take the kernels of :data:`RELEASE` that are used here (with torch 2.13)."""
FROM_PYPI = f"pip install ninja gsplat=={RELEASE}"
FROM_SOURCE = "pip install --no-build-isolation git+https://github.com/nerfstudio-project/gsplat@90d7b4b3"
"""Version 1.6.0, which mends its build with CUDA 13.2; not on PyPI."""


def nvcc_version() -> tuple[int, int] | None:
    """Release of the CUDA compiler that torch would use (``CUDA_HOME``, else the ``PATH``), or None."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    compiler = shutil.which("nvcc", path=str(Path(home) / "bin")) if home else shutil.which("nvcc")
    if compiler is None:
        return None
    words = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"release (\d+)\.(\d+)", words)
    return (int(found[1]), int(found[2])) if found else None


def missing() -> tuple[str, str] | None:
    """What keeps gsplat from running on this machine and how to mend it; None where nothing is known to."""
    if importlib.util.find_spec("gsplat") is None:
        return "not installed", FROM_PYPI
    if importlib.util.find_spec("gsplat.csrc") is not None:
        return None  # a wheel with compiled kernels
    compiler, built_for = nvcc_version(), torch.version.cuda
    if compiler is None:
        return "no nvcc to compile its kernels", f"install the CUDA {built_for} toolkit, or set CUDA_HOME to it"
    if built_for and compiler[0] != int(built_for.split(".")[0]):
        return (
            f"nvcc is of CUDA {compiler[0]}.{compiler[1]}, torch of CUDA {built_for}: extensions do not build",
            f"set CUDA_HOME to a CUDA {built_for} toolkit, or install the torch build for this one",
        )
    return None


def advice() -> str:
    """What to do where gsplat does not build with the compiler at hand."""
    compiler = nvcc_version()
    if compiler is None or compiler <= TRIED_CUDA:
        return ""
    return f"{RELEASE} was not tried with CUDA {compiler[0]}.{compiler[1]}; if it does not build: {FROM_SOURCE}"


def build() -> None:
    """Compile the kernels, or load what was compiled; one process at a time. Raises :class:`RequestError`."""
    problem = missing()
    if problem:
        raise RequestError(f"a GPU needs gsplat: {problem[0]}. To mend it: {problem[1]}")
    with lock(cache_folder() / "gsplat.lock"):
        try:
            from gsplat.cuda._backend import _C as kernels
        except Exception as error:  # the compiler's own errors, of many types
            raise RequestError(f"gsplat's kernels do not build here: {error}. Try 1.6.0: {FROM_SOURCE}") from error
    if kernels is None:
        raise RequestError("gsplat found no CUDA toolkit to build its kernels with: set CUDA_HOME")
