"""Append: durable, all or nothing, once, and clear about disks."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
import time

import pytest

from catalog import ids, writer
from catalog.store import LocalStore
from catalog.writer import append
from pipeline_core.errors import TransientError


def test_what_was_appended_is_read_and_nothing_is_left_over(tmp_path, make_run, seen_ids) -> None:
    runs = [make_run(f"asset-{number}") for number in range(5)]
    path = append(tmp_path, runs)
    assert os.path.exists(path)
    assert seen_ids(tmp_path) == [run.event_id for run in runs]
    assert os.listdir(tmp_path / "catalog" / "tmp") == []


def test_appending_again_changes_nothing(tmp_path, make_run, seen_ids) -> None:
    runs = [make_run(), make_run("vase")]
    assert append(tmp_path, runs) == append(tmp_path, runs)
    assert seen_ids(tmp_path) == [run.event_id for run in runs]


def test_no_events_are_a_mistake(tmp_path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        append(tmp_path, [])


APPEND_25 = """
import sys
from catalog.schema import StageRun
from catalog.writer import append
for number in range(25):
    append(sys.argv[1], [StageRun(run_id="r", asset_id=f"{sys.argv[2]}-{number}", stage="evaluate", status="ok")])
"""


def test_processes_need_no_coordination(tmp_path, seen_ids) -> None:
    jobs = [subprocess.Popen([sys.executable, "-c", APPEND_25, str(tmp_path), f"p{i}"]) for i in range(4)]
    exit_codes = [job.wait() for job in jobs]
    found = seen_ids(tmp_path)
    assert exit_codes == [0] * 4
    assert len(found) == len(set(found)) == 100


@pytest.mark.parametrize(("number", "says"), [(errno.ENOSPC, "full"), (errno.EROFS, "cannot be written")])
def test_a_bad_disk_is_named_and_nothing_is_recorded(tmp_path, make_run, seen_ids, monkeypatch, number, says) -> None:
    append(tmp_path, [first := make_run()])
    with monkeypatch.context() as patch:

        def fails(descriptor: int) -> None:
            raise OSError(number, os.strerror(number))

        patch.setattr(os, "fsync", fails)
        with pytest.raises(TransientError, match=says) as caught:
            append(tmp_path, [make_run("vase")])
    assert str(tmp_path) in str(caught.value)
    assert seen_ids(tmp_path) == [first.event_id]
    assert os.listdir(tmp_path / "catalog" / "tmp") == []


REAL_DISKS = """
mount -t tmpfs -o size=64k tmpfs "$1" && cd "$2" && exec "$3" - "$1" <<'PYTHON'
import os, subprocess, sys
from catalog.schema import StageRun
from catalog.writer import append
from pipeline_core.errors import TransientError
library, stored = sys.argv[1], 0
def run():
    return StageRun(run_id="r", asset_id="a", stage="evaluate", status="ok")
try:
    for stored in range(100):
        append(library, [run()])
    sys.exit("the disk never filled")
except TransientError as error:
    assert "disk is full" in str(error), error
files = os.listdir(library + "/catalog/live")
assert len(files) == stored and os.listdir(library + "/catalog/tmp") == [], (files, stored)
import pyarrow.parquet as pq
assert all(pq.read_table(f"{library}/catalog/live/{name}").num_rows == 1 for name in files)
def sql(*options):
    command = [sys.executable, "-m", "catalog.cli", "sql", "select count(*) from stage_runs", "-l", library, *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr
    return done
done = sql()
assert done.returncode == 2 and "disk is full" in done.stderr and "--live" in done.stderr, done
assert str(stored) in sql("--live").stdout
subprocess.run(["mount", "-o", "remount,ro", library], check=True)
try:
    append(library, [run()])
    sys.exit("a read-only disk was written")
except TransientError as error:
    assert "cannot be written" in str(error) and "read-write" in str(error), error
done = sql()
assert done.returncode == 2 and "cannot be written" in done.stderr and "--live" in done.stderr, done
assert str(stored) in sql("--live").stdout
print("both refused after", stored)
PYTHON
"""


def test_a_really_full_and_a_really_read_only_disk(tmp_path) -> None:
    if subprocess.run(["unshare", "-rm", "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True).returncode:
        pytest.skip("needs permission to mount a tmpfs in a namespace of its own (unshare -rm)")
    command = ["unshare", "-rm", "sh", "-c", REAL_DISKS, "sh", str(tmp_path), os.getcwd(), sys.executable]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": os.getcwd()})
    assert done.returncode == 0, done.stderr
    assert "both refused" in done.stdout


def test_a_clock_behind_the_catalogue_is_reported_and_order_kept(tmp_path, make_run, monkeypatch, caplog) -> None:
    append(tmp_path, [make_run(metrics={"faces": 1.0})])
    real = time.time_ns
    with monkeypatch.context() as patch:
        patch.setattr(time, "time_ns", lambda: real() - 7200 * 10**9)
        patch.setattr(ids, "_last", 0)  # a fresh process on a host whose clock is two hours behind
        patch.setattr(writer, "_observed", {})
        with caplog.at_level(logging.WARNING):
            writer.observe_library(LocalStore(tmp_path))
            append(tmp_path, [late := make_run(metrics={"faces": 2.0})])
    assert "clock is 7200 s behind" in caplog.text
    from catalog import query

    assert [row["event_id"] for row in query.rows(tmp_path, "select event_id from stage_latest")] == [late.event_id]
