"""A run tells what it was asked for and what became of it, while it is on its way, when it is over, and ever after."""

import json
import os
import shlex
import threading
import time

import pytest
from typer.testing import CliRunner

from catalog.schema import StageRun
from catalog.writer import append
from flows.account import account
from flows.asked import ask_again, folder_of, keep
from flows.batch import BatchRequest
from flows.cli import app
from flows.farm import alerts
from flows.farm.beats import beating
from flows.farm.runs import open_run
from flows.summary import Summary, write_summary
from pipeline_core.errors import RequestError
from pipeline_core.storage import Library


@pytest.fixture
def library(tmp_path):
    Library(tmp_path / "the library").create()
    (tmp_path / "the library" / "catalog").mkdir(exist_ok=True)
    return str(tmp_path / "the library")


def row(run_id, asset_id, stage, status="ok", **columns):
    if status == "failed":
        columns = {"error_type": "DataError", "error_class": "data", "error_message": "empty at iso=1"} | columns
    return StageRun(run_id=run_id, asset_id=asset_id, stage=stage, status=status, **columns)


@pytest.fixture
def night(library, manifest, monkeypatch):
    """A run that is over, in which one of two assets failed; a later run has made it."""
    monkeypatch.setenv("SPLATMILL_USER", "ana")
    request = BatchRequest(manifest=str(manifest), library=library, run_id="night-1", recipe="draft",
                           overrides={"geometry.steps": 3})  # fmt: skip
    keep(request)
    failure = {"asset_id": "mug", "stage": "extract_mesh", "error_class": "data", "error_type": "DataError",
               "message": "empty at iso=1"}  # fmt: skip
    append(library, [row("night-1", "mug", "extract_mesh", "failed"), row("night-1", "mushroom", "record")])
    write_summary(request.folder, Summary("night-1", library, str(manifest), asked=2, made=["mushroom"],
                                          failures=[failure], seconds=9.0))  # fmt: skip
    append(library, [row("night-2", "mug", "extract_mesh"), row("night-2", "mug", "record")])
    return request


def test_history_does_not_change_when_the_asset_is_made_later(night, library):
    told = account(library, "night-1")
    assert (told.asked, told.made, told.failed, told.state, told.user) == (2, 1, 1, "over", "ana")
    assert told.failures[0]["message"] == "empty at iso=1"
    assert shlex.split(told.next) == ["splatmill", "retry", "--library", library]


def test_the_command_takes_last_an_id_or_its_beginning(night, library, manifest):
    for name in ("last", "night-1", "ni"):
        done = CliRunner().invoke(app, ["status", name, "--library", library, "--json"])
        assert json.loads(done.stdout)["run_id"] == "night-1"
    done = CliRunner().invoke(app, ["status", "last", "--library", library])
    assert "empty at iso=1" in done.stdout and "by ana, 9 s" in done.stdout and "next: splatmill retry" in done.stdout
    keep(BatchRequest(manifest=str(manifest), library=library, run_id="night-2"))
    assert account(library, "night-1").next.startswith("splatmill retry night-1 ")
    for name, words in (("ni", "2 runs begin so: night-1, night-2"), ("day", "no such run")):
        done = CliRunner().invoke(app, ["status", name, "--library", library])
        assert done.exit_code == 2 and words in done.stderr


def test_a_run_by_its_id_is_asked_again(night, library, manifest):
    keep(BatchRequest(manifest=str(manifest), library=library, run_id="other"))
    again = ask_again(library, print, "night-1")
    assert (again.recipe, again.overrides) == ("draft", {"geometry.steps": 3})
    folder_of(library, "night-1").joinpath("asked.json").unlink()
    with pytest.raises(RequestError, match="run night-1 did not keep"):
        ask_again(library, print, "night-1")


def test_a_local_run_on_its_way_and_then_killed(library, manifest):
    request = BatchRequest(manifest=str(manifest), library=library, overrides={"geometry.steps": 3, "mesh.grid": 32})
    keep(request)
    append(library, [row(request.run_id, "mug", "record"), row(request.run_id, "mushroom", "evaluate", "failed")])
    with beating(request.folder, "here", threading.Event()):
        told = account(library, "last")
        assert (told.state, told.made, told.failed) == ("running", 1, 1)
    told = account(library, "last")
    assert told.state == "broken off" and told.next.startswith(f"splatmill run {manifest} --set geometry.steps=3 ")
    assert CliRunner().invoke(app, ["plan", *shlex.split(told.next)[2:]]).exit_code == 0


def test_a_farm_s_open_run_counts_what_is_left(library, manifest, tiny):
    request = open_run(BatchRequest(manifest=str(manifest), library=library, overrides=tiny))
    append(library, [row(request.run_id, "mug", "record")])
    told = account(library, request.run_id[:13])
    assert (told.asked, told.made, told.left, told.state) == (2, 1, 1, "waiting")
    assert told.next.startswith("splatmill reconcile")
    done = CliRunner().invoke(app, ["retry", "--library", library])
    assert done.exit_code == 0 and "no asset of this library failed that way" in done.stderr
    assert f"1 assets of run {request.run_id} are not made yet; next: splatmill reconcile" in done.stderr
    for ago_s, command in ((3500, "reconcile"), (20, "status --watch"), (3599, "reconcile")):  # of 3600
        at = time.time()
        (request.folder / alerts.LOOKED).touch()
        os.utime(request.folder / alerts.LOOKED, (at - ago_s, at - ago_s))
        asked = json.loads((request.folder / "asked.json").read_text()) | {"asked": at - 3600}
        (request.folder / "asked.json").write_text(json.dumps(asked))
        assert account(library, "last").next.startswith(f"splatmill {command} ")
    (request.folder / alerts.LOOKED).touch()
    (request.folder / "asked.json").write_text(json.dumps(asked | {"asked": time.time()}))
    assert account(library, "last").next.startswith("splatmill reconcile "), "that was splatmill submit"


def test_status_lists_the_runs_that_are_not_over(night, library, manifest, tiny):
    killed = keep(BatchRequest(manifest=str(manifest), library=library, run_id="killed"))
    open_run(BatchRequest(manifest=str(manifest), library=library, overrides=tiny, run_id="waits"))
    at_work = BatchRequest(manifest=str(manifest), library=library, run_id="at-work")
    keep(at_work)
    with beating(at_work.folder, "here", threading.Event()):
        done = CliRunner().invoke(app, ["status", "--library", library, "--json"])
        text = CliRunner().invoke(app, ["status", "--library", library]).stdout
    found = {each["run_id"]: each for each in json.loads(done.stdout)["open"]}
    assert {run: each["state"] for run, each in found.items()} == {"waits": "waiting", "at-work": "running"}
    assert found["waits"]["asked"] == found["waits"]["left"] == 2
    [line] = [line for line in text.splitlines() if line.startswith("waits")]
    assert line.split()[1:3] == ["waiting", "ana"] and "splatmill reconcile" in line
    assert killed.exists() and "killed" not in text
    (Library(library).run_dir("waits") / "request.json").write_text("{")
    done = CliRunner().invoke(app, ["status", "--library", library])
    assert done.exit_code == 0 and "unreadable" in done.stdout and "restore it" in done.stdout
