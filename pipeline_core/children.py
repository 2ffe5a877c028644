"""Child processes that call functions for this one, so that its interpreter is free meanwhile.

    children = Children(4, threads=2, niceness=10)
    mesh = children(extract_mesh, gaussians, settings)

A child is a ``python -m pipeline_core.children`` that answers one call after another over its standard input and
output, as pickles whose arrays are written as they lie in memory; so it loads torch once, and any thread may call. It
knows no GPU: tensors arrive in it, and come back, on the CPU. It is started when no other is idle, and ends when it has
long been idle, when a call takes too long, and when this process does, however that ends.
"""

from __future__ import annotations

import atexit
import importlib
import io
import math
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
from functools import partial
from typing import IO, Any, TypeVar

import numpy as np

from pipeline_core import python
from pipeline_core.device import POOLS, THREADS, configure, loaded_torch
from pipeline_core.errors import StageError, TransientError

T = TypeVar("T")
Call = tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any]]
"""A function, its arguments and its named ones."""
PATIENCE_S = 600.0
"""Seconds that a call may take, where nothing else is said."""
IDLE_S = 600.0
"""Seconds after which an idle child ends: it holds a third of a gigabyte. Not measured."""
TICK_S = 0.2
"""Seconds between two looks at whether a call takes too long."""
PIPE_BYTES = 1 << 20
"""Size of the pipes, where that can be asked for: the interpreter is needed once for so many bytes."""


class Children:
    """Up to ``most`` children of so many ``threads`` each, which are as nice as ``niceness`` to other processes.

    A call may take ``patience`` seconds, and a child is idle for at most ``idle``. ``first`` is what a child calls as
    it starts, "module:function", so that calls find it loaded.
    """

    def __init__(
        self,
        most: int,
        *,
        threads: int = 1,
        niceness: int = 0,
        patience: float = PATIENCE_S,
        idle: float = IDLE_S,
        first: str = "",
    ) -> None:
        self._most, self._patience, self._options = most, patience, (threads, niceness, idle, first)
        self._free, self._lock = threading.Semaphore(most), threading.RLock()
        self._there: weakref.WeakSet[_Child] = weakref.WeakSet()
        self._idle: list[_Child] = []

    def __call__(self, function: Callable[..., T], *args: Any, **named: Any) -> T:
        """What ``function``, one of a module, returns or raises in a child; waits for a free one.

        A child that dies or takes too long is a ``TransientError``. One that was there before the call, and died for
        whatever reason, is replaced once.
        """
        with self._free:
            child = self._waiting()
            went, answer = self._ask(child or self._new(), (function, args, named), again=child is not None)
        if not went:
            raise answer
        return answer

    def start(self) -> None:
        """Start all that are not there yet, and wait for none."""
        with self._lock:
            missing = self._most - sum(child.is_alive() for child in self._there)
            self._idle += [self._new() for _ in range(missing)]

    def _new(self) -> _Child:
        child = _Child(*self._options)
        with self._lock:
            self._there.add(child)
        return child

    def _waiting(self) -> _Child | None:
        """An idle child, if there is one."""
        with self._lock:
            self._idle = [child for child in self._idle if child.is_alive()]
            return self._idle.pop() if self._idle else None

    def _ask(self, child: _Child, call: Call, *, again: bool) -> tuple[bool, Any]:
        """Whether ``child`` went through the call, and its answer or error; ``again``: ask a new one where it dies."""
        try:
            answer: tuple[bool, Any] = child.ask(call, self._patience)
        except BaseException as error:  # an interrupt too: nobody will read its answer
            status = child.end()
            if not isinstance(error, (EOFError, BrokenPipeError)):
                raise
            name = f"the process for {call[0].__module__}.{call[0].__qualname__}"
            if child.stopped:
                raise TransientError(f"{name} took longer than {self._patience:g} s and was stopped") from None
            if again:
                return self._ask(self._new(), call, again=False)
            raise TransientError(f"{name} ended with status {status}") from None
        with self._lock:
            self._idle.append(child)
        return answer


_alive: weakref.WeakSet[_Child] = weakref.WeakSet()


