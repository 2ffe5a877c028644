"""A farm's run put down in the library: planned once, read back by shards and by reconcile, without the manifest."""

import json
from pathlib import Path

import pytest

from flows import batch
from flows.farm import commands, runs
from flows.farm.runs import SPECS, journeys, open_run, read_run, read_specs, run_shard, write_specs
from pipeline_core.errors import RequestError
from pipeline_core.manifest import load_manifest
from tests.flows.farm.test_reconcile import MemoryFarm, again, summary_of
from tests.flows.test_batch import finish, write


@pytest.fixture
def planned(monkeypatch):
    """How often a manifest was read, and planned."""
    counts = {"load_manifest": 0, "plan_batch": 0}

    def counting(name, original):
        def call(*arguments, **options):
            counts[name] += 1
            return original(*arguments, **options)

        return call

    for name in counts:
        monkeypatch.setattr(batch, name, counting(name, getattr(batch, name)))
    monkeypatch.setattr(runs, "plan_batch", batch.plan_batch)
    return counts


def submit(request, farm, monkeypatch):
    """``splatmill submit`` with a farm in memory; the request as the run's folder tells it."""
    monkeypatch.setattr(commands, "point_at_farm", lambda: None)
    monkeypatch.setattr("flows.farm.prefect.PrefectFarm", lambda: farm)
    commands.submit_batch(request)
    return read_run(request.folder).request


def to_its_end(request, farm):
    """Shards are made and the run reconciled until it is over; its summary."""
    while not again(request, farm).ended:
        farm.work()
    return summary_of(request)


def test_a_manifest_is_planned_once_and_never_needed_again(tmp_path, tiny, planned, monkeypatch):
    farm = MemoryFarm()
    request = submit(write(tmp_path, 12, tiny), farm, monkeypatch)
    Path(request.manifest).unlink()
    runs._journeys.cache_clear()  # as in a process of its own
    assert len(to_its_end(request, farm)["made"]) == 12
    assert planned == {"load_manifest": 1, "plan_batch": 1}


def test_a_shard_reads_its_own_assets_alone(tmp_path, tiny, monkeypatch):
    request = open_run(write(tmp_path, 6, tiny))
    made = []
    monkeypatch.setattr(runs, "plan_specs", lambda request, specs: made.extend(specs) or [])
    run_shard(request.model_copy(update={"only": ("mug-0004", "mug-0001"), "shard": "ab"}), finish)
    assert [spec.asset_id for spec in made] == ["mug-0001", "mug-0004"]
    assert json.loads((request.folder / "shards" / "ab" / "summary.json").read_text())["asked"] == 0


def test_what_was_there_when_a_run_was_opened_is_told_at_its_end(tmp_path, tiny):
    request, farm = write(tmp_path, 5, tiny), MemoryFarm()
    for journey in batch.plan_batch(request)[1][:2]:
        finish(journey)
    request = open_run(request)
    assert list(journeys(read_run(request.folder))) == ["mug-0002", "mug-0003", "mug-0004"]
    told = to_its_end(request, farm)
    assert told["asked"] == 5 and told["cached"] == ["mug-0000", "mug-0001"] and len(told["made"]) == 3


def test_a_run_that_an_older_version_opened_goes_on(tmp_path, tiny):
    request, farm = write(tmp_path, 4, tiny), MemoryFarm()
    finish(batch.plan_batch(request)[1][0])
    request = open_run(request)
    path = request.folder / "request.json"
    told = json.loads(path.read_text())
    del told["cached"]
    path.write_text(json.dumps(told))
    (request.folder / SPECS).unlink()
    told = to_its_end(request, farm)
    assert told["cached"] == ["mug-0000"] and len(told["made"]) == 3


def test_a_shard_that_an_older_version_queued_is_made(tmp_path, tiny):
    request = open_run(write(tmp_path, 4, tiny))
    path = request.folder / "request.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != "cached"}))
    (request.folder / SPECS).unlink()
    summary = run_shard(request.model_copy(update={"only": ("mug-0003",), "shard": "ab"}), finish)
    assert summary.made == ["mug-0003"] and summary.asked == 1


def test_a_shard_of_no_run_is_refused(tmp_path, tiny):
    request = write(tmp_path, 1, tiny).model_copy(update={"shard": "ab"})
    with pytest.raises(RequestError, match="no run was opened here"):
        run_shard(request, finish)


def test_specs_come_back_as_they_were_and_share_their_recipes(tmp_path):
    path = tmp_path / "props.jsonl"
    rows = [
        {"prompt": "ein blauer Becher \u2028 \u00e9", "seed": 3, "tags": "a;set=x", "height_m": 0.25},
        {"id": "mug", "prompt": "a mug", "negative_prompt": "a handle", "recipe": "draft", "mesh.grid": 48},
        {"id": "cup", "prompt": "a cup", "recipe": "draft", "mesh.grid": 48},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    specs = load_manifest(path).specs
    write_specs(tmp_path / SPECS, specs)
    found = read_specs(tmp_path / SPECS)
    assert found == specs and [each.to_json() for each in found] == [each.to_json() for each in specs]
    assert found[1].recipe is found[2].recipe
    assert [each.asset_id for each in read_specs(tmp_path / SPECS, ["cup"])] == ["cup"]
