"""Hostile SQL: on the snapshot and on live files, each attempt is refused, clearly, and nothing is touched."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import pytest

from catalog import guard, query, snapshot
from catalog.guard import Limits, SqlFailed, SqlRefused

HOSTILE = [
    "copy (select 1) to '{out}'",
    "with c as (copy (select 1) to '{out}') select 1",
    "with c as (copy (select 1) to '{live}') select 1",
    "select * from (with c as (copy (select 1) to '{out}') select 1)",
    "explain analyze copy (select 1) to '{out}'",
    "export database '{out}'",
    "attach '{out}'",
    "attach '{out}' as other (type duckdb)",
    "install httpfs",
    "load httpfs",
    "select getenv('HOME')",
    "select * from read_text('/etc/passwd')",
    "select * from read_csv('/etc/passwd')",
    "select * from '/etc/passwd'",
    "select * from glob('/etc/*')",
    "from sniff_csv('/etc/passwd')",
    "select * from read_parquet('{live}/../../../../etc/passwd')",
    "set enable_external_access = true",
    "reset lock_configuration",
    "pragma database_list",
    "call pragma_version()",
    "create table x as select 1",
    "create macro f() as 1",
    "insert into assets select * from assets",
    "with c as (insert into assets select * from assets) select 1",
    "with c as (delete from assets) select 1",
    "with c as (update assets set asset_id = 'x') select 1",
    "drop view assets",
    "select 1; select 2",
    "prepare x as select 1",
    "checkpoint",
    "use memory",
    "select from where",
    "",
]
BOMBS = [
    "select count(*) from range(10000000000) a, range(1000000000) b",
    "select * from assets a, range(1000000000000) b order by b.range desc",
    "with recursive t(n) as (select 1 union all select n + 1 from t) select sum(n) from t",
]


@pytest.fixture
def library(one_asset: Path) -> Path:
    snapshot.build(one_asset)
    return one_asset


def _state(library: Path) -> dict[str, tuple[int, int]]:
    files = [path for path in library.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in files}


def test_hostile_statements_are_refused_and_touch_nothing(library, tmp_path_factory) -> None:
    out = tmp_path_factory.mktemp("out") / "evil.parquet"
    live_file = next((library / "catalog" / "live").iterdir())
    before = _state(library)
    for text in HOSTILE:
        sql = text.format(out=out, live=live_file)
        for live in (False, True):
            with pytest.raises((SqlRefused, SqlFailed)) as caught:
                guard.ask(library, sql, live=live)
            assert 10 < len(str(caught.value)) < 1500, sql
    assert not out.exists()
    assert _state(library) == before
    assert len(query.assets(library)) == 2


@pytest.mark.parametrize("live", [False, True])
def test_messages_say_what_was_wrong(library, live) -> None:
    for sql, says in (
        ("copy (select 1) to 'x'", "only queries are allowed here, not COPY"),
        ("select 1; select 2", "one statement at a time, got 2"),
        ("with c as (copy (select 1) to 'x') select 1", "not COPY QUERY|only the catalogue's own relations"),
        ("attach 'x.db'", "only queries are allowed here, not ATTACH"),
        ("install httpfs", "only queries are allowed here, not LOAD"),
        ("select getenv('HOME')", "name getenv does not exist"),
        ("from read_text('/etc/passwd')", "only the catalogue's own relations can be read"),
        ("from '/etc/passwd'", "name /etc/passwd does not exist"),
        ("select nothing from assets", 'Referenced column "nothing"'),
    ):
        with pytest.raises((SqlRefused, SqlFailed), match=says):
            guard.ask(library, sql, live=live)


def test_bombs_are_stopped_in_time(library) -> None:
    for live, bomb in itertools.product((False, True), BOMBS):
        with pytest.raises(SqlFailed, match=r"stopped after 0.5 s|needs more than"):
            guard.ask(library, bomb, live=live, limits=Limits(timeout_s=0.5, memory="200MB", spill="50MB"))


def test_a_hungry_query_is_told_its_limit(library) -> None:
    sql = "select list(range) from range(100000000)"
    with pytest.raises(SqlFailed, match="needs more than 100MB"):
        guard.ask(library, sql, limits=Limits(timeout_s=60, memory="100MB", spill="10MB"))


@pytest.mark.parametrize("live", [False, True])
def test_honest_queries_pass(library, live) -> None:
    for sql in (
        "from assets",
        "summarize stage_runs",
        "describe assets",
        "show tables",
        "explain select * from assets",
        "with recursive t(n) as (select 1 union all select n + 1 from t where n < 5) select sum(n) from t",
        "pivot stage_runs on status in ('ok', 'failed') using count(*) group by stage",
        "select stage from stage_runs union all select 'x'",
        "select * from assets where exists (from metrics where metrics.asset_id = assets.asset_id)",
    ):
        assert guard.ask(library, sql, live=live).table.num_columns > 0


def test_the_answer_is_cut_at_the_limit(library) -> None:
    answer = guard.ask(library, "from range(100)", limits=Limits(rows=7))
    assert (answer.table.num_rows, answer.truncated) == (7, True)
    answer = guard.ask(library, "from range(7)", limits=Limits(rows=7))
    assert (answer.table.num_rows, answer.truncated) == (7, False)


def test_no_snapshot_yet(one_asset) -> None:
    with pytest.raises(query.NoSnapshot, match="splatmill catalog snapshot"):
        guard.ask(one_asset, "from assets")


def test_spilled_files_do_not_stay(library) -> None:
    import tempfile

    before = [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("splatmill-sql-")]
    guard.ask(library, "select count(*) from range(100000) group by range % 99999")
    after = [name for name in os.listdir(tempfile.gettempdir()) if name.startswith("splatmill-sql-")]
    assert len(after) <= len(before)
