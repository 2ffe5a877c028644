"""A run is cancelled, paused and resumed by marks in its folder; a worker of another version turns shards away."""

import json
import os
import threading
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from flows.account import account
from flows.batch import BatchRequest, run_batch
from flows.farm import beats, commands, flows, marks, reconcile
from flows.farm.marks import turn_away
from flows.farm.protocol import FarmUnreachable
from flows.farm.runs import open_run, read_run, run_shard
from flows.farm.shards import Timing
from flows.farm.standing import MOST_TURNED_AWAY, MOST_UNBEGUN
from pipeline_core.errors import RequestError
from tests.flows.farm.test_reconcile import MemoryFarm, again, kill, summary_of
from tests.flows.test_batch import finish, write


@pytest.fixture
def farm(monkeypatch):
    """A farm in memory, which the commands find."""
    farm = MemoryFarm()
    monkeypatch.setenv("SPLATMILL_USER", "ana")
    monkeypatch.setattr(commands, "point_at_farm", lambda: None)
    monkeypatch.setattr("flows.farm.prefect.PrefectFarm", lambda: farm)
    monkeypatch.setattr(reconcile, "measured", lambda library, recipe: Timing(9, 60.0, 60.0))
    return farm


@pytest.fixture
def opened(tmp_path, tiny, farm):
    """A run of eight assets that was submitted."""
    request = open_run(write(tmp_path, 8, tiny))
    assert sum(again(request, farm).submitted) == 8
    return request


def at_work(request, farm):
    """The first open shard, with a process of its own that beats still."""
    shard = kill(request, farm, ["mug-0000"])
    live = request.folder / "beats" / f"{shard.id}.live"
    live.write_text(live.read_text().replace('"pid": ', f'"pid": {os.getpid()}, "was": '))
    return shard


def test_a_cancelled_run_ends_and_says_by_whom(opened, farm):
    shard = at_work(opened, farm)
    told = commands.cancel_run(opened.library, opened.run_id)
    assert "1 processes stop" in told and "the run is over" in told and not farm.open
    assert beats.read(opened.folder)[shard.id].state == "dead"
    summary = summary_of(opened)
    assert len(summary["stopped"]) == 8 and summary["stopped_why"].startswith("cancelled by ana at ")
    assert "cancelled by ana" in (opened.folder / "report.md").read_text()
    assert reconcile.reconcile(opened.library, farm) == []
    seen = account(opened.library, "last")
    assert seen.stopped == 8 and "cancelled by ana" in seen.left_why and seen.next.startswith("splatmill submit ")
    with pytest.raises(RequestError, match="is over"):
        commands.cancel_run(opened.library, opened.run_id)


def test_a_run_is_cancelled_while_the_server_is_away_and_ends_when_it_is_back(opened, farm):
    shard = at_work(opened, farm)
    farm.down = True
    assert "left to splatmill reconcile" in commands.cancel_run(opened.library, "last")
    assert beats.read(opened.folder)[shard.id].state == "dead", "the process stops without the server"
    with pytest.raises(FarmUnreachable):
        again(opened, farm)
    farm.down = False
    assert again(opened, farm).ended and len(summary_of(opened)["stopped"]) == 8


def test_a_run_of_one_machine_is_cancelled_by_its_beat(tmp_path, tiny, farm):
    request, stop, first = write(tmp_path, 40, tiny), threading.Event(), threading.Event()
    (tmp_path / "library").mkdir()

    def make(journey):
        first.set()
        stop.wait(10)

    ended = []
    with beats.beating(request.folder, "here", stop):
        thread = threading.Thread(target=lambda: ended.append(run_batch(request, make, stop)))
        thread.start()
        assert first.wait(60)
        (request.folder / "asked.json").write_text("{}")
        assert "stop at their next step" in commands.cancel_run(request.library, request.run_id)
        thread.join(60)
    assert len(ended[0].stopped) == 39 and ended[0].stopped_why.startswith("cancelled by ana")


def test_a_run_of_which_no_process_is_at_work_is_told(tmp_path, tiny, farm):
    request = write(tmp_path, 1, tiny)
    request.folder.mkdir(parents=True)
    (request.folder / "asked.json").write_text("{}")
    with pytest.raises(RequestError, match="no process of it is at work"):
        commands.cancel_run(request.library, request.run_id)
    with pytest.raises(RequestError, match="is one machine's"):
        commands.pause_run(request.library, request.run_id)


def test_a_paused_run_leaves_the_queue_and_goes_on_when_it_is_resumed(opened, farm):
    for _ in range(MOST_UNBEGUN + 1):  # however often
        told = commands.pause_run(opened.library, opened.run_id)
        assert "paused by ana" in told and not farm.open
        seen = account(opened.library, "last")
        assert "paused by ana" in seen.left_why and seen.next.startswith(f"splatmill resume {opened.run_id} ")
        assert not again(opened, farm).ended and not farm.open
        assert "submitted 8 assets" in commands.resume_run(opened.library, opened.run_id)
    with pytest.raises(RequestError, match="is not paused"):
        commands.resume_run(opened.library, opened.run_id)
    farm.work()
    assert again(opened, farm).ended and len(summary_of(opened)["made"]) == 8


