"""Makes a batch's missing assets, several at a time: in order, within the gate, and none that another run is making.

    Making(journeys, make, in_flight=4, stop=stop, gate=Admission(), summary=summary).run()

The first goes ahead alone, so that something can be looked at within a minute; when it is done others begin
(``first_alone``; not beside a GPU, which one asset does not fill).

An asset is taken with a lease, a lock that the kernel frees when its holder dies. What another run of the library holds
is passed over for the next; in the end its result is waited for, and taken. Nothing begins while the library's disk is
nearly full, and what failed for lack of room is taken up again when there is some.
"""

from __future__ import annotations

import contextvars
import logging
import os
import shutil
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

from flows.budget import Admission
from flows.summary import Summary
from pipeline_core.aside import feeds_a_gpu
from pipeline_core.errors import DiskError, RequestError, TransientError, error_class
from pipeline_core.storage import Library
from tasks import halt
from tasks.journey import Journey, finished
from tasks.progress import board

log = logging.getLogger("splatmill")

MIN_FREE = "SPLATMILL_MIN_FREE_MB"
"""Environment variable: MiB that must be free on the library's disk for an asset to begin; unset: 256."""
PATIENCE_S = 3600.0
"""How long a full disk is waited for."""
DISK_TRIES = 3
"""How often an asset is begun that fails for lack of room."""
TICK_S = 0.2


