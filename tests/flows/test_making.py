"""What stands between an asset and its turn: another run that makes it already, and a disk without room."""

import shutil
import threading
from collections import namedtuple

import pytest

from flows import making
from flows.batch import BatchRequest, run_batch
from pipeline_core.errors import DiskError, RequestError
from pipeline_core.files import lock
from pipeline_core.storage import Library
from tests.flows.test_batch import finish, write

Usage = namedtuple("Usage", "total used free")


def test_two_runs_of_one_library_share_the_work(tmp_path, tiny):
    first = write(tmp_path, 6, tiny).model_copy(update={"in_flight": 2})
    second = BatchRequest(**first.model_dump(exclude={"run_id"}))
    begun, go, made, summaries = threading.Event(), threading.Event(), [], {}

    def slow(journey):
        begun.set()
        assert go.wait(60)
        made.append(journey.asset_id)
        finish(journey)

    def quick(journey):
        made.append(journey.asset_id)
        finish(journey)
        if len(made) == 5:  # all that the other run does not hold: its first goes ahead alone
            go.set()

    one = threading.Thread(target=lambda: summaries.update(one=run_batch(first, slow)))
    one.start()
    assert begun.wait(60)
    summaries["two"] = run_batch(second, quick)
    one.join()
    assert sorted(made) == [f"mug-{i:04d}" for i in range(6)]  # each once
    assert all(summary.ok for summary in summaries.values())
    assert len(summaries["two"].made) == 5 and summaries["two"].cached == ["mug-0000"]
    assert list((tmp_path / "library" / "leases").iterdir()) == []


@pytest.mark.parametrize("opens", ["it is there", "it failed", "a GPU is used"])
def test_the_first_goes_ahead_alone(tmp_path, tiny, opens, monkeypatch):
    request = write(tmp_path, 4, tiny).model_copy(update={"in_flight": 3})
    begun, others, gpu = [], threading.Event(), threading.Event()
    monkeypatch.setattr(making, "feeds_a_gpu", gpu.is_set)

    def make(journey):
        begun.append(journey.asset_id)
        if len(begun) > 1:
            others.set()
            return finish(journey)
        assert not others.wait(0.5)
        if opens == "it failed":
            raise RuntimeError("broken")
        if opens == "a GPU is used":
            gpu.set()
            assert others.wait(60)
        finish(journey)

    summary = run_batch(request, make)
    assert len(begun) == 4 and len(summary.made) == (3 if opens == "it failed" else 4)


def test_what_is_held_for_too_long_is_made_all_the_same(tmp_path, tiny, monkeypatch):
    request = write(tmp_path, 1, tiny)
    monkeypatch.setattr("flows.batch.Making", lambda *all: making.Making(*all[:-2], held_s=0.05, tick_s=0.02))
    with lock(Library(request.library).create().lease("mug-0000")):
        assert run_batch(request, finish).made == ["mug-0000"]


def test_a_full_disk_is_waited_for(tmp_path, tiny, monkeypatch, caplog):
    free = iter([400, 3, 3, *[400] * 1000])
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1000 * 2**20, 0, next(free) * 2**20))
    summary = run_batch(write(tmp_path, 3, tiny).model_copy(update={"in_flight": 1}), finish)
    assert len(summary.made) == 3 and summary.ok
    assert [record.message.split(" (")[0] for record in caplog.records if "disk" in record.message] == [
        f"the disk of {tmp_path / 'library'} is full",
        f"the disk of {tmp_path / 'library'} has room again: going on",
    ]


def test_a_disk_that_stays_full_ends_the_run_and_says_so(tmp_path, tiny, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(1000 * 2**20, 0, 2**20))
    monkeypatch.setattr(making, "PATIENCE_S", 0.05)
    summary = run_batch(write(tmp_path, 3, tiny), lambda journey: pytest.fail(journey.asset_id))
    assert len(summary.left) == 3 and "is full (1 MiB are free, 256 are needed)" in summary.left_why


def test_what_failed_for_lack_of_room_is_taken_up_again_but_not_for_ever(tmp_path, tiny):
    tried = []

    def make(journey):
        tried.append(journey.asset_id)
        if journey.asset_id == "mug-0001" or len(tried) < 2:
            raise DiskError("the disk is full")
        finish(journey)

    summary = run_batch(write(tmp_path, 2, tiny).model_copy(update={"in_flight": 1}), make)
    assert summary.made == ["mug-0000"] and tried.count("mug-0000") == 2
    assert [each["asset_id"] for each in summary.failures] == ["mug-0001"] and tried.count("mug-0001") == 3


def test_the_least_room_is_a_number(monkeypatch):
    monkeypatch.setenv(making.MIN_FREE, "1 GB")
    with pytest.raises(RequestError, match="SPLATMILL_MIN_FREE_MB='1 GB'"):
        making.min_free_mb()