def test_a_shard_at_work_ends_after_what_it_has_begun(opened, farm):
    shard, made = at_work(opened, farm), []

    def make(journey):
        made.append(finish(journey))
        marks.put(opened.folder, marks.PAUSED)

    asked = tuple(f"mug-{i:04d}" for i in range(8))
    request = farm.requests[shard.id].model_copy(update={"in_flight": 1, "only": asked})
    again(opened, farm)
    assert shard.id in {each.id for each in farm.open}
    summary = run_shard(request, make)
    assert len(summary.made) == 1 and len(summary.left) == 7 and "paused by ana" in summary.left_why


def turned_away(farm):
    """Every open shard is turned away by a worker with another ``extract_mesh``; what it said."""
    stages = {stage.name: stage.version for stage in marks.STAGES}
    for shard in farm.open:
        request = farm.requests[shard.id]
        assert turn_away(request, shard.id) == "" and request.stages == stages
        why = turn_away(request.model_copy(update={"stages": stages | {"extract_mesh": 99}}), shard.id)
        farm.set(shard.id, "failed")
    return why


def test_a_worker_of_another_version_says_so_and_is_not_asked_for_ever(opened, farm, monkeypatch):
    rounds = 0
    while not (opened.folder / "summary.json").exists():
        rounds += 1
        why = turned_away(farm)
        outcome = again(opened, farm)
        if not outcome.ended:
            assert not farm.open and outcome.held == why and "extract_mesh" in str(outcome)
            with monkeypatch.context() as later:
                later.setattr(marks, "AGAIN_S", 0.0)  # as if the pause were over
                assert again(opened, farm).submitted
            assert account(opened.library, opened.run_id).left_why.startswith("worker ")
    assert rounds == MOST_TURNED_AWAY
    failures = summary_of(opened)["failures"]
    assert {each["error_type"] for each in failures} == {"OtherVersion"} and len(failures) == 8
    assert "has splatmill" in failures[0]["message"] and "extract_mesh" in failures[0]["message"]


def test_one_worker_of_another_version_does_not_empty_the_queue_of_the_others(opened, farm):
    for _ in range(2 * MOST_TURNED_AWAY):
        turned_away(farm)
        with beats.beating(opened.folder, "another", threading.Event()):
            assert len(again(opened, farm).submitted) <= farm.online
    while not again(opened, farm).ended:
        farm.work()
    assert summary_of(opened)["failures"] == []


def test_what_prefect_says_of_shards_that_cannot_begin_is_told(opened, farm):
    from dataclasses import replace

    for _ in range(50):
        for shard in farm.open:
            farm.set(shard.id, "failed")
            farm.runs[shard.id] = replace(farm.runs[shard.id], message="Validation of flow parameters failed")
        if again(opened, farm).ended:
            break
    assert "the last with: Validation of flow" in summary_of(opened)["failures"][0]["message"]


def test_a_request_of_a_newer_version_is_read_without_what_only_that_knows(opened, farm):
    told = farm.requests[farm.open[0].id].model_dump(mode="json") | {"colour_of_the_moon": "blue"}
    with pytest.raises(ValidationError, match="colour_of_the_moon"):
        BatchRequest.model_validate(told)  # this version's own code wrote no such thing
    newer = told | {"code": "9.9.9", "stages": told["stages"] | {"polish": 1}}
    assert "polish (none, not 1)" in turn_away(BatchRequest.model_validate(newer), farm.open[0].id)
    flows.shard.validate_parameters({"request": newer})
    path = opened.folder / "request.json"
    kept = json.loads(path.read_text())
    path.write_text(json.dumps(kept | {"request": kept["request"] | {"code": "9.9.9", "colour_of_the_moon": "blue"}}))
    assert read_run(opened.folder).request.run_id == opened.run_id


def test_a_shard_whose_specs_only_a_newer_version_can_read_is_turned_away(opened, farm, monkeypatch):
    head, *rest = (opened.folder / "specs.jsonl").read_text().splitlines()
    newer = {name: recipe | {"colour_of_the_moon": "blue"} for name, recipe in json.loads(head).items()}
    (opened.folder / "specs.jsonl").write_text("\n".join([json.dumps(newer), *rest]) + "\n")
    first = farm.open[0]
    monkeypatch.setattr(flows, "flow_run", SimpleNamespace(id=first.id))
    with pytest.raises(ValidationError):
        flows.shard.fn(farm.requests[first.id])
    state = flows.shard.fn(farm.requests[first.id].model_copy(update={"code": "9.9.9"}))
    assert (
        state.is_failed() and "cannot read what 9.9.9 wrote" in state.message and "colour_of_the_moon" in state.message
    )
    assert marks.excuses(opened.folder)[first.id].kind == marks.VERSION
    assert marks.turned_away_in_a_row(opened.folder, marks.excuses(opened.folder))


def test_reconcile_says_once_that_the_server_is_away_and_once_that_it_is_back(opened, farm, monkeypatch, capsys):
    waits = []

    def sleep(seconds):
        waits.append(seconds)
        farm.down = len(waits) < 5
        if len(waits) > 6:
            raise KeyboardInterrupt

    farm.down = True
    monkeypatch.setattr("flows.farm.commands.time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        commands.reconcile_here(opened.library, 5.0)
    said = capsys.readouterr()
    assert said.err.splitlines() == ["error: down", "reconciling again"] and said.out.count("in shards") == 2
