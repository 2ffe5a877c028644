"""Work of the processor beside a GPU: however many assets are meshed, the host must be free to feed it.

With sixteen assets in flight their stages come all at once: on an H200 with 16 cores the GPU stood still for 10 seconds
while sixteen atlases were baked, and half of the time while sixteen others were unwrapped (docs/LOG.md). Without a GPU
there is nothing to keep free, and nothing waits.

The thread that feeds the GPU needs the interpreter a thousand times a step. Python gives it back after 5 ms where
another thread computes, and a few such threads cost a round of texture 200 of its 750 ms.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

from pipeline_core.device import loaded_torch

AT_ONCE = 2
"""Threads of this process that may be in such work: each call of a kernel in it takes all cores."""
NICENESS = 10
"""By how much processes of such work give way to this one."""

SWITCH_S = 0.0002
"""Seconds after which a thread gives the interpreter to one that waits for it, in a process that feeds a GPU."""


def feed_a_gpu() -> None:
    """The calling thread's process feeds a GPU from now on: who feeds it waits for no other thread's turn to end."""
    sys.setswitchinterval(min(SWITCH_S, sys.getswitchinterval()))


def feeds_a_gpu() -> bool:
    """Whether this process has begun to use a GPU."""
    torch = loaded_torch()
    return torch is not None and torch.cuda.is_initialized()


class Turns:
    """At most ``places`` at a time beside a GPU; ``with`` it."""

    def __init__(self, places: int) -> None:
        self._free = threading.Semaphore(places)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._free if feeds_a_gpu() else nullcontext():
            yield


turn = Turns(AT_ONCE)
"""``with turn():`` around what keeps all cores of this process busy for a second or more."""
child_turn = Turns(max(1, (os.cpu_count() or 1) * 3 // 4))
"""The same around a process of one thread: a quarter of the cores stays free."""
