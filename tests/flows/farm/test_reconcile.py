"""A farm's runs brought to their end whatever happens to its processes; the server is a list, the rest is real."""

import json
import os
import subprocess
import sys
import threading
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from catalog import compact, listing, query
from catalog.schema import StageRun
from catalog.store import open_store
from catalog.writer import append
from flows.batch import plan_batch
from flows.farm import beats, reconcile
from flows.farm.beats import Beat
from flows.farm.protocol import FarmUnreachable, Shard
from flows.farm.reconcile import Patience, verdict, watch
from flows.farm.runs import open_run, open_runs, read_run, run_shard
from flows.farm.shards import Timing
from flows.farm.standing import MOST_LOSSES
from pipeline_core.acceptance import judge
from pipeline_core.errors import DataError, TransientError
from pipeline_core.files import write_json
from pipeline_core.lease import leased
from pipeline_core.storage import Library
from tasks.stage import Measured, run_stage
from tests.flows.test_batch import finish, write

PATIENCE = Patience(begin_s=300, silent_s=60)
NOW = datetime.now(UTC)


class MemoryFarm:
    """Shards in a list; ``work`` runs the open ones as a worker would."""

    def __init__(self):
        self.requests, self.runs, self.control, self.down, self.online = {}, {}, [], False, 2

    def shards(self, run_id):
        if self.down:
            raise FarmUnreachable("down")
        return list(self.runs.values())

    def others(self, library):
        return [flow for flow in self.control if flow.open]

    def submit(self, request):
        if request.shard not in self.requests:
            self.requests[request.shard] = request
            self.runs[request.shard] = Shard(request.shard, "scheduled", datetime.now(UTC), request.only)

    def close(self, shard_id, why):
        if shard_id in self.runs:
            self.set(shard_id, "crashed")
        self.control = [flow for flow in self.control if flow.id != shard_id]

    def cancel(self, shard_id, why):
        self.set(shard_id, "cancelled")

    def workers(self):
        return self.online

    def set(self, shard_id, state, age_s=0.0):
        since = datetime.now(UTC) - timedelta(seconds=age_s)
        self.runs[shard_id] = replace(self.runs[shard_id], state=state, since=since)

    def work(self, make=finish):
        """Every open shard is made by this process, one after the other."""
        for name, request in self.requests.items():
            if self.runs[name].open:
                summary = run_shard(request, make)
                self.set(name, "completed" if summary.ok else "failed")

    @property
    def open(self):
        return [shard for shard in self.runs.values() if shard.open]


@pytest.fixture
def opened(tmp_path, tiny, monkeypatch):
    """A run of twelve assets, of a recipe whose times are known, opened and submitted."""
    monkeypatch.setattr(reconcile, "measured", lambda library, recipe: Timing(9, 60.0, 60.0))
    farm = MemoryFarm()
    request = open_run(write(tmp_path, 12, tiny))
    (outcome,) = reconcile.reconcile(request.library, farm, PATIENCE)
    assert sum(outcome.submitted) == 12 and not outcome.ended
    return request, farm


def again(request, farm, **changes):
    (outcome,) = reconcile.reconcile(request.library, farm, replace(PATIENCE, **changes))
    return outcome


def summary_of(request):
    return json.loads((Library(request.library).run_dir(request.run_id) / "summary.json").read_text())


def test_a_run_is_divided_made_and_ended(opened):
    request, farm = opened
    assert sorted(name for shard in farm.open for name in shard.assets) == [f"mug-{i:04d}" for i in range(12)]
    assert again(request, farm).submitted == []  # what is in an open shard is not submitted again
    farm.work()
    outcome = again(request, farm)
    assert outcome.ended and outcome.made == 12 and open_runs(request.library) == []
    assert len(summary_of(request)["made"]) == 12 and summary_of(request)["failures"] == []
    asked = query.rows(request.library, "select count(*) as n from stage_runs where stage = 'request'")
    assert asked[0]["n"] == 12  # once by the run, not again by its shards


