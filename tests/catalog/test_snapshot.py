"""The snapshot says what the live files say, at the cost of what is new."""

from __future__ import annotations

import dataclasses
import math
import random
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from catalog import compact, query, snapshot, views
from catalog.compact import Policy
from catalog.writer import append


def same_as_live(library) -> None:
    """Every relation has the same columns, types and rows in both."""
    with query.connect(library) as live, query.connect(library, live=False) as stored:
        for name in views.VIEWS:
            assert live.sql(f"describe {name}").fetchall() == stored.sql(f"describe {name}").fetchall(), name
            ours, theirs = (con.sql(f"select * from {name} order by all").fetchall() for con in (live, stored))
            assert len(ours) == len(theirs), name
            for row_a, row_b in zip(ours, theirs):
                for a, b in zip(row_a, row_b):
                    assert a == b or (isinstance(a, float) and math.isclose(a, b, rel_tol=1e-9)), (name, row_a, row_b)


def test_increments_equal_the_live_files(tmp_path, random_runs) -> None:
    rng, ways = random.Random(11), []
    for run in random_runs(rng, 12):
        append(tmp_path, [run])
    for step in range(4):
        if step % 2:
            compact.compact(tmp_path, Policy(grace_s=-1.0, fan_in=2, checkpoint_every=3))
        ways.append(snapshot.build(tmp_path).how)
        same_as_live(tmp_path)
        append(tmp_path, random_runs(rng, 9))
        append(tmp_path, random_runs(rng, 3))
    assert ways == ["full", "copy", "standby", "standby"]
    assert snapshot.build(tmp_path, full=True).events == 12 + 4 * 12
    same_as_live(tmp_path)
    assert snapshot.build(tmp_path).how == "unchanged"


def test_a_model_declared_twice_is_one_row(tmp_path, make_run) -> None:
    from catalog.schema import model

    append(tmp_path, [make_run(), model("starter@abc", kind="image", licence="unknown")])
    snapshot.build(tmp_path)
    append(tmp_path, [model("starter@abc", kind="image", licence="Apache-2.0", commercial_use=True)])
    for _ in range(2):
        snapshot.build(tmp_path)
        same_as_live(tmp_path)
        with query.connect(tmp_path, live=False) as con:
            found = con.execute("select licence, commercial_use, assets from models").fetchall()
            assert found == [("Apache-2.0", True, 1)]
        append(tmp_path, [make_run("vase", model_ids=())])


def test_who_reads_the_old_one_keeps_it(tmp_path, random_runs) -> None:
    rng = random.Random(3)
    append(tmp_path, random_runs(rng, 5))
    first = snapshot.build(tmp_path)
    append(tmp_path, random_runs(rng, 5))
    snapshot.build(tmp_path)  # the first file is now the standby
    code = (
        "import duckdb, sys; con = duckdb.connect(sys.argv[1], read_only=True); print('open', flush=True); "
        "sys.stdin.readline(); "
        "print(con.execute('select count(*), (select n_events from meta) from stage_runs').fetchone())"
    )
    standby = str(snapshot.standby_path(tmp_path / "catalog" / "catalog.duckdb"))
    reader = subprocess.Popen(
        [sys.executable, "-c", code, standby], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert reader.stdout.readline() == "open\n"
    append(tmp_path, random_runs(rng, 5))
    assert snapshot.build(tmp_path).how == "copy", "a standby that somebody reads is not written"
    assert reader.communicate("go\n")[0] == "(5, 5)\n"
    assert first.events == 5
    same_as_live(tmp_path)


@pytest.mark.parametrize("left_behind", ["garbage", "write-ahead log"])
def test_what_a_killed_build_left_is_not_used(tmp_path, random_runs, left_behind) -> None:
    append(tmp_path, random_runs(random.Random(4), 5))
    path = snapshot.build(tmp_path).path
    standby = snapshot.standby_path(tmp_path / "catalog" / "catalog.duckdb")
    standby.write_bytes(b"half a file")
    if left_behind != "garbage":
        standby.write_bytes(open(path, "rb").read())
        standby.with_name(standby.name + ".wal").write_bytes(b"\0" * 100)
    append(tmp_path, random_runs(random.Random(5), 5))
    assert snapshot.build(tmp_path).how == "copy"
    same_as_live(tmp_path)


@pytest.mark.parametrize("which", ["published", "standby"])
def test_a_snapshot_with_a_hole_is_built_anew(tmp_path, random_runs, which) -> None:
    for seed in (1, 2):
        append(tmp_path, random_runs(random.Random(seed), 5))
        path = Path(snapshot.build(tmp_path).path)
    victim = path if which == "published" else snapshot.standby_path(path)
    data = bytearray(victim.read_bytes())
    data[12288:] = bytes(len(data) - 12288)  # the three headers stay
    victim.write_bytes(data)
    append(tmp_path, random_runs(random.Random(3), 5))
    assert snapshot.build(tmp_path).events == 15
    assert query.assets(tmp_path, live=False) == query.assets(tmp_path)


def test_a_snapshot_of_other_views_is_built_anew(tmp_path, random_runs, monkeypatch) -> None:
    append(tmp_path, random_runs(random.Random(6), 5))
    assert snapshot.build(tmp_path).how == "full"
    assert snapshot.build(tmp_path).how == "unchanged"
    runs = views.VIEWS["runs"]
    sql = runs.sql.replace("max(code_version) as code_version", "max(code_version) as code_version, 1 as added")
    changed = dataclasses.replace(runs, sql=sql, columns=runs.columns | {"added": "a column of tomorrow"})
    monkeypatch.setitem(views.VIEWS, "runs", changed)
    assert snapshot.build(tmp_path).how == "full"
    with query.connect(tmp_path, live=False) as con:
        assert con.execute("select added from runs").fetchall()
    assert snapshot.build(tmp_path).how == "unchanged"


def test_older_duckdbs_can_open_it(tmp_path, random_runs) -> None:
    append(tmp_path, random_runs(random.Random(6), 5))
    with duckdb.connect() as con:
        con.execute(f"attach '{snapshot.build(tmp_path).path}' as snap (read_only)")
        tags = con.execute("select tags from duckdb_databases() where database_name = 'snap'").fetchone()[0]
    assert tags["storage_version"].startswith("v1.2.0")


def test_data_frames_take_it(tmp_path, random_runs) -> None:
    """Every column of every relation has a type that pandas and Arrow (so polars too) understand."""
    append(tmp_path, random_runs(random.Random(6), 9))
    with duckdb.connect(snapshot.build(tmp_path).path, read_only=True) as con:
        for name, view in views.VIEWS.items():
            frame, table = con.sql(f"from {name}").df(), con.sql(f"from {name}").to_arrow_table()
            assert list(frame.columns) == table.column_names == list(view.columns)
            assert len(frame) == table.num_rows == con.execute(f"select count(*) from {name}").fetchall()[0][0]
        assert str(con.sql("select finished_at from stage_runs").df().finished_at.dtype).startswith("datetime64")


def test_tools_see_the_descriptions(tmp_path) -> None:
    with duckdb.connect(snapshot.build(tmp_path).path, read_only=True) as con:
        found = con.execute(
            "select table_name, column_name, comment from duckdb_columns() where not internal"
        ).fetchall()
    comments = {(table, column): comment for table, column, comment in found}
    for name, view in views.VIEWS.items():
        for column, text in view.columns.items():
            assert comments[name, column] == text
