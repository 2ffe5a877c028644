"""``catalog.duckdb``: the catalogue as real tables in one file, for people, BI tools and untrusted SQL.

    duckdb -readonly <library>/catalog/catalog.duckdb       # any DuckDB from 1.2 on
    duckdb.connect("catalog.duckdb", read_only=True)

Two files take turns. The one that is not published, ``catalog.standby.duckdb``, receives what is new since it was
last current, in one transaction, and then changes names with the published one. So the cost follows what is new, a
reader never meets a half-built file, and who has the old one open keeps it. When the standby is missing, locked by such
a reader, or was left by a killed build, a copy of the published file takes its place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import itertools
import os
import shutil
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from catalog import compact, listing, query, views
from catalog.schema import SCHEMA_VERSION
from catalog.store import LeaseHeld, Store, open_store
from pipeline_core.files import disk_errors, lock

STORAGE_VERSION = "v1.2.0"  # a file in DuckDB 2.0's own format cannot be opened by any 1.x
BASE = views.BASE
OWNER = {  # where to look whether an asset or run has earlier rows; a model's declaration has the model as its asset
    "asset_id": "select asset_id from assets union all select model_id from models",
    "run_id": "select run_id from runs union all select run_id from stage_runs where stage = 'request'",
}
INCREMENTAL = tuple(name for name, view in views.DERIVED.items() if view.key)


def table_format() -> str:
    """What the tables look like, in 16 digits: a snapshot of another version of the views is rebuilt from nothing."""
    shapes = [views.base_sql(name, "events", "latest") for name in BASE]
    shapes += [f"{name} {view.row} {view.columns} {view.sql}" for name, view in views.VIEWS.items()]
    return hashlib.sha256("\n".join([STORAGE_VERSION, str(SCHEMA_VERSION), *shapes]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Report:
    """What a build did."""

    path: str
    new_events: int
    events: int
    seconds: float
    how: str  # unchanged, standby, copy or full


def build(library: str | os.PathLike[str] | Store, *, full: bool = False, threads: int | None = None) -> Report:
    """Bring the snapshot up to date and publish it. ``full`` starts from nothing."""
    began, store = time.monotonic(), open_store(library)
    path = store.snapshot_path()
    with disk_errors(path), _alone(path):
        for attempt in itertools.count(1):
            seen = listing.visible(store)
            try:
                if not full and _is_current(path, seen):
                    return Report(str(path), 0, _count(path), time.monotonic() - began, "unchanged")
                standby, how = _standby(path, full)
                new_events, events = _update(standby, store, seen, threads)
                break
            except duckdb.Error as error:
                _judge(error, path, store, seen, last=full and attempt >= query.OPEN_TRIES, anew=full)
                full = True  # the two files may be what is damaged
        _publish(standby, path)
    return Report(str(path), new_events, events, time.monotonic() - began, how)


def _judge(error: duckdb.Error, path: Path, store: Store, seen: listing.Visible, *, last: bool, anew: bool) -> None:
    """Raise what a failed update means, unless another try may help.

    It may when this one did not start ``anew``, or when a listed file was compacted away meanwhile.
    """
    if os.strerror(errno.ENOSPC) in str(error):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path)) from error
    if last or (anew and listing.visible(store).files == seen.files):
        raise query.CatalogueDamaged(query.diagnosis(store, error)) from error


def standby_path(path: Path) -> Path:
    """The file that takes turns with ``path``."""
    return path.with_name("catalog.standby.duckdb")


@contextlib.contextmanager
def _alone(path: Path):
    with lock(path.with_name("snapshot.lock"), wait=False) as mine:
        if not mine:
            raise LeaseHeld(f"another process is building {path}; wait for it, then try again")
        yield


def _standby(path: Path, full: bool) -> tuple[Path, str]:
    """A file that may be written, and where it came from."""
    standby = standby_path(path)
    wal = standby.with_name(standby.name + ".wal")
    if full or not path.exists() or _format(path) != table_format():
        for leftover in (standby, wal):
            leftover.unlink(missing_ok=True)
        return standby, "full"
    usable = standby.exists() and not wal.exists() and not _open_here(standby)
    if usable and _format(standby, lock=True) == table_format():
        return standby, "standby"
    for leftover in (standby, wal):
        leftover.unlink(missing_ok=True)
    shutil.copyfile(path, standby)
    return standby, "copy"


def _format(path: Path, *, lock: bool = False) -> str | None:
    """:func:`table_format` of a snapshot; None when it cannot be opened (with ``lock``: for writing)."""
    try:
        with duckdb.connect(str(path), read_only=not lock) as con:
            return con.execute("select format from meta").fetchall()[0][0]
    except duckdb.Error:
        return None


def _open_here(path: Path) -> bool:
    """Whether this very process has the file open: POSIX locks do not protect a process from itself."""
    inode = path.stat().st_ino
    with contextlib.suppress(FileNotFoundError):
        for descriptor in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/self/fd/{descriptor}").st_ino == inode:
                    return True
    return False


def _is_current(path: Path, seen: listing.Visible) -> bool:
    if not path.exists() or _format(path) != table_format():
        return False
    with duckdb.connect(str(path), read_only=True) as con:
        cids, batches = _included(con)
    return {name[:36] for name in seen.sealed} <= cids and {name[:36] for name in seen.live} <= batches


def _count(path: Path) -> int:
    with duckdb.connect(str(path), read_only=True) as con:
        return con.execute("select n_events from meta").fetchall()[0][0]


def _included(con: duckdb.DuckDBPyConnection) -> tuple[set[str], set[str]]:
    cids = {row[0] for row in con.execute("select cid from included_cids").fetchall()}
    return cids, {row[0] for row in con.execute("select batch_id from included_batches").fetchall()}


def _update(standby: Path, store: Store, seen: listing.Visible, threads: int | None) -> tuple[int, int]:
    """Add to the standby what it lacks; returns the number of new events and of all."""
    config: dict[str, str | bool | int | float | list[str]] = {"storage_compatibility_version": STORAGE_VERSION}
    config |= {"threads": threads} if threads else {}
    with duckdb.connect(str(standby), config=config) as con:
        con.execute("set timezone = 'UTC'; set enable_progress_bar = false")
        if store.filesystem is not None:
            con.register_filesystem(store.filesystem)
        con.execute("begin")
        first = not con.execute("select 1 from duckdb_tables() where table_name = 'meta'").fetchall()
        if first:
            _create(con)
        new_events = _load_fresh(con, store, seen, first)
        if new_events and first:
            _fill(con)
        elif new_events:
            _add_base(con)
            _renew_derived(con)
        events = _note(con, seen)
        con.execute("commit")
        con.execute("checkpoint")
    return new_events, events


def _create(con: duckdb.DuckDBPyConnection) -> None:
    """Empty tables with the columns, types and comments of the views."""
    con.execute(f"create temp table no_events as {query.empty_sql()}")
    con.execute("create temp table no_latest (event_id varchar)")
    for name, view in views.VIEWS.items():
        if view.asked:
            con.execute(f"create view {name} as {views.select_sql(name)}")
            kind = "view"
        else:
            sql = views.select_sql(name) if view.sql else views.base_sql(name, "no_events", "no_latest")
            con.execute(f"create table {name} as {sql}")
            kind = "table"
        con.execute(f"comment on {kind} {name} is {query.quote('A row is ' + view.row)}")
        for column, text in view.columns.items():
            con.execute(f'comment on column {name}."{column}" is {query.quote(text)}')
    con.execute("drop table no_events")
    con.execute("drop table no_latest")
    con.execute("create table included_cids (cid varchar)")
    con.execute("create table included_batches (batch_id varchar)")
    con.execute(
        "create table meta (built_at timestamptz, n_events bigint, last_event_id varchar, schema_version smallint, "
        "index_number bigint, format varchar)"
    )


def _load_fresh(con: duckdb.DuckDBPyConnection, store: Store, seen: listing.Visible, first: bool) -> int:
    """Make ``fresh`` of the events that the tables lack, in file order; returns their number.

    It is a view where the tables are empty: those events may be many, and are read column by column.
    """
    cids, batches = _included(con)
    live = [f"live/{name}" for name in seen.live if name[:36] not in batches]
    sealed = [
        f"sealed/{listing.sealed_name(row)}"
        for row in compact.active_rows(seen)
        if row["cid"] not in cids and not (row["supersedes"] and set(row["supersedes"]) <= cids)
    ]
    lacking = "(cid is null or cid not in (from included_cids)) and batch_id not in (from included_batches)"
    con.execute(f"""
        create temp {"view" if first else "table"} fresh as
        select * exclude (cid) from ({query.union_sql(store, sealed, extra="cid")}) where {"true" if first else lacking}
        union all by name {query.union_sql(store, live)}
    """)
    con.execute(f"""
        insert into included_cids
        select distinct cid from ({query.union_sql(store, sealed, extra="cid")}) where cid is not null
        except from included_cids
    """)
    known = {row[0] for row in con.execute("select cid from included_cids").fetchall()}
    more = [(name[:36],) for name in seen.sealed if name[:36] not in known]
    if more:
        con.executemany("insert into included_cids values (?)", more)
    con.execute("delete from included_batches")
    if seen.live:
        con.execute("insert into included_batches select unnest(?)", [[name[:36] for name in seen.live]])
    if not first:  # what fsck restored is the same event in another file; ids are in time order, so this is cheap
        con.execute("""
            delete from fresh where event_id in (
                select event_id from stage_runs where event_id >= (select min(event_id) from fresh)
            )
        """)
    return con.execute("select count(*) from fresh").fetchall()[0][0]


def _fill(con: duckdb.DuckDBPyConnection) -> None:
    """Fill empty tables."""
    con.execute("create temp table latest as select max(event_id) as event_id from fresh group by asset_id, stage")
    for name in BASE:
        con.execute(f"insert into {name} {views.base_sql(name, 'fresh', 'latest')}")
    for name in (*INCREMENTAL, "models"):
        con.execute(f"insert into {name} {views.select_sql(name)}")


def _add_base(con: duckdb.DuckDBPyConnection) -> None:
    """Make ``fresh_<base>`` of the fresh events, and take ``is_latest`` from the older rows that they replace.

    Leaves ``returning_asset_id`` and ``returning_run_id`` too: what the fresh events concern that the tables know. Most
    nights make new assets, and cost accordingly.
    """
    con.execute("create temp table newest as select asset_id, stage, max(event_id) as event_id from fresh group by all")
    con.execute("create temp table losers (event_id varchar, run_id varchar)")
    if _note_returning(con, "asset_id", "from fresh"):
        con.execute("""
            create temp table rivals as
            select asset_id, stage, old.event_id, old.run_id, newest.event_id as challenger
            from (
                select asset_id, stage, event_id, run_id from stage_runs
                where asset_id in (from returning_asset_id) and is_latest
            ) old join newest using (asset_id, stage)
        """)
        con.execute("insert into losers select event_id, run_id from rivals where event_id < challenger")
        con.execute("delete from newest where event_id in (select challenger from rivals where event_id > challenger)")
        for name in BASE if _any(con, "losers") else ():
            con.execute(f"update {name} set is_latest = false where event_id in (select event_id from losers)")
    _note_returning(con, "run_id", "from (select run_id from fresh union all select run_id from losers)")
    con.execute("create temp table latest as select event_id from newest")
    for name in BASE:
        con.execute(f"create temp table fresh_{name} as {views.base_sql(name, 'fresh', 'latest')}")


def _note_returning(con: duckdb.DuckDBPyConnection, key: str, touched: str) -> bool:
    """Make ``returning_<key>`` of those touched that have earlier rows; whether there are any."""
    con.execute(f"create temp table returning_{key} as select distinct {key} {touched} where {key} in ({OWNER[key]})")
    return _any(con, f"returning_{key}")


def _any(con: duckdb.DuckDBPyConnection, table: str) -> bool:
    return bool(con.execute(f"select 1 from {table} limit 1").fetchall())


def _renew_derived(con: duckdb.DuckDBPyConnection) -> None:
    """Compute anew the rows of the derived tables whose asset or run has fresh events; then insert the fresh rows."""
    for key in OWNER:
        sources = _rows_of(con, key)
        for name in (name for name in INCREMENTAL if views.VIEWS[name].key == key):
            con.execute(f"delete from {name} where {key} in (from returning_{key})")
            con.execute(f"insert into {name} {views.select_sql(name, **sources)}")
    for name in BASE:
        con.execute(f"insert into {name} from fresh_{name}")
    con.execute("create temp table known_models as from models")
    con.execute("delete from models")
    con.execute(f"insert into models {views.select_sql('models')}")
    _renew_licences(con)


def _renew_licences(con: duckdb.DuckDBPyConnection) -> None:
    """Compute anew the licence class of assets without fresh events whose models were declared with another class."""
    con.execute("""
        create temp table relicensed as select distinct asset_id from lineage where model_id in (
            select model_id from models join known_models old using (model_id)
            where models.licence_class <> old.licence_class
        )
    """)
    if _any(con, "relicensed"):
        rows = "(from stage_runs where asset_id in (from relicensed))"
        con.execute(f"""
            update assets set licence_class = new.licence_class
            from ({views.LICENSED_SQL.format(stage_runs=rows, declared="stage_runs")}) new
            where assets.asset_id = new.asset_id
        """)


def _rows_of(con: duckdb.DuckDBPyConnection, key: str) -> dict[str, str]:
    """Names of tables with all rows, old and fresh, of the touched assets or runs."""
    declared = "(from stage_runs where stage = 'model' union all by name from fresh_stage_runs where stage = 'model')"
    if not _any(con, f"returning_{key}"):
        return {name: f"fresh_{name}" for name in BASE} | {"declared": declared}
    for name in BASE:
        old = f"from {name} where {key} in (from returning_{key})"
        con.execute(f"create temp table touched_{key}_{name} as {old} union all by name from fresh_{name}")
    return {name: f"touched_{key}_{name}" for name in BASE} | {"declared": declared}


def _note(con: duckdb.DuckDBPyConnection, seen: listing.Visible) -> int:
    con.execute("delete from meta")
    con.execute(
        "insert into meta select ?, count(*), max(event_id), ?, ?, ? from stage_runs",
        [datetime.now(UTC), SCHEMA_VERSION, seen.number, table_format()],
    )
    return con.execute("select n_events from meta").fetchall()[0][0]


def _publish(standby: Path, path: Path) -> None:
    """Let the two files change names; readers that have the old one open keep it."""
    previous = path.with_name("catalog.previous.duckdb")
    previous.unlink(missing_ok=True)
    if path.exists():
        with contextlib.suppress(OSError):  # without hard links the next build copies
            os.link(path, previous)
    os.replace(standby, path)
    if previous.exists():
        os.replace(previous, standby)
