"""A small thread pool for compiled kernels that let go of the GIL.

A call uses as many as everything else (:func:`~pipeline_core.device.thread_count`). There is no OpenMP here: OpenMP
pools spin against torch's own, abort after a fork, or abort when two Python threads call at once. Every kernel writes
disjoint memory for each part of its work, so results never depend on the number of threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from pipeline_core.device import thread_count

_lock = threading.Lock()
_executor: ThreadPoolExecutor | None = None
_size = 0


def parallel(work: Callable[[int, int], None]) -> None:
    """Call ``work(part, parts)`` for every part, on as many threads as :func:`thread_count` says.

    The calling thread takes part 0, then every part that no pool thread has begun: a busy pool (other callers) never
    makes it wait for its turn. ``work`` must not call :func:`parallel`.
    """
    parts = thread_count()
    if parts == 1:
        work(0, 1)
        return
    executor = _get_executor(parts - 1)
    futures = [executor.submit(work, part, parts) for part in range(1, parts)]
    try:
        work(0, parts)
        for part in range(parts - 1, 0, -1):
            if futures[part - 1].cancel():
                work(part, parts)
    finally:
        for future in futures:
            if not future.cancel():
                future.exception()  # no kernel may run on after this call has returned
    for future in futures:
        if not future.cancelled():
            future.result()


def _get_executor(workers: int) -> ThreadPoolExecutor:
    """The process's pool, with at least ``workers`` threads."""
    global _executor, _size
    with _lock:
        if _executor is None or _size < workers:
            if _executor is not None:
                _executor.shutdown(wait=False)
            _executor, _size = ThreadPoolExecutor(workers, thread_name_prefix="splatmill"), workers
        return _executor


def _after_fork() -> None:
    """Threads do not survive a fork: the child makes a pool of its own."""
    global _executor, _size, _lock
    _executor, _size, _lock = None, 0, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
