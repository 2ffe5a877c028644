"""Where a catalogue and its library lie: a folder, or a bucket of any object store that fsspec knows.

Five verbs carry the catalogue's whole protocol: list, read, create-if-absent, move to trash, lease. Their *names* are
relative to ``<library>/catalog``. The *paths* of the other verbs are relative to ``<library>``: stage outputs, their
records, and what was delivered. Nothing is ever written in place: a reader sees a whole file or none.

* POSIX: write to ``tmp/``, fsync, ``link`` to the final name (atomic, and refuses an existing name), fsync the folder.
* object store (:mod:`catalog.object_store`): one conditional PUT.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import uuid
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from pipeline_core.errors import RequestError
from pipeline_core.files import disk_errors, lock, sync, write_bytes

FOLDERS = ("live", "sealed", "index", "tmp", "trash", "quarantine")


@dataclass(frozen=True)
class Entry:
    """A listed file: its name within the folder, size in bytes, and seconds since 1970 of its last change."""

    name: str
    bytes: int
    modified: float


@dataclass(frozen=True)
class Output:
    """One folder ``stages/<stage>/<key>``: its size in bytes, last change, record (None: there is none), and files."""

    stage: str
    key: str
    bytes: int
    modified: float
    record: dict[str, Any] | None
    problem: str = ""
    files: tuple[Entry, ...] = ()


class LeaseHeld(RequestError):
    """Somebody else is compacting, sealing or collecting right now."""


class Store(ABC):
    """A library and its catalogue."""

    root: Any
    """The catalogue's own place."""
    filesystem: Any = None
    """What DuckDB needs to open the addresses of :meth:`url`; None where they are paths."""
    folder: Path | None = None
    """The library's folder on this machine; None for an object store."""

    @property
    def library(self) -> str:
        """The library's path or address."""
        return str(self.root).removesuffix("/catalog")

    # --- the catalogue -----------------------------------------------------------------------------------------------

    @abstractmethod
    def url(self, name: str) -> str:
        """Path or address as DuckDB opens it."""

    @abstractmethod
    def exists(self) -> bool:
        """Whether there is such a library."""

    def names(self, folder: str) -> list[str]:
        """Names of the files in ``folder``, unordered; empty when there is no such folder."""
        return [entry.name for entry in self.entries(folder)]

    @abstractmethod
    def entries(self, folder: str) -> list[Entry]:
        """The files in ``folder`` with size and age."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The whole file. Raises ``FileNotFoundError``."""

    @abstractmethod
    def create(self, name: str, data: bytes) -> bool:
        """Publish ``data`` under ``name``, durably; False when the name is taken (nothing is changed then)."""

    @abstractmethod
    def make_folders(self) -> None:
        """Make the catalogue's folders, where there is such a thing."""

    @abstractmethod
    def move(self, name: str, folder: str) -> None:
        """Move a file to ``trash`` or ``quarantine``, or back; no error when it is gone already."""

    @abstractmethod
    def discard(self, name: str) -> None:
        """Let go of a file that is no longer needed."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Delete a file; no error when it is gone already."""

    @abstractmethod
    def purge(self, folder: str, before: float) -> None:
        """Delete what was last changed before this time."""

    @abstractmethod
    def lease(self, name: str = "compactor", ttl: float = 600.0) -> contextlib.AbstractContextManager[None]:
        """Be the only one. Raises :class:`LeaseHeld` while another is."""

    @abstractmethod
    def snapshot_path(self) -> Path:
        """Where the snapshot lies on this machine."""

    # --- the library around it ---------------------------------------------------------------------------------------

    @abstractmethod
    def size(self, path: str) -> int | None:
        """Bytes of a file; None when it is not there."""

    @abstractmethod
    def open(self, path: str) -> BinaryIO:
        """A file for reading. Raises ``FileNotFoundError``."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Write a file, durably, whole or not at all."""

    def copy(self, source: str, target: str) -> None:
        """Make ``target`` a copy of another file, whole or not at all."""
        with self.open(source) as file:
            self.write(target, file.read())

    @abstractmethod
    def set_aside(self, path: str) -> None:
        """Move a file to the catalogue's quarantine, under its path with ``~`` for ``/``."""

    @abstractmethod
    def inputs(self) -> list[Entry]:
        """The files in ``inputs/``."""

    @abstractmethod
    def collect_input(self, name: str) -> None:
        """Let go of a file in ``inputs/``."""

    @abstractmethod
    def glob(self, pattern: str) -> list[str]:
        """Paths that match, in order."""

    def outputs(self) -> Iterator[Output]:
        """Every stage output, complete or not."""
        for stage, key, changed, files in self._outputs():
            total, modified = sum(f.bytes for f in files), max((f.modified for f in files), default=changed)
            record, problem = None, ""
            if any(file.name == "record.json" for file in files):
                try:
                    with self.open(f"stages/{stage}/{key}/record.json") as file:
                        record = json.load(file)
                except (ValueError, OSError) as error:
                    problem = f"record.json cannot be read: {error}"
            yield Output(stage, key, total, modified, record, problem, tuple(files))

    @abstractmethod
    def _outputs(self) -> Iterator[tuple[str, str, float, list[Entry]]]:
        """(stage, key, last change of the folder, its files by their names in it) of all outputs."""

    @abstractmethod
    def collect(self, stage: str, key: str) -> None:
        """Let go of an output, so that it is whole or is none wherever this is killed."""

    @abstractmethod
    def total(self) -> int:
        """Bytes of all files of the library."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete a file; no error when it is gone already."""

    @abstractmethod
    def collected(self) -> list[Entry]:
        """Outputs and inputs that were let go of and still take room, by their names in the trash."""

    @abstractmethod
    def drop(self, name: str) -> None:
        """Delete one of :meth:`collected` for good; no error when it is gone already."""


