"""A place in a bucket, which speaks as much of pathlib as a library's own folders need; and the one holder of a name.

    place = BucketPath("s3://farm/props/runs/r1")
    (place / "summary.json").write_bytes(b"{}")       # whole, or not at all
    (place / "marker").create(b"")                    # False where it is there already: a PUT with If-None-Match
    with held(place / "lease") as mine: ...

Every look asks the store: nothing is remembered, but for what a listing told of the files that it names. fsspec speaks
to the store, s3fs for ``s3://``.
"""

from __future__ import annotations

import contextlib
import io
import json
import logging
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from pipeline_core.errors import RequestError, TransientError
from pipeline_core.python import process_alive, this_host

log = logging.getLogger("splatmill")

CLIENTS = ("botocore", "aiobotocore", "aiohttp")
"""Packages whose errors s3fs lets through."""
LEASE_S = 30.0
"""A holder that has not renewed its lease for so long, by the store's clock, has lost it."""


class BucketError(TransientError, OSError):
    """A bucket refuses or does not answer; for callers that can do without the file it is an ``OSError`` as any."""


@dataclass(frozen=True)
class Stat:
    """What the store tells of a file: bytes, last change in seconds since 1970, and the tag of its content."""

    st_size: int
    st_mtime: float
    tag: str


