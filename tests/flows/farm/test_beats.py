"""Signs of life between real processes: touched while at work, fenced off for good, ended with their worker."""

import json
import subprocess
import sys
import threading
import time

import pytest

from flows.farm import beats
from flows.farm.beats import Fenced, beating, fence, read
from tasks.progress import board
from tests.flows.conftest import ROOT, environment

CHILD = """
import sys, threading, time
from pathlib import Path
from flows.farm import beats
from tasks.progress import board

beats.BEAT_S = 0.05
beats.GRACE_S = float(sys.argv[2])
stop = threading.Event()
board.update("mug", state="running", stage="extract_mesh")
with beats.beating(Path(sys.argv[1]), "shard", stop) as abandoned:
    print("begun", flush=True)
    if sys.argv[3] == "hang":
        time.sleep(60)
    stop.wait(60)
print("abandoned" if abandoned.is_set() else "ended", flush=True)
"""


def start(folder, *, grace=60, how="heed", parent=False):
    """A process that beats; with ``parent`` one that starts it and then waits."""
    command = [sys.executable, "-c", CHILD, str(folder), str(grace), how]
    if parent:
        command = [sys.executable, "-c", f"import subprocess; subprocess.run({command!r})"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment(), cwd=ROOT)
    assert process.stdout.readline() == "begun\n"
    return process


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_process_at_work_is_seen_with_what_it_works_at(tmp_path):
    process = start(tmp_path)
    wait_for(lambda: read(tmp_path)["shard"].assets)
    (beat,) = read(tmp_path).values()
    assert (beat.name, beat.state, beat.pid, beat.gone) == ("shard", "live", process.pid, False)
    assert beat.assets["mug"][0] == "extract_mesh" and beat.age_s < 5 and beats.count_live(tmp_path) == 1
    process.kill()
    process.wait()
    assert read(tmp_path)["shard"].gone and read(tmp_path)["shard"].state == "live"


def test_a_fenced_process_stops_and_may_not_begin_again(tmp_path):
    process = start(tmp_path)
    assert fence(tmp_path, "shard") and not fence(tmp_path, "shard")
    assert process.communicate(timeout=20)[0] == "abandoned\n"
    assert read(tmp_path)["shard"].state == "dead"
    with pytest.raises(Fenced), beating(tmp_path, "shard", threading.Event()):
        pytest.fail("it began")


def test_a_process_may_be_fenced_off_before_it_begins(tmp_path):
    assert fence(tmp_path, "late")
    with pytest.raises(Fenced), beating(tmp_path, "late", threading.Event()):
        pytest.fail("it began")
    assert read(tmp_path)["late"].state == "dead"


def test_a_process_whose_parent_is_gone_stops(tmp_path):
    parent = start(tmp_path, parent=True)
    parent.kill()
    parent.wait()
    wait_for(lambda: read(tmp_path)["shard"].state == "done")
    assert parent.stdout.read() == "abandoned\n"


def test_a_process_that_hangs_is_ended(tmp_path):
    process = start(tmp_path, grace=0.3, how="hang")
    fence(tmp_path, "shard")
    assert process.wait(20) == 1


def test_one_that_ended_in_order_is_done_and_cannot_be_fenced(tmp_path):
    with beating(tmp_path, "shard", threading.Event()) as abandoned:
        assert read(tmp_path)["shard"].state == "live"
    assert read(tmp_path)["shard"].state == "done" and not abandoned.is_set() and not fence(tmp_path, "shard")


def test_a_full_disk_does_not_look_like_death(tmp_path, monkeypatch):
    monkeypatch.setattr(beats, "BEAT_S", 0.02)
    board.clear()
    with beating(tmp_path, "shard", threading.Event()):
        before = (tmp_path / "beats" / "shard.live").stat().st_mtime_ns
        monkeypatch.setattr(beats, "write_json", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
        wait_for(lambda: (tmp_path / "beats" / "shard.live").stat().st_mtime_ns > before)
        assert read(tmp_path)["shard"].age_s < 5


def test_seconds_add_up_over_processes_and_odd_files_are_passed_over(tmp_path):
    folder = tmp_path / "beats"
    folder.mkdir()
    document = {"host": "h", "pid": 1, "worker": "w", "began": 100.0, "beat": 160.0, "assets": {}}
    for name in ("a.done", "b.dead", "c.live"):
        (folder / name).write_text(json.dumps(document))
    (folder / "torn.live").write_text("{")
    assert beats.spent_s(tmp_path) == 180 and beats.count_live(tmp_path) == 1
    assert not read(tmp_path)["c"].gone  # another host's process cannot be looked at
    assert not list(folder.glob(".*"))
