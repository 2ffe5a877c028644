"""A library on an object store (``s3://bucket/library``), through fsspec.

Create-if-absent is one conditional PUT (``If-None-Match: *``), fsspec's ``mode="create"``; everything rests on it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from catalog.store import Entry, LeaseHeld, Store
from pipeline_core.bucket import connect, modified, remote_errors
from pipeline_core.files import cache_folder


class ObjectStore(Store):
    """A library in a bucket."""

    def __init__(self, url: str) -> None:
        self.filesystem, path = connect(url)
        self.scheme = url.split("://", 1)[0]
        self.root = path.rstrip("/") + "/catalog"

    def url(self, name: str) -> str:
        return f"{self.scheme}://{self.root}/{name}"

    def exists(self) -> bool:
        with remote_errors(self.url("")):
            return self.filesystem.exists(self.library)

    def entries(self, folder: str) -> list[Entry]:
        return self._entries(f"{self.root}/{folder}")

    def _entries(self, folder: str) -> list[Entry]:
        self.filesystem.invalidate_cache()
        try:
            with remote_errors(f"{self.scheme}://{folder}"):
                found = self.filesystem.ls(folder, detail=True)
        except FileNotFoundError:
            return []
        return [Entry(f["name"].rsplit("/", 1)[1], f["size"] or 0, modified(f)) for f in found if f["type"] == "file"]

    def read(self, name: str) -> bytes:
        with remote_errors(self.url(name)):
            return self.filesystem.cat_file(f"{self.root}/{name}")

    def create(self, name: str, data: bytes) -> bool:
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
        """Deleted at once; buckets have versioning for the fearful."""
        self.remove(name)

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.rm_file(f"{self.root}/{name}")

    def purge(self, folder: str, before: float) -> None:
        for entry in self.entries(folder):
            if entry.modified < before:
                self.remove(f"{folder}/{entry.name}")

    @contextlib.contextmanager
    def lease(self, name: str = "compactor", ttl: float = 600.0) -> Iterator[None]:
        """A numbered chain of create-only objects: the greatest number is the holder.

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

    def snapshot_path(self) -> Path:
        """In the user's cache."""
        digest = hashlib.sha256(self.url("").encode()).hexdigest()[:16]
        return cache_folder() / "snapshots" / digest / "catalog.duckdb"

    def size(self, path: str) -> int | None:
        full = f"{self.library}/{path}"
        try:
            with remote_errors(full):
                return self.filesystem.size(full)
        except FileNotFoundError:
            return None

    def open(self, path: str) -> BinaryIO:
        full = f"{self.library}/{path}"
        with remote_errors(full):
            return self.filesystem.open(full, "rb")

    def write(self, path: str, data: bytes) -> None:
        full = f"{self.library}/{path}"
        with remote_errors(full):
            self.filesystem.pipe_file(full, data)

    def set_aside(self, path: str) -> None:
        """Copy, then delete."""
        full = f"{self.library}/{path}"
        with remote_errors(full):
            self.filesystem.copy(full, f"{self.root}/quarantine/{path.replace('/', '~')}")
            self.filesystem.rm_file(full)

    def inputs(self) -> list[Entry]:
        return self._entries(f"{self.library}/inputs")

    def collect_input(self, name: str) -> None:
        """Deleted at once."""
        self.filesystem.rm_file(f"{self.library}/inputs/{name}")

    def glob(self, pattern: str) -> list[str]:
        found = self.filesystem.glob(f"{self.library}/{pattern}")
        return sorted(path.removeprefix(self.library + "/") for path in found)

    def _outputs(self) -> Iterator[tuple[str, str, float, list[Entry]]]:
        """There are no folders here whose last change could be told."""
        root = f"{self.library}/stages"
        self.filesystem.invalidate_cache()
        groups: dict[tuple[str, str], list[Entry]] = {}
        for path, info in self.filesystem.find(root, detail=True).items():
            stage, key, name = path.removeprefix(root + "/").split("/", 2)
            groups.setdefault((stage, key), []).append(Entry(name, info["size"], modified(info)))
        for (stage, key), files in sorted(groups.items()):
            yield stage, key, 0.0, files

    def total(self) -> int:
        return sum(info["size"] for info in self.filesystem.find(self.library, detail=True).values())

    def delete(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError), remote_errors(path):
            self.filesystem.rm_file(f"{self.library}/{path}")

    def collected(self) -> list[Entry]:
        """Nothing: what is let go of is deleted at once."""
        return []

    def drop(self, name: str) -> None:
        """Nothing is left of it."""

    def collect(self, stage: str, key: str) -> None:
        """Deleted at once; the record goes first: without it the rest is no output any more."""
        found = self.filesystem.find(f"{self.library}/stages/{stage}/{key}")
        for file in sorted(found, key=lambda file: not file.endswith("/record.json")):
            self.filesystem.rm_file(file)
