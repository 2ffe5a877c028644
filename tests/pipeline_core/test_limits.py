"""Cores and memory of a container are not those of its host."""

import math
import os

import psutil
import pytest

from pipeline_core import aside, device, limits


@pytest.fixture
def group(tmp_path):
    """Makes a machine's files, where ``told`` is what /proc/self/cgroup says: paths and texts."""

    def make(told, **files):
        for path, text in {"proc/self/cgroup": told, **files}.items():
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / path).write_text(text + "\n")
        return tmp_path

    return make


FIRST = "9:pids:/box\n2:cpu,cpuacct:/box/of/mine\n4:memory:/box"
CPU_1 = {"sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000", "sys/fs/cgroup/cpu/box/cpu.cfs_period_us": "50000"}


@pytest.mark.parametrize(
    "told, files, cores",
    [
        ("0::/", {"sys/fs/cgroup/cpu.max": "150000 100000"}, 1.5),  # a container, as it sees itself
        ("0::/", {"sys/fs/cgroup/cpu.max": "max 100000"}, math.inf),
        ("0::/a/b", {"sys/fs/cgroup/a/b/cpu.max": "max 100000", "sys/fs/cgroup/a/cpu.max": "400000 100000"}, 4),
        ("0::/a/b", {"sys/fs/cgroup/a/b/cpu.max": "200000 100000", "sys/fs/cgroup/a/cpu.max": "800000 100000"}, 2),
        (FIRST, CPU_1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "300000"}, 3),  # the folders are the host's
        (FIRST, CPU_1 | {"sys/fs/cgroup/cpu/box/cpu.cfs_quota_us": "100000"}, 2),
        (FIRST, CPU_1 | {"sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1"}, math.inf),
    ],
)
def test_a_quota_is_the_least_of_all_groups_around(group, told, files, cores):
    assert limits.quota(group(told, **files)) == cores


def test_no_control_groups_no_quota(tmp_path):
    assert limits.quota(tmp_path) == math.inf and limits.memory(tmp_path) > 2**20


def test_memory_is_what_is_there_or_what_a_group_may_have(group, monkeypatch):
    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Told", (), {"available": 8 << 30}))
    assert limits.memory(group(FIRST)) == 8 << 30
    limit = "sys/fs/cgroup/memory/box/memory.limit_in_bytes"
    assert limits.memory(group(FIRST, **{limit: "9223372036854771712"})) == 8 << 30
    assert limits.memory(group(FIRST, **{limit: str(2 << 30)})) == 2 << 30
    assert limits.memory(group("0::/x", **{"sys/fs/cgroup/x/memory.max": str(1 << 30)})) == 1 << 30


def test_threads_and_children_keep_to_affinity_quota_and_setting(monkeypatch):
    """Of a host with 64 cores."""
    for name in (device.THREADS, device.POOLS[0]):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    monkeypatch.setattr(aside, "memory", lambda: 64 << 30)
    monkeypatch.setattr(limits, "quota", lambda: math.inf)
    assert (device.thread_count(), aside.most_children()) == (16, (12, 4))
    for quota, threads, most in ((7.5, 8, (6, 2)), (2.0, 2, (1, 2)), (0.5, 1, (1, 1))):
        monkeypatch.setattr(limits, "quota", lambda quota=quota: quota)
        assert (device.thread_count(), aside.most_children()) == (threads, most)
    monkeypatch.setattr(limits, "quota", lambda: math.inf)
    for threads, most in (("4", (3, 2)), ("32", (12, 4))):
        monkeypatch.setenv(device.THREADS, threads)
        assert aside.most_children() == most
    monkeypatch.setattr(aside, "memory", lambda: 8 * aside.CHILD_BYTES)
    assert aside.most_children() == (3, 2)
