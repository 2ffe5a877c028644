"""Child processes: values come back exactly, errors keep their kind, the caller survives a crash or a hang."""

import threading

import numpy as np
import pytest

from pipeline_core.errors import DivergedError, TransientError
from pipeline_core.meshing.process import run_in_process
from pipeline_core.meshing.surface import surface


def field():
    x = np.linspace(-1, 1, 16)
    return (2 - 2 * np.linalg.norm(np.stack(np.meshgrid(x, x, x)), axis=0)).clip(0, None).astype(np.float32)


def test_same_answer_as_in_this_process():
    options = {"iso": 1.0, "face_budget": 300}
    here = surface(field(), **options)
    there = run_in_process("pipeline_core.meshing.surface:surface", field(), **options)
    for a, b in zip(here, there, strict=True):
        assert a.dtype == b.dtype
        assert np.array_equal(a, b)


def test_domain_errors_cross_over():
    with pytest.raises(DivergedError, match="nothing is inside"):
        run_in_process(
            "pipeline_core.meshing.surface:surface", np.zeros((4, 4, 4), np.float32), iso=1.0, face_budget=99
        )


def test_other_errors_and_death_are_transient():
    with pytest.raises(TransientError, match="status 1"):
        run_in_process("pipeline_core.meshing.surface:no_such_function")
    with pytest.raises(TransientError, match="status 7"):
        run_in_process("os:_exit", np.array(7))


def test_a_hanging_child_is_stopped():
    with pytest.raises(TransientError, match=r"longer than 1 s"):
        run_in_process("signal:pause", timeout=1.0)


def test_any_thread_may_call():
    results = {}

    def work(i):
        results[i] = run_in_process("numpy:add", np.full(3, i), np.ones(3))[0]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert {i: r.tolist() for i, r in results.items()} == {i: [i + 1.0] * 3 for i in range(3)}
