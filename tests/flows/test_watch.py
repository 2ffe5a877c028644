"""A library at work is seen from outside: its counts are the catalogue's own, and what nobody knows is null."""

import json
import os
import statistics
import sys
import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from catalog import compact, query
from catalog.schema import StageRun
from catalog.writer import append
from flows.asked import keep
from flows.batch import BatchRequest, prepare
from flows.cli import app
from flows.farm import beats
from flows.summary import Summary, write_summary
from flows.watch import Watch, eta, rate, text
from pipeline_core.device import gpu_load
from tasks.progress import board
from tests.catalog.synthetic import fill

ALL = (
    "select status, count(*) as n from assets group by status order by status",
    "select stage, status, count(*) as n from stage_runs where stage_idx > 0 group by all order by all",
)


def as_the_catalogue_says(watch):
    """Whether the tally has what the views have, once it has looked."""
    seen, library = watch.look(), watch.library
    assets, attempts = (query.rows(library, sql) for sql in ALL)
    assert seen["assets"] == {row["status"]: row["n"] for row in assets}
    counted = [(row["stage"], row["status"], row["count"]) for row in seen["attempts"]]
    assert counted == [(row["stage"], row["status"], row["n"]) for row in attempts]
    return seen


def row(run_id, asset_id, stage, status="ok", ago=0.0, **columns):
    done = datetime.now(UTC) - timedelta(seconds=ago)
    return StageRun(run_id=run_id, asset_id=asset_id, stage=stage, status=status, finished_at=done, **columns)


def test_the_counts_follow_the_catalogue(tmp_path):
    library = str(tmp_path / "library")
    fill(tmp_path / "library", 4000)
    watch = Watch(library)
    seen = as_the_catalogue_says(watch)
    assert seen["assets"]["failed"] > 0 and seen["runs"] == seen["workers"] == [] and seen["eta"] is None
    broken = query.rows(library, "select asset_id from assets where status = 'failed' limit 1")[0]["asset_id"]
    append(library, [row("again", broken, "extract_mesh"), row("again", "new", "init_points")])
    append(library, [row("again", "bad", "extract_mesh", "failed", error_type="DataError", error_class="data")])
    before = seen["assets"]
    seen = as_the_catalogue_says(watch)
    assert seen["assets"]["failed"] == before["failed"] and seen["assets"]["running"] == 2
    compact.compact(library, compact.Policy(grace_s=-1.0))
    append(library, [row("again", broken, "record")])
    seen = as_the_catalogue_says(watch)
    assert {"stage": "init_points", "status": "running", "assets": 1} in seen["stages"]
    assert seen["assets"]["ok"] == before["ok"] + 1


def test_an_empty_library_has_nothing_to_show(tmp_path):
    (tmp_path / "catalog").mkdir()
    seen = Watch(str(tmp_path)).look()
    assert seen["assets"] == {} and seen["assets_per_hour"] is None and "nobody is at work" in text(seen)
    assert seen["disk"]["free_bytes"] > 0


@pytest.fixture
def working(tmp_path, tiny, monkeypatch):
    """A local run of nine assets, of which five are made and one has failed, and that works at two."""
    monkeypatch.setattr(beats, "BEAT_S", 0.02)
    monkeypatch.setenv("SPLATMILL_USER", "ana")
    manifest = tmp_path / "nine.csv"
    manifest.write_text("id,prompt\n" + "".join(f"mug{i},a blue mug\n" for i in range(9)))
    request = BatchRequest(manifest=str(manifest), library=str(tmp_path / "library"), overrides=tiny, run_id="night")
    keep(request, prepare(request))
    append(request.library, [row("night", f"mug{i}", "record", ago=100.0 - 20 * i) for i in range(5)])
    append(request.library, [row("night", "mug5", "evaluate", "failed", error_type="E", error_class="data")])
    board.clear()
    for name in ("mug6", "mug7"):
        board.update(name, state="running", stage="optimize_gaussians")
    with beats.beating(request.folder, "here", threading.Event(), tied=False):
        end = threading.Event()
        while not next(iter(beats.read(request.folder).values())).assets:
            end.wait(0.02)
        yield request
    board.clear()


