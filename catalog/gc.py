"""Remove stage outputs, and copies of files that rows named, that no current asset refers to.

An output ``stages/<stage>/<key>`` is kept when

* the latest attempt of any stage of any asset has that key, or names a file under it, or
* such an output was made from it, at any distance (``upstream_keys``), or
* its record is not in the catalogue (``splatmill catalog rebuild`` first), or cannot be read, or
* it changed less than ``min_age_s`` ago: a run may be about to use it.

A file in ``inputs/`` is kept while an asset names it, as last asked for or as last delivered, while it is as young, and
while the catalogue does not know every output.

What is left goes to ``trash/`` beside the catalogue (object stores: is deleted). A dry run only says what would go.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from catalog import inputs, query
from catalog.store import Store, open_store

DAY_S = 86_400.0


@dataclass
class Report:
    """What was, or would be, removed."""

    deleted: bool
    outputs: list[tuple[str, str, int]] = field(default_factory=list)  # stage, key, bytes
    inputs: list[tuple[str, int]] = field(default_factory=list)  # name in inputs/, bytes
    kept: int = 0
    unknown: list[str] = field(default_factory=list)  # kept because the catalogue does not know them

    @property
    def bytes(self) -> int:
        """Bytes in the removed outputs and inputs."""
        return sum(item[2] for item in self.outputs) + sum(item[1] for item in self.inputs)


def gc(root: str | os.PathLike[str] | Store, *, delete: bool = False, min_age_s: float = DAY_S) -> Report:
    """Find, and with ``delete`` remove, outputs that nothing current needs."""
    store = open_store(root)
    with store.lease("gc"):
        report = Report(deleted=delete)
        now = time.time()
        candidates = list(store.outputs())  # before the catalogue is read: what appears later is not looked at
        files = store.inputs()
        needed, known, named = _needed(store)
        for output in candidates:
            name = f"stages/{output.stage}/{output.key}"
            event = (output.record or {}).get("event_id")
            if (output.stage, output.key) in needed or now - output.modified < min_age_s:
                report.kept += 1
            elif output.problem or (output.record is not None and event not in known):
                report.unknown.append(f"{name}: {output.problem or 'its record is not in the catalogue'}")
            else:
                report.outputs.append((output.stage, output.key, output.bytes))
                if delete:
                    store.collect(output.stage, output.key)
        for file in files:
            if report.unknown or f"inputs/{file.name}" in named or now - file.modified < min_age_s:
                report.kept += 1
                continue
            report.inputs.append((file.name, file.bytes))
            if delete:
                store.collect_input(file.name)
    return report


def _needed(store: Store) -> tuple[set[tuple[str, str]], set[str], set[str]]:
    """(stage, key) of outputs that current rows need, the ids of all events, and paths of inputs that are named."""
    with query.connect(store) as con:
        events = con.execute("select event_id, stage, stage_key, upstream_keys, is_latest from stage_runs").fetchall()
        paths = con.execute("select path from artifacts where is_latest and path like 'stages/%'").fetchall()
        named = {each.path for each in inputs.named(con)}
    stages_of: dict[str, set[str]] = {}
    upstream: dict[str, set[str]] = {}
    current: set[str] = set()
    for _, stage, key, parents, latest in events:
        if key:
            stages_of.setdefault(key, set()).add(stage)
            upstream.setdefault(key, set()).update(parents or ())
        if latest:
            current.update([key] if key else [])
            current.update(parents or ())
    keys = _closure(current, upstream)
    needed = {(stage, key) for key in keys for stage in stages_of.get(key, ())}
    needed |= {tuple(path.split("/")[1:3]) for (path,) in paths}
    return needed, {event[0] for event in events}, named


def _closure(start: Iterable[str], upstream: dict[str, set[str]]) -> set[str]:
    seen: set[str] = set()
    todo = list(start)
    while todo:
        key = todo.pop()
        if key not in seen:
            seen.add(key)
            todo.extend(upstream.get(key, ()))
    return seen
