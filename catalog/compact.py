"""Turn many small files into few large ones, without a moment at which a reader sees a row twice or not at all.

One round, under the lease:

1. *seal*: write the rows of all live files, sorted by asset, to ``sealed/<cid>``; then create the next ``index`` file,
   which names the cid and the batches in it. That file is the commit. Killed before it: the sealed file is an orphan.
   Killed after it: done.
2. *merge*: eight sealed files of one size class become one, by the same protocol (``supersedes``), so a row is
   rewritten once per factor of eight.
3. *checkpoint*: fold a long index into one file.
4. *sweep*: after ``grace_s`` remove what the index replaced, orphans, and left-overs in tmp/ and trash/.

Two compactors that both believe to hold the lease race for the same index number; the store lets one create it, and
the other throws its own sealed file away.
"""

from __future__ import annotations

import io
import logging
import math
import os
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from catalog import ids, listing, query
from catalog.schema import SCHEMA, SCHEMA_VERSION, conform
from catalog.store import LeaseHeld, Store, open_store
from catalog.writer import encode
from pipeline_core.errors import RequestError, TransientError

DAY_S = 86_400.0
MANY = 256
SORT_KEYS = [("asset_id", "ascending"), ("event_id", "ascending")]

log = logging.getLogger("splatmill.catalog")


@dataclass(frozen=True)
class Policy:
    """When what is done. Seconds are compared with file times and the index's ``committed_at``."""

    min_live: int = 1  # seal when there are at least so many live files
    files_per_seal: int = 5_000  # live files read into one sealed file
    target_rows: int = 250_000  # a sealed file of half that size is left alone
    fan_in: int = 8  # sealed files of one size class that are merged
    checkpoint_every: int = 64  # index files
    grace_s: float = 600.0  # longest time between a reader's listing and its opening of a file
    orphan_s: float = 3_600.0  # age at which an uncommitted sealed file is an orphan
    trash_s: float = 7 * DAY_S


@dataclass
class Report:
    """What a round did."""

    sealed_batches: int = 0
    sealed_rows: int = 0
    merged_files: int = 0
    checkpoints: int = 0
    removed: int = 0
    unreadable: list[str] = field(default_factory=list)


def compact(library: str | os.PathLike[str] | Store, policy: Policy | None = None) -> Report:
    """One round of compaction. Raises ``catalog.store.LeaseHeld`` while another compactor is at work."""
    policy, store, report = policy or Policy(), open_store(library), Report()
    with store.lease("compactor"):
        _seal_all(store, policy, report)
        _merge_all(store, policy, report)
        _checkpoint(store, policy, report)
        _sweep(store, policy, report)
    return report


def compact_if_many(library: str | os.PathLike[str] | Store) -> Report | None:
    """A round of compaction where readers would meet :data:`MANY` small files: each costs every question 2 ms.

    None where another process is at it, or the catalogue or its disk refuses: that is no reason for a run to fail.
    """
    try:
        return compact(library, Policy(min_live=MANY))
    except LeaseHeld:
        return None
    except (RequestError, TransientError, OSError) as error:
        log.warning("the catalogue's small files stay as they are: %s", error)
        return None


def _seal_all(store: Store, policy: Policy, report: Report) -> None:
    seen = listing.visible(store)
    if len(seen.live) < policy.min_live:
        return
    for at in range(0, len(seen.live), policy.files_per_seal):
        names = [f"live/{name}" for name in seen.live[at : at + policy.files_per_seal]]
        table, bad = read_events(store, names)
        report.unreadable += bad
        good = [name[5:41] for name in names if name not in bad]
        if good and commit(store, policy, "seal", table, batches=good):
            report.sealed_batches += len(good)
            report.sealed_rows += len(table)


def _merge_all(store: Store, policy: Policy, report: Report) -> None:
    classes = defaultdict(list)
    for row in active_rows(listing.visible(store)):
        if row["rows"] < policy.target_rows / 2:
            classes[int(math.log(max(row["rows"], 1), policy.fan_in))].append(row)
    for rows in classes.values():
        if len(rows) >= policy.fan_in:
            rows.sort(key=lambda row: row["cid"])
            report.merged_files += merge(store, policy, rows)


def merge(store: Store, policy: Policy, rows: Sequence[dict]) -> int:
    """Rewrite the sealed files of these index rows as one; returns how many it replaced (0: lost a race)."""
    table, bad = read_events(store, [f"sealed/{listing.sealed_name(row)}" for row in rows])
    if bad:
        log.error("not merged, run `splatmill catalog fsck`: unreadable %s", ", ".join(bad))
        return 0
    return len(rows) if commit(store, policy, "merge", table, supersedes=[row["cid"] for row in rows]) else 0