def test_a_local_run_is_seen_from_another_terminal(working):
    watch = Watch(working.library)
    seen = watch.look()
    assert seen["runs"] == [{"run_id": "night", "farm": False, "user": "ana", "todo": 9, "made": 5, "rejected": 0,
                             "failed": 1, "under_way": 2, "queue": 1}]  # fmt: skip
    (worker,) = seen["workers"]
    assert (worker["pid"], worker["state"], worker["gpu"]) == (os.getpid(), "alive", None)
    assert {each["stage"] for each in worker["assets"]} == {"optimize_gaussians"} and worker["age_s"] < 30
    assert seen["assets_per_hour"] == pytest.approx(180, rel=0.2)
    assert seen["eta"]["left"] == 3 and seen["eta"]["low_s"] <= seen["eta"]["seconds"] <= seen["eta"]["high_s"]
    shown = text(seen)
    assert "mug6: optimize_gaussians" in shown and "1 failed in evaluate" in shown and "queue 1" in shown
    write_summary(working.folder, Summary("night", working.library, "nine.csv"))
    assert watch.look()["runs"] == []


def test_the_command_writes_one_line_of_json_a_look(working, monkeypatch):
    looks = iter([None, None])

    def sleep(seconds):
        assert seconds == 0.5
        if next(looks, "over") == "over":
            raise KeyboardInterrupt

    monkeypatch.setattr("flows.watch.time.sleep", sleep)
    words = ["status", "--watch", "--every", "0.5", "--library", working.library]
    done = CliRunner().invoke(app, [*words, "--json"])
    assert done.exit_code == 0 and [json.loads(line)["queue"] for line in done.stdout.splitlines()] == [1, 1, 1]
    assert "look_s" in json.loads(done.stdout.splitlines()[0])
    assert "nine assets" not in CliRunner().invoke(app, words).stdout
    assert CliRunner().invoke(app, ["status", "last", *words[1:]]).exit_code == 2


def test_a_rate_needs_deliveries_and_falls_while_nothing_comes():
    assert rate([30.0, 20.0, 10.0], 31.0) is None
    times = [40.0, 30.0, 20.0, 10.0]
    assert rate(times, 45.0) == (10.0, 0.0, 3)
    mean, deviation, measured = rate(times, 100.0)
    assert (mean, measured) == (22.5, 4) and deviation > 0
    assert rate([5.0] * 5, 5.0) is None


def test_eight_in_ten_times_the_end_comes_within_the_spread():
    import random

    draw = random.Random(1)
    inside = 0
    for _ in range(300):
        gaps = [draw.expovariate(0.1) for _ in range(60)]
        told = eta(40, statistics.fmean(gaps), statistics.stdev(gaps), len(gaps))
        inside += told["low_s"] <= sum(draw.expovariate(0.1) for _ in range(40)) <= told["high_s"]
    assert 0.74 < inside / 300 < 0.86


def test_a_gpu_is_told_by_its_driver_or_not_at_all(tmp_path, monkeypatch):
    cuda = SimpleNamespace(is_initialized=lambda: True, get_device_properties=lambda i: SimpleNamespace(uuid=f"ab-{i}"))
    monkeypatch.setenv("SPLATMILL_DEVICE", "cuda:1")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert gpu_load() is None
    monkeypatch.setitem(sys.modules, "torch", SimpleNamespace(cuda=cuda))
    command = tmp_path / "nvidia-smi"
    command.write_text('#!/bin/sh\ntest "$1" = --id=GPU-ab-1 && echo "NVIDIA L40S, big, 8000, 46068, [N/A]"\n')
    command.chmod(0o755)
    assert gpu_load() == {"name": "NVIDIA L40S, big", "used_mb": 8000.0, "size_mb": 46068.0, "busy_percent": None}
    command.write_text("#!/bin/sh\nexit 9\n")
    assert gpu_load() is None
