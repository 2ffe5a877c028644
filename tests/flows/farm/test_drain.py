"""A drained worker ends what it has begun and takes nothing more; runs go on through an upgrade, nothing made twice."""

import asyncio
import threading
from collections import Counter
from dataclasses import replace

import pytest
from prefect.workers import base

from flows.cli import app
from flows.farm import drain, marks, reconcile
from flows.farm.drain import Post
from flows.farm.outage import Outage
from flows.farm.runs import open_run, run_shard
from flows.farm.shards import Timing
from flows.farm.worker import Worker
from pipeline_core.errors import RequestError
from pipeline_core.stages import STAGES
from tests.flows.farm.test_reconcile import MemoryFarm, again, summary_of
from tests.flows.test_batch import finish, write


@pytest.fixture
def post(tmp_path, monkeypatch):
    """The place of a worker of this process."""
    monkeypatch.setenv("SPLATMILL_STATE", str(tmp_path / "state"))
    monkeypatch.setenv(drain.MARK, "")
    monkeypatch.setattr(drain, "LOOK_S", 0.01)
    with Post("gpu-0") as post:
        yield post


def resting(post):
    """The worker's process once it has nothing in hand."""
    thread = threading.Thread(target=lambda: asyncio.run(post.rest(asyncio.Event())))
    thread.start()
    return thread


def test_a_worker_is_drained_by_name_or_as_the_only_one_and_goes_on_when_told_to(post, capsys):
    for name in ("", "gpu-0"):
        with pytest.raises(RequestError, match="has not ended what it has in hand"):
            drain.drain(name, wait_s=0.0)
        assert post.asked() and drain.drained().endswith("is drained")
        thread = resting(post)
        assert drain.drain(name) == drain.drain(name, wait_s=0.0)
        assert "takes flows again" in drain.undo(name)
        thread.join(20)
        assert not post.asked() and not drain.drained()
    assert "splatmill drain gpu-0 --undo" in capsys.readouterr().err


def test_workers_that_are_gone_or_never_were_are_told_with_those_that_there_are(post):
    with Post("gpu-1"), pytest.raises(RequestError, match="those of this user are gpu-0, gpu-1"):
        drain.drain("")
    with pytest.raises(RequestError, match="drain other: no such worker is at work on this machine"):
        drain.drain("other")
    post.__exit__()
    (post.folder / drain.LOCK).parent.mkdir(parents=True)
    (post.folder / drain.LOCK).touch()  # what a killed worker leaves
    with pytest.raises(RequestError, match="this user has none"):
        drain.drain("gpu-0")
    assert not post.folder.exists()


def test_the_command_takes_a_name_or_a_gpu(post, monkeypatch):
    from typer.testing import CliRunner

    monkeypatch.setattr("socket.gethostname", lambda: "box")
    with Post("box-gpu3") as other:
        other.mark.touch()
        thread = resting(other)
        done = CliRunner().invoke(app, ["drain", "--gpu", "3"], catch_exceptions=False)
        assert done.exit_code == 0 and "box-gpu3 is drained" in done.output and not post.asked()
        CliRunner().invoke(app, ["drain", "--gpu", "3", "--undo"], catch_exceptions=False)
        thread.join(20)


def test_a_drained_worker_takes_nothing_from_the_queue(post, monkeypatch):
    taken = []

    async def take(self, runs):
        taken.extend(runs)
        return runs

    monkeypatch.setattr(base.BaseWorker, "_submit_scheduled_flow_runs", take)
    worker = Worker(outage=Outage(""), post=post, work_pool_name="p", name="w", limit=1)
    assert asyncio.run(worker._submit_scheduled_flow_runs(["a"])) == ["a"]
    post.mark.touch()
    assert asyncio.run(worker._submit_scheduled_flow_runs(["b"])) == [] and taken == ["a"]


# --- the shard in hand, and an upgrade -------------------------------------------------------------------------------


def submitted(tmp_path, tiny, monkeypatch):
    """A farm in memory with a run of eight assets in two shards; it counts what is made."""
    monkeypatch.setattr(reconcile, "measured", lambda library, recipe: Timing(9, 15.0, 15.0))
    farm = MemoryFarm()
    farm.request, farm.made = open_run(write(tmp_path, 8, tiny)), Counter()
    assert sum(again(farm.request, farm).submitted) == 8
    return farm


def take(farm, shard, post=None, after=1):
    """What ``flows.farm.flows.shard`` does with a shard; its worker is drained when ``after`` assets were begun."""
    request = farm.requests[shard.id].model_copy(update={"in_flight": 1})
    if marks.turn_away(request, shard.id):
        farm.set(shard.id, "failed")
        return
    begun = Counter()

    def make(journey):
        begun.update([journey.asset_id])
        if post and len(begun) == after:
            post.mark.touch()
        farm.made.update([journey.asset_id])
        finish(journey)

    summary = run_shard(request, make)
    if summary.left and (marks.paused(request.folder) or drain.drained()):
        marks.excuse(request.folder, shard.id, marks.PAUSE, summary.left_why)
    farm.set(shard.id, "completed")


def test_a_drained_worker_s_shard_ends_after_what_it_has_begun(tmp_path, tiny, post, monkeypatch):
    farm = submitted(tmp_path, tiny, monkeypatch)
    first = farm.open[0]
    take(farm, first, post)
    excuse = marks.excuses(farm.request.folder)[first.id]
    assert sum(farm.made.values()) == 1 and "is drained" in excuse.why
    assert sum(again(farm.request, farm).submitted) == 3, "at once, and by nobody's fault"
    post.mark.unlink()  # another worker
    farm.work(lambda journey: (farm.made.update([journey.asset_id]), finish(journey)))
    assert again(farm.request, farm).ended and set(farm.made.values()) == {1} and len(farm.made) == 8
    assert summary_of(farm.request)["failures"] == []


@pytest.fixture
def code(monkeypatch):
    """``code(2)``: from here on this process is of a version whose ``extract_mesh`` is another than in ``code(1)``."""

    def become(version):
        changed = [replace(row, version=100 + version) if row.name == "extract_mesh" else row for row in STAGES]
        monkeypatch.setattr(marks, "STAGES", tuple(changed))

    return become


def test_a_rolling_upgrade_loses_nothing_and_makes_nothing_twice(tmp_path, tiny, post, code, monkeypatch):
    code(1)
    farm = submitted(tmp_path, tiny, monkeypatch)
    of_a, of_b = farm.open
    take(farm, of_a, post)  # worker A is drained with three of its four assets not begun
    code(2)  # control and reconcile are of the new version
    [size] = again(farm.request, farm).submitted
    code(1)  # worker B is not: it ends its shard, and turns away what the new version submits
    post.mark.unlink()
    take(farm, of_b, post, after=4)
    [new] = farm.open
    take(farm, new, post)
    assert size == 3 and sum(farm.made.values()) == 5 and not farm.open
    post.mark.unlink()
    code(2)  # worker A is back, B is drained and comes back later
    monkeypatch.setattr(marks, "AGAIN_S", 0.0)
    assert sum(again(farm.request, farm).submitted) == 3
    for shard in farm.open:
        take(farm, shard)
    assert again(farm.request, farm).ended and len(farm.made) == 8 and set(farm.made.values()) == {1}
    summary = summary_of(farm.request)
    assert len(summary["made"]) == 8 and not summary["failures"] and not summary["left"]
