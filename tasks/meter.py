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

from pipeline_core.errors import RequestError

PRICE = "SPLATMILL_PRICE_PER_HOUR"
"""Environment variable: what an hour of this process's GPU or machine costs, in any one currency."""


class Meter:
    """Divides the time among those who share it; every method may be called from any thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._lock = clock, threading.Lock()
        self._parts: dict[object, float] = {}
        self._at = 0.0

    @contextmanager
    def share(self) -> Iterator[Callable[[], float]]:
        """Take part until the block ends; yields a function that gives the seconds charged so far."""
        name = object()
        with self._lock:
            self._settle()
            self._parts[name] = 0.0

        def charged() -> float:
            with self._lock:
                self._settle()
                return self._parts[name]

        try:
            yield charged
        finally:
            with self._lock:
                self._settle()
                del self._parts[name]

    def _settle(self) -> None:
        """Charge what has passed since the last call to those who are at work."""
        now = self._clock()
        for name in self._parts:
            self._parts[name] += (now - self._at) / len(self._parts)
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
