"""Be the only one at something among hosts that share a folder, where locks cannot be trusted: NFS without them.

    with leased(folder / "reconcile") as lease:
        if lease is None:                       # somebody else is at it
            return
        ...
        lease.check()                           # raises LeaseLost before anything is done twice

    <name>.<number>.lease       JSON: token, host, pid, free. The greatest number counts; its holder touches it

A free or stale lease is taken by making the next number, by a hard link, which of any number of hosts one succeeds in;
then the smaller numbers are removed, so that a holder who was only suspended finds its own gone. A lease is stale when
nobody has touched it for ``stale_s``, by the file system's clock (hosts' clocks may differ), or when its process has
ended, which its own host can tell. Files are opened before they are asked for their time, because an NFS client answers
from its cache otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline_core.bucket import BucketPath, Place, held, renewed
from pipeline_core.errors import TransientError
from pipeline_core.files import create, disk_errors, time_there, write_json
from pipeline_core.python import process_alive, this_host

STALE_S = 60.0
"""As long as an NFS client may answer from its cache."""


class LeaseLost(TransientError):
    """Another process took the lease, because this one had not touched it for too long."""


@dataclass(frozen=True)
class Lease:
    """A lease that is held, until it is lost."""

    path: Path
    token: str

    def held(self) -> bool:
        """Whether it is held still."""
        found = _read(self.path)
        return found is not None and found[0]["token"] == self.token

    def check(self) -> None:
        """Raise :class:`LeaseLost` where another has it."""
        if not self.held():
            raise LeaseLost(f"{self.path} was taken over by another process, which goes on")

    def touch(self) -> bool:
        """Show that the holder lives, and that it goes on; one whose disk is away is not seen until it is back."""
        with contextlib.suppress(OSError):
            os.utime(self.path)
        return True


@dataclass(frozen=True)
class _BucketLease(Lease):
    """The holder is that of the greatest number in the folder (``pipeline_core.bucket.held``)."""

    folder: BucketPath

    def held(self) -> bool:
        return max((each.name for each in self.folder.iterdir()), default="") == self.token


@contextlib.contextmanager
def leased(place: Place, stale_s: float = STALE_S) -> Iterator[Lease | None]:
    """Hold the lease of ``place`` while the block lasts; yields None where another holds it."""
    if isinstance(place, BucketPath):
        with held(place, ttl_s=stale_s) as mine:
            yield _BucketLease(Path(place.name), mine.name, place) if mine else None
        return
    with disk_errors(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        lease = _take(place, stale_s)
    if lease is None:
        yield None
        return
    try:
        with renewed(lease.touch, stale_s / 6):
            yield lease
    finally:
        if lease.held():
            write_json(lease.path, _document(lease.token) | {"free": True})


def _take(place: Path, stale_s: float) -> Lease | None:
    numbers = _numbers(place)
    if numbers and _is_held(_file(place, numbers[-1]), stale_s):
        return None
    mine, token = (numbers[-1] if numbers else 0) + 1, uuid.uuid4().hex
    path = _file(place, mine)
    if not create(path, json.dumps(_document(token)).encode()):
        return None
    now = _numbers(place)  # the folder's list is fresh after one's own change of it
    if now[-1:] != [mine]:
        path.unlink(missing_ok=True)
        return None
    for number in now[:-1]:
        _file(place, number).unlink(missing_ok=True)
    return Lease(path, token)


def _is_held(path: Path, stale_s: float) -> bool:
    found = _read(path)
    if found is None:
        return True  # its holder is being replaced this moment
    told, touched = found
    if told["free"] or (told["host"] == this_host() and not process_alive(told["pid"])):
        return False
    return time_there(path.parent) - touched < stale_s


def _read(path: Path) -> tuple[dict[str, Any], float] | None:
    """What a lease's file tells, and when it was touched; None where it is gone."""
    try:
        with path.open("rb") as file:
            touched = os.fstat(file.fileno()).st_mtime
            return json.load(file), touched
    except OSError:  # gone, on this host or another
        return None
    except ValueError:  # damaged: nobody's, once it is old
        return {"token": "", "host": "", "pid": 0, "free": False}, touched


def _numbers(place: Path) -> list[int]:
    pattern = re.compile(rf"{re.escape(place.name)}\.(\d+)\.lease")
    return sorted(int(found[1]) for name in os.listdir(place.parent) if (found := pattern.fullmatch(name)))


def _file(place: Path, number: int) -> Path:
    return place.with_name(f"{place.name}.{number}.lease")


def _document(token: str) -> dict[str, Any]:
    return {"token": token, "host": this_host(), "pid": os.getpid(), "free": False}
