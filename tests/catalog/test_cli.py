"""The commands: each has an example, answers, and says in one line what was wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from catalog.cli import app

runner = CliRunner()


def run(*arguments: str | Path, code: int = 0) -> str:
    """Output of a command that ends with ``code``."""
    done = runner.invoke(app, [str(each) for each in arguments])
    assert done.exit_code == code, done.output
    assert "Traceback" not in done.output
    return done.output


def test_every_command_has_an_example_in_its_help() -> None:
    names = [command.name or command.callback.__name__ for command in app.registered_commands]
    wanted = {"sql", "compare", "gc", "compact", "snapshot", "fsck", "rebuild", "push", "gallery", "review"}
    assert wanted | {"attribution"} == set(names)
    for command in app.registered_commands:
        assert "Example: splatmill " in command.callback.__doc__, command.callback.__name__


def test_a_day_with_the_catalogue(one_asset, tmp_path_factory) -> None:
    library = ("--library", one_asset)
    rows = json.loads(run("sql", "select asset_id, status from assets order by 1", *library, "--format", "json"))
    assert rows == [{"asset_id": "chair-07", "status": "ok"}, {"asset_id": "vase-01", "status": "failed"}]
    out = tmp_path_factory.mktemp("out") / "a.parquet"
    run("sql", "from assets", *library, "--format", "parquet", "--output", out)
    assert out.read_bytes()[:4] == b"PAR1"
    run("review", "chair-07", "--accept", "--by", "ana", *library)
    assert "accepted" in run("sql", "select verdict from assets where verdict is not null", *library, "-f", "csv")
    assert "DataError" in run("sql", "--example", "1", *library)
    assert "```sql" in run("sql", "--examples")
    assert json.loads(run("compact", *library, "--json"))["sealed_batches"] == 4
    assert json.loads(run("snapshot", *library, "--json"))["events"] == 6
    assert json.loads(run("rebuild", *library, "--json")) == {"records": 1, "added": 0, "unreadable": []}
    assert "0 outputs" in run("gc", *library)
    assert "lost-artifact" in run("fsck", *library, code=1)
    assert "nothing wrong" in run("fsck", "--no-artifacts", *library)
    assert set(json.loads(run("compare", "last", "last", *library, "--format", "json"))) == {
        "overview",
        "accepted",
        "stages",
        "metrics",
        "assets",
    }


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["sql", "copy (select 1) to 'x'"], "only queries are allowed here, not COPY"),
        (["sql", ""], "no query"),
        (["compare", "x", "y"], "no run is called 'x'"),
        (["review", "nobody", "--accept", "--by", "ana"], "there is no asset 'nobody'"),
    ],
)
def test_wrong_requests_end_with_two_and_one_line(one_asset, arguments, says) -> None:
    output = run(*arguments, "--library", one_asset, code=2)
    assert says in output
    assert output.startswith("error: ")


def test_a_library_that_is_not_there(tmp_path) -> None:
    assert "no library at" in run("sql", "select 1", "--library", tmp_path / "none", code=2)
    assert not (tmp_path / "none").exists()


def test_an_old_snapshot_is_used_and_dated_where_it_cannot_be_renewed(one_asset, monkeypatch) -> None:
    from catalog import snapshot
    from catalog.store import LeaseHeld

    run("snapshot", "--library", one_asset)

    def held(*arguments: object, **options: object) -> None:
        raise LeaseHeld("another process is building it")

    monkeypatch.setattr(snapshot, "build", held)
    output = run("sql", "select count(*) as n from assets", "--library", one_asset)
    assert "the snapshot is of 20" in output
    assert "(1 row)" in output
