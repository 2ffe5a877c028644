"""Two reconcilers on two hosts over one library without locks: no asset is in two shards, and none is lost."""

import os
import threading
import time

import pytest

from flows.farm import alerts, beats, reconcile
from flows.farm.reconcile import reconcile_run
from flows.farm.runs import open_run, read_run
from flows.farm.shards import Timing
from pipeline_core import files, lease
from tests.flows.farm.test_reconcile import PATIENCE, MemoryFarm, again, kill, summary_of
from tests.flows.test_batch import write


@pytest.fixture
def no_locks(monkeypatch):
    """Every lock is given to everybody, as with ``nolock`` mounts."""

    class Anybody:
        def __init__(self, *_, **__):
            pass

        def acquire(self, **_):
            pass

        def release(self):
            pass

    monkeypatch.setattr(files, "FileLock", Anybody)


class Seen(MemoryFarm):
    """One host's sight of a server that all share; ``between`` happens while its reconciler is at work."""

    def __init__(self, server, online):
        super().__init__()
        self.requests, self.runs, self.online, self.between = server.requests, server.runs, online, None

    def workers(self):
        act, self.between = self.between, None
        if act:
            act()
        return super().workers()


@pytest.fixture
def two(tmp_path, tiny, monkeypatch, no_locks):
    """An open run of 24 assets, a server, and what two hosts see of it: one counts two workers, the other three."""
    monkeypatch.setattr(reconcile, "measured", lambda library, recipe: Timing(9, 60.0, 60.0))
    monkeypatch.setattr(alerts, "look", lambda *_: None)
    server, request = MemoryFarm(), open_run(write(tmp_path, 24, tiny))
    return request, server, Seen(server, 2), Seen(server, 3)


def open_once(request, server):
    names = [name for shard in server.open for name in shard.assets]
    return sorted(names) == [f"mug-{i:04d}" for i in range(24)]


def on_other_host(monkeypatch, do, clock_off_s=0.0):
    with monkeypatch.context() as there:
        there.setattr(lease, "this_host", lambda: "elsewhere")
        there.setattr(time, "time", lambda now=time.time: now() + clock_off_s)
        return do()


def grow_old(request, seconds):
    [path] = request.folder.glob(".reconcile.*.lease")
    then = files.time_there(request.folder) - seconds
    os.utime(path, (then, then))


@pytest.mark.parametrize("clock_off_s", [0.0, -7200.0, 7200.0])
def test_the_second_leaves_the_work_to_the_first(two, monkeypatch, clock_off_s):
    request, server, here, there = two
    run, seen = read_run(request.folder), []
    here.between = lambda: seen.append(
        on_other_host(monkeypatch, lambda: reconcile_run(run, there, PATIENCE), clock_off_s)
    )
    outcome = reconcile_run(run, here, PATIENCE)
    assert seen == [None] and sum(outcome.submitted) == 24 and open_once(request, server)


def test_one_that_was_suspended_submits_nothing_when_it_wakes(two, monkeypatch):
    request, server, here, there = two
    run, seen = read_run(request.folder), []

    def asleep():
        grow_old(request, lease.STALE_S + 1)
        seen.append(on_other_host(monkeypatch, lambda: reconcile_run(run, there, PATIENCE)))

    here.between = asleep
    assert reconcile_run(run, here, PATIENCE) is None
    assert sum(seen[0].submitted) == 24 and open_once(request, server)
    server.work()
    assert again(request, server).ended and len(summary_of(request)["made"]) == 24


def test_a_run_that_the_other_has_ended_is_not_ended_again(two, monkeypatch):
    request, server, here, _ = two
    run = read_run(request.folder)
    reconcile_run(run, here, PATIENCE)
    server.work()
    assert reconcile_run(run, here, PATIENCE).ended
    monkeypatch.setattr(reconcile, "finish", lambda *_: pytest.fail("it is over"))
    assert reconcile_run(run, here, PATIENCE) is None


def test_a_lost_shard_is_told_once_by_two_who_find_it_at_once(two, monkeypatch):
    request, server, here, _ = two
    run = read_run(request.folder)
    reconcile_run(run, here, PATIENCE)
    shard, rename, told = kill(request, server, ["mug-0000"]), os.rename, []

    def other_first(source, target):
        monkeypatch.setattr(os, "rename", rename)
        told.append(beats.fence(request.folder, shard.id))
        return rename(source, target)

    monkeypatch.setattr(os, "rename", other_first)
    told.append(beats.fence(request.folder, shard.id))
    assert told == [True, False]


def test_many_at_once_over_a_night_double_and_lose_nothing(two, monkeypatch):
    request, server, here, there = two
    run, alone = read_run(request.folder), threading.Lock()
    double = []

    def submit(asked, submit=server.submit):
        with alone:
            double.extend(set(asked.only) & {name for shard in server.open for name in shard.assets})
            submit(asked)

    here.submit = there.submit = submit
    for _ in range(2):
        threads = [threading.Thread(target=reconcile_run, args=(run, each, PATIENCE)) for each in (here, there, here)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert open_once(request, server)
        for shard in server.open[::2]:  # half of the shards are lost
            server.set(shard.id, "crashed")
        again(request, server)
    assert double == []
    server.work()
    assert again(request, server).ended and len(summary_of(request)["made"]) == 24
