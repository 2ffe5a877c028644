"""Where the catalogue's files lie: a folder, or a bucket of any object store that fsspec knows.

Five verbs carry the whole protocol: list, read, create-if-absent, move to trash, lease. Names are relative to
``<library>/catalog``. Nothing is ever written in place: a reader sees a whole file or none.

* POSIX: write to ``tmp/``, fsync, ``link`` to the final name (atomic, and refuses an existing name), fsync the folder.
* object store: one conditional PUT (``If-None-Match: *``), through fsspec's ``mode="create"``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import socket
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fsspec

from pipeline_core.errors import RequestError, TransientError
from pipeline_core.files import disk_errors, lock, sync

CLIENTS = ("botocore", "aiobotocore", "aiohttp")  # whose errors s3fs lets through
FOLDERS = ("live", "sealed", "index", "tmp", "trash", "quarantine")


@dataclass(frozen=True)
class Entry:
    """A listed file: its name within the folder, size in bytes, and seconds since 1970 of its last change."""

    name: str
    bytes: int
    modified: float


class LeaseHeld(RequestError):
    """Somebody else is compacting, sealing or collecting right now."""


class LocalStore:
    """The catalogue of a library in a folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).absolute() / "catalog"
        self.filesystem = None

    def url(self, name: str) -> str:
        """Path as DuckDB opens it."""
        return str(self.root / name)

    def exists(self) -> bool:
        """Whether there is such a library."""
        return self.root.parent.is_dir()

    def names(self, folder: str) -> list[str]:
        """Names of the files in ``folder``, unordered; empty when there is no such folder."""
        try:
            return os.listdir(self.root / folder)
        except FileNotFoundError:
            return []

    def entries(self, folder: str) -> list[Entry]:
        """The files in ``folder`` with size and age."""
        found = []
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / folder) as scan:
            for item in scan:
                with contextlib.suppress(FileNotFoundError):
                    if item.is_file():
                        stat = item.stat()
                        found.append(Entry(item.name, stat.st_size, stat.st_mtime))
        return found

    def read(self, name: str) -> bytes:
        """The whole file. Raises ``FileNotFoundError``."""
        return (self.root / name).read_bytes()

    def create(self, name: str, data: bytes) -> bool:
        """Publish ``data`` under ``name``, durably; False when the name is taken (nothing is changed then)."""
        target = self.root / name
        scratch = self.root / "tmp" / f"{uuid.uuid4().hex}.part"
        with disk_errors(target):
            try:
                handle = open(scratch, "xb")
            except FileNotFoundError:
                self.make_folders()
                handle = open(scratch, "xb")
            try:
                with handle:
                    handle.write(data)
                    handle.flush()
                    os.fsync(handle.fileno())
                return _link(scratch, target)
            finally:
                with contextlib.suppress(OSError):
                    scratch.unlink()

    def make_folders(self) -> None:
        """Make the catalogue's folders."""
        for folder in FOLDERS:
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    def move(self, name: str, folder: str) -> None:
        """Move a file to ``trash`` or ``quarantine``; no error when it is gone already."""
        with disk_errors(self.root / name):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                target = self.root / folder / Path(name).name
                os.replace(self.root / name, target)
                os.utime(target)  # its time in the trash begins now

    def discard(self, name: str) -> None:
        """Put a file that is no longer needed into the trash, in case it is after all."""
        self.move(name, "trash")

    def remove(self, name: str) -> None:
        """Delete a file; no error when it is gone already."""
        with contextlib.suppress(FileNotFoundError):
            (self.root / name).unlink()

    def purge(self, folder: str, before: float) -> None:
        """Delete what was last changed before this time, collected stage outputs (folders) too."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / folder) as scan:
            for item in scan:
                with contextlib.suppress(FileNotFoundError):
                    if item.stat().st_mtime < before:
                        shutil.rmtree(item.path) if item.is_dir() else os.unlink(item.path)

    @contextlib.contextmanager
    def lease(self, name: str = "compactor", ttl: float = 600.0) -> Iterator[None]:
        """Be the only one, on any host that shares the folder (``flock``; the kernel frees it when the holder dies)."""
        del ttl
        with disk_errors(self.root):
            self.make_folders()
        with lock(self.root / f"{name}.lock", wait=False) as mine:
            if not mine:
                raise LeaseHeld(f"another process holds {self.root}/{name}.lock; wait for it, then try again")
            yield


class ObjectStore:
    """The catalogue of a library on an object store (``s3://bucket/library``)."""

    def __init__(self, url: str) -> None:
        # listings must be fresh: fsspec would otherwise answer from its own cache
        try:
            self.filesystem, path = fsspec.core.url_to_fs(url, use_listings_cache=False)
        except (ValueError, ImportError) as error:
            raise RequestError(f"{url}: {error}. S3 needs `pip install 'splatmill[s3]'`") from error
        self.scheme = url.split("://", 1)[0]
        self.root = path.rstrip("/") + "/catalog"

    def url(self, name: str) -> str:
        """Address as DuckDB opens it, through the registered filesystem."""
        return f"{self.scheme}://{self.root}/{name}"

    def exists(self) -> bool:
        """Whether there is anything at the library's address."""
        with remote_errors(self.url("")):
            return self.filesystem.exists(self.root.removesuffix("/catalog"))

    def names(self, folder: str) -> list[str]:
        """Names of the objects in ``folder``, unordered."""
        return [entry.name for entry in self.entries(folder)]

    def entries(self, folder: str) -> list[Entry]:
        """The objects in ``folder`` with size and age."""
        self.filesystem.invalidate_cache()
        try:
            with remote_errors(self.url(folder)):
                found = self.filesystem.ls(f"{self.root}/{folder}", detail=True)
        except FileNotFoundError:
            return []
        return [Entry(f["name"].rsplit("/", 1)[1], f["size"] or 0, _modified(f)) for f in found if f["type"] == "file"]

    def read(self, name: str) -> bytes:
        """The whole object. Raises ``FileNotFoundError``."""
        with remote_errors(self.url(name)):
            return self.filesystem.cat_file(f"{self.root}/{name}")

    def create(self, name: str, data: bytes) -> bool:
        """One conditional PUT; False when the name is taken."""
        try:
            with remote_errors(self.url(name)):
                self.filesystem.pipe_file(f"{self.root}/{name}", data, mode="create")
        except FileExistsError:
            return False
        return True

    def make_folders(self) -> None:
        """Object stores have no folders."""

    def move(self, name: str, folder: str) -> None:
        """Copy, then delete."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.copy(f"{self.root}/{name}", f"{self.root}/{folder}/{name.rsplit('/', 1)[1]}")
            self.remove(name)

    def discard(self, name: str) -> None:
        """Delete an object that is no longer needed; buckets have versioning for the fearful."""
        self.remove(name)

    def remove(self, name: str) -> None:
        """Delete an object; no error when it is gone already."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.rm_file(f"{self.root}/{name}")

    def purge(self, folder: str, before: float) -> None:
        """Delete objects that were last changed before this time."""
        for entry in self.entries(folder):
            if entry.modified < before:
                self.remove(f"{folder}/{entry.name}")

    @contextlib.contextmanager
    def lease(self, name: str = "compactor", ttl: float = 600.0) -> Iterator[None]:
        """Be the only one, by a numbered chain of create-only objects: the greatest number is the holder.

        A lease past its time is taken over by creating the next number; of two that try, the store lets one. Losing a
        lease that is still in use costs work, never rows: a compaction commits by creating the next index number.
        """
        folder = f"lease-{name}"
        taken = LeaseHeld(f"another process has just taken {self.url(folder)}; wait for it, then try again")
        chain = sorted(entry.name for entry in self.entries(folder))
        if chain:
            try:
                held = json.loads(self.read(f"{folder}/{chain[-1]}"))
            except FileNotFoundError:
                raise taken from None
            if held["expires"] > time.time():
                raise LeaseHeld(f"{held['holder']} holds {self.url(folder)} until {time.ctime(held['expires'])}")
        number = int(chain[-1].split(".")[0]) + 1 if chain else 1
        mine = f"{folder}/{number:012d}.json"
        holder = f"{socket.gethostname()}:{os.getpid()}"
        if not self.create(mine, json.dumps({"holder": holder, "expires": time.time() + ttl}).encode()):
            raise taken
        if max(entry.name for entry in self.entries(folder)) > f"{number:012d}.json":
            self.remove(mine)  # the number was free again because the chain had gone on since it was read
            raise taken
        for old in chain:
            self.remove(f"{folder}/{old}")
        try:
            yield
        finally:
            self.filesystem.pipe_file(f"{self.root}/{mine}", json.dumps({"holder": holder, "expires": 0}).encode())


Store = LocalStore | ObjectStore


def open_store(library: str | os.PathLike[str] | Store) -> Store:
    """The catalogue's files for a library given as path or address."""
    if isinstance(library, LocalStore | ObjectStore):
        return library
    text = os.fspath(library)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    return ObjectStore(text) if "://" in text else LocalStore(text)


def _modified(info: dict[str, Any]) -> float:
    stamp = info.get("LastModified") or info.get("last_modified") or info.get("mtime") or info.get("created") or 0.0
    return stamp.timestamp() if hasattr(stamp, "timestamp") else float(stamp)


def _link(scratch: Path, target: Path) -> bool:
    """Give the finished file its name; False when the name is taken."""
    try:
        os.link(scratch, target)
    except FileExistsError:
        return False
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
            raise
        if target.exists():  # a file system without hard links: writers' names are unique, compactors hold the lease
            return False
        os.rename(scratch, target)
    sync(target.parent)
    return True


@contextlib.contextmanager
def remote_errors(where: str) -> Iterator[None]:
    """An object store that refuses or does not answer, in words that say what to do."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in CLIENTS:
            raise
        raise TransientError(
            f"{where} cannot be reached: {error}. Check the address, the credentials (AWS_ACCESS_KEY_ID and so on, "
            "or a profile) and the network, then try again"
        ) from error