def active_rows(seen: listing.Visible) -> list[dict]:
    """Index rows whose sealed files count."""
    wanted = set(seen.sealed)
    by_cid = {row["cid"]: row for row in seen.index if row["cid"] and listing.sealed_name(row) in wanted}
    return list(by_cid.values())


def read_events(store: Store, names: Sequence[str]) -> tuple[pa.Table, list[str]]:
    """Events of these files with :data:`catalog.schema.SCHEMA` and ``cid``, and the names that cannot be read."""
    try:
        with duckdb.connect() as con:
            if store.filesystem is not None:
                con.register_filesystem(store.filesystem)
            con.execute("set timezone = 'UTC'; set enable_progress_bar = false")
            found = con.sql(query.union_sql(store, names, extra="cid")).to_arrow_table()
            return _with_cid(found), []
    except duckdb.Error:
        return _read_one_by_one(store, names)


def _read_one_by_one(store: Store, names: Sequence[str]) -> tuple[pa.Table, list[str]]:
    tables, bad = [_with_cid(SCHEMA.empty_table())], []
    for name in names:
        try:
            tables.append(_with_cid(pq.read_table(io.BytesIO(store.read(name)))))
        except (pa.ArrowException, OSError) as error:
            log.error("cannot read %s: %s", store.url(name), str(error).splitlines()[0])
            bad.append(name)
    return pa.concat_tables(tables), bad


def _with_cid(table: pa.Table) -> pa.Table:
    at = table.schema.get_field_index("cid")
    cid = pa.nulls(len(table), pa.string()) if at < 0 else table.column(at).cast(pa.string())
    return conform(table).append_column("cid", cid)


def commit(
    store: Store,
    policy: Policy,
    kind: str,
    table: pa.Table,
    *,
    batches: Sequence[str] = (),
    supersedes: Sequence[str] = (),
) -> bool:
    """Publish ``table`` as a sealed file and commit it by the next index number; False when a rival was first.

    The first seal of a row notes its cid in the row, so that a snapshot can tell which rows of a merged file it has.
    """
    cid, began = ids.new_id(), time.monotonic()
    table = in_order(table)
    origin = pc.fill_null(table.column("cid"), cid)
    table = table.set_column(table.schema.get_field_index("cid"), "cid", origin)
    data = encode(table, small=False)
    row = _entry(kind, cid, SCHEMA_VERSION, table, len(data))
    row |= {"batches": list(batches), "supersedes": list(supersedes)}
    name = f"sealed/{listing.sealed_name(row)}"
    created = store.create(name, data)
    assert created, name
    while True:
        seen = listing.visible(store)
        taken = set(batches) & listing.replaced_batches(seen.index)
        gone = set(supersedes) - {other["cid"] for other in active_rows(seen)}
        if taken or gone or time.monotonic() - began > policy.orphan_s / 2:
            store.remove(name)
            return False
        if create_index(store, seen.number + 1, [row]):
            return True


def _entry(kind: str, cid: str, version: int, table: pa.Table, size: int) -> dict:
    """The index row of a sealed file of ``size`` bytes that holds ``table``."""
    return {
        "kind": kind,
        "cid": cid,
        "schema_version": version,
        "rows": len(table),
        "bytes": size,
        "min_date": pc.min(table.column("date")).as_py(),
        "max_date": pc.max(table.column("date")).as_py(),
        "batches": [],
        "supersedes": [],
        "committed_at": datetime.now(UTC),
    }


def recommit(store: Store) -> int:
    """Commit every sealed file that no index file knows, by the batches in its rows; returns their number.

    For an index that was lost. It may commit what was replaced or never committed too: then an event lies in two
    sealed files until these are merged (``fsck --repair`` does that next).
    """
    while True:
        seen = listing.visible(store)
        known = {row["cid"] for row in seen.index} | {cid for row in seen.index for cid in row["supersedes"]}
        rows = []
        for name in sorted(store.names("sealed")):
            version = listing.data_version(name)
            if version is not None and name[:36] not in known:
                data = store.read(f"sealed/{name}")
                table = pq.read_table(io.BytesIO(data), columns=["batch_id", "date"])
                batches = pc.unique(table.column("batch_id")).to_pylist()
                rows.append(_entry("seal", name[:36], version, table, len(data)) | {"batches": batches})
        if not rows or create_index(store, seen.number + 1, rows):
            return len(rows)


def in_order(table: pa.Table) -> pa.Table:
    """Sorted by asset, stage and event; an event that came twice is kept once."""
    table = table.sort_by(SORT_KEYS).combine_chunks()
    if len(table) < 2:
        return table
    event = table.column("event_id").combine_chunks()
    fresh = pc.not_equal(event.slice(1), event.slice(0, len(event) - 1))
    return table.filter(pa.concat_arrays([pa.array([True]), fresh]))