class LocalStore(Store):
    """A library in a folder."""

    folder: Path

    def __init__(self, library: str | os.PathLike[str]) -> None:
        self.folder = Path(library).absolute()
        self.root = self.folder / "catalog"

    def url(self, name: str) -> str:
        return str(self.root / name)

    def exists(self) -> bool:
        return self.folder.is_dir()

    def names(self, folder: str) -> list[str]:
        try:
            return os.listdir(self.root / folder)
        except FileNotFoundError:
            return []

    def entries(self, folder: str) -> list[Entry]:
        return _entries(self.root / folder)

    def read(self, name: str) -> bytes:
        return (self.root / name).read_bytes()

    def create(self, name: str, data: bytes) -> bool:
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
        for folder in FOLDERS:
            (self.root / folder).mkdir(parents=True, exist_ok=True)

    def move(self, name: str, folder: str) -> None:
        self._move(self.root / name, self.root / folder / Path(name).name)

    def _move(self, source: Path, target: Path) -> None:
        with disk_errors(source):
            target.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileNotFoundError):
                os.replace(source, target)
                os.utime(target)  # its time in the trash begins now

    def discard(self, name: str) -> None:
        """Into the trash, in case it is needed after all."""
        self.move(name, "trash")

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            (self.root / name).unlink()

    def purge(self, folder: str, before: float) -> None:
        """Collected stage outputs (folders) too."""
        with contextlib.suppress(FileNotFoundError), os.scandir(self.root / folder) as scan:
            for item in scan:
                with contextlib.suppress(FileNotFoundError):
                    if item.stat().st_mtime < before:
                        shutil.rmtree(item.path) if item.is_dir() else os.unlink(item.path)

    @contextlib.contextmanager
    def lease(self, name: str = "compactor", ttl: float = 600.0) -> Iterator[None]:
        """On any host that shares the folder; however long it takes (``ttl``): the kernel frees it when we die."""
        with disk_errors(self.root):
            self.make_folders()
        with lock(self.root / f"{name}.lock", wait=False) as mine:
            if not mine:
                raise LeaseHeld(f"another process holds {self.root}/{name}.lock; wait for it, then try again")
            yield

    def snapshot_path(self) -> Path:
        return self.root / "catalog.duckdb"

    def size(self, path: str) -> int | None:
        try:
            return (self.folder / path).stat().st_size
        except FileNotFoundError:
            return None

    def open(self, path: str) -> BinaryIO:
        return (self.folder / path).open("rb")

    def write(self, path: str, data: bytes) -> None:
        write_bytes(self.folder / path, data, durable=True)

    def set_aside(self, path: str) -> None:
        self._move(self.folder / path, self.root / "quarantine" / path.replace("/", "~"))

    def inputs(self) -> list[Entry]:
        return _entries(self.folder / "inputs")

    def collect_input(self, name: str) -> None:
        """Into the trash, as outputs."""
        self._move(self.folder / "inputs" / name, self.root / "trash" / f"inputs~{name}")

    def glob(self, pattern: str) -> list[str]:
        return sorted(path.relative_to(self.folder).as_posix() for path in self.folder.glob(pattern))

    def _outputs(self) -> Iterator[tuple[str, str, float, list[Entry]]]:
        for folder in sorted((self.folder / "stages").glob("*/*")):
            if folder.is_dir():
                files = []
                for path in folder.rglob("*"):
                    with contextlib.suppress(FileNotFoundError):
                        if path.is_file():
                            stat = path.stat()
                            files.append(Entry(path.relative_to(folder).as_posix(), stat.st_size, stat.st_mtime))
                yield folder.parent.name, folder.name, folder.stat().st_mtime, files

    def collect(self, stage: str, key: str) -> None:
        """One rename into the trash."""
        trash = self.root / "trash" / f"stages~{stage}~{key}"
        if trash.exists():
            shutil.rmtree(trash)
        self._move(self.folder / "stages" / stage / key, trash)

    def total(self) -> int:
        return _bytes_below(self.folder)

    def delete(self, path: str) -> None:
        (self.folder / path).unlink(missing_ok=True)

    def collected(self) -> list[Entry]:
        found = []
        for path in (self.root / "trash").glob("*~*"):
            with contextlib.suppress(FileNotFoundError):
                stat = path.stat()
                found.append(Entry(path.name, _bytes_below(path) if path.is_dir() else stat.st_size, stat.st_mtime))
        return found

    def drop(self, name: str) -> None:
        path = self.root / "trash" / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _bytes_below(folder: Path) -> int:
    total = 0
    for place, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                total += os.lstat(os.path.join(place, name)).st_size
    return total


def open_store(library: str | os.PathLike[str] | Store) -> Store:
    """The files of a library given as path or address."""
    if isinstance(library, Store):
        return library
    text = os.fspath(library)
    if text.startswith("file://"):
        text = text.removeprefix("file://")
    if "://" not in text:
        return LocalStore(text)
    from catalog.object_store import ObjectStore  # fsspec takes a while to import

    return ObjectStore(text)


def _entries(folder: Path) -> list[Entry]:
    found = []
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as scan:
        for item in scan:
            with contextlib.suppress(FileNotFoundError):
                if item.is_file():
                    stat = item.stat()
                    found.append(Entry(item.name, stat.st_size, stat.st_mtime))
    return found


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
