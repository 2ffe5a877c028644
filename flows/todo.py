"""Decides what is to be done about a batch's assets, by the library's files and by the quarantine."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pipeline_core.storage import Library
from tasks.journey import Journey, finished
from tasks.rules import quarantined


@dataclass(frozen=True)
class Todo:
    """A batch's journeys, in the manifest's order; each is in exactly one of the lists.

    ``made``: the asset is there and whole. ``held``: it waits in quarantine, and this batch passes it over.
    ``missing``: this batch makes it. ``turned_down``: its contract rejects it before any work.
    """

    made: list[Journey]
    held: list[Journey]
    missing: list[Journey]
    turned_down: list[Journey] = field(default_factory=list)

    @property
    def asked(self) -> int:
        """How many assets the batch is about."""
        return len(self.made) + len(self.held) + len(self.missing) + len(self.turned_down)


def sort_out(library: str, journeys: Sequence[Journey], *, by_name: bool, again: bool = False) -> Todo:
    """Sort journeys by what is to be done. The quarantine does not hold what was asked for ``by_name``; with ``again``
    what was rejected is made again."""
    made: list[Journey] = []
    unmade: list[Journey] = []
    turned_down = [each for each in journeys if each.turned_down]
    journeys = [each for each in journeys if not each.turned_down]
    with ThreadPoolExecutor(Library(library).looks_at_once) as pool:
        for each, is_made in zip(journeys, pool.map(finished, journeys), strict=True):
            (made if is_made and not (again and each.further) else unmade).append(each)
    names = set() if by_name else quarantined(library, unmade)
    held = [each for each in unmade if each.asset_id in names]
    return Todo(made, held, [each for each in unmade if each.asset_id not in names], turned_down)


def ids(journeys: Sequence[Journey]) -> list[str]:
    """The journeys' asset ids, in order."""
    return [each.asset_id for each in journeys]
