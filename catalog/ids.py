"""Event ids: UUID version 7, in an order that a clock cannot break.

>>> new_id() < new_id()
True

"The latest attempt" of a stage is the one with the greatest event id, so ids must grow with real order, not with
the wall clock of whichever host wrote them. Every process therefore keeps a hybrid logical clock: the greatest of
its wall clock, the last id it made, and every id it has seen in a catalogue (:func:`observe`). A clock that jumps
back for an hour then changes the time columns of the rows, but not which attempt is the latest.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import threading
import time
from collections.abc import Iterable

ID_PATTERN = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}")
"""An id, and the stem of every file that the catalogue calls its own."""

_COUNTER_BITS = 12  # RFC 9562 method 1: rand_a counts within a millisecond
_lock = threading.Lock()
_last = 0  # milliseconds << 12 | counter


def new_id() -> str:
    """A UUIDv7 greater than every id that this process has made or observed."""
    global _last
    with _lock:
        # a fresh millisecond starts anywhere in the lower half of the counter, so that processes seldom tie
        fresh = (time.time_ns() // 1_000_000) << _COUNTER_BITS | secrets.randbits(_COUNTER_BITS - 1)
        _last = max(fresh, _last + 1)
        ticks = _last
    return _format(ticks, secrets.randbits(62))


def observe(event_id: str) -> None:
    """Make every later :func:`new_id` of this process greater than ``event_id``."""
    global _last
    ticks = _ticks(event_id)
    with _lock:
        _last = max(_last, ticks)


def batch_id_of(event_ids: Iterable[str]) -> str:
    """The one id under which these events are published, however often the publication is tried.

    It is the first event's time with a hash of all event ids, so a retried append meets its own file and is refused
    by the create-only store: exactly once, without a log.
    """
    ids = list(event_ids)
    digest = hashlib.sha256("".join(ids).encode()).digest()
    return _format(_ticks(min(ids)), int.from_bytes(digest[:8], "big") & ((1 << 62) - 1))


def milliseconds(event_id: str) -> int:
    """Milliseconds since 1970 that the id claims."""
    return _ticks(event_id) >> _COUNTER_BITS


def _ticks(event_id: str) -> int:
    assert ID_PATTERN.fullmatch(event_id), event_id
    digits = event_id.replace("-", "")
    return int(digits[:12], 16) << _COUNTER_BITS | int(digits[13:16], 16)


def _format(ticks: int, noise: int) -> str:
    value = (ticks >> _COUNTER_BITS) << 80 | 0x7 << 76 | (ticks & 0xFFF) << 64 | 0b10 << 62 | noise
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
