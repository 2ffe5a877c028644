"""Work of the processor beside a GPU: however many assets are meshed, the host must be free to feed it.

    mesh = elsewhere(extract_mesh, gaussians, settings)

The thread that feeds the GPU needs the interpreter a thousand times a step, and waits for it while another thread
computes: sixteen textures took 62 s for 32 beside threads that meshed (docs/LOG.md). So whatever computes for longer
than a blink does it in a child process, and the children leave a part of the cores free. Without a GPU there is nothing
to feed, and everything is called as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

from pipeline_core.children import Children
from pipeline_core.device import loaded_torch, thread_count

T = TypeVar("T")
NICENESS = 10
"""By how much processes of such work give way to this one."""
THREADS_EACH = 2
"""Threads of such a process: much of the work is a single thread's."""
PROMPT = max(2, (os.cpu_count() or 1) // 4)
"""Calls of :func:`promptly` at once."""
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


@cache
def _thorough() -> Children:
    most = max(1, (os.cpu_count() or 1) * 3 // 4)
    return Children(most, threads=min(THREADS_EACH, thread_count()), niceness=NICENESS)


@cache
def _prompt() -> Children:
    return Children(PROMPT)
