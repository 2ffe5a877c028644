"""What is missing for gsplat is told apart, and only one process at a time builds it."""

import importlib.util
import os
import stat
import subprocess
import sys
import time

import pytest
import torch

from pipeline_core.errors import RequestError
from pipeline_core.rendering import gsplat_build as G


@pytest.fixture
def compiler(tmp_path, monkeypatch):
    """``compiler("13.2")``: an nvcc of that release is the one at hand; None: there is none."""

    def put(release):
        folder = tmp_path / "cuda" / "bin"
        folder.mkdir(parents=True, exist_ok=True)
        nvcc = folder / "nvcc"
        nvcc.unlink(missing_ok=True)
        if release:
            nvcc.write_text(f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.88'\n")
            nvcc.chmod(nvcc.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("CUDA_HOME", str(folder.parent))

    return put


@pytest.fixture
def installed(monkeypatch):
    """``installed("gsplat")``: these modules and no other of gsplat's are here."""

    def put(*names):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name if name in names else None)

    return put


def test_what_is_missing_is_told_apart(compiler, installed, monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    installed()
    assert G.missing() == ("not installed", "pip install ninja gsplat==1.5.3")
    installed("gsplat", "gsplat.csrc")
    compiler(None)
    assert G.missing() is None  # compiled kernels need no compiler
    installed("gsplat")
    assert G.missing() == ("no nvcc to compile its kernels", "install the CUDA 12.8 toolkit, or set CUDA_HOME to it")
    compiler("13.0")
    what, mend = G.missing()
    assert what == "nvcc is of CUDA 13.0, torch of CUDA 12.8: extensions do not build" and "CUDA 12.8 toolkit" in mend
    compiler("12.4")
    assert G.missing() is None and G.advice() == ""


def test_a_newer_cuda_gets_the_version_that_builds(compiler):
    compiler("13.2")
    assert G.nvcc_version() == (13, 2)
    assert "1.5.3 was not tried with CUDA 13.2" in G.advice() and "gsplat@90d7b4b3" in G.advice()


def test_a_build_that_cannot_begin_says_why(installed):
    installed()
    with pytest.raises(RequestError, match=r"a GPU needs gsplat: not installed. To mend it: pip install ninja gsplat"):
        G.build()


PROCESS = """
import sys, time
from pathlib import Path
from pipeline_core.files import lock
with lock(Path(sys.argv[1]) / "lock"):
    inside = Path(sys.argv[1]) / "inside"
    assert not inside.exists()
    inside.touch()
    time.sleep(0.2)
    inside.unlink()
"""


def test_one_process_at_a_time(tmp_path):
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    processes = [subprocess.Popen(command, env=dict(os.environ, PYTHONPATH=os.getcwd())) for _ in range(3)]
    deadline = time.monotonic() + 100
    assert [process.wait(timeout=max(deadline - time.monotonic(), 1)) for process in processes] == [0, 0, 0]
