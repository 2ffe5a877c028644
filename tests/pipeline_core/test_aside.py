"""Beside a GPU work is done in child processes, and to the same bytes; without one it is done here."""

import importlib
import operator
import os
import signal
import subprocess
import sys
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import psutil
import pytest
import torch

import pipeline_core.frame
from pipeline_core import aside, python
from pipeline_core.children import Children
from pipeline_core.device import thread_count
from pipeline_core.errors import DivergedError, StageError, TransientError
from tests.called import Demanding, Unspeakable, die_once, raise_one


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
    assert aside.elsewhere(os.nice, 0) == min(os.nice(0) + 1, 19)
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


@pytest.mark.parametrize("kind, values, words", [
    (Unspeakable, (), "Unspeakable: the mesh is cursed"), (Demanding, (1, 2), "Demanding: 1 and 2"),
])  # fmt: skip
def test_an_error_that_cannot_be_pickled_is_named(gpu, kind, values, words):
    child = gpu(os.getpid)
    with pytest.raises(StageError, match=words) as caught:
        gpu(raise_one, kind, *values)
    assert "in raise_one" in caught.value.__notes__[0]
    assert gpu(os.getpid) == child


def test_what_cannot_be_pickled_is_an_error_and_the_child_lives(gpu):
    child = gpu(os.getpid)
    with pytest.raises(StageError, match=r"_thread\.lock") as caught:
        gpu(threading.Lock)
    assert "cannot be pickled" in caught.value.__notes__[-1]
    gone = types.FunctionType((lambda: None).__code__, {}, "gone")
    gone.__module__, gone.__qualname__ = "pipeline_core.frame", "gone"
    pipeline_core.frame.gone = gone  # here, and not there
    try:
        with pytest.raises(AttributeError, match="gone"):
            gpu(gone)
    finally:
        del pipeline_core.frame.gone
    assert gpu(os.getpid) == child


def test_a_child_that_dies_is_a_transient_error(gpu):
    with pytest.raises(TransientError, match=r"posix\._exit ended with status 7"):
        gpu(os._exit, 7)
    assert gpu(os.getpid) != os.getpid()


def test_a_child_that_died_at_rest_is_replaced(gpu):
    child = gpu(os.getpid)
    os.kill(child, signal.SIGKILL)
    while at_work(child):
        time.sleep(0.05)
    assert gpu(os.getpid) not in (child, os.getpid())


def test_a_call_whose_child_died_is_made_once_more_where_it_was_not_new(gpu, tmp_path):
    with pytest.raises(TransientError, match="ended with status 7"):
        gpu(die_once, tmp_path / "new")
    child = gpu(os.getpid)
    assert gpu(die_once, tmp_path / "old") != child
    with pytest.raises(TransientError, match="ended with status 7"):
        gpu(os._exit, 7)


@pytest.mark.parametrize("hung", ["at work", "before it has read the call"])
def test_a_call_that_takes_too_long_is_stopped(hung):
    children = Children(1, patience=1.0)
    child, began = children(os.getpid), time.monotonic()
    if hung != "at work":
        os.kill(child, signal.SIGSTOP)
    with pytest.raises(TransientError, match="took longer than 1 s and was stopped"):
        children(time.sleep, 60) if hung == "at work" else children(np.negative, np.ones(10**7))
    assert time.monotonic() - began < 20 and not children._idle and not at_work(child)


def test_an_idle_child_ends_and_is_replaced():
    children = Children(1, idle=0.3)
    child = children(os.getpid)
    until = time.monotonic() + 30
    while at_work(child):
        assert time.monotonic() < until
        time.sleep(0.05)
    assert children(time.sleep, 0.6) is None and children(os.getpid) != child


def test_children_are_started_before_they_are_asked():
    children = Children(2, first="decimal:no_such_function")  # whoever calls is told what is missing
    children.start(), children.start()
    ready = [child._process.pid for child in children._idle]
    assert len(set(ready)) == 2 and children(os.getpid) in ready
    assert Children(1, first="decimal:getcontext")(eval, "'decimal' in __import__('sys').modules")
    os.kill(ready[0], signal.SIGKILL), os.kill(ready[1], signal.SIGKILL)
    for child in children._idle:
        child._process.wait()
    children.start()
    assert children(os.getpid) not in ready


def test_threads_that_ask_at_once_share_the_children(monkeypatch):
    made = []

    def slow(*given, **named):
        made.append(given)
        time.sleep(0.1)
        return given

    monkeypatch.setattr(aside, "Children", slow)
    for which in (aside._once(lambda: aside.Children(1)), aside._prompt, aside._thorough):
        before = len(made)
        with ThreadPoolExecutor(4) as pool:
            found = [each.result() for each in [pool.submit(which) for _ in range(4)]]
        assert all(each is found[0] for each in found) and len(made) - before <= 1


def test_soon_is_later_beside_a_gpu_and_at_once_without(gpu, monkeypatch):
    assert aside.soon(os.getpid).result() not in (os.getpid(), None)
    monkeypatch.setattr(aside, "feeds_a_gpu", lambda: False)
    assert aside.soon(os.getpid).done() and aside.soon(os.getpid).result() == os.getpid()


def test_what_prompt_ones_load_first_is_there():
    module, _, name = aside.PROMPT_FIRST.partition(":")
    assert callable(getattr(importlib.import_module(module), name))


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
        for _ in range(6):  # Python loses an interrupt that comes while it runs a callback of a weak reference
            parent.send_signal(stop)
            with suppress(subprocess.TimeoutExpired):
                parent.wait(timeout=10)
                break
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
