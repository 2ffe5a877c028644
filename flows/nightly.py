"""The entry points of deployments that were registered as ``flows.nightly.*``."""

from flows.farm.nightly import compact, nightly

__all__ = ["compact", "nightly"]
