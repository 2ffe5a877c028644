"""Write the events again that the stage records tell of and the catalogue lacks.

Each finished stage leaves ``stages/<stage>/<key>/record.json``, and what has no output of its own (requests, models,
failures, reviews) ``records/<batch>.json``: all are :meth:`catalog.schema.StageRun.to_json`, one object or a list of
them. Event ids are kept, so rebuilding twice, or rebuilding a catalogue that is only partly lost, adds nothing that is
there. What does not come back: that a run found an output there and used it (``skipped``), and outputs that gc removed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field

from catalog import query
from catalog.schema import StageRun
from catalog.store import Store, open_store
from catalog.writer import append

CHUNK = 1000


@dataclass
class Report:
    """What a rebuild found."""

    records: int = 0
    added: int = 0
    unreadable: list[str] = field(default_factory=list)


def rebuild(root: str | os.PathLike[str] | Store) -> Report:
    """Append every recorded event that the catalogue does not have."""
    store, report = open_store(root), Report()
    with store.lease("rebuild"):
        known = {row["event_id"] for row in query.rows(store, "select event_id from events")}
        fresh: list[StageRun] = []
        for where, text in _records(store):
            try:
                document = json.loads(text)
                runs = [StageRun.from_json(item) for item in (document if isinstance(document, list) else [document])]
            except (ValueError, TypeError, KeyError, AttributeError) as error:
                report.unreadable.append(f"{where}: {error}")
                continue
            report.records += len(runs)
            for run in runs:
                if run.event_id not in known:
                    known.add(run.event_id)
                    fresh.append(run)
        fresh.sort(key=lambda run: run.event_id)
        for at in range(0, len(fresh), CHUNK):
            append(store, fresh[at : at + CHUNK])
        report.added = len(fresh)
    return report


def _records(store: Store) -> Iterator[tuple[str, bytes]]:
    """(path, content) of every record of the library."""
    for pattern in ("stages/*/*/record.json", "records/*.json"):
        for path in store.glob(pattern):
            with store.open(path) as file:
                yield path, file.read()