def test_each_look_at_a_run_leaves_few_files_for_the_next(opened, monkeypatch):
    request, farm = opened
    monkeypatch.setattr(compact, "MANY", 8)
    for name in farm.open[0].assets * 8:
        append(request.library, [StageRun(run_id=request.run_id, asset_id=name, stage="dress", status="ok")])
    again(request, farm)
    assert len(listing.visible(open_store(request.library)).live) < 8


def test_while_nothing_is_measured_every_worker_gets_one_shard_and_the_rest_waits(tmp_path, tiny, monkeypatch):
    farm, times = MemoryFarm(), Timing(0, 0.0, 60.0)
    monkeypatch.setattr(reconcile, "measured", lambda library, recipe: times)
    request = open_run(write(tmp_path, 40, tiny))
    outcome = again(request, farm)
    assert outcome.submitted == [5, 5] and outcome.missing == 30 and again(request, farm).submitted == []
    assert "30 not queued yet" in str(outcome) and "one shard a worker until the first tell" in str(outcome)
    times = Timing(1, 1.0, 1.0)
    outcome = again(request, farm)
    assert sum(outcome.submitted) == 30 and outcome.held == ""
    farm.work()
    assert again(request, farm).ended and len(summary_of(request)["made"]) == 40


def test_workers_who_come_after_a_run_was_submitted_find_work(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(reconcile, "measured", lambda library, recipe: Timing(0, 0.0, 60.0))
    farm = MemoryFarm()
    farm.online = 1
    request = open_run(write(tmp_path, 160, tiny))
    assert again(request, farm).submitted == [40]
    farm.online = 16
    assert len(again(request, farm).submitted) == 15 and len(farm.open) == 16
    assert again(request, farm).submitted == []


def test_the_manifest_may_change_under_way(opened, tmp_path):
    request, farm = opened
    (tmp_path / "props.csv").write_text("id,prompt\nother,a chair\n")
    farm.work()
    assert again(request, farm).made == 12


def test_what_a_lost_shard_did_not_make_is_submitted_again_and_nothing_else(opened):
    request, farm = opened
    first = farm.open[0]
    _, journeys = plan_batch(request)
    finish(journeys[0])
    farm.set(first.id, "crashed")
    assert sum(again(request, farm).submitted) == len(first.assets) - 1
    farm.work()
    assert again(request, farm).ended and len(summary_of(request)["made"]) == 12


def test_a_call_that_was_cut_short_submits_nothing_twice(opened):
    request, farm = opened
    crashed = farm.open[0]
    farm.set(crashed.id, "crashed")
    shards = farm.shards(request.run_id)
    again(request, farm)
    count = len(farm.requests)
    farm.runs = {shard.id: shard for shard in shards}  # as if the server had not told of the new ones yet
    again(request, farm)
    assert len(farm.requests) == count


def kill(request, farm, assets, shard=None):
    """A shard whose process was killed while it made ``assets`` (ids, or their stages by id); returns the shard."""
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    process.wait()
    shard = shard or farm.open[0]
    folder = Library(request.library).run_dir(request.run_id) / "beats"
    folder.mkdir(exist_ok=True)
    stages = assets if isinstance(assets, dict) else dict.fromkeys(assets, "extract_mesh")
    shown = {asset_id: (stage, 7.5) for asset_id, stage in stages.items()}
    document = beats._document(shown, 0.0) | {"pid": process.pid}
    (folder / f"{shard.id}.live").write_text(json.dumps(document))
    farm.set(shard.id, "running")
    return shard


def test_a_running_shard_whose_process_is_gone_is_closed_and_its_losses_are_told(opened):
    request, farm = opened
    shard = kill(request, farm, ["mug-0000", "mug-0001"])
    outcome = again(request, farm)
    assert len(outcome.closed) == 1 and "is gone" in outcome.closed[0] and farm.runs[shard.id].state == "crashed"
    assert sum(outcome.submitted) == len(shard.assets)
    rows = query.rows(request.library, "select * from stage_runs where error_type = 'WorkerLost' order by asset_id")
    assert [(row["asset_id"], row["stage"], row["duration_s"]) for row in rows] == [
        ("mug-0000", "extract_mesh", 7.5), ("mug-0001", "extract_mesh", 7.5),
    ]  # fmt: skip
    assert {(row["status"], row["error_class"], row["prefect_flow_run_id"]) for row in rows} == {
        ("failed", "transient", shard.id)
    }
    again(request, farm)
    assert len(query.rows(request.library, "select 1 from stage_runs where error_type = 'WorkerLost'")) == 2
    farm.work()
    assert again(request, farm).ended and len(summary_of(request)["made"]) == 12


def test_a_shard_that_prefect_crashed_is_fenced_off_too(opened):
    request, farm = opened
    shard = kill(request, farm, ["mug-0000"])
    farm.set(shard.id, "crashed")
    again(request, farm)
    assert beats.read(Library(request.library).run_dir(request.run_id))[shard.id].state == "dead"
    assert len(query.rows(request.library, "select 1 from stage_runs where error_type = 'WorkerLost'")) == 1


def test_a_shard_stuck_in_submitting_gives_back_its_place_and_may_not_begin_later(opened):
    request, farm = opened
    shard = farm.open[0]
    farm.set(shard.id, "pending", age_s=299)
    assert again(request, farm).closed == []
    farm.set(shard.id, "pending", age_s=301)
    assert "never began (pending)" in again(request, farm).closed[0]
    folder = Library(request.library).run_dir(request.run_id)
    with pytest.raises(beats.Fenced), beats.beating(folder, shard.id, threading.Event()):
        pass


def test_a_shard_whose_worker_is_offline_is_waited_for_half_a_minute(opened):
    request, farm = opened
    shard = farm.open[0]
    for age_s in (29, 31):
        farm.set(shard.id, "pending", age_s)
        farm.runs[shard.id] = replace(farm.runs[shard.id], worker_gone=True)
        closed = again(request, farm).closed
        assert len(closed) == (age_s == 31)
    assert "never began (its worker is offline)" in closed[0]
    assert sorted(name for shard in farm.open for name in shard.assets) == [f"mug-{i:04d}" for i in range(12)]


def test_a_flow_that_waits_or_tidies_up_is_closed_by_the_same_rules(opened):
    request, farm = opened
    began = datetime.now(UTC) - timedelta(seconds=1000)
    farm.control = [Shard(name, state, began, ()) for name, state in (("stuck", "pending"), ("at-work", "running"))]
    with beats.beating(Library(request.library).root / reconcile.CONTROL, "at-work", threading.Event()):
        again(request, farm)
        assert [flow.id for flow in farm.control] == ["at-work"]


def beat(state="live", age_s=1.0, pid=0, host="elsewhere", assets=None):
    return Beat("s", state, age_s, 100.0, host, pid, "w", assets or {})


@pytest.mark.parametrize("state, age_s, seen, told", [
    ("scheduled", 1e6, None, ""),  # it waits for a worker
    ("pending", 10, None, ""), ("pending", 400, None, "never began"),
    ("running", 10, None, ""), ("running", 400, None, "never began"),
    ("pending", 400, beat(), ""),  # it began; Prefect has not heard yet
    ("running", 1e6, beat(), ""), ("running", 1e6, beat(age_s=61), "last sign of life"),
    ("cancelling", 1e6, beat(age_s=61), "last sign of life"),
    ("running", 10, beat("done", age_s=61), "last sign of life"),  # it ended while the server was away
    ("running", 10, beat("done", age_s=5), ""), ("running", 10, beat("dead"), "given up before"),
    ("running", 1e6, beat(assets={"mug": ("evaluate", 90000.0)}), "mug has been in evaluate for 25.0 h"),
    ("completed", 10, None, ""), ("completed", 10, beat(), ""), ("completed", 10, beat("done", age_s=1e6), ""),
    ("crashed", 10, beat(), "was lost"), ("crashed", 10, beat("dead"), ""),
])  # fmt: skip
def test_a_shard_is_given_up_for_a_reason(state, age_s, seen, told):
    why = verdict(Shard("s", state, NOW - timedelta(seconds=age_s), ()), seen, PATIENCE, NOW)
    assert (told in why) if told else why == ""


def failing(errors):
    """A journey in which some assets fail; ``errors`` by asset id."""

    def make(journey):
        error = errors.get(journey.asset_id)
        if error is None:
            return finish(journey)

        def work(folder):
            raise error

        return run_stage(journey, "extract_mesh", work)

    return make


def holding(figures):
    """A journey that holds assets to their own contracts, by ``figures`` by asset id, and delivers them."""

    def make(journey):
        found = judge(journey.spec.accept, {"judged": 1.0} | figures.get(journey.asset_id, {}))

        def write(folder):
            write_json(folder / "verdict.json", found.to_json())
            return Measured({}, clauses=found.clauses)

        run_stage(journey, "accept", write)
        finish(journey, verdict=found.verdict)
        run_stage(journey, "record", write)  # its row: what it finds is there

    return make


@pytest.fixture
def known_shard(monkeypatch):
    """Rows of the stages name the shard that is at work, as they do under Prefect."""
    now = {"shard": ""}
    monkeypatch.setattr("tasks.stage.prefect_columns", lambda: {"prefect_flow_run_id": now["shard"]})

    def work(farm, make):
        for name in [shard.id for shard in farm.open]:
            now["shard"] = name
            summary = run_shard(farm.requests[name], make)
            farm.set(name, "completed" if summary.ok else "failed")

    return work


def test_failures_have_the_rounds_of_their_class_and_stand_with_their_reason(opened, known_shard):
    request, farm = opened
    make = failing({"mug-0003": DataError("bad"), "mug-0005": TransientError("busy")})
    known_shard(farm, make)
    outcome = again(request, farm)
    assert outcome.submitted == [1] and farm.open[0].assets == ("mug-0005",)  # only what may pass
    known_shard(farm, make)
    assert again(request, farm).ended
    told = summary_of(request)
    assert len(told["made"]) == 10
    failures = {each["asset_id"]: each for each in told["failures"]}
    assert failures["mug-0003"]["message"] == "bad" and failures["mug-0005"]["error_class"] == "transient"
    status = {row["asset_id"]: row["status"] for row in query.assets(request.library)}
    assert status["mug-0003"] == "quarantined" and status["mug-0005"] == "failed"


def take_along(request, farm, asset_id):
    """A run in which one asset takes its process along, as often as it is tried; the run's failures."""
    for _ in range(MOST_LOSSES):
        (fatal,) = [shard for shard in farm.open if asset_id in shard.assets]
        kill(request, farm, [asset_id], fatal)
        outcome = again(request, farm)
    if farm.open:
        farm.work()
        outcome = again(request, farm)
    assert outcome.ended
    return summary_of(request)["failures"]


def test_an_asset_that_takes_its_process_along_is_given_up_in_the_end(opened):
    request, farm = opened
    (failure,) = take_along(request, farm, "mug-0000")
    assert failure["error_type"] == "WorkerLost" and "5 processes died" in failure["message"]
    (asset,) = [row for row in query.assets(request.library) if row["status"] == "failed"]
    assert asset["asset_id"] == "mug-0000"
    assert failure["stage"] == asset["error_stage"] == "extract_mesh"  # where the beats last showed it


def test_an_asset_that_takes_its_processes_along_in_two_runs_is_quarantined(opened):
    request, farm = opened
    take_along(request, farm, "mug-0000")
    request = open_run(request.model_copy(update={"run_id": "second"}))
    farm = MemoryFarm()
    again(request, farm)
    take_along(request, farm, "mug-0000")
    (asset,) = [row for row in query.assets(request.library) if row["error_type"]]
    assert (asset["asset_id"], asset["status"], asset["error_stage"]) == ("mug-0000", "quarantined", "extract_mesh")


def test_a_loss_in_a_stage_that_the_beat_does_not_know_is_told_of_the_first_that_is_missing(opened):
    request, farm = opened
    journey = plan_batch(request)[1][0]
    run_stage(journey, "init_points", lambda folder: {})
    kill(request, farm, {"mug-0000": "", "mug-0001": ""})
    again(request, farm)
    rows = query.rows(request.library, "select asset_id, stage from stage_runs where error_type = 'WorkerLost'")
    assert {(row["asset_id"], row["stage"]) for row in rows} == {
        ("mug-0000", "optimize_gaussians"), ("mug-0001", "init_points"),
    }  # fmt: skip


def test_shards_that_end_without_a_word_are_not_submitted_for_ever(opened):
    request, farm = opened
    run_stage(plan_batch(request)[1][3], "init_points", lambda folder: {})
    for _ in range(50):
        for shard in farm.open:
            farm.set(shard.id, "failed")
        if again(request, farm).ended:
            break
    told = summary_of(request)
    assert len(told["failures"]) == 12 and {each["error_type"] for each in told["failures"]} == {"NotMade"}
    stages = {each["asset_id"]: each["stage"] for each in told["failures"]}
    assert stages.pop("mug-0003") == "optimize_gaussians" and set(stages.values()) == {"init_points"}
    held = "select count(*) as n from stage_runs where stage_key is not null and error_type = 'NotMade'"
    assert query.rows(request.library, held) == [{"n": 0}], "it says nothing of the asset, so nothing is quarantined"


def test_shards_that_are_lost_before_they_begin_are_not_submitted_for_ever(opened):
    request, farm = opened
    for _ in range(50):
        for shard in farm.open:
            farm.set(shard.id, "crashed")
        if again(request, farm).ended:
            break
    told = summary_of(request)["failures"]
    assert len(told) == 12 and all("before they began it: does splatmill doctor" in each["message"] for each in told)


def test_a_run_that_cannot_be_read_does_not_hold_up_the_others(opened, tmp_path):
    request, farm = opened
    for name, text in (("aaa", "{}"), ("bbb", "half a docu")):
        folder = Library(request.library).run_dir(name)
        folder.mkdir(parents=True)
        (folder / "request.json").write_text(text)
    farm.work()
    outcomes = {each.run_id: each for each in reconcile.reconcile(request.library, farm, PATIENCE)}
    assert outcomes[request.run_id].ended
    for name in ("aaa", "bbb"):
        assert f"runs/{name}/request.json cannot be read" in str(outcomes[name])


def test_what_a_person_cancelled_is_not_submitted_again(opened):
    request, farm = opened
    cancelled = farm.open[0]
    farm.set(cancelled.id, "cancelled")
    farm.work()
    assert again(request, farm).ended
    assert sorted(summary_of(request)["stopped"]) == sorted(cancelled.assets)


def test_a_damaged_deliverable_is_found_before_the_run_is_over(opened):
    request, farm = opened
    farm.work()
    path = Library(request.library).asset_dir("mug-0007") / "asset.glb"
    stat = path.stat()
    path.write_bytes(b"x" * stat.st_size)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # a quick look would not notice
    assert again(request, farm).submitted == [1]
    farm.work()
    assert again(request, farm).ended and path.read_text() == "mug-0007"


def test_a_deadline_leaves_the_rest_and_says_so(tmp_path, tiny):
    farm = MemoryFarm()
    request = write(tmp_path, 4, tiny).model_copy(update={"deadline": datetime.now(UTC) + timedelta(seconds=5)})
    request = open_run(request)
    outcome = again(request, farm)
    assert outcome.ended and not farm.requests
    assert len(summary_of(request)["left"]) == 4 and "deadline" in summary_of(request)["left_why"]


def test_nothing_is_concluded_from_a_server_that_is_away(opened):
    request, farm = opened
    farm.down = True
    with pytest.raises(FarmUnreachable):
        again(request, farm)
    assert open_runs(request.library)


def test_only_one_process_at_a_time_reconciles_a_run(opened):
    request, farm = opened
    run = read_run(Library(request.library).run_dir(request.run_id))
    with leased(run.folder / reconcile.LEASE):
        assert reconcile.reconcile_run(run, farm, PATIENCE) is None


def test_watching_ends_with_the_run_or_when_nothing_moves(opened):
    request, farm = opened
    assert watch(request, farm, patience=PATIENCE, every_s=0.01, idle_s=0.2) is None  # no worker ever comes
    farm.down = True
    assert watch(request, farm, patience=PATIENCE, every_s=0.01, idle_s=0.2) is None  # nor does the server
    farm.down = False
    threading.Timer(0.2, farm.work).start()
    summary = watch(request, farm, patience=PATIENCE, every_s=0.05, idle_s=30)
    assert summary is not None and len(summary.made) == 12