class BucketPath:
    """An address such as ``s3://bucket/library/runs``. Two are equal when their addresses are."""

    def __init__(self, address: str, *, filesystem: Any = None, told: Stat | None = None) -> None:
        self.address, self.filesystem, self._told = address.rstrip("/"), filesystem, told
        if filesystem is None:
            self.filesystem, _ = connect(self.address)

    # --- names -------------------------------------------------------------------------------------------------------

    def __str__(self) -> str:
        return self.address

    def __repr__(self) -> str:
        return f"BucketPath({self.address!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, BucketPath) and self.address == other.address

    def __lt__(self, other: BucketPath) -> bool:
        return self.address < other.address

    def __hash__(self) -> int:
        return hash(self.address)

    def __truediv__(self, name: str | os.PathLike[str]) -> BucketPath:
        return BucketPath(f"{self.address}/{os.fspath(name)}", filesystem=self.filesystem)

    @property
    def path(self) -> str:
        """The address without its scheme, as fsspec has it."""
        return self.address.split("://", 1)[1]

    @property
    def parent(self) -> BucketPath:
        """The folder that it lies in."""
        return BucketPath(self.address.rpartition("/")[0], filesystem=self.filesystem)

    @property
    def name(self) -> str:
        """The last part."""
        return self.address.rpartition("/")[2]

    @property
    def stem(self) -> str:
        """The name without its last ending."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The last ending of the name, with its dot."""
        return PurePosixPath(self.name).suffix

    def relative_to(self, other: BucketPath) -> PurePosixPath:
        """The rest of the address below ``other``."""
        return PurePosixPath(self.path).relative_to(other.path)

    def absolute(self) -> BucketPath:
        """Itself."""
        return self

    # --- looking -----------------------------------------------------------------------------------------------------

    def stat(self) -> Stat:
        """Raises ``FileNotFoundError``."""
        if self._told is None:
            with self._errors():
                return _stat(self.filesystem.info(self.path))
        return self._told

    def exists(self) -> bool:
        """Whether there is such a file, or a file below it."""
        with self._errors():
            return self.filesystem.exists(self.path)

    def is_file(self) -> bool:
        """Whether there is such a file."""
        with self._errors():
            return self.filesystem.isfile(self.path)

    def is_dir(self) -> bool:
        """Whether there is a file below it."""
        with self._errors():
            return self.filesystem.isdir(self.path)

    def iterdir(self) -> Iterator[BucketPath]:
        """What lies directly in it, in order; nothing where there is no such folder."""
        with contextlib.suppress(FileNotFoundError), self._errors():
            found = self.filesystem.ls(self.path, detail=True)
            yield from sorted(self._listed(info) for info in found if info["name"].rstrip("/") != self.path)

    def glob(self, pattern: str) -> Iterator[BucketPath]:
        """The files below it that match, in order; ``*`` stands for a part of one name."""
        fixed = pattern.split("*", 1)[0].rpartition("/")[0]
        wanted = re.compile("[^/]*".join(map(re.escape, pattern.split("*"))))
        with self._errors():
            found = self.filesystem.find(f"{self.path}/{fixed}".rstrip("/"), detail=True)
        for name in sorted(found):
            if wanted.fullmatch(name.removeprefix(self.path + "/")):
                yield self._listed(found[name])

    def _listed(self, info: dict[str, Any]) -> BucketPath:
        told = _stat(info) if info["type"] == "file" else None
        return BucketPath(f"{self.address.split('://')[0]}://{info['name']}", filesystem=self.filesystem, told=told)

    def now(self) -> float:
        """The time by the store's clock, in seconds since 1970."""
        probe = self / f".time-{uuid.uuid4().hex}"
        probe.touch()
        try:
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    # --- reading and writing -----------------------------------------------------------------------------------------

    def read_bytes(self) -> bytes:
        """Raises ``FileNotFoundError``."""
        with self._errors():
            return self.filesystem.cat_file(self.path)

    def read_text(self, encoding: str = "utf-8") -> str:
        """Raises ``FileNotFoundError``."""
        return self.read_bytes().decode(encoding)

    def open(self, mode: str = "r", encoding: str = "utf-8") -> IO[Any]:
        """The whole file, for reading."""
        assert mode in ("r", "rb"), mode
        data = io.BytesIO(self.read_bytes())
        return data if mode == "rb" else io.TextIOWrapper(data, encoding)

    def write_bytes(self, data: bytes) -> str:
        """Put a file there whole, or in the place of one; returns the tag of its content."""
        with self._errors():
            answer = self.filesystem.pipe_file(self.path, data)
        return str(answer["ETag"]).strip('"') if answer and "ETag" in answer else self.stat().tag

    def create(self, data: bytes) -> bool:
        """Put a file where none is; False, and nothing is changed, where one is."""
        try:
            with self._errors():
                self.filesystem.pipe_file(self.path, data, mode="create")
        except FileExistsError:
            return False
        return True

    def touch(self) -> None:
        """Make its last change now; the file becomes empty."""
        self.write_bytes(b"")

    def download(self, target: Path) -> None:
        """Copy it to a path of this machine. Raises ``FileNotFoundError``."""
        with self._errors():
            self.filesystem.get_file(self.path, str(target))

    def unlink(self, missing_ok: bool = False) -> None:
        """Delete it; a store does not tell whether it was there."""
        with contextlib.suppress(FileNotFoundError), self._errors():
            self.filesystem.rm_file(self.path)

    def rename(self, target: BucketPath) -> None:
        """Copy, then delete: who looks in between sees both. Raises ``FileNotFoundError``."""
        target.write_bytes(self.read_bytes())
        self.unlink()

    def mkdir(self, parents: bool = True, exist_ok: bool = True) -> None:
        """Buckets have no folders."""

    def _errors(self) -> contextlib.AbstractContextManager[None]:
        return remote_errors(self.address, BucketError)


Place = Path | BucketPath
"""Where a library's own folders may lie."""


def connect(address: str) -> tuple[Any, str]:
    """The file system of an address and the path in it. Raises :class:`RequestError` where there is none."""
    import fsspec  # takes a while, and few libraries need it

    try:  # listings must be fresh: fsspec would otherwise answer from its own cache
        return fsspec.core.url_to_fs(address, use_listings_cache=False)
    except (ValueError, ImportError) as error:
        raise RequestError(f"{address}: {error}. S3 needs `pip install 'splatmill[s3]'`") from error


