"""Compaction: readers see every event once, whatever dies when."""

from __future__ import annotations

import os
import random

import pytest

from catalog import compact, listing, query
from catalog.compact import Policy
from catalog.store import LeaseHeld, LocalStore, open_store
from catalog.writer import append
from pipeline_core.errors import DiskError

AT_ONCE = Policy(grace_s=-1.0, orphan_s=3600.0, fan_in=3, checkpoint_every=5)


class Killed(Exception):
    """Stands for kill -9 between two file operations."""


def test_random_histories_keep_every_event_once(tmp_path, random_runs, seen_ids) -> None:
    rng, written = random.Random(7), []
    for _ in range(7):
        for run in random_runs(rng, rng.randrange(1, 6)):
            append(tmp_path, [run])
            written.append(run.event_id)
        if rng.random() < 0.8:
            before = query.assets(tmp_path)
            compact.compact(tmp_path, AT_ONCE)
            assert query.assets(tmp_path) == before
        assert seen_ids(tmp_path) == sorted(written)
    compact.compact(tmp_path, AT_ONCE)
    counts = {folder: len(os.listdir(tmp_path / "catalog" / folder)) for folder in ("live", "sealed", "index", "tmp")}
    assert counts["live"] == counts["tmp"] == 0
    assert counts["sealed"] < 8
    assert counts["index"] < 8


def test_many_small_files_become_few_and_no_run_fails_of_it(tmp_path, random_runs, caplog, monkeypatch) -> None:
    monkeypatch.setattr(compact, "MANY", 5)
    for run in random_runs(random.Random(1), 5)[:4]:
        append(tmp_path, [run])
    assert compact.compact_if_many(tmp_path).sealed_rows == 0
    append(tmp_path, random_runs(random.Random(2), 2)[:1])
    with open_store(tmp_path).lease("compactor"):
        assert compact.compact_if_many(tmp_path) is None
    with monkeypatch.context() as patch:
        patch.setattr(LocalStore, "create", lambda *arguments: (_ for _ in ()).throw(DiskError("the disk is full")))
        assert compact.compact_if_many(tmp_path) is None and "the disk is full" in caplog.text
    assert compact.compact_if_many(tmp_path).sealed_rows == 5 and listing.visible(open_store(tmp_path)).live == ()


@pytest.mark.parametrize("before_operation", [1, 2, 3, 4, 7])
def test_killed_between_any_two_operations(tmp_path, random_runs, seen_ids, monkeypatch, before_operation) -> None:
    """Creates, moves and removals are counted; the compactor dies before number n, then another finishes the work."""
    runs = random_runs(random.Random(before_operation), 8)
    for run in runs:
        append(tmp_path, [run])
    count = 0

    def dying(method):
        def wrapped(self, *arguments):
            nonlocal count
            count += 1
            if count == before_operation:
                raise Killed
            return method(self, *arguments)

        return wrapped

    with monkeypatch.context() as patch:
        for name in ("create", "move", "remove"):
            patch.setattr(LocalStore, name, dying(getattr(LocalStore, name)))
        with pytest.raises(Killed):
            compact.compact(tmp_path, AT_ONCE)
    assert seen_ids(tmp_path) == sorted(run.event_id for run in runs)
    for orphan in (tmp_path / "catalog" / "sealed").iterdir():
        os.utime(orphan, (0, 0))
    compact.compact(tmp_path, AT_ONCE)
    assert seen_ids(tmp_path) == sorted(run.event_id for run in runs)
    assert os.listdir(tmp_path / "catalog" / "live") == []
    assert len(os.listdir(tmp_path / "catalog" / "sealed")) == 1, "the killed compactor's orphan is gone"


def test_of_two_compactors_one_wins_and_nothing_doubles(tmp_path, random_runs, seen_ids) -> None:
    """Both read the same live files without a lease, as two hosts might; the index number decides."""
    runs = random_runs(random.Random(1), 6)
    for run in runs:
        append(tmp_path, [run])
    store = open_store(tmp_path)
    names = [f"live/{name}" for name in listing.visible(store).live]
    table, _ = compact.read_events(store, names)
    batches = [name[5:41] for name in names]
    assert compact.commit(store, AT_ONCE, "seal", table, batches=batches)
    assert not compact.commit(store, AT_ONCE, "seal", table, batches=batches)
    assert len(os.listdir(tmp_path / "catalog" / "sealed")) == 1
    assert seen_ids(tmp_path) == sorted(run.event_id for run in runs)


