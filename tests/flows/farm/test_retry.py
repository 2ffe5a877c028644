"""What failed on a farm is tried again on the farm: ``splatmill retry`` opens a new run of it, quarantine or not."""

import pytest
from typer.testing import CliRunner

from catalog import query
from flows.cli import app
from flows.farm import commands, reconcile
from flows.farm.runs import open_run, read_run
from flows.farm.shards import Timing
from flows.run import ended
from flows.summary import Summary
from pipeline_core.errors import DataError
from pipeline_core.storage import Library
from tests.flows.farm.test_reconcile import MemoryFarm, again, failing, holding, summary_of
from tests.flows.test_batch import write


@pytest.fixture
def farm(monkeypatch):
    """A farm in memory, which the command finds."""
    farm = MemoryFarm()
    monkeypatch.setattr(commands, "point_at_farm", lambda: None)
    monkeypatch.setattr("flows.farm.prefect.PrefectFarm", lambda: farm)
    monkeypatch.setattr(reconcile, "measured", lambda library, recipe: Timing(9, 60.0, 60.0))
    return farm


@pytest.fixture
def failed(tmp_path, tiny, farm):
    """A farm's run that is over, two assets of which are in quarantine."""
    request = open_run(write(tmp_path, 4, tiny))
    again(request, farm)
    farm.work(failing({"mug-0001": DataError("bad"), "mug-0003": DataError("bad")}))
    assert again(request, farm).ended and len(summary_of(request)["failures"]) == 2
    assert [row["asset_id"] for row in query.assets(request.library) if row["status"] == "quarantined"] == [
        "mug-0001", "mug-0003",
    ]  # fmt: skip
    farm.requests, farm.runs = {}, {}
    return request


@pytest.mark.parametrize("named", [True, False])
def test_a_farm_s_run_is_retried_on_the_farm_and_the_quarantine_holds_nothing(failed, farm, monkeypatch, named):
    monkeypatch.setattr("flows.local.run_here", lambda *_, **__: pytest.fail("made on this machine"))
    words = ["retry", *([failed.run_id] if named else []), "--library", failed.library]
    told = CliRunner().invoke(app, words)
    assert told.exit_code == 0, told.output
    asked = {name for shard in farm.open for name in shard.assets}
    assert asked == {"mug-0001", "mug-0003"}
    (folder,) = [each for each in Library(failed.library).root.glob("runs/*") if each.name != failed.run_id]
    run = read_run(folder)
    assert run.quarantined == () and run.request.overrides == failed.overrides
    farm.work()
    assert again(run.request, farm).ended and sorted(summary_of(run.request)["made"]) == ["mug-0001", "mug-0003"]
    assert len(summary_of(failed)["failures"]) == 2, "history does not change"


def test_here_makes_them_on_this_machine(failed, farm, monkeypatch):
    asked = []
    monkeypatch.setattr("flows.local.run_here", lambda request, as_json: asked.append(request) or 0)
    assert CliRunner().invoke(app, ["retry", failed.run_id, "--library", failed.library, "--here"]).exit_code == 0
    assert asked[0].only == ("mug-0001", "mug-0003") and not farm.open


def test_what_a_contract_rejects_is_no_success_and_is_made_again_only_by_name(tmp_path, tiny, farm):
    request = open_run(write(tmp_path, 3, tiny).model_copy(update={"accept": {"faces": 300}}))
    again(request, farm)
    figures = {"mug-0000": {"faces": 299.0}, "mug-0001": {"faces": 4800.0}, "mug-0002": {"faces": 299.0}}
    farm.work(holding(figures))
    last = list(farm.runs)[-1]
    farm.set(last, "running")
    assert again(request, farm).submitted == [], "it is made, and whoever reconciles does not make it again"
    farm.set(last, "completed")
    outcome, told = again(request, farm), summary_of(request)
    assert outcome.ended and not outcome.submitted and told["failures"] == []
    assert told["made"] == ["mug-0000", "mug-0002"]
    assert told["rejected"] == [{"asset_id": "mug-0001", "why": "faces 4800 (at most 300)"}]
    flow = ended(Summary(**told))
    assert flow.is_failed() and "2 made, 0 there already, 0 failed, 1 rejected by their contract" in flow.message
    status = {row["asset_id"]: row["status"] for row in query.assets(request.library)}
    assert status == {"mug-0000": "ok", "mug-0001": "rejected", "mug-0002": "ok"}
    assert reconcile.reconcile(request.library, farm) == []

    farm.requests, farm.runs = {}, {}
    words = ["retry", request.run_id, "--library", request.library]
    nothing = CliRunner().invoke(app, words)
    assert nothing.exit_code == 0 and "nothing to retry" in nothing.output and not farm.open
    named = CliRunner().invoke(app, [*words, "--asset", "mug-0001"])
    assert named.exit_code == 0 and [shard.assets for shard in farm.open] == [("mug-0001",)], named.output
    [shard] = farm.requests.values()
    farm.work(holding(figures))
    outcome = again(shard, farm)
    assert outcome.ended and len(farm.requests) == 1, "once"
    assert [each["asset_id"] for each in summary_of(shard)["rejected"]] == ["mug-0001"]