@contextlib.contextmanager
def remote_errors(where: str, kind: type[TransientError] = TransientError) -> Iterator[None]:
    """An object store that refuses or does not answer, in words that say what to do."""
    try:
        yield
    except (FileNotFoundError, FileExistsError):
        raise
    except Exception as error:
        if not isinstance(error, OSError) and type(error).__module__.partition(".")[0] not in CLIENTS:
            raise
        raise kind(
            f"{where} cannot be reached: {error}. Check the address, the credentials (AWS_ACCESS_KEY_ID and so on, "
            "or a profile) and the network, then try again"
        ) from error


def modified(info: dict[str, Any]) -> float:
    """Last change of a listed file in seconds since 1970; 0 where the store does not tell."""
    stamp = info.get("LastModified") or info.get("last_modified") or info.get("mtime") or info.get("created") or 0.0
    return stamp.timestamp() if hasattr(stamp, "timestamp") else float(stamp)


def _stat(info: dict[str, Any]) -> Stat:
    return Stat(info["size"] or 0, modified(info), str(info.get("ETag") or info.get("etag") or "").strip('"'))


def check_create_only(folder: BucketPath) -> None:
    """Raise :class:`RequestError` where the store overwrites a file that was to be created: all sharing rests on it."""
    probe = folder / "create-only"
    text = b"Two PUTs with If-None-Match: * were made of this object, and the store let one.\n"
    if probe.create(text) and probe.create(text):
        probe.unlink()
        raise RequestError(
            f"{folder}: this store ignores If-None-Match, so that two processes could publish one output. Use a store "
            "with conditional writes (Amazon S3, MinIO, Cloudflare R2, Ceph), or make assets in a local folder and "
            f"`splatmill catalog push {folder}`"
        )


# --- leases ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def held(folder: BucketPath, *, ttl_s: float = LEASE_S) -> Iterator[BucketPath | None]:
    """Be the only holder of ``folder``, among all hosts that use the bucket. Yields its file; None while another is.

    The files in it are a chain of numbers, each created by one process; the greatest is the holder's, who renews it
    until the block ends and then deletes it. A holder that does not renew for ``ttl_s``, or whose process is gone from
    this host, is followed by the next number.
    """
    mine = _take(folder, ttl_s)
    if mine is None:
        yield None
        return
    try:
        with renewed(lambda: _renew(mine), ttl_s / 3):
            yield mine
    finally:
        with contextlib.suppress(OSError):
            mine.unlink()


@contextlib.contextmanager
def renewed(renew: Callable[[], bool], every_s: float) -> Iterator[None]:
    """Call ``renew`` in a thread every so many seconds while the block lasts, until it is False: the lease is lost."""
    over = threading.Event()

    def keep() -> None:
        while not over.wait(every_s) and renew():
            pass

    thread = threading.Thread(target=keep, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def _take(folder: BucketPath, ttl_s: float) -> BucketPath | None:
    before = list(folder.iterdir())
    try:
        if before and not _is_over(before[-1], ttl_s):
            return None
    except FileNotFoundError:  # left this very moment
        return None
    mine = folder / f"{int(before[-1].stem) + 1 if before else 1:012d}.json"
    if not mine.create(_holder()):
        return None
    # a number may be free again that others took and left since the look, and a holder may have come back to life
    others = {(each.name, each.stat().tag) for each in folder.iterdir() if each != mine}
    if not others <= {(each.name, each.stat().tag) for each in before}:
        mine.unlink()
        return None
    for old in before:
        old.unlink()
    return mine


def _is_over(last: BucketPath, ttl_s: float) -> bool:
    holder = json.loads(last.read_bytes())
    if holder["host"] == this_host() and not process_alive(holder["pid"]):
        return True
    return last.parent.parent.now() - last.stat().st_mtime > ttl_s


def _renew(mine: BucketPath) -> bool:
    with contextlib.suppress(OSError):  # the store is away: the next round tries again
        if max(mine.parent.iterdir(), default=mine) != mine:
            log.warning("%s was given to another holder: this process was silent for too long", mine.parent)
            return False
        mine.write_bytes(_holder())
    return True


def _holder() -> bytes:
    return json.dumps({"host": this_host(), "pid": os.getpid(), "sign": uuid.uuid4().hex}).encode()
