"""Beside a GPU work takes turns; without one nobody waits."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from pipeline_core import aside
from pipeline_core.rendering import pool


@pytest.mark.parametrize(("gpu", "most"), [(True, 2), (False, 5)])
def test_only_so_many_at_once_beside_a_gpu(monkeypatch, gpu, most):
    monkeypatch.setattr(aside, "feeds_a_gpu", lambda: gpu)
    turn, inside, seen = aside.Turns(2), [0], []
    lock, all_in = threading.Lock(), threading.Barrier(most)

    def work(number):
        with turn():
            with lock:
                inside[0] += 1
                seen.append(inside[0])
            if number < most:
                all_in.wait(timeout=30)  # passes only where so many are inside together
            with lock:
                inside[0] -= 1

    with ThreadPoolExecutor(5) as pool:
        list(pool.map(work, range(5)))
    assert max(seen) == most


def test_without_a_gpu_this_process_feeds_none():
    assert not aside.feeds_a_gpu()


def test_a_worker_of_another_pool_works_alone(monkeypatch):
    """It asks no other thread; others still do."""
    monkeypatch.setattr(pool, "thread_count", lambda: 4)
    parts = []
    with ThreadPoolExecutor(1, "views", pool.work_alone) as workers:
        workers.submit(pool.parallel, lambda part, of: parts.append((part, of))).result(timeout=30)
    assert parts == [(0, 1)]
    pool.parallel(lambda part, of: parts.append((part, of)))
    assert sorted(parts[1:]) == [(part, 4) for part in range(4)]


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
