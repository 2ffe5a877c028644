"""Work of the processor beside a GPU: however many assets are meshed, the host must be free to feed it.

    mesh = elsewhere(extract_mesh, gaussians, settings)

The thread that feeds the GPU needs the interpreter a thousand times a step, and waits for it while another thread
computes: sixteen textures took 62 s for 32 beside threads that meshed (docs/LOG.md). So whatever computes for longer
than a blink does it in a child process, and the children leave a part of the cores free. Without a GPU there is nothing
to feed, and everything is called as it is.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from functools import cache
from typing import Any, TypeVar

from pipeline_core.children import Children
from pipeline_core.device import BESIDE, loaded_torch, thread_count
from pipeline_core.limits import cores, memory

T = TypeVar("T")
NICENESS = 10
"""By how much processes of such work give way to this one."""
CHILD_BYTES = 330_000_000
"""Memory of a process that has loaded torch. Of what is free children may take half."""
PROMPT = max(2, cores() // 4)
"""Calls of :func:`promptly` at once, at most."""
PROMPTLY_S, ELSEWHERE_S = 120.0, 3600.0
"""Seconds after which a call of :func:`promptly`, of :func:`elsewhere` hangs. Views take 0.03 s, and a process 4 s to
load; the longest stage is the meshing of a fine grid, some minutes."""
PROMPT_FIRST = "pipeline_core.texturing.refine:_load"
"""What a process of :func:`promptly` loads as it starts."""
SWITCH_S = 0.0002
"""Seconds after which a thread gives the interpreter to one that waits for it, in a process that feeds a GPU."""


def feed_a_gpu() -> None:
    """The calling thread's process feeds a GPU from now on: who feeds it waits for no other thread's turn to end."""
    sys.setswitchinterval(min(SWITCH_S, sys.getswitchinterval()))


def feeds_a_gpu() -> bool:
    """Whether this process has begun to use a GPU."""
    torch = loaded_torch()
    return torch is not None and torch.cuda.is_initialized()


def elsewhere(function: Callable[..., T], *args: Any, **named: Any) -> T:
    """What ``function`` of a module returns or raises; beside a GPU in a child process, on three quarters of the cores.

    What it is given and gives can be pickled; tensors arrive in a child, and come back, on the CPU.
    """
    return _thorough()(function, *args, **named) if feeds_a_gpu() else function(*args, **named)


def promptly(function: Callable[..., T], *args: Any, **named: Any) -> T:
    """The same for what the GPU will wait for: in other children, of one thread, that give way to nobody."""
    return _prompt()(function, *args, **named) if feeds_a_gpu() else function(*args, **named)


def soon(function: Callable[..., T], *args: Any, **named: Any) -> Future[T]:
    """The same, begun: its result can be waited for later. Without a GPU it is there when this returns."""
    if feeds_a_gpu():
        return WAITING.submit(promptly, function, *args, **named)
    done = Future[T]()
    done.set_result(function(*args, **named))
    return done


def warm_up() -> None:
    """Start the processes of :func:`promptly`, and wait for none: what they load takes seconds of the GPU's time."""
    with suppress(OSError):  # whoever calls will be told
        _prompt().start()


def most_children() -> tuple[int, int]:
    """Processes of :func:`elsewhere` and of :func:`promptly` at once, by the cores, threads and memory there are."""
    room = max(1, min(cores(), thread_count(), memory() // (2 * CHILD_BYTES)))
    return max(1, room * 3 // 4), min(room, max(2, room // 4))


WAITING = ThreadPoolExecutor(PROMPT, "splatmill-soon")
"""Threads that wait for calls of :func:`promptly`."""


def _once(make: Callable[[], T]) -> Callable[[], T]:
    """``make``, whose first result is everybody's; a cache alone lets threads that ask at once make one each."""
    lock, cached = threading.Lock(), cache(make)

    def made() -> T:
        with lock:
            return cached()

    return made


@_once
def _thorough() -> Children:
    threads = min(BESIDE, thread_count())
    return Children(most_children()[0], threads=threads, niceness=NICENESS, patience=ELSEWHERE_S)


@_once
def _prompt() -> Children:
    return Children(most_children()[1], patience=PROMPTLY_S, first=PROMPT_FIRST)
