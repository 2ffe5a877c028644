"""One library in a bucket, two processes that make its assets, and one of them killed with half an upload done."""

from __future__ import annotations

import json
import subprocess
import sys
import time

import pytest

from catalog import compact, gc, query
from catalog.cli import app
from catalog.fsck import fsck
from catalog.store import open_store
from flows.account import account
from flows.asked import ask_again
from flows.batch import BatchRequest, prepare, run_batch
from flows.show import failed_assets, show_status
from flows.watch import Watch
from pipeline_core.storage import Library
from tests.flows.conftest import ROOT
from tests.flows.test_batch import write

WORKER = """
import json, sys, time
from pathlib import Path
from flows.asked import keep
from flows.batch import BatchRequest, prepare, run_batch
from pipeline_core.storage import Library
from catalog.writer import append
from tasks.stage import Publication, run_stage, with_times

def publish(journey, folder, run, outputs):  # as tasks.record does, without Prefect
    library = Library(journey.library)
    library.publish_asset(folder, journey.asset_id)
    append(journey.library, [run])
    with library.workspace() as empty:
        return library.publish(empty, run.stage, run.stage_key, with_times(run, outputs))

IN_ASSETS = Publication(lambda library, journey, stage: library.asset_dir(journey.asset_id), publish)
request, hangs = BatchRequest.model_validate_json(sys.argv[1]), Path(sys.argv[2])

def make(journey):
    def points(folder):
        if journey.asset_id == "mug-0005":
            raise ValueError("this one never works")
        (folder / "points.ply").write_text(journey.asset_id)
        if sys.argv[3] == "hangs" and journey.asset_id == "mug-0002":
            library, key = Library(journey.library), journey.keys["init_points"]
            library._put(folder, library.outputs(folder, library.stage_dir("init_points", key))[0])
            hangs.touch()
        if sys.argv[3] == "hangs" and journey.asset_id > "mug-0001":
            time.sleep(600)
        return {"points": 1.0}
    def deliver(folder):
        (folder / "asset.glb").write_text(journey.asset_id)
        (folder / "asset.json").write_text(json.dumps({"stages": journey.keys}))
        return {}
    first = run_stage(journey, "init_points", points)
    run_stage(journey, "record", deliver, (first,), IN_ASSETS)

plan = prepare(request)
Library(request.library).create()
keep(request, plan)
print(json.dumps(run_batch(request, make, plan=plan).__dict__))
"""


@pytest.fixture(scope="module")
def shared(bucket, tmp_path_factory, tiny):
    """The library, and the summary of the process that was left."""
    folder = tmp_path_factory.mktemp("shared")
    first = write(folder, 6, tiny).model_copy(update={"library": f"{bucket}/shared", "in_flight": 2})
    second = BatchRequest(**first.model_dump(exclude={"run_id"}))
    start = [sys.executable, "-c", WORKER]
    options = {"stdout": subprocess.PIPE, "text": True, "cwd": ROOT}
    killed = subprocess.Popen([*start, first.model_dump_json(), folder / "hangs", "hangs"], **options)
    try:
        wait_for(killed, (folder / "hangs").exists)
        other = subprocess.Popen([*start, second.model_dump_json(), folder / "hangs", "goes on"], **options)
        wait_for(other, (Library(second.library).root / "assets" / "mug-0004").exists)
    finally:
        killed.kill()
        killed.communicate()
    said, _ = other.communicate(timeout=120)
    assert other.returncode == 0
    compact.compact(second.library, compact.Policy(grace_s=-1.0))  # one file is read faster than thirty
    return second.library, json.loads(said.splitlines()[-1]), second


def wait_for(process, ready):
    end = time.monotonic() + 120
    while not ready():
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.05)


def test_every_asset_is_made_once_and_none_is_lost(shared):
    library, summary, _ = shared
    assert sorted(summary["made"] + summary["cached"]) == [f"mug-{i:04d}" for i in range(6) if i != 5]
    assert "mug-0002" in summary["made"] and [each["asset_id"] for each in summary["failures"]] == ["mug-0005"]
    sql = "select asset_id, stage, count(*) as n from stage_runs where status = 'ok' and stage_key <> '' group by all"
    stages = {(row["asset_id"], row["stage"]): row["n"] for row in query.rows(library, sql)}
    assert stages == {(f"mug-{i:04d}", stage): 1 for i in range(6) if i != 5 for stage in ("init_points", "record")}
    assert fsck(library) == []
    files = open_store(library).filesystem.find("farm/shared/leases")
    assert files == []


def test_a_second_run_finds_everything(shared):
    library, _, request = shared
    again = BatchRequest(**request.model_dump(exclude={"run_id"}) | {"only": tuple(f"mug-{i:04d}" for i in range(4))})
    summary = run_batch(again, lambda journey: pytest.fail(journey.asset_id))
    assert len(summary.cached) == 4 and summary.ok
    assert len(prepare(request).todo.made) == 5


def test_the_commands_answer(shared, tmp_path, capsys):
    from typer.testing import CliRunner

    library, _, request = shared
    show_status(library, as_json=True)
    statuses = [{"status": "failed", "assets": 1}, {"status": "ok", "assets": 5}]
    assert json.loads(capsys.readouterr().out)["assets"] == statuses
    told = account(library, request.run_id)
    assert (told.state, told.asked, told.failed) == ("over", 6, 1) and told.next.endswith(f"--library {library}")
    assert failed_assets(library) == ["mug-0005"]
    assert ask_again(library, pytest.fail, request.run_id).manifest == request.manifest
    assert Watch(library).look()["assets"] == {"failed": 1, "ok": 5}
    done = CliRunner().invoke(app, ["gallery", "--library", library, "--output", str(tmp_path), "--viewers", "0"])
    assert done.exit_code == 0 and "mug-0000" in (tmp_path / "index.html").read_text(), done.output


def test_a_run_asks_again_from_its_own_copy_of_the_manifest(shared, monkeypatch):
    from pathlib import Path

    library, _, request = shared
    manifest, said = Path(request.manifest), []
    text = manifest.read_bytes()
    manifest.unlink()
    try:
        copy = Path(ask_again(library, said.append, request.run_id).manifest)
    finally:
        manifest.write_bytes(text)
    assert copy.read_bytes() == text and copy.name == "props.csv" and "is gone" in said[0]


def test_half_an_upload_is_collected(shared):
    library, _, _ = shared
    names = open_store(library).filesystem.find("farm/shared/stages/init_points")
    assert len(names) == 2 * 5 + 1  # and the killed one's
    told = gc.gc(library, max_bytes=1)
    assert told.strays == [] and told.over == told.size - 1  # it is young
    assert gc.gc(library, delete=True, min_age_s=-60, max_bytes=told.size + 10**6).strays == []  # small enough
    assert gc.gc(library, delete=True, min_age_s=-60, max_bytes=told.size - 1).over == 0
    gc.gc(library, delete=True, min_age_s=-60, max_bytes=1)  # all that nobody needs, should something else have gone
    assert len(open_store(library).filesystem.find("farm/shared/stages/init_points")) == 2 * 5
    assert fsck(library) == []