def test_the_index_number_is_given_once(tmp_path) -> None:
    store = open_store(tmp_path)
    store.make_folders()
    assert compact.create_index(store, 1, [])
    assert not compact.create_index(store, 1, [])


def test_only_one_holds_the_lease(tmp_path) -> None:
    store = open_store(tmp_path)
    with store.lease(), pytest.raises(LeaseHeld, match="another process holds"), open_store(tmp_path).lease():
        pass
    with store.lease():
        pass


def test_a_late_retry_of_a_compacted_append_stays_invisible(tmp_path, make_run, seen_ids) -> None:
    run = make_run()
    append(tmp_path, [run])
    compact.compact(tmp_path, AT_ONCE)
    assert os.listdir(tmp_path / "catalog" / "live") == []
    append(tmp_path, [run])
    assert seen_ids(tmp_path) == [run.event_id]


def test_replaced_files_stay_for_the_grace(tmp_path, random_runs) -> None:
    for run in random_runs(random.Random(2), 5):
        append(tmp_path, [run])
    seen = listing.visible(open_store(tmp_path))
    compact.compact(tmp_path, Policy(grace_s=600))
    assert all((tmp_path / "catalog" / name).exists() for name in seen.files), "a reader that listed them can open them"
    assert listing.visible(open_store(tmp_path)).live == ()


def test_a_reader_that_meets_a_vanished_file_lists_again(tmp_path, random_runs, seen_ids, monkeypatch) -> None:
    runs = random_runs(random.Random(3), 5)
    for run in runs:
        append(tmp_path, [run])
    stale = listing.visible(open_store(tmp_path))
    compact.compact(tmp_path, AT_ONCE)
    answers = iter([stale])
    real = listing.visible
    monkeypatch.setattr(listing, "visible", lambda store: next(answers, None) or real(store))
    assert seen_ids(tmp_path) == sorted(run.event_id for run in runs)


def test_an_index_that_changes_during_the_listing_is_listed_again(tmp_path, random_runs, seen_ids, monkeypatch) -> None:
    """The compactor commits and sweeps between the reader's look at the index and at the live files."""
    runs = random_runs(random.Random(4), 5)
    for run in runs:
        append(tmp_path, [run])
    real, armed = LocalStore.names, [True]

    def names(self, folder):
        if folder == "live" and armed:
            armed.clear()
            compact.compact(tmp_path, AT_ONCE)
        return real(self, folder)

    monkeypatch.setattr(LocalStore, "names", names)
    assert seen_ids(tmp_path) == sorted(run.event_id for run in runs)
    assert not armed


def test_a_torn_file_is_left_alone_and_reported(tmp_path, random_runs) -> None:
    runs = random_runs(random.Random(5), 4)
    paths = [append(tmp_path, [run]) for run in runs]
    os.truncate(paths[1], 100)
    report = compact.compact(tmp_path, AT_ONCE)
    assert report.sealed_rows == 3
    assert [os.path.basename(name) for name in report.unreadable] == [os.path.basename(paths[1])]
    with pytest.raises(query.CatalogueDamaged, match=r"cannot be read.*fsck --repair"):
        query.assets(tmp_path)


def test_rows_come_sorted_and_an_event_once() -> None:
    run_a, run_b = (_table("b", "x"), _table("a", "x"))
    table = compact.in_order(compact.pa.concat_tables([run_a, run_b, run_a]))
    assert table.column("asset_id").to_pylist() == ["a", "b"]


def _table(asset: str, stage: str):
    from catalog.schema import StageRun, to_table

    event = f"01900000-0000-7000-8000-{ord(asset):012x}"
    run = StageRun(run_id="r", asset_id=asset, stage=stage, status="ok", event_id=event)
    return compact._with_cid(to_table([run], "b"))
