"""What the wing needs of a farm's server: it lists, queues and closes shards.

``flows.farm.prefect`` implements this for a real Prefect server.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from flows.batch import BatchRequest
from pipeline_core.errors import SplatmillError

ENDED = ("completed", "failed", "crashed", "cancelled")


class FarmUnreachable(SplatmillError):
    """The server did not answer. The next call may reach it."""


@dataclass(frozen=True)
class Shard:
    """A shard's flow run: Prefect's id, its state's type in lower case, since when, the assets it was given.

    ``message`` is that of its state. ``worker_gone``: the worker that took it, and has not begun it, is offline.
    """

    id: str
    state: str
    since: datetime
    assets: tuple[str, ...]
    message: str = ""
    worker_gone: bool = False

    @property
    def open(self) -> bool:
        """Whether it may still make something."""
        return self.state not in ENDED


class Farm(Protocol):
    """A farm's server. Every method may raise :class:`FarmUnreachable`."""

    def shards(self, run_id: str) -> list[Shard]:
        """All shards of a run, also those that ended."""

    def others(self, library: str) -> list[Shard]:
        """Open flow runs about a library that make no assets: batch, nightly, reconcile, compact."""

    def submit(self, request: BatchRequest) -> None:
        """Queue a shard; the same ``request.shard`` is queued once, however often it is submitted."""

    def close(self, shard_id: str, why: str) -> None:
        """Declare a shard crashed, which gives back its place in the pool."""

    def cancel(self, shard_id: str, why: str) -> None:
        """Declare a shard cancelled, which takes it out of the queue. Its process is stopped by its fence."""

    def workers(self) -> int:
        """How many workers are online."""
