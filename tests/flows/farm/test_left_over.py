"""A worker that starts closes what its killed predecessor took and never began."""

from types import SimpleNamespace

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