def _time(reference: weakref.ref[_Child]) -> None:
    """Stop a child when a call takes too long, until it ends or nobody knows it any more. Not a timer for each call:
    where the caller frees one, an interrupt that comes just then is lost."""
    while (child := reference()) is not None and child.is_alive():
        child.stop_if_due()
        del child
        time.sleep(TICK_S)


@atexit.register
def _end_all() -> None:
    for child in list(_alive):
        child.end()


class _Child:
    """One process, and the pipes to it."""

    def __init__(self, threads: int, niceness: int, idle: float, first: str) -> None:
        self.stopped, self._due = False, math.inf
        environment = python.environment() | dict.fromkeys((THREADS, *POOLS), str(threads))
        environment["CUDA_VISIBLE_DEVICES"] = ""
        command = python.command("pipeline_core.children", str(niceness), str(os.getpid()), str(idle), first)
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
        _alive.add(self)
        for pipe in (self._process.stdin, self._process.stdout):
            _widen(pipe)
        threading.Thread(target=_time, args=(weakref.ref(self),), daemon=True).start()

    def ask(self, call: Any, patience: float) -> Any:
        """Its answer; EOFError or BrokenPipeError where it ends before, as it is made to after ``patience`` seconds."""
        assert self._process.stdin and self._process.stdout
        self._due = time.monotonic() + patience
        try:
            _send(self._process.stdin, call)
            return _receive(self._process.stdout)()
        finally:
            self._due = math.inf

    def stop_if_due(self) -> None:
        if time.monotonic() > self._due:
            self.stopped = True
            self._process.kill()

    def is_alive(self) -> bool:
        return self._process.poll() is None

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


def _receive(stream: IO[bytes]) -> Callable[[], Any]:
    """What unpickles the next value; EOFError where the other side has ended."""
    (count,) = struct.unpack("<q", _read(stream, 8))
    sizes = struct.unpack(f"<{count}q", _read(stream, 8 * count))
    body, *buffers = [_read(stream, size) for size in sizes]
    return partial(pickle.loads, body, buffers=buffers)


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


def _watch(parent: int, resting: list[float], idle: float) -> None:
    """End in the midst of a call whose caller has gone, or ``idle`` seconds after the time that is in ``resting``."""
    while os.getppid() == parent and time.monotonic() - resting[0] <= idle:
        time.sleep(min(1.0, idle))
    os._exit(1)


def _answer(unpickle: Callable[[], Call]) -> tuple[bool, Any]:
    """Whether the call went through, and what came of it."""
    try:
        function, args, named = unpickle()
        return True, function(*args, **named)
    except Exception as error:
        error.add_note(f"in a process of its own:\n{traceback.format_exc()}")
        return False, error


def _reply(stream: IO[bytes], went: bool, answer: Any) -> None:
    """Send an answer or an error; of one that cannot be pickled its name."""
    try:
        if not went:
            pickle.loads(pickle.dumps(answer))
        _send(stream, (went, answer))  # nothing is written before all is pickled
    except BrokenPipeError:
        raise
    except Exception as error:
        told = StageError(f"{type(answer).__module__}.{type(answer).__qualname__}{f': {answer}' * (not went)}")
        for note in (*getattr(answer, "__notes__", ()), f"told by its name, for it cannot be pickled: {error}"):
            told.add_note(note)
        _send(stream, (False, told))


def _serve() -> None:
    """Answer calls until there are no more."""
    niceness, parent, idle, first = sys.argv[1:]
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that reads the answers
    if hasattr(os, "nice"):
        os.nice(int(niceness))
    resting = [math.inf]
    threading.Thread(target=_watch, args=(int(parent), resting, float(idle)), daemon=True).start()
    configure()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a package prints goes to standard error, not into the answer
    with suppress(Exception):  # whoever calls will be told what is wrong
        module, _, name = first.partition(":")
        getattr(importlib.import_module(module), name)()
    with suppress(EOFError, BrokenPipeError):
        while True:
            resting[0] = time.monotonic()
            call = _receive(sys.stdin.buffer)
            resting[0] = math.inf
            _reply(answers, *_answer(call))


if __name__ == "__main__":
    _serve()
