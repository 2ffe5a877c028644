"""Beside a GPU work is done in child processes, and to the same bytes; without one it is done here."""

import operator
import os
import signal
import subprocess
import sys
import time

import numpy as np
import psutil
import pytest
import torch

from pipeline_core import aside, python
from pipeline_core.children import Children
from pipeline_core.device import thread_count
from pipeline_core.errors import DivergedError, TransientError


@pytest.fixture
def gpu(monkeypatch):
    """A process that feeds a GPU, as far as this module can tell, with children of as many threads as it has."""
    monkeypatch.setattr(aside, "feeds_a_gpu", lambda: True)
    children = Children(2, threads=thread_count(), niceness=1)
    monkeypatch.setattr(aside, "_thorough", lambda: children)
    monkeypatch.setattr(aside, "_prompt", lambda: children)
    yield children
    for child in children._idle:
        child.end()


def test_without_a_gpu_it_is_done_here():
    assert not aside.feeds_a_gpu()
    assert aside.elsewhere(os.getpid) == aside.promptly(os.getpid) == os.getpid()


def test_beside_a_gpu_children_do_it_and_are_kept(gpu):
    first, second = aside.elsewhere(os.getpid), aside.promptly(os.getpid)
    assert first == second != os.getpid()
    assert aside.elsewhere(os.nice, 0) == os.nice(0) + 1
    assert aside.elsewhere(os.getenv, "CUDA_VISIBLE_DEVICES") == ""
    assert aside.elsewhere(thread_count) == thread_count()


def test_tensors_and_arrays_cross_over_as_they_are(gpu):
    values = [
        torch.arange(12.0).reshape(3, 4).T, torch.zeros(0, 3), torch.tensor(2, dtype=torch.int64),
        torch.ones(2, dtype=torch.bfloat16), torch.nn.Parameter(torch.ones(2)), np.arange(6).reshape(2, 3).T,
        np.zeros((0, 3), np.float32), np.array(["a"]),
    ]  # fmt: skip
    for value, there in zip(values, aside.elsewhere(list, values), strict=True):
        assert there.dtype == value.dtype and there.shape == value.shape
        assert (there == value).all()
    there[...], large = "b", np.random.default_rng(0).random(3_000_000)  # they may be written
    assert np.array_equal(aside.elsewhere(np.negative, large), -large)


@pytest.mark.slow
def test_a_mesh_baked_there_is_the_same_to_the_last_byte(gpu):
    from pipeline_core.config import RECIPES
    from pipeline_core.gaussians.initialise import ball, from_points
    from pipeline_core.meshing.extract import extract_mesh
    from pipeline_core.texturing.bake import bake
    from pipeline_core.texturing.refine import digest

    override = {"mesh.grid": 24, "mesh.texture_size": 128, "mesh.bake_views": 6, "mesh.bake_resolution": 48}
    recipe, draw = RECIPES["draft"].override(override | {"init.opacity": 0.8}), torch.Generator().manual_seed(0)
    gaussians, settings = from_points(ball(500, draw), recipe.init, draw), recipe.mesh
    here = bake(gaussians, extract_mesh(gaussians, settings), settings)
    there = aside.elsewhere(bake, gaussians, aside.elsewhere(extract_mesh, gaussians, settings), settings)
    assert digest(there) == digest(here) and there.normals.tobytes() == here.normals.tobytes()


def test_errors_come_back_as_what_they_are(gpu):
    from pipeline_core.config import RECIPES
    from pipeline_core.meshing.extract import extract_mesh
    from pipeline_core.types import Gaussians

    nothing = Gaussians(*(torch.zeros(0, *shape) for shape in ((3,), (4,), (3,), (), (1, 3), (0, 3))))
    child = gpu(os.getpid)
    with pytest.raises(DivergedError, match="nothing to mesh") as caught:
        aside.elsewhere(extract_mesh, nothing, RECIPES["draft"].mesh)
    assert "in solid_part" in caught.value.__notes__[0]
    with pytest.raises(ZeroDivisionError):
        aside.elsewhere(operator.truediv, 1, 0)
    assert gpu(os.getpid) == child


def test_a_child_that_dies_is_a_transient_error_and_replaced(gpu):
    with pytest.raises(TransientError, match=r"posix\._exit ended with status 7"):
        gpu(os._exit, 7)
    child = gpu(os.getpid)
    os.kill(child, signal.SIGKILL)
    with pytest.raises(TransientError, match="status -9"):
        gpu(os.getpid)
    assert gpu(os.getpid) != child


PARENT = """
import os, sys, threading, time
from pipeline_core.children import Children
children = Children(2)
print(children(os.getpid), flush=True)
threading.Thread(target=children, args=(time.sleep, 60), daemon=True).start()
time.sleep(0.5)
print(children(os.getpid), flush=True)
children(time.sleep, 60)
"""


def at_work(pid):
    """Whether there is such a process, and not only what is left of it."""
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_no_child_is_left_when_its_parent_ends(stop):
    command = [sys.executable, "-P", "-c", PARENT]
    with subprocess.Popen(command, env=python.environment(), stdout=subprocess.PIPE, text=True) as parent:
        children = [int(parent.stdout.readline()) for _ in range(2)]
        assert len({*children, parent.pid}) == 3
        parent.send_signal(stop)
        parent.wait(timeout=30)
    until = time.monotonic() + 30
    while any(map(at_work, children)):
        assert time.monotonic() < until
        time.sleep(0.1)


def test_who_feeds_a_gpu_waits_little_for_the_interpreter():
    before = sys.getswitchinterval()
    try:
        aside.feed_a_gpu()
        assert sys.getswitchinterval() == pytest.approx(aside.SWITCH_S, abs=1e-5)
        sys.setswitchinterval(aside.SWITCH_S / 2)  # somebody asked for less
        aside.feed_a_gpu()
        assert sys.getswitchinterval() == pytest.approx(aside.SWITCH_S / 2, abs=1e-5)
    finally:
        sys.setswitchinterval(before)
