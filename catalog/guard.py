"""Run a stranger's SQL on the catalogue: it may read the catalogue's relations and nothing else, for a bounded time.

On the snapshot (the default) the database itself refuses: the file is opened read-only, external access is off, the
configuration is locked. On live files (``live=True``, for operators) DuckDB must be able to open those files, and
inside the folders it may read it may also write, even from a CTE of a SELECT; so there the parsed statement must
consist of nothing but query nodes.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from catalog import listing, query
from catalog.store import Store, open_store
from pipeline_core.errors import RequestError

READING = {duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN}
QUERY_NODES = {"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE"}
EXPLAIN = re.compile(r"\s*explain\s+(analyze\s+)?(?=select|with|from|values)", re.IGNORECASE)


class SqlRefused(RequestError):
    """The statement is not a plain query, or asks for something outside the catalogue."""


class SqlFailed(RequestError):
    """The query is wrong, or took more time or memory than it may."""


@dataclass(frozen=True)
class Limits:
    """What one query may use."""

    timeout_s: float = 30.0
    memory: str = "2GB"
    spill: str = "4GB"
    threads: int = 2
    rows: int = 100_000


@dataclass(frozen=True)
class Answer:
    """The rows of a query; ``truncated`` when there were more than the limit."""

    table: pa.Table
    truncated: bool


def ask(
    library: str | os.PathLike[str] | Store, sql: str, *, live: bool = False, limits: Limits | None = None
) -> Answer:
    """Run one query under guard.

    Raises :class:`SqlRefused` and :class:`SqlFailed`, and what :func:`catalog.query.connect` raises.
    """
    limits, store = limits or Limits(), open_store(library)
    check_statement(sql, live=live)
    with tempfile.TemporaryDirectory(prefix="splatmill-sql-") as spill:
        with _translated(limits), contextlib.closing(_open(store, live, limits, spill)) as con:
            with _deadline(con, limits.timeout_s):
                return _fetch(con, sql, limits.rows)


def check_statement(sql: str, *, live: bool) -> None:
    """Refuse anything but one reading statement; for live files look at every node of its tree."""
    try:
        with contextlib.closing(duckdb.connect(config={"enable_external_access": "false"})) as parser:
            statements = parser.extract_statements(sql)
            if len(statements) != 1:
                raise SqlRefused(f"one statement at a time, got {len(statements)}")
            if statements[0].type not in READING:
                hint = "; PIVOT must list its values: on x in ('a', 'b')" if "pivot" in sql.lower() else ""
                raise SqlRefused(f"only queries are allowed here, not {statements[0].type.name}{hint}")
            if live:
                _check_tree(parser, sql)
    except duckdb.Error as error:
        raise SqlFailed(_first_lines(error)) from error


def _check_tree(parser: duckdb.DuckDBPyConnection, sql: str) -> None:
    sql = EXPLAIN.sub("", sql, count=1)
    tree = json.loads(parser.execute("select json_serialize_sql(?::varchar)", [sql]).fetchall()[0][0])
    if tree.get("error"):
        raise SqlRefused(f"--live allows plain queries only ({tree.get('error_message')}); ask the snapshot instead")
    for kind in _query_nodes(tree):
        if kind not in QUERY_NODES:
            raise SqlRefused(f"only queries are allowed here, not {kind.removesuffix('_NODE').replace('_', ' ')}")


def _query_nodes(tree: Any) -> Iterator[str]:
    """Types of all query nodes in a serialised statement, however deep."""
    if isinstance(tree, dict):
        kind = tree.get("type")
        if isinstance(kind, str) and kind.endswith("_NODE"):
            yield kind
        for value in tree.values():
            yield from _query_nodes(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from _query_nodes(value)


def _open(store: Store, live: bool, limits: Limits, spill: str) -> duckdb.DuckDBPyConnection:
    config = {
        "memory_limit": limits.memory,
        "threads": limits.threads,
        "temp_directory": spill,
        "max_temp_directory_size": limits.spill,
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",
    }
    if live:
        con = query.connect(store, live=True, **config)
        paths = ", ".join(query.quote(store.url(name)) for name in listing.visible(store).files)
        con.execute(f"set allowed_paths = [{paths}]")
        con.execute("set enable_external_access = false")
    else:
        con = query.connect(store, live=False, enable_external_access="false", **config)
    con.execute("set lock_configuration = true")
    return con


def _fetch(con: duckdb.DuckDBPyConnection, sql: str, rows: int) -> Answer:
    reader = con.sql(sql).to_arrow_reader(10_000)
    batches, count = [], 0
    for batch in reader:
        batches.append(batch)
        count += len(batch)
        if count > rows:
            break
    table = pa.Table.from_batches(batches, schema=reader.schema)
    return Answer(table.slice(0, rows), len(table) > rows)


@contextlib.contextmanager
def _deadline(con: duckdb.DuckDBPyConnection, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, con.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _translated(limits: Limits) -> Iterator[None]:
    """DuckDB's errors in words for the person who asked."""
    try:
        yield
    except duckdb.InterruptException as error:
        raise too_slow(limits) from error
    except duckdb.OutOfMemoryException as error:
        raise too_large(limits) from error
    except duckdb.PermissionException as error:
        raise SqlRefused(f"only the catalogue's own relations can be read here: {_first_lines(error)}") from error
    except duckdb.Error as error:
        raise SqlFailed(_first_lines(error)) from error


def too_slow(limits: Limits) -> SqlFailed:
    """What is said of a query whose time is over."""
    return SqlFailed(
        f"the query was stopped after {limits.timeout_s:g} s: narrow it (a join without a condition?), "
        "or raise --timeout"
    )


def too_large(limits: Limits) -> SqlFailed:
    """What is said of a query that its memory does not hold."""
    return SqlFailed(
        f"the query needs more than {limits.memory} of memory (and {limits.spill} on disk): narrow it, "
        "or raise --memory"
    )


def _first_lines(error: Exception) -> str:
    """The error without DuckDB's stack of hints."""
    return "\n".join(str(error).strip().splitlines()[:6])
