"""What a killed worker took and never began: it is closed by its successor, and told apart where there is none."""

from contextlib import nullcontext
from datetime import UTC, datetime
from types import SimpleNamespace

from prefect.client.schemas.objects import StateType, WorkerStatus

from flows.batch import BatchRequest
from flows.farm import beats, prefect


def test_only_its_own_shards_that_never_began_are_closed(tmp_path, monkeypatch):
    request = BatchRequest(manifest="props.csv", library=str(tmp_path), shard="ab", only=("mug",))

    def run(name, worker, **changes):
        told = request.model_copy(update=changes).model_dump(mode="json")
        return SimpleNamespace(id=name, labels={"prefect.worker.name": worker}, parameters={"request": told})

    runs = [run("mine", "gpu-0"), run("began", "gpu-0"), run("another's", "gpu-1"), run("no-shard", "gpu-0", shard="")]
    folder = request.folder / "beats"
    folder.mkdir(parents=True)
    (folder / "began.live").write_text('{"host": "h", "pid": 1, "worker": "", "began": 0, "beat": 1, "assets": {}}')
    closed = {}
    monkeypatch.setattr(prefect, "_flow_runs", lambda wanted: runs)
    monkeypatch.setattr(prefect.PrefectFarm, "close", lambda self, shard, why: closed.update({shard: why}))
    assert prefect.close_left_by("gpu-0") == ["mine"]
    assert closed == {"mine": "worker gpu-0 was started anew before it began"}
    assert beats.read(request.folder)["mine"].state == "dead"


def test_a_shard_says_that_the_worker_who_took_it_is_offline(monkeypatch):
    def run(name, kind, pool="splatmill", worker=None):
        labels = {"prefect.worker.name": worker} if worker else {}
        state = SimpleNamespace(
            type=kind, timestamp=datetime.now(UTC), message="", is_scheduled=lambda: kind == StateType.SCHEDULED
        )
        request = {"request": {"only": ["mug"]}}
        told = {"id": name, "created": state.timestamp, "labels": labels, "parameters": request}
        return SimpleNamespace(state=state, work_pool_name=pool, **told)

    asked = []

    def read(pool):
        asked.append(pool)
        told = (("off", WorkerStatus.OFFLINE), ("on", WorkerStatus.ONLINE))
        return [SimpleNamespace(name=name, status=status) for name, status in told]

    waiting = run("waiting", StateType.SCHEDULED)
    runs = [waiting, run("a", StateType.PENDING, worker="off"), run("b", StateType.PENDING, worker="on")]
    monkeypatch.setattr(prefect, "_client", lambda: nullcontext(SimpleNamespace(read_workers_for_work_pool=read)))
    monkeypatch.setattr(prefect, "_flow_runs", lambda wanted: runs)
    assert [shard.worker_gone for shard in prefect.PrefectFarm().shards("r")] == [False, True, False]
    runs[:] = [waiting]
    assert not prefect.PrefectFarm().shards("r")[0].worker_gone and asked == ["splatmill"]
