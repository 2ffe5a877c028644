"""One seed an asset, and from it a stream of random numbers for each stage of its own.

Two stages with one seed would draw the same cameras and the same noise, one after the other.
"""

from __future__ import annotations

import hashlib


def stream(seed: int, stage: str) -> int:
    """Seed of the ``stage`` (any fixed word) of an asset with ``seed``, in 0 to 2^63 - 1; the same on every machine."""
    return int.from_bytes(hashlib.sha256(f"{seed} {stage}".encode()).digest()[:8], "big") >> 1
