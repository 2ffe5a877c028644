"""A farm whose library lies in a bucket: opened, divided, a worker lost, another fenced off, paused, ended."""

import json
import threading

from flows.account import account
from flows.asked import is_farm_s
from flows.farm import beats, marks, reconcile
from flows.farm.reconcile import Patience
from flows.farm.runs import open_run, open_runs, read_run, run_shard
from flows.farm.shards import Timing
from pipeline_core.bucket import BucketPath
from tests.flows.farm.test_reconcile import MemoryFarm
from tests.flows.test_batch import finish, write


def test_a_run_in_a_bucket_comes_to_its_end(bucket, tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(reconcile, "measured", lambda library, recipe: Timing(9, 60.0, 60.0))
    farm = MemoryFarm()
    request = open_run(write(tmp_path, 4, tiny).model_copy(update={"library": f"{bucket}/farm"}))
    assert request.library == f"{bucket}/farm" and isinstance(request.folder, BucketPath) and is_farm_s(request.folder)
    assert [folder.name for folder in open_runs(request.library)] == [request.run_id]

    def look():
        (outcome,) = reconcile.reconcile(request.library, farm, Patience())
        return outcome

    assert sum(look().submitted) == 4 and look().submitted == []
    lost = farm.open[0]
    # a process that began and was killed: its last sign of life stays, and its host sees that it is gone
    with beats.beating(request.folder, lost.id, threading.Event()):
        told = json.loads((request.folder / "beats" / f"{lost.id}.live").read_bytes())
        assert beats.count_live(request.folder) == 1 and beats.read(request.folder)[lost.id].age_s < 30
    (request.folder / "beats" / f"{lost.id}.done").rename(request.folder / "beats" / f"{lost.id}.live")
    (request.folder / "beats" / f"{lost.id}.live").write_bytes(json.dumps(told | {"pid": 2**22 + 1}).encode())
    outcome = look()
    assert outcome.closed and sorted(farm.requests[lost.id].only) == sorted(lost.assets)
    assert beats.read(request.folder)[lost.id].state == "dead" and not beats.fence(request.folder, lost.id)
    marks.put(request.folder, marks.PAUSED)
    assert marks.paused(request.folder) and marks.lift(request.folder, marks.PAUSED)
    for shard in farm.open:
        run_shard(farm.requests[shard.id], finish)
        farm.set(shard.id, "completed")
    outcome = look()
    assert outcome.ended and outcome.made == 4 and open_runs(request.library) == []
    assert account(request.library, "last").made == 4 and len(read_run(request.folder).todo) == 4
