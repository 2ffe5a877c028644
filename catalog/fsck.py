"""Look at every file of a catalogue and at the files it speaks of; say what is wrong; with ``repair``, mend it.

    finding          what it means                                    what repair does
    torn             a data file cannot be read                       to quarantine/; rebuild brings its events back
    drift            a data file lacks columns or retypes them        to quarantine/; rebuild brings its events back
    foreign          a file that is not ours lies in a data folder    to quarantine/
    torn-index       an index file cannot be read                     to quarantine/; written anew from the sealed files
    missing-sealed   the index commits a file that is gone            it, or what it replaced, back from trash/
    orphan           a sealed file that no index commits, and old     to trash/ (a killed compactor's)
    doubled          an event lies in two data files                  rewritten once
    left-over        an old file in tmp/                              removed
    lost-artifact    a current row names a file that is not there     copied from a file with that sha256, if any
    bad-artifact     a current row's file has another sha256 or size  likewise, else to quarantine/; `splatmill run`
                                                                      makes it again
    lost-input       the copy of a file that a row named is not there  nothing: `splatmill run` copies it anew
    bad-input        that copy has another sha256                     to quarantine/; `splatmill run` copies it anew
    clock            events from the future                           nothing: says by how much
"""

from __future__ import annotations

import hashlib
import io
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from catalog import compact, ids, inputs, listing, query
from catalog.rebuild import rebuild
from catalog.schema import drift
from catalog.store import Store, open_store

CLOCK_TOLERANCE_MS = 60_000


@dataclass(frozen=True)
class Finding:
    """One thing that is wrong. ``done`` says what repair did about it; empty = nothing."""

    kind: str
    where: str
    detail: str
    done: str = ""


def fsck(
    root: str | os.PathLike[str] | Store, *, repair: bool = False, artifacts: bool = True, hashes: bool = True
) -> list[Finding]:
    """Check the catalogue; ``artifacts`` and ``hashes`` also check the files that current rows name."""
    store = open_store(root)
    findings = list(_data_files(store, repair)) + list(_index(store, repair))
    readable = repair or not any(finding.kind == "torn-index" for finding in findings)
    if readable:
        findings += _doubled(store, repair)
        findings += _leftovers(store, repair)
        findings += _clock(store)
    if repair and any(finding.kind in ("torn", "drift", "missing-sealed") for finding in findings):
        added = rebuild(store).added
        findings.append(Finding("restored", store.url("live"), "read from stage records", f"{added} events added"))
    if artifacts and readable and not _unrepaired(findings):
        findings += _artifacts(store, repair, hashes)
        findings += _inputs(store, repair, hashes)
    return findings


def _unrepaired(findings: list[Finding]) -> bool:
    return any(f.kind in ("torn", "drift", "missing-sealed") and not f.done for f in findings)


def _data_files(store: Store, repair: bool) -> Iterator[Finding]:
    for folder in ("live", "sealed"):
        for name in sorted(store.names(folder)):
            path = f"{folder}/{name}"
            problem = _problem(store, path)
            if problem:
                kind, detail = problem
                if repair:
                    store.move(path, "quarantine")
                yield Finding(kind, store.url(path), detail, "moved to quarantine/" if repair else "")


def _problem(store: Store, path: str) -> tuple[str, str] | None:
    if listing.data_version(path.rsplit("/", 1)[1]) is None:
        return "foreign", "not a file of the catalogue; readers pass it over"
    try:
        file = pq.ParquetFile(io.BytesIO(store.read(path)))
        departures = drift(file.schema_arrow)
        if departures:
            return "drift", "; ".join(departures)
        for _ in file.iter_batches(batch_size=65_536):
            pass  # every page is decoded, so every checksum and length is looked at
    except FileNotFoundError:
        return None  # compacted away while we looked
    except (pa.ArrowException, OSError) as error:
        return "torn", str(error).splitlines()[0]
    return None


def _index(store: Store, repair: bool) -> Iterator[Finding]:
    torn = list(_torn_index(store, repair))
    yield from torn
    if torn and not repair:
        return
    if torn:
        compact.recommit(store)
    seen = listing.visible(store)
    there = set(store.names("sealed"))
    for row in compact.active_rows(seen):
        name = listing.sealed_name(row)
        if name not in there:
            done = _restore_sealed(store, row) if repair else ""
            yield Finding("missing-sealed", store.url(f"sealed/{name}"), "committed, but not there", done)
    known = {row["cid"] for row in seen.index} | {cid for row in seen.index for cid in row["supersedes"]}
    for entry in store.entries("sealed"):
        old = time.time() - entry.modified > compact.Policy.orphan_s
        if listing.data_version(entry.name) and entry.name[:36] not in known and old:
            if repair:
                store.discard(f"sealed/{entry.name}")
            detail = "never committed; its rows are in live/"
            yield Finding("orphan", store.url(f"sealed/{entry.name}"), detail, "moved to trash/" if repair else "")


def _torn_index(store: Store, repair: bool) -> Iterator[Finding]:
    for number in listing.index_numbers(store):
        name = listing.index_name(number)
        try:
            listing.read_index(store, number)
        except FileNotFoundError:
            continue  # a checkpoint has just replaced it
        except (listing.CatalogueDamaged, OSError) as error:
            if repair:
                store.move(name, "quarantine")
            done = "moved to quarantine/; its sealed files are committed again" if repair else ""
            yield Finding("torn-index", store.url(name), str(error), done)


