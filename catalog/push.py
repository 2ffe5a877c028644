"""Bring a library into another one, usually a bucket: ``splatmill catalog push s3://bucket/props``.

Assets are made in a local folder. A push copies what the other library lacks: files that rows named, stage outputs
(immutable, by their key; the record goes last, so an output is there whole or not at all), records, delivered assets
unless the other library has newer ones, and last the catalogue's events, as transactions of the other catalogue. Many
machines may push into one
library as often as they like: a push that was killed is finished by the next, and pushing twice adds nothing.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa

from catalog import ids, query
from catalog.schema import SCHEMA, conform
from catalog.store import Store, open_store
from catalog.views import GOOD
from catalog.writer import publish
from pipeline_core.errors import RequestError, TransientError
from pipeline_core.stages import DELIVERY

CHUNK = 5000
RECORD = "record.json"
DELIVERED = f"""
    select asset_id, max(event_id) from stage_runs where stage = '{DELIVERY}' and status in {GOOD} group by asset_id
"""


@dataclass
class Report:
    """What a push copied (counts of folders, files and events; bytes)."""

    outputs: int = 0
    assets: int = 0
    files: int = 0
    bytes: int = 0
    events: int = 0


def push(source: str | os.PathLike[str], target: str | os.PathLike[str] | Store) -> Report:
    """Copy to ``target`` what it lacks of the local library ``source``.

    Raises ``catalog.store.LeaseHeld`` while another push brings its assets and events, and ``RequestError`` where
    ``source`` is not a local library.
    """
    store, other, report = open_store(source), open_store(target), Report()
    root = store.folder
    if root is None or not store.root.is_dir():
        raise RequestError(f"{source} is no library in a local folder; only such a one can be pushed")
    with query.connect(store) as con:  # what happens from here on is for the next push
        for path in sorted((root / "inputs").glob("[0-9a-f]*")):
            if other.size(_name(root, path)) is None:
                _copy(other, root, path, report)
        for path in sorted((root / "stages").glob(f"*/*/{RECORD}")):
            if other.size(_name(root, path)) is None:
                report.outputs += 1
                _copy_folder(other, root, path.parent, report)
        for path in sorted((root / "records").glob("*.json")):
            if other.size(_name(root, path)) is None:
                _copy(other, root, path, report)
        with other.lease("push"), query.connect(other) as theirs:
            for asset_id in _newer(con, theirs):
                report.assets += 1
                _copy_folder(other, root, root / "assets" / asset_id, report)
            report.events = _copy_events(con, theirs, other)
    return report


def _newer(con: duckdb.DuckDBPyConnection, theirs: duckdb.DuckDBPyConnection) -> list[str]:
    """Assets that were delivered here after they were delivered there."""
    there = dict(theirs.execute(DELIVERED).fetchall())
    return sorted(asset for asset, event in con.execute(DELIVERED).fetchall() if event > there.get(asset, ""))


def _copy_events(con: duckdb.DuckDBPyConnection, theirs: duckdb.DuckDBPyConnection, other: Store) -> int:
    """Append to ``other`` the events that it lacks."""
    known = [row[0] for row in theirs.execute("select event_id from events").fetchall()]
    con.execute("create temp table known as select unnest(?::varchar[]) as event_id", [known])
    fresh = con.sql("from events where event_id not in (from known) order by event_id").to_arrow_table()
    for at in range(0, len(fresh), CHUNK):
        part = conform(fresh.slice(at, CHUNK))
        batch_id = ids.batch_id_of(part.column("event_id").to_pylist())
        column = SCHEMA.get_field_index("batch_id")
        publish(other, batch_id, part.set_column(column, SCHEMA.field(column), pa.repeat(batch_id, len(part))))
    return len(fresh)


def _copy_folder(other: Store, root: Path, folder: Path, report: Report) -> None:
    """Copy the files of a folder; its record goes last."""
    for path in sorted(folder.glob("*"), key=lambda path: (path.name == RECORD, path.name)):
        if path.is_file():
            _copy(other, root, path, report)


def _copy(other: Store, root: Path, path: Path, report: Report) -> None:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise TransientError(f"{path} went away while it was being pushed (a new version?); push again") from None
    other.write(_name(root, path), data)
    report.files += 1
    report.bytes += len(data)


def _name(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()
