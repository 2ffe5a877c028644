"""What a stage is charged: while several run at once in a process, each has an equal part of its seconds.

    with meter.share() as share:
        ...                     # a stage's work
        share()                 # seconds charged so far

The parts add up to the time in which the process had any stage at work, so nothing is charged twice.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pipeline_core.errors import RequestError

PRICE = "SPLATMILL_PRICE_PER_HOUR"
"""Environment variable: what an hour of this process's GPU or machine costs, in any one currency."""


@dataclass(eq=False)
class Share:
    """One stage's part: called, it tells the seconds charged so far. ``most``: stages that were at work at once."""

    meter: Meter
    seconds: float = 0.0
    most: int = 1

    def __call__(self) -> float:
        return self.meter.charged(self)


class Meter:
    """Divides the time among those who share it; every method may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._parts: list[Share] = []
        self._at = 0.0

    @contextmanager
    def share(self) -> Iterator[Share]:
        """Take part until the block ends."""
        mine = Share(self)
        with self._lock:
            self._settle()
            self._parts.append(mine)
            for each in self._parts:
                each.most = max(each.most, len(self._parts))
        try:
            yield mine
        finally:
            with self._lock:
                self._settle()
                self._parts.remove(mine)

    def charged(self, share: Share) -> float:
        """Seconds charged to a part so far."""
        with self._lock:
            self._settle()
            return share.seconds

    def _settle(self) -> None:
        """Charge what has passed since the last call to those who are at work."""
        now = self._clock()
        for each in self._parts:
            each.seconds += (now - self._at) / len(self._parts)
        self._at = now


meter = Meter()
"""The process's meter."""


def price_per_hour() -> float | None:
    """The price that is set; None where none is. Raises :class:`RequestError` for what is no price."""
    text = os.environ.get(PRICE, "").strip()
    try:
        price = float(text or 0)
    except ValueError:
        price = -1.0
    if price < 0 or not math.isfinite(price):
        raise RequestError(f"{PRICE}={text!r} is not a price; set it to a number such as 2.50, or unset it")
    return price if text else None
