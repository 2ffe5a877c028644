"""The wing of many machines. ``flows.farm.shard``, ``.batch`` and ``.tidy`` are the deployments' entry points."""

from __future__ import annotations

from typing import Any

ENTRY_POINTS = ("shard", "batch", "tidy")


def __getattr__(name: str) -> Any:
    """The flows, loaded at first use: they load Prefect, and the rest of the wing does not need it."""
    if name not in ENTRY_POINTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from flows.farm import flows

    return getattr(flows, name)
