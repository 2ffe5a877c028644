"""Where every asset of this process stands: tasks write it, and the command line shows it.

board.update("red-mug-1", stage="optimize_gaussians", step=40, steps=150, loss=0.31)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline_core.config import Recipe
from pipeline_core.stages import share_aside


@dataclass(frozen=True)
class Position:
    """An asset's place. ``state``: waiting, running, done, cached, failed or stopped.

    ``aside``: work beside its own, for candidates that are not finished, in shares of its own; ``aside_done``: how much
    of that is done.
    """

    asset_id: str
    state: str = "waiting"
    stage: str = ""
    step: int = 0
    steps: int = 0
    loss: float | None = None
    error: str = ""
    aside: float = 0.0
    aside_done: float = 0.0
    changed: float = field(default_factory=time.monotonic)


class Board:
    """Positions by asset id; every method may be called from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._positions: dict[str, Position] = {}
        self._candidates: dict[str, dict[int, int]] = {}

    def __reduce__(self) -> str:
        """A task that is sent to another process (Prefect's Dask and Ray runners do) writes to that process's board."""
        return "board"

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._positions, self._candidates = {}, {}

    def update(self, asset_id: str, **changes: Any) -> None:
        """Change some fields of an asset's position."""
        with self._lock:
            old = self._positions.get(asset_id) or Position(asset_id)
            if changes.get("stage", old.stage) != old.stage:
                old = replace(old, step=0, steps=0, loss=None)
            self._positions[asset_id] = replace(old, **changes, changed=time.monotonic())

    def follow(self, asset_id: str, stage: str) -> Callable[[int, int, dict[str, float]], None]:
        """What an engine's job reports its progress to."""

        def on_progress(step: int, steps: int, report: dict[str, float]) -> None:
            self.update(asset_id, stage=stage, step=step, steps=steps, loss=report.get("loss"))

        return on_progress

    def choosing(self, asset_id: str, aside: float) -> None:
        """An asset's candidates begin; ``aside`` as in :class:`Position`."""
        with self._lock:
            self._candidates[asset_id] = {}
        self.update(asset_id, aside=aside, aside_done=0.0)

    def among(self, asset_id: str, seed: int, recipe: Recipe) -> Callable[[int, int, dict[str, float]], None]:
        """What the audition of one of an asset's candidates reports to: the mean of all is shown."""

        def on_progress(step: int, steps: int, report: dict[str, float]) -> None:
            with self._lock:
                of_each = self._candidates.setdefault(asset_id, {})
                of_each[seed] = step
                mean = sum(of_each.values()) / recipe.choice.candidates
            share = min(1.0, mean / max(1.0, recipe.choice.audition * steps))
            self.update(
                asset_id, stage="audition", step=round(mean), steps=steps, loss=report.get("loss"),
                aside_done=share * share_aside(recipe),
            )  # fmt: skip

        return on_progress

    def positions(self) -> list[Position]:
        """All positions, in the order in which the assets first appeared."""
        with self._lock:
            return list(self._positions.values())


board = Board()
"""The process's board."""
