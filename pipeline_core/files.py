"""Files, locks and places, each in one way: write a file whole, be the only one, find a folder, say what a disk lacks.

    write_json(folder / "summary.json", document)
    with replaced(folder / "weights.safetensors") as scratch:      # for writers that want a path of their own
        save_file(tensors, scratch)
    with lock(folder / "lock", wait=False) as mine:
        ...

A reader meets the old file or the new one, however many threads and processes write it and wherever one is killed; what
a killed one leaves is named ``.<name>.<digits>.part``.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import json
import logging
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

from filelock import FileLock, Timeout

from pipeline_core.bucket import BucketPath, Place, held
from pipeline_core.errors import DiskError

log = logging.getLogger(__name__)


@contextlib.contextmanager
def replaced(path: Place, *, durable: bool = False) -> Iterator[Path]:
    """A name beside ``path`` (on this machine, where that is in a bucket) to write a file to, which takes the place of
    ``path`` at the end of the block.

    When the block fails, ``path`` stays what it was. ``durable`` files outlive a power cut that comes after the block.
    Folders are made. Raises :class:`DiskError` when the disk is full or cannot be written.
    """
    if isinstance(path, BucketPath):
        with tempfile.TemporaryDirectory(prefix="splatmill-") as folder:
            yield Path(folder) / path.name
            path.write_bytes((Path(folder) / path.name).read_bytes())
        return
    scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield scratch
            if durable:
                sync(scratch)
            os.replace(scratch, path)
            if durable:
                sync(path.parent)
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink()


def write_bytes(path: Place, data: bytes, *, durable: bool = False, mode: int = 0o666) -> None:
    """Write a file whole, as :func:`replaced` does; ``mode`` is narrowed by the process's umask."""
    if isinstance(path, BucketPath):
        path.write_bytes(data)
        return
    with replaced(path, durable=durable) as scratch:
        with open(os.open(scratch, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)


def write_text(path: Place, text: str, *, durable: bool = False, mode: int = 0o666) -> None:
    """Write UTF-8 text whole; line ends stay as they are."""
    write_bytes(path, text.encode(), durable=durable, mode=mode)


def create(path: Place, data: bytes) -> bool:
    """Write a file whole where there is none of that name yet; False, and nothing is changed, where there is one.

    Of several processes and hosts one is told True: a hard link is made or refused at once, over NFS as well;
    in a bucket by a PUT with ``If-None-Match: *``.
    """
    if isinstance(path, BucketPath):
        return path.create(data)
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        scratch = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
        try:
            write_bytes(scratch, data)
            os.link(scratch, path)
        except FileExistsError:
            return os.path.samefile(scratch, path)  # an answer that was lost on the net is asked for again
        finally:
            with contextlib.suppress(OSError):
                scratch.unlink()
    return True


def write_json(path: Place, document: Any, *, durable: bool = False, mode: int = 0o666) -> None:
    """Write JSON that people also read, whole."""
    text = json.dumps(document, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    write_text(path, text, durable=durable, mode=mode)


def rename(source: Place, target: Place) -> None:
    """Give a file another name; in a bucket there are both for a moment. Raises ``FileNotFoundError``."""
    if isinstance(source, BucketPath) and isinstance(target, BucketPath):
        source.rename(target)
    else:
        os.rename(str(source), str(target))


def sync(path: Path) -> None:
    """Return when a file, or a folder's list of names, is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock(path: Place, *, wait: bool = True) -> Iterator[bool]:
    """Be the only holder of the lock file ``path``, among all hosts that share it. Yields False when another holds it.

    With ``wait`` that does not happen: the block begins when the lock is free. The kernel frees it when its holder dies
    (``flock``); the file stays. Raises :class:`DiskError` where it cannot be made or its file system has no locks.
    In a bucket it is a lease (``pipeline_core.bucket.held``), which is not waited for.
    """
    if isinstance(path, BucketPath):
        assert not wait, path
        with held(path) as holder:
            yield holder is not None
        return
    file = FileLock(path, thread_local=False, fallback_to_soft=False)
    mine = True
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            file.acquire(blocking=wait)
        except Timeout:
            mine = False
    try:
        yield mine
    finally:
        file.release()


def time_there(folder: Place) -> float:
    """The time by the clock of a folder's file system, which may be another machine's."""
    probe = folder / f".time-{uuid.uuid4().hex}"
    try:
        probe.touch()
        return probe.stat().st_mtime
    except OSError:
        return time.time()
    finally:
        probe.unlink(missing_ok=True)


# --- places ----------------------------------------------------------------------------------------------------------


def cache_folder() -> Path:
    """What can be made again: ``SPLATMILL_CACHE``, else :func:`user_folder` in ``XDG_CACHE_HOME`` or ~/.cache."""
    chosen = os.environ.get("SPLATMILL_CACHE")
    return Path(chosen) if chosen else user_folder("XDG_CACHE_HOME", ".cache")


def state_folder() -> Path:
    """What a user's processes tell one another: ``SPLATMILL_STATE``, else ``XDG_STATE_HOME`` or ~/.local/state."""
    chosen = os.environ.get("SPLATMILL_STATE")
    return Path(chosen) if chosen else user_folder("XDG_STATE_HOME", ".local/state")


def user_folder(variable: str, below_home: str) -> Path:
    """``$variable``/splatmill, else ``~/<below_home>/splatmill``; it need not exist, but can be made and written.

    Where it cannot, or the user has no home, it is a folder of this user's alone among the temporary files.
    """
    base = os.environ.get(variable) or os.path.join(os.path.expanduser("~"), below_home)
    folder = Path(base) / "splatmill"
    if not base.startswith("~") and _can_be_written(folder):
        return folder
    return _temporary(f"{folder} cannot be written", variable)


def ensure_home() -> None:
    """Give this process and those it starts a home where the user has none: many packages look for it when imported."""
    if os.path.expanduser("~") == "~":
        os.environ["HOME"] = str(_temporary("this user has no home", "HOME"))


def _can_be_written(folder: Path) -> bool:
    there = next(place for place in (folder, *folder.parents) if os.path.lexists(place))
    return os.path.isdir(there) and os.access(there, os.W_OK | os.X_OK)


@functools.cache
def _temporary(problem: str, variable: str) -> Path:
    shared = Path(tempfile.gettempdir()) / f"splatmill-{os.getuid()}"
    folder = shared if is_private(shared) else Path(tempfile.mkdtemp(prefix="splatmill-"))
    log.warning("%s: %s is used, which a restart may empty; set %s to another folder", problem, folder, variable)
    return folder


def is_private(folder: Path) -> bool:
    """Whether ``folder`` (created if needed) is ours alone: what lies in a shared place is not to be trusted."""
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        info = folder.lstat()
    except OSError:
        return False
    return info.st_uid == os.getuid() and stat.S_ISDIR(info.st_mode) and not info.st_mode & 0o022


# --- hashes ----------------------------------------------------------------------------------------------------------


class Hashes:
    """sha256 of files, kept for this user by place, size and times: what nobody touched is read once.

    Used as a context, which keeps what it learned; a cache that cannot be read or written only costs time.
    """

    def __init__(self) -> None:
        self._fresh: dict[str, Any] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._fresh:
            with contextlib.suppress(OSError):
                write_json(_hashes_file(), self._read() | self._fresh)

    @functools.cached_property
    def _known(self) -> dict[str, Any]:
        return self._read()

    @staticmethod
    def _read() -> dict[str, Any]:
        try:
            value = json.loads(_hashes_file().read_text())
        except (OSError, ValueError):
            return {}
        return value if isinstance(value, dict) else {}

    def sha256(self, path: Path) -> str:
        """Hex sha256 of the file that ``path`` leads to."""
        real = path.resolve()
        info = real.stat()
        mark = [info.st_size, info.st_mtime_ns, info.st_ctime_ns]
        entry = self._known.get(str(real))
        if isinstance(entry, list) and entry[:-1] == mark:
            return str(entry[-1])
        with real.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if info.st_size > 1 << 20:  # small files are read faster than looked up
            self._known[str(real)] = self._fresh[str(real)] = [*mark, digest]
        return digest

    def once(self, about: str, ask: Callable[[], str]) -> str:
        """What ``ask`` answered when ``about`` was first heard of: for answers that follow from a file's content."""
        entry = self._known.get(about)
        if not isinstance(entry, str):
            entry = self._known[about] = self._fresh[about] = ask()
        return entry


def _hashes_file() -> Path:
    return cache_folder() / "sha256.json"


# --- words -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """A disk that is full, may not be written or has no locks, as a :class:`DiskError` that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            free = shutil.disk_usage(next(place for place in (where, *where.parents) if os.path.exists(place))).free
            raise DiskError(
                f"{where} was not written: the disk is full ({free / 2**20:.1f} MiB free). Free some space "
                "(splatmill gc --delete), then run again: what is finished stays"
            ) from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise DiskError(
                f"{where} cannot be written ({error.strerror}). Mount it read-write or give this user write "
                "permission, then run again: what is finished stays"
            ) from error
        if error.errno in (errno.ENOLCK, errno.ENOSYS):
            raise DiskError(
                f"{where} cannot be locked ({error.strerror}). Mount its file system with locks (NFS: without nolock)"
            ) from error
        raise
