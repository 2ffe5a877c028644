"""One holder at a time without locks of the file system, whatever hosts' clocks say and wherever one is suspended."""

import os
import subprocess
import sys
import time

import pytest

from pipeline_core import files, lease
from pipeline_core.lease import LeaseLost, leased


@pytest.fixture(autouse=True)
def no_locks(monkeypatch):
    """As on NFS that is mounted without them."""

    def refuse(*_, **__):
        raise AssertionError("a lock was asked for")

    monkeypatch.setattr(files, "FileLock", refuse)


@pytest.fixture
def host(monkeypatch):
    """Become another host."""

    def become(name, clock_off_s=0.0):
        monkeypatch.setattr(lease, "this_host", lambda: name)
        monkeypatch.setattr(time, "time", lambda now=time.time: now() + clock_off_s)

    return become


def leases(place):
    return sorted(path.name for path in place.parent.iterdir())


def silent_for(place, seconds):
    """As if the holder had not touched it for so long."""
    [name] = leases(place)
    then = files.time_there(place.parent) - seconds
    os.utime(place.with_name(name), (then, then))


def test_one_holds_it_and_the_next_gets_it_when_it_is_given_back(tmp_path, host):
    place = tmp_path / "run" / "it"
    host("a")
    with leased(place) as first:
        first.check()
        for name in ("a", "b"):
            host(name)
            with leased(place) as other:
                assert other is None
    with leased(place) as second:
        assert second is not None and not first.held()
    assert leases(place) == ["it.2.lease"]


@pytest.mark.parametrize("off_s", [-86400.0, 86400.0])
def test_a_clock_that_is_a_day_off_neither_steals_nor_keeps_it(tmp_path, host, off_s):
    place = tmp_path / "it"
    host("a", off_s)
    with leased(place) as held:
        host("b")
        with leased(place) as other:
            assert other is None
        silent_for(place, lease.STALE_S + 1)
        with leased(place) as other:
            assert other is not None
        assert not held.held()


def test_a_holder_that_was_suspended_finds_that_it_lost_it(tmp_path, host):
    place = tmp_path / "it"
    host("a")
    with leased(place) as first:
        silent_for(place, lease.STALE_S + 1)
        host("b")
        with leased(place) as second:
            host("a")
            with pytest.raises(LeaseLost, match="taken over"):
                first.check()
            first.touch()
            second.check()
    with leased(place) as third:  # what the first gave back was no longer his
        assert third is not None


def test_a_holder_that_died_on_this_host_is_not_waited_for_and_one_of_another_is(tmp_path, monkeypatch):
    place = tmp_path / "it"
    code = f"import os, pathlib; from pipeline_core.lease import _take; _take(pathlib.Path({str(place)!r}), 60.0)"
    subprocess.run([sys.executable, "-c", code], check=True)
    with monkeypatch.context() as there:
        there.setattr(lease, "this_host", lambda: "another")
        with leased(place) as held:
            assert held is None
    with leased(place) as held:
        assert held is not None


def test_of_two_who_take_a_stale_one_at_once_one_gets_it(tmp_path, host, monkeypatch):
    place = tmp_path / "it"
    host("gone")
    lease._take(place, 60.0)
    silent_for(place, lease.STALE_S + 1)
    taken, numbers = [], lease._numbers

    def between(about):  # the other takes it after this one has judged it stale
        found = numbers(about)
        monkeypatch.setattr(lease, "_numbers", numbers)
        taken.append(lease._take(place, 60.0))
        return found

    monkeypatch.setattr(lease, "_numbers", between)
    host("b")
    late = lease._take(place, 60.0)
    assert late is None and taken[0].held()


def test_who_was_asleep_since_long_ago_takes_no_number_below_the_holder_s(tmp_path, host, monkeypatch):
    place = tmp_path / "it"
    host("a")
    for _ in range(3):
        with leased(place):
            pass
    numbers, seen = lease._numbers, [[1]]
    with leased(place) as held:
        monkeypatch.setattr(lease, "_numbers", lambda about: seen.pop() if seen else numbers(about))
        monkeypatch.setattr(lease, "_is_held", lambda *_: False)
        assert lease._take(place, 60.0) is None and held.held()  # number 2 is free again, and is no use
    assert leases(place) == ["it.4.lease"]


def test_a_holder_touches_it_while_it_works(tmp_path, host):
    place = tmp_path / "it"
    host("a")
    with leased(place, stale_s=0.06) as held:
        silent_for(place, 100)
        deadline = time.monotonic() + 10
        while files.time_there(tmp_path) - held.path.stat().st_mtime > 50 and time.monotonic() < deadline:
            time.sleep(0.005)
        assert files.time_there(tmp_path) - held.path.stat().st_mtime < 50


def test_a_damaged_one_is_taken_once_it_is_old(tmp_path, host):
    place = tmp_path / "it"
    (tmp_path / "it.7.lease").write_text("{")
    with leased(place) as held:
        assert held is None
    silent_for(place, lease.STALE_S + 1)
    with leased(place) as held:
        assert held.path.name == "it.8.lease"