def create_index(store: Store, number: int, rows: Sequence[dict]) -> bool:
    """Create index file ``number``; False when it exists."""
    table = pa.Table.from_pylist(list(rows), schema=listing.INDEX_SCHEMA)
    return store.create(listing.index_name(number), encode(table))


def revoke(store: Store, row: dict) -> list[str]:
    """Take back the compaction of an index row whose file is lost; returns the batches that are live again.

    The files that it replaced, and those that they replaced, are taken back with it.
    """
    while True:
        seen = listing.visible(store)
        by_cid = {each["cid"]: each for each in seen.index if each["cid"]}
        lost, todo = [], [row["cid"]]
        while todo:
            cid = todo.pop()
            if cid in by_cid and cid not in lost:
                lost.append(cid)
                todo.extend(by_cid[cid]["supersedes"])
        entry = {"kind": "revoke", "batches": [], "supersedes": lost, "committed_at": datetime.now(UTC)}
        if create_index(store, seen.number + 1, [entry]):
            return [batch for cid in lost for batch in by_cid[cid]["batches"]]


def _checkpoint(store: Store, policy: Policy, report: Report) -> None:
    """Fold the index into one file that says the same.

    A batch is forgotten once its live file is gone and no writer can still be retrying it; a superseded cid once no
    index file mentions it.
    """
    if len(listing.index_numbers(store)) < policy.checkpoint_every:
        return
    seen = listing.visible(store)
    live = {name[:36] for name in store.names("live")}
    horizon = time.time() - policy.trash_s
    active = {row["cid"] for row in active_rows(seen)}
    kept = {}  # by cid: an earlier checkpoint's file repeats rows
    for row in seen.index:
        recent = row["committed_at"].timestamp() > horizon
        batches = row["batches"] if recent else [batch for batch in row["batches"] if batch in live]
        if row["kind"] == "revoke" or row["cid"] in active or (row["cid"] and batches):
            kept[row["cid"] or str(row["supersedes"])] = row | {"batches": batches}
    mentioned = {row["cid"] for row in seen.index if row["cid"]}
    superseded = sorted({cid for row in seen.index for cid in row["supersedes"]} & mentioned)
    note = {"kind": "checkpoint", "batches": [], "supersedes": superseded, "committed_at": datetime.now(UTC)}
    if create_index(store, seen.number + 1, [*kept.values(), note]):
        report.checkpoints += 1


def _sweep(store: Store, policy: Policy, report: Report) -> None:
    """Remove what no reader can still be opening."""
    now = time.time()
    seen = listing.visible(store)
    sealed = {entry.name: entry for entry in store.entries("sealed")}
    whole = set(seen.sealed) <= sealed.keys()  # never drop a live file while a sealed one is missing: fsck's business
    replaced: dict[str, float] = {}
    superseded: dict[str, float] = {}
    settled = listing.replaced_batches(seen.index)
    for row in seen.index:
        age = now - row["committed_at"].timestamp()
        for batch in settled.intersection(row["batches"]):
            replaced[batch] = max(age, replaced.get(batch, 0.0))
        for cid in row["supersedes"]:
            superseded[cid] = max(age, superseded.get(cid, 0.0))
    doomed = []
    if whole:
        live = store.names("live")
        doomed += [f"live/{name}" for name in live if replaced.get(name[:36], -math.inf) > policy.grace_s]
    doomed += [f"sealed/{name}" for name in sealed if superseded.get(name[:36], -math.inf) > policy.grace_s]
    known = {row["cid"] for row in seen.index} | superseded.keys()
    doomed += [
        f"sealed/{entry.name}"
        for entry in sealed.values()
        if listing.data_version(entry.name) and entry.name[:36] not in known and now - entry.modified > policy.orphan_s
    ]
    doomed += _folded_index(store, policy, now)
    for name in doomed:
        store.discard(name)
    for folder, age in (("tmp", policy.orphan_s), ("trash", policy.trash_s)):
        store.purge(folder, now - age)
    report.removed += len(doomed)


def _folded_index(store: Store, policy: Policy, now: float) -> list[str]:
    """Index files before the newest checkpoint that is older than the grace."""
    entries = {entry.name: entry for entry in store.entries("index")}
    numbers = listing.index_numbers(store)
    for number in reversed(numbers):
        entry = entries.get(listing.index_name(number)[6:])
        if entry and now - entry.modified > policy.grace_s:
            if any(row["kind"] == "checkpoint" for row in listing.read_index(store, number)):
                return [listing.index_name(older) for older in numbers if older < number]
    return []
