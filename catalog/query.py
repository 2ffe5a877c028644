"""Connections on which SQL can be asked.

>>> with connect(library, live=True) as con:
...     con.sql("select status, count(*) from assets group by all").show()

``live=True`` reads the Parquet files as they are this moment; ``live=False`` opens the snapshot ``catalog.duckdb``.
Both have the relations of :mod:`catalog.views`. Neither guards against hostile SQL; that is :mod:`catalog.guard`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from typing import Any

import duckdb

from catalog import listing, views
from catalog.schema import SCHEMA
from catalog.store import Store, open_store
from pipeline_core.errors import RequestError

OPEN_TRIES = 5
CatalogueDamaged = listing.CatalogueDamaged


class NoSnapshot(RequestError):
    """There is no snapshot to query yet."""


def connect(library: str | os.PathLike[str] | Store, *, live: bool = True, **config: Any) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection with every relation of :data:`catalog.views.VIEWS`.

    Parameters
    ----------
    library
        folder or address of the library; one that does not exist yet is an empty catalogue.
    live
        True: the files as they are now, consistently. False: the snapshot, read-only.
    config
        DuckDB settings, for instance ``threads=2, memory_limit="2GB"``.
    """
    store = open_store(library)
    if not live:
        return _connect_snapshot(store, config)
    attempt = 0
    while True:
        attempt += 1
        seen = listing.visible(store)
        con = duckdb.connect(config=config)
        try:
            attach_live(con, store, seen)
            return con
        except duckdb.Error as error:
            con.close()
            # a file that was listed may have been compacted away since: list again; if it is all there, it is damaged
            if attempt >= OPEN_TRIES or listing.visible(store).files == seen.files:
                raise listing.CatalogueDamaged(diagnosis(store, error)) from error


def rows(
    library: str | os.PathLike[str] | Store, sql: str, parameters: Sequence[Any] = (), *, live: bool = True
) -> list[dict]:
    """Answer of a trusted query as plain dictionaries."""
    with connect(library, live=live) as con:
        return con.sql(sql, params=list(parameters)).to_arrow_table().to_pylist()


def assets(library: str | os.PathLike[str] | Store, *, live: bool = True) -> list[dict]:
    """Every asset, one dictionary each, columns as in the view ``assets``."""
    return rows(library, "select * from assets order by asset_id", live=live)


def attach_live(con: duckdb.DuckDBPyConnection, store: Store, seen: listing.Visible) -> None:
    """Create the relations on ``con`` over the files in ``seen``."""
    if store.filesystem is not None:
        con.register_filesystem(store.filesystem)
    con.execute("set timezone = 'UTC'; set enable_progress_bar = false")
    # Live files are many and small: read them once. Sealed ones are few and large: views prune what is not asked for.
    con.execute(f"create temp table recent as {union_sql(store, [f'live/{name}' for name in seen.live])}")
    sealed = union_sql(store, [f"sealed/{name}" for name in seen.sealed])
    con.execute(f"create temp view events as from recent union all by name {sealed}")
    con.execute("create temp table latest as select max(event_id) as event_id from events group by asset_id, stage")
    for name, view in views.VIEWS.items():
        sql = views.select_sql(name) if view.sql else views.base_sql(name, "events", "latest")
        con.execute(f"create temp view {name} as {sql}")


def union_sql(store: Store, names: Sequence[str], *, extra: str = "") -> str:
    """A select of all event columns (and ``extra``, a text column of sealed files) over files of any schema version.

    A column that an older file lacks is NULL, one that a newer file adds is left out.
    """
    columns = [*SCHEMA.names, extra] if extra else SCHEMA.names
    parts = [empty_sql(extra)]
    for _, group in itertools.groupby(sorted(names, key=_version), key=_version):
        files = ", ".join(quote(store.url(name)) for name in group)
        parts.append(f"select * from read_parquet([{files}])")
    return f"select {', '.join(columns)} from ({' union all by name '.join(parts)})"


def empty_sql(extra: str = "") -> str:
    """A select without rows that has the event's columns and types, and ``extra`` as text."""
    columns = [f"null::{duckdb_type(item.type)} as {item.name}" for item in SCHEMA]
    return f"select {', '.join(columns + [f'null::varchar as {extra}'] * bool(extra))} where false"


def duckdb_type(data_type: Any) -> str:
    """DuckDB's name of an Arrow type that the schema uses."""
    simple = {
        "string": "varchar",
        "int16": "smallint",
        "int32": "integer",
        "int64": "bigint",
        "double": "double",
        "bool": "boolean",
        "date32[day]": "date",
        "timestamp[us, tz=UTC]": "timestamptz",
    }
    text = str(data_type)
    if text in simple:
        return simple[text]
    if text.startswith("map"):
        return f"map({duckdb_type(data_type.key_type)}, {duckdb_type(data_type.item_type)})"
    if text.startswith("list"):
        return duckdb_type(data_type.value_type) + "[]"
    return "struct(" + ", ".join(f'"{f.name}" {duckdb_type(f.type)}' for f in data_type) + ")"


def quote(text: str) -> str:
    """``text`` as an SQL string literal."""
    return "'" + text.replace("'", "''") + "'"


def _version(name: str) -> int:
    return listing.data_version(name.rsplit("/", 1)[1]) or 0


def _connect_snapshot(store: Store, config: dict[str, Any]) -> duckdb.DuckDBPyConnection:
    path = store.snapshot_path()
    if not path.exists():
        raise NoSnapshot(f"no snapshot at {path}: make one with `splatmill catalog snapshot`, or ask with --live")
    con = duckdb.connect(str(path), read_only=True, config=config)
    con.execute("set timezone = 'UTC'; set enable_progress_bar = false")
    return con


def diagnosis(store: Store, error: Exception) -> str:
    """What a reader that met a damaged file says."""
    first = str(error).splitlines()[0]
    return (
        f"the catalogue at {store.url('')} has a file that cannot be read: {first}. "
        "`splatmill catalog fsck --repair` moves it to quarantine and restores its rows from the stage records"
    )