@dataclass
class Making:
    """One pass over ``journeys``; ``summary`` is filled. ``held_s``: how long another holder of a lease is waited for,
    where nothing else is left to do; an asset that is made twice does no harm."""

    journeys: Sequence[Journey]
    make: Callable[[Journey], Any]
    in_flight: int
    stop: threading.Event
    gate: Admission
    summary: Summary
    held_s: float = float("inf")
    first_alone: bool = False
    tick_s: float = TICK_S
    running: dict[Future[Any], tuple[Journey, ExitStack, float]] = field(default_factory=dict)

    def run(self) -> None:
        """Make them all, or as many as the gate and ``stop`` allow."""
        self.began = self._moved = time.monotonic()
        self.library = Library(self.summary.library)
        self.queue, self.tries = deque(self.journeys), Counter[str]()
        self._look_again = dict.fromkeys((each.asset_id for each in self.journeys), 0.0)
        self._full_since: float | None = None
        self._told = False
        self.pool = ThreadPoolExecutor(max_workers=self.in_flight, thread_name_prefix="asset")
        try:
            while True:
                while self._may_begin() and self._begin():
                    pass
                if not self.running and not self._waits():
                    break
                self._note_ended()
                if self.stop.is_set():
                    halt.pull()
        except BaseException:
            self.stop.set()
            halt.pull()
            raise
        finally:
            self.pool.shutdown(wait=True, cancel_futures=True)
        unmade = self.summary.stopped if self.stop.is_set() else self.summary.left
        unmade += [each.asset_id for each in self.queue]

    def _may_begin(self) -> bool:
        if not self.queue or len(self.running) >= self._places() or self.stop.is_set() or self.summary.left_why:
            return False
        self.summary.left_why = self.gate.refusal()
        return not self.summary.left_why and self._has_room()

    def _places(self) -> int:
        """How many assets may be on their way now."""
        return 1 if self.first_alone and not feeds_a_gpu() else self.in_flight

    def _waits(self) -> bool:
        """Whether there is something to wait for, though nothing runs."""
        return bool(self.queue) and not self.stop.is_set() and not self.summary.left_why

    def _begin(self) -> bool:
        """Begin with the first asset that nobody else is making; False where there is none."""
        for _ in range(len(self.queue)):
            journey, lease = self.queue.popleft(), ExitStack()
            if not self._take(journey, lease):
                self.queue.append(journey)
                continue
            self._moved = time.monotonic()
            if self._is_finished(journey):  # another run was quicker
                lease.close()
                self.summary.cached.append(journey.asset_id)
                board.update(journey.asset_id, state="cached")
                continue
            # tasks find their flow run in the context, which a thread does not inherit by itself
            context = contextvars.copy_context()
            self.running[self.pool.submit(context.run, self.make, journey)] = journey, lease, time.monotonic()
            return True
        return False

    @staticmethod
    def _is_finished(journey: Journey) -> bool:
        try:
            return finished(journey)
        except TransientError:
            return False  # the library's bucket is away: the asset itself will tell

    def _take(self, journey: Journey, lease: ExitStack) -> bool:
        """Take the lease of an asset, unless another run of this library has it."""
        if time.monotonic() < self._look_again[journey.asset_id]:
            return False
        try:
            mine = lease.enter_context(self.library.taking(journey.asset_id))
        except TransientError:
            return True  # a disk without room or without locks, a store that is away: the asset itself will tell
        if mine:
            return True
        lease.close()
        self._look_again[journey.asset_id] = time.monotonic() + self.library.look_again_s
        if not self._told:
            log.warning("another run of this library is at work: what it makes is not made again, but waited for")
        self._told = True
        return not self.running and time.monotonic() - self._moved > self.held_s

    def _has_room(self) -> bool:
        """Whether the library's disk has room; the first time it has none that is said, and in the end given up."""
        free, need = shutil.disk_usage(self.library.local).free / 2**20, min_free_mb()
        now = time.monotonic()
        if free >= need:
            if self._full_since is not None:
                log.warning("the disk of %s has room again: going on", self.library.local)
            self._full_since = None
            return True
        what = f"the disk of {self.library.local} is full ({free:.0f} MiB are free, {need:.0f} are needed)"
        if self._full_since is None:
            self._full_since = now
            log.warning("%s: nothing is begun until there is room; splatmill gc --delete makes some", what)
        if not self.running and now - self._full_since > PATIENCE_S:
            self.summary.left_why = what
        return False

    def _note_ended(self) -> None:
        if not self.running:
            self.stop.wait(self.tick_s)
            return
        done, _ = wait(self.running, timeout=self.tick_s, return_when=FIRST_COMPLETED)
        for future in done:
            self.first_alone = False
            journey, lease, since = self.running.pop(future)
            lease.close()
            self._moved = time.monotonic()
            if self._note(journey, future):
                self.gate.note(self._moved - since)

    def _note(self, journey: Journey, future: Future[Any]) -> bool:
        """Put down how an asset ended; returns whether it was made."""
        error = future.exception() if not future.cancelled() else CancelledError()
        if error is None:
            self.summary.made.append(journey.asset_id)
            self.summary.first_asset_s = self.summary.first_asset_s or time.monotonic() - self.began
            board.update(journey.asset_id, state="done")
        elif isinstance(error, (CancelledError, KeyboardInterrupt)) or self.stop.is_set():
            self.summary.stopped.append(journey.asset_id)
            board.update(journey.asset_id, state="stopped")
        elif isinstance(error, DiskError) and self._again(journey):
            self.queue.append(journey)
            board.update(journey.asset_id, state="waiting")
        else:
            self._failed(journey, error)
        return error is None

    def _again(self, journey: Journey) -> bool:
        self.tries[journey.asset_id] += 1
        return self.tries[journey.asset_id] < DISK_TRIES and not self.summary.left_why

    def _failed(self, journey: Journey, error: BaseException) -> None:
        stage = next((p.stage for p in board.positions() if p.asset_id == journey.asset_id), "")
        message = str(error) or type(error).__name__
        self.summary.failures.append(
            {
                "asset_id": journey.asset_id,
                "stage": stage,
                "error_class": error_class(error),
                "error_type": type(error).__name__,
                "message": message,
            }
        )
        board.update(journey.asset_id, state="failed", error=message)


def min_free_mb() -> float:
    """MiB that must be free; raises :class:`RequestError` for a setting that is no number."""
    text = os.environ.get(MIN_FREE, "").strip() or "256"
    if not text.isdecimal():
        raise RequestError(f"{MIN_FREE}={text!r} is not a number of MiB; set it to 0 or more, or unset it")
    return float(text)
