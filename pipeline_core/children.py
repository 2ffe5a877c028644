"""Child processes that call functions for this one, so that its interpreter is free meanwhile.

    children = Children(4, threads=2, niceness=10)
    mesh = children(extract_mesh, gaussians, settings)

A child is a ``python -m pipeline_core.children`` that answers one call after another over its standard input and
output, as pickles whose arrays are written as they lie in memory; so it loads torch once, and any thread may call. It
knows no GPU: tensors arrive in it, and come back, on the CPU. It is started when no other is idle, and ends when this
process does, however that ends.
"""

from __future__ import annotations

import atexit
import io
import os
import pickle
import signal
import struct
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import IO, Any, TypeVar

import numpy as np

from pipeline_core import python
from pipeline_core.device import POOLS, THREADS, configure, loaded_torch
from pipeline_core.errors import TransientError

T = TypeVar("T")
PIPE_BYTES = 1 << 20
"""Size of the pipes, where that can be asked for: the interpreter is needed once for so many bytes."""


class Children:
    """Up to ``most`` children of so many ``threads`` each, which are as nice as ``niceness`` to other processes."""

    def __init__(self, most: int, *, threads: int = 1, niceness: int = 0) -> None:
        self._free = threading.Semaphore(most)
        self._idle: list[_Child] = []
        self._options = threads, niceness

    def __call__(self, function: Callable[..., T], *args: Any, **named: Any) -> T:
        """What ``function``, one of a module, returns or raises in a child; waits for a free one.

        A child that dies is a ``TransientError``.
        """
        with self._free:
            try:
                child = self._idle.pop()
            except IndexError:
                child = _Child(*self._options)
            try:
                went, answer = child.ask((function, args, named))
            except BaseException as error:  # an interrupt too: nobody will read its answer
                status = child.end()
                if not isinstance(error, (EOFError, BrokenPipeError)):
                    raise
                name = f"{function.__module__}.{function.__qualname__}"
                raise TransientError(f"the process for {name} ended with status {status}") from None
            self._idle.append(child)
        if not went:
            raise answer
        return answer


_alive: weakref.WeakSet[_Child] = weakref.WeakSet()


@atexit.register
def _end_all() -> None:
    for child in list(_alive):
        child.end()


class _Child:
    """One process, and the pipes to it."""

    def __init__(self, threads: int, niceness: int) -> None:
        environment = python.environment() | dict.fromkeys((THREADS, *POOLS), str(threads))
        environment["CUDA_VISIBLE_DEVICES"] = ""
        command = python.command("pipeline_core.children", str(niceness), str(os.getpid()))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        _alive.add(self)
        for pipe in (self._process.stdin, self._process.stdout):
            _widen(pipe)

    def ask(self, call: Any) -> Any:
        assert self._process.stdin and self._process.stdout
        _send(self._process.stdin, call)
        return _receive(self._process.stdout)

    def end(self) -> int:
        """Its status, which is that of a kill where it would not end by itself."""
        _alive.discard(self)
        with suppress(subprocess.TimeoutExpired):
            return self._process.wait(timeout=0.1)
        self._process.kill()
        return self._process.wait()


class _Pickler(pickle.Pickler):
    """Tensors are pickled as arrays: torch's own way copies them with the interpreter held."""

    def reducer_override(self, value: Any) -> Any:
        torch = loaded_torch()
        if torch is None or not isinstance(value, torch.Tensor) or value.dtype == torch.bfloat16:
            return NotImplemented
        return torch.from_numpy, (value.detach().cpu().numpy(),)


def _send(stream: IO[bytes], value: Any) -> None:
    body, buffers = io.BytesIO(), list[pickle.PickleBuffer]()
    _Pickler(body, 5, buffer_callback=buffers.append).dump(value)
    parts = [body.getbuffer(), *(buffer.raw() for buffer in buffers)]
    stream.write(struct.pack(f"<{len(parts) + 1}q", len(parts), *(part.nbytes for part in parts)))
    for part in parts:
        stream.write(part)
    stream.flush()


def _receive(stream: IO[bytes]) -> Any:
    """The next value; EOFError where the other side has ended."""
    (count,) = struct.unpack("<q", _read(stream, 8))
    sizes = struct.unpack(f"<{count}q", _read(stream, 8 * count))
    body, *buffers = [_read(stream, size) for size in sizes]
    return pickle.loads(body, buffers=buffers)


def _read(stream: IO[bytes], size: int) -> Any:
    whole = np.empty(size, np.uint8)
    if stream.readinto(whole) < size:  # type: ignore[attr-defined]
        raise EOFError("the other side has ended")
    return whole


def _widen(pipe: IO[bytes] | None) -> None:
    """Ask for a pipe of :data:`PIPE_BYTES`, which Linux alone gives."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        assert pipe
        fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)


def _end_with(parent: int) -> None:
    """End in the midst of a call whose caller has gone."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)


def _serve() -> None:
    """Answer calls until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads the answers
    if hasattr(os, "nice"):
        os.nice(int(sys.argv[1]))
    threading.Thread(target=_end_with, args=(int(sys.argv[2]),), daemon=True).start()
    configure()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a package prints goes to standard error, not into the answer
    while True:
        try:
            function, args, named = _receive(sys.stdin.buffer)
        except EOFError:
            return
        try:
            answer = True, function(*args, **named)
        except Exception as error:
            error.add_note(f"in a process of its own:\n{traceback.format_exc()}")
            answer = False, error
        try:
            _send(answers, answer)
        except BrokenPipeError:
            return


if __name__ == "__main__":
    _serve()