def _restore_sealed(store: Store, row: dict) -> str:
    """Bring a lost sealed file back, or take its compaction back and bring the files back that it had replaced."""
    trash, name = set(store.names("trash")), listing.sealed_name(row)
    if name in trash:
        store.move(f"trash/{name}", "sealed")
        return "brought back from trash/"
    batches = set(compact.revoke(store, row))
    live = {name[:36] for name in store.names("live")}
    back = [name for name in trash if name[:36] in batches - live]
    for name in back:
        store.move(f"trash/{name}", "live")
    return f"compaction taken back; of {len(batches)} transactions {len(back) + len(batches & live)} are there"


def _doubled(store: Store, repair: bool) -> Iterator[Finding]:
    try:
        with query.connect(store) as con:
            found = con.execute("""
                select event_id, count(*) from events group by event_id having count(*) > 1 order by event_id
            """).fetchall()
    except query.CatalogueDamaged:
        return
    if not found:
        return
    done = ""
    if repair:
        policy = compact.Policy()
        compact.compact(store, policy)  # live rows become sealed ones
        with store.lease("compactor"):
            seen = listing.visible(store)
            compact.merge(store, policy, compact.active_rows(seen))  # one file: equal events meet and are kept once
        done = "rewritten once"
    yield Finding("doubled", store.url(""), f"{len(found)} events are stored more than once, first {found[0][0]}", done)


def _leftovers(store: Store, repair: bool) -> Iterator[Finding]:
    for entry in store.entries("tmp"):
        if time.time() - entry.modified > compact.Policy.orphan_s:
            if repair:
                store.remove(f"tmp/{entry.name}")
            yield Finding("left-over", store.url(f"tmp/{entry.name}"), "a killed writer's", "removed" if repair else "")


def _clock(store: Store) -> Iterator[Finding]:
    newest = max((name[:36] for name in listing.visible(store).live), default=None)
    ahead = ids.milliseconds(newest) - time.time_ns() // 1_000_000 if newest else 0
    if ahead > CLOCK_TOLERANCE_MS:
        detail = f"{newest} is {ahead / 1000:.0f} s ahead of this host's clock; one of the two clocks is wrong"
        yield Finding("clock", store.url("live"), detail)


def _artifacts(store: Store, repair: bool, hashes: bool) -> Iterator[Finding]:
    columns = "path, sha256, bytes, asset_id, stage, is_latest"
    rows = query.rows(store, f"select distinct {columns} from artifacts order by all")
    twins: dict[str, list[str]] = {}
    for row in rows:
        twins.setdefault(row["sha256"], []).append(row["path"])
    for row in rows:
        if row["is_latest"] and (problem := _artifact_problem(store, row["path"], row["bytes"], row["sha256"], hashes)):
            kind, detail = problem
            done = _mend_artifact(store, row, twins[row["sha256"]]) if repair else ""
            yield Finding(kind, f"{row['asset_id']} / {row['stage']}: {row['path']}", detail, done)


def _artifact_problem(
    store: Store, path: str, size: int | None, sha256: str | None, hashes: bool
) -> tuple[str, str] | None:
    if _leaves(path):
        return "bad-artifact", "the path leaves the library"
    got = store.size(path)
    if got is None:
        return "lost-artifact", "not there; `splatmill run` makes it again"
    if size is not None and got != size:
        return "bad-artifact", f"has {got} bytes, recorded were {size}"
    if hashes and sha256 and (digest := _sha256(store, path)) != sha256:
        return "bad-artifact", f"sha256 is {digest[:12]}…, recorded was {sha256[:12]}…"
    return None


def _mend_artifact(store: Store, row: dict, twins: list[str]) -> str:
    """Copy the file from one with the same sha256; else move what is there out of the way."""
    path = row["path"]
    if _leaves(path):
        return ""
    for twin in twins:
        if twin != path and not _artifact_problem(store, twin, row["bytes"], row["sha256"], hashes=True):
            store.copy(twin, path)
            return f"copied from {twin}"
    if store.size(path) is None:
        return ""
    store.set_aside(path)
    return "moved to quarantine/; `splatmill run` makes it again"


def _inputs(store: Store, repair: bool, hashes: bool) -> Iterator[Finding]:
    with query.connect(store) as con:
        named = inputs.named(con)
    for each in {each.path: each for each in named}.values():
        where = f"{each.asset_id} / {each.column}: {each.path}"
        if store.size(each.path) is None:
            yield Finding("lost-input", where, f"not there; `splatmill run` of the manifest with {each.name} copies it")
        elif hashes and (digest := _sha256(store, each.path)) != each.sha256:
            if repair:
                store.set_aside(each.path)
            done = "moved to quarantine/; `splatmill run` copies it anew" if repair else ""
            yield Finding("bad-input", where, f"sha256 is {digest[:12]}…, planned was {each.sha256[:12]}…", done)


def _leaves(path: str) -> bool:
    return PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts


def _sha256(store: Store, path: str) -> str:
    digest = hashlib.sha256()
    with store.open(path) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
