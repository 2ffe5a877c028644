"""The wing of many machines. Deployments name its flows as ``flows.farm.<name>``, the names of :data:`ENTRY_POINTS`."""

from __future__ import annotations

from typing import Any

ENTRY_POINTS = {
    "shard": "shard",
    "batch": "batch",
    "reconcile_runs": "reconcile_runs",
    "tidy": "reconcile_runs",  # as deployments were registered that nobody has registered again
}
"""The functions of ``flows.farm.flows``, by the names that deployments have for them."""


def __getattr__(name: str) -> Any:
    """Load a flow at its first use: the flows load Prefect, which the rest of the wing does not need."""
    if name not in ENTRY_POINTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from flows.farm import flows

    return getattr(flows, ENTRY_POINTS[name])
