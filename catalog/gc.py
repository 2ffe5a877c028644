"""Remove stage outputs, and copies of files that rows named, that no current asset refers to.

An output ``stages/<stage>/<key>`` is kept when

* the latest attempt of any stage of any asset has that key, or names a file under it, or
* such an output was made from it, at any distance (``upstream_keys``), or
* a run that is not over was planned with it (``runs/<run_id>/keys.txt``), or
* its record is not in the catalogue (``splatmill catalog rebuild`` first), or cannot be read, or
* it changed less than ``min_age_s`` ago: a run may be about to use it.

A file in ``inputs/`` is kept while an asset names it, as last asked for or as last delivered, while it is as young, and
while the catalogue does not know every output. In a bucket, what a killed attempt left beside the files that a record
names goes as well.

What is left goes to ``trash/`` beside the catalogue (object stores: is deleted). A dry run only says what would go.

With ``max_bytes`` the library is to become so small: what lies in the trash goes for good, and then of the outputs and
inputs above those that are unchanged the longest, for good too, and no more of either than is needed.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from catalog import inputs, query
from catalog.store import Entry, Output, Store, open_store
from pipeline_core.errors import RequestError

DAY_S = 86_400.0
KEYS = "keys.txt"
"""In the folder of a run: when it was asked for, and the keys of the stages of what it is to make, one a line."""
GIVEN_UP_S = 7 * DAY_S
"""A run of one machine that is not over counts no more when it was asked for so long ago."""


@dataclass
class Report:
    """What was, or would be, removed; ``size`` and ``over`` (bytes of the library, before, and beyond the bound, after)
    where there is a bound."""

    deleted: bool
    outputs: list[tuple[str, str, int]] = field(default_factory=list)  # stage, key, bytes
    inputs: list[tuple[str, int]] = field(default_factory=list)  # name in inputs/, bytes
    kept: int = 0
    unknown: list[str] = field(default_factory=list)  # kept because the catalogue does not know them
    strays: list[tuple[str, int]] = field(default_factory=list)  # path of what a killed attempt left, bytes
    trash: list[tuple[str, int]] = field(default_factory=list)  # name of what was let go of before, bytes
    size: int | None = None
    over: int | None = None

    @property
    def bytes(self) -> int:
        """Bytes in what is removed."""
        gone: list[Any] = [*self.outputs, *self.inputs, *self.strays, *self.trash]
        return sum(each[-1] for each in gone)


@dataclass(frozen=True)
class _Candidate:
    """Something that nothing needs: what is ``told`` of it, in which list, how it goes, its name in the trash then."""

    modified: float
    bytes: int
    told: tuple[Any, ...]
    into: list[Any]
    collect: Callable[[], None]
    trash: str = ""


def gc(
    root: str | os.PathLike[str] | Store,
    *,
    delete: bool = False,
    min_age_s: float = DAY_S,
    max_bytes: float | None = None,
) -> Report:
    """Find, and with ``delete`` remove, outputs that nothing current needs; ``max_bytes``: no more than it takes."""
    store = open_store(root)
    with store.lease("gc"):
        report = Report(deleted=delete)
        candidates = list(_candidates(store, report, min_age_s))
        size = 0
        if max_bytes is not None:
            size = store.total()
            candidates = _trash(store, report) + sorted(candidates, key=lambda each: each.modified)
        for each in candidates:
            if max_bytes is not None and size - report.bytes <= max_bytes:
                report.kept += 1
                continue
            each.into.append(each.told)
            if delete:
                each.collect()
                if max_bytes is not None and each.trash:
                    store.drop(each.trash)
        if max_bytes is not None:
            report.size, report.over = size, max(0, int(size - report.bytes - max_bytes))
    return report


def size_of(text: str) -> int:
    """Bytes of ``500G``, ``1.5 TiB`` or ``800M`` (powers of 1024). Raises :class:`RequestError`."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?) *([KMGT])(?:i?B)?", text.strip(), re.IGNORECASE)
    if not found:
        raise RequestError(f"--max-size {text!r}: a number and K, M, G or T, such as 500G")
    return int(float(found[1]) * 1024 ** (1 + "KMGT".index(found[2].upper())))


def _trash(store: Store, report: Report) -> list[_Candidate]:
    found = sorted(store.collected(), key=lambda entry: entry.modified)
    return [
        _Candidate(each.modified, each.bytes, (each.name, each.bytes), report.trash, partial(store.drop, each.name))
        for each in found
    ]


def _candidates(store: Store, report: Report, min_age_s: float) -> Iterable[_Candidate]:
    """What nothing needs; the rest is counted in ``report``."""
    now = time.time()
    outputs = list(store.outputs())  # before the catalogue is read: what appears later is not looked at
    files = store.inputs()
    needed, known, named = _needed(store)
    planned = _planned(store, now)
    for output in outputs:
        name = f"stages/{output.stage}/{output.key}"
        event = (output.record or {}).get("event_id")
        for path, entry in _strays(output):
            if now - entry.modified >= min_age_s:
                told = (path, entry.bytes)
                yield _Candidate(entry.modified, entry.bytes, told, report.strays, partial(store.delete, path))
        young = now - output.modified < min_age_s
        if (output.stage, output.key) in needed or output.key in planned or young:
            report.kept += 1
        elif output.problem or (output.record is not None and event not in known):
            report.unknown.append(f"{name}: {output.problem or 'its record is not in the catalogue'}")
        else:
            collect, trash = partial(store.collect, output.stage, output.key), f"stages~{output.stage}~{output.key}"
            whole = (output.stage, output.key, output.bytes)
            yield _Candidate(output.modified, output.bytes, whole, report.outputs, collect, trash)
    for file in files:
        if report.unknown or f"inputs/{file.name}" in named or now - file.modified < min_age_s:
            report.kept += 1
        else:
            collect, trash = partial(store.collect_input, file.name), f"inputs~{file.name}"
            yield _Candidate(file.modified, file.bytes, (file.name, file.bytes), report.inputs, collect, trash)


def _strays(output: Output) -> Iterable[tuple[str, Entry]]:
    """Files of attempts that the record does not name, with their paths; nothing where there is no record."""
    if output.record is None:
        return
    named = {artifact["path"] for artifact in output.record.get("artifacts", ())}
    for entry in output.files:
        path = f"stages/{output.stage}/{output.key}/{entry.name}"
        if "/" in entry.name and path not in named:
            yield path, entry


def _planned(store: Store, now: float) -> set[str]:
    """Keys of the stages that runs which are not over may need."""
    keys: set[str] = set()
    for path in store.glob(f"runs/*/{KEYS}"):
        folder = path.rpartition("/")[0]
        if store.size(f"{folder}/summary.json") is not None:
            continue
        with store.open(path) as file:
            asked, *lines = file.read().decode().split()
        if store.size(f"{folder}/request.json") is not None or now - float(asked) < GIVEN_UP_S:
            keys.update(lines)
    return keys


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
