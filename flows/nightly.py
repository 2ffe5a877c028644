"""The entry points of deployments that were registered as ``flows.nightly.*``."""

from flows.farm.nightly import compact, gc, nightly

__all__ = ["compact", "gc", "nightly"]
