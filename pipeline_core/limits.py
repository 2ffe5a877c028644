"""What this process may use of the machine: a container has less of it than its host.

    cores(), memory()

Control groups are looked for where Linux mounts them, of both versions; elsewhere there are none.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from pathlib import Path

ROOT = Path("/")


def cores() -> int:
    """Cores that this process may run on; no more than those whose time it may use, rounded up."""
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return math.ceil(min(mine, quota()))


@cache
def quota(root: Path = ROOT) -> float:
    """Cores whose time the control groups of this process may use; infinite without a limit."""
    found = [math.inf]
    for group in _groups("cpu", root):
        for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
            with suppress(OSError, ValueError):  # "max" is no number
                time_us, period_us = (int(word) for name in names for word in (group / name).read_text().split())
                if time_us > 0:
                    found.append(time_us / period_us)
    return min(found)


def memory(root: Path = ROOT) -> int:
    """Bytes of memory that are there for a new process; no more than its control groups may have in all."""
    import psutil

    found = [psutil.virtual_memory().available]
    for group in _groups("memory", root):
        for name in ("memory.max", "memory.limit_in_bytes"):
            with suppress(OSError, ValueError):
                found.append(int((group / name).read_text()))
    return min(found)


def _groups(controller: str, root: Path) -> Iterator[Path]:
    """Folders of the control groups of this process that may limit what ``controller`` names, and of those around."""
    with suppress(OSError):
        for line in (root / "proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if not controllers or controller in controllers.split(","):
                own, top = Path(path.lstrip("/")), root / "sys/fs/cgroup" / (controller if controllers else "")
                yield from (top / each for each in (own, *own.parents))
