"""The library: where outputs lie, how they are named by what they were made from, and when they may be trusted.

    library = Library("library")
    key = stage_key("init_points", 1, prompt="a red mug", seed=0, models=["starter@0123456789abcdef"])
    with library.workspace() as folder:
        (folder / "points.ply").write_bytes(b"ply ...")
        library.publish(folder, "init_points", key, record)
    library.find("init_points", key)      # the record, or None when anything is missing or damaged

    <library>/
      assets/<asset_id>/           what an artist takes; replaced as a whole when an asset is made again
      stages/<stage>/<key>/        immutable outputs and their record.json, published by write, fsync, rename
      inputs/<sha256>.<ext>        copies of the files that manifest rows named; work is done from these
      edits/<asset_id>/            an edited splat and the manifest that makes an asset of it
      checkpoints/                 unfinished optimisations; gone when the stage is done
      catalog/                     rows (catalog.store)
      records/                     rows that belong to no output: requests, failures, reviews (catalog.rebuild)
      runs/<run_id>/               report of one run
      leases/                      locks of the assets that runs are making
      tmp/                         work in progress; what a killed process left there is swept

Two processes that make the same stage at once are harmless: the first to publish wins and the other takes that
output. Whether something is done is answered by these files alone.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import socket
import time
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline_core import deliverables, stages
from pipeline_core.bucket import Place
from pipeline_core.errors import RequestError, TransientError
from pipeline_core.files import disk_errors, lock, replaced, sync, write_json
from pipeline_core.python import process_alive
from pipeline_core.spec import FileRef

RECORD = "record.json"
STALE_S = 7 * 86400.0


def stage_key(stage: str, version: int, **parts: Any) -> str:
    """Name of a stage's output: 32 hex digits of the sha256 of everything it depends on, as canonical JSON.

    ``version`` is the stage's own, raised when its code changes what it makes; ``parts`` are upstream keys, settings'
    fingerprints, model ids, seed, prompt and whatever else decides the output.
    """
    text = json.dumps({"stage": stage, "version": version, **parts}, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def sha256_file(path: Place) -> str:
    """Hex sha256 of a file; one that lies on a disk is read in pieces."""
    opened: Any = path.open("rb")
    with opened as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_hashed: dict[tuple[int, ...], str] = {}
MOST_HASHED = 10_000


def known_sha256(path: Path) -> str:
    """The same, computed once by this process: a file that it has read, and that nobody touched since, is not read
    again."""
    mark = _mark(path)
    digest = _hashed.get(mark)
    if digest is None:
        digest = sha256_file(path)
        _remember(mark, digest)
    return digest


def copy_known(source: Path, target: Path) -> None:
    """Copy a file whose sha256 this process knows, and know the copy's."""
    digest = known_sha256(source)
    shutil.copyfile(source, target)
    _remember(_mark(target), digest)


def _mark(path: Path) -> tuple[int, ...]:
    """What a file is known by: it stays the same when the file is moved, and changes when it is written."""
    stat = path.stat()
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _remember(mark: tuple[int, ...], digest: str) -> None:
    if len(_hashed) >= MOST_HASHED:
        _hashed.clear()
    _hashed[mark] = digest


def _delete(folder: Path) -> None:
    """Delete a folder, and forget its files: on a disk that knows times by the second, a new file may look like one."""
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            with contextlib.suppress(OSError):
                _hashed.pop(_mark(folder / name), None)
    shutil.rmtree(folder, ignore_errors=True)


class Library:
    """A library in a local folder; of an address such as ``s3://farm/props`` it is a
    :class:`pipeline_core.bucket_library.BucketLibrary`. Making the object touches nothing; :meth:`create` makes the
    folders.

    ``local``: the folder of this machine that work is done in, the library's own where that is on this machine.
    """

    root: Any
    local: Path
    look_again_s = 0.0
    """A lease that another run holds is not looked at again before."""
    looks_at_once = 1
    """So many threads look for finished assets."""

    def __new__(cls, root: str | os.PathLike[str]) -> Library:
        if cls is Library and "://" in str(root):
            from pipeline_core.bucket_library import BucketLibrary

            return object.__new__(BucketLibrary)
        return object.__new__(cls)

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = self.local = Path(root).expanduser().absolute()

    def create(self) -> Library:
        """Make the folders; raises :class:`RequestError` when that is not possible."""
        try:
            for name in ("assets", "stages", "checkpoints", "runs", "tmp"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            why = f"cannot be created ({error.strerror}); give another folder"
            raise RequestError(f"--library {self.root}: {why}") from error
        return self

    # --- places ------------------------------------------------------------------------------------------------------

    def stage_dir(self, stage: str, key: str) -> Any:
        """Folder of a stage's output."""
        assert stage in stages.all_names() and re.fullmatch("[0-9a-f]{32}", key), (stage, key)
        return self.root / "stages" / stage / key

    def asset_dir(self, asset_id: str) -> Any:
        """Folder that an artist takes. ``asset_id`` comes from a validated spec, so it is one plain path part."""
        assert re.fullmatch("[a-z0-9][a-z0-9_-]*", asset_id), asset_id
        return self.root / "assets" / asset_id

    def lease(self, asset_id: str) -> Any:
        """The lock file that a run holds while it makes an asset."""
        return self.root / "leases" / self.asset_dir(asset_id).name

    @contextlib.contextmanager
    def taking(self, asset_id: str) -> Iterator[bool]:
        """Hold the lease of an asset; yields False while another run of the library has it. Raises as ``lock`` does."""
        path = self.lease(asset_id)
        with lock(path, wait=False) as mine:
            try:
                yield mine
            finally:
                if mine:  # held still; who waits for it makes another
                    with contextlib.suppress(OSError):
                        os.unlink(path)

    def run_dir(self, run_id: str) -> Any:
        """Folder of a run's report."""
        assert re.fullmatch("[A-Za-z0-9][A-Za-z0-9_-]*", run_id), run_id
        return self.root / "runs" / run_id

    def input_file(self, ref: FileRef) -> Any:
        """The library's copy of a file that a manifest row named."""
        return self.root / "inputs" / ref.file

    def checkpoint(self, stage: str, key: str) -> Path:
        """Where an unfinished optimisation keeps its state."""
        assert stage in stages.all_names(), stage
        return self.local / "checkpoints" / f"{stage}-{key}.safetensors"

    # --- making ------------------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def workspace(self) -> Iterator[Path]:
        """A private folder on the library's file system; removed at the end unless it was published."""
        with disk_errors(self.local):
            (self.local / "tmp").mkdir(parents=True, exist_ok=True)
            folder = self._private_folder()
        try:
            with disk_errors(self.local):
                yield folder
        finally:
            _delete(folder)

    def _private_folder(self) -> Path:
        """A new folder in ``tmp``, named by host and process so that `sweep` can tell what a dead process left."""
        folder = self.local / "tmp" / f"{_host()}.{os.getpid()}.{uuid.uuid4().hex}"
        folder.mkdir()
        return folder

    def outputs(self, folder: Path, place: Any) -> list[dict[str, Any]]:
        """What lies in ``folder``, as it will be listed in the record once it lies at ``place``."""
        found = []
        for path in sorted(folder.iterdir()):
            if path.name == RECORD or not path.is_file():
                continue
            stat = path.stat()
            found.append(
                {
                    "role": deliverables.role(path.name),
                    "path": (place / path.name).relative_to(self.root).as_posix(),
                    "sha256": known_sha256(path),
                    "bytes": stat.st_size,
                    "media_type": deliverables.media_type(path.name),
                    "mtime_ns": stat.st_mtime_ns,
                }
            )
        return found

    def publish(self, folder: Path, stage: str, key: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Make a workspace the stage's output, durably and at once. Returns the record that holds from now on.

        When another process has published the same stage meanwhile, its output stays and its record is returned.
        """
        write_json(folder / RECORD, record)
        target = self.stage_dir(stage, key)
        with disk_errors(self.root):
            _sync_tree(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(10):
                try:
                    os.rename(folder, target)
                    sync(target.parent)
                    return dict(record)
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                theirs = self.find(stage, key)
                if theirs is not None:
                    return theirs
        raise TransientError(f"{target} could not be published: others keep replacing it; run again")

    def publish_asset(self, folder: Path, asset_id: str) -> Place:
        """Put a workspace in place as ``assets/<asset_id>``, replacing an older one as a whole."""
        target = self.asset_dir(asset_id)
        with disk_errors(self.root):
            _sync_tree(folder)
            target.parent.mkdir(parents=True, exist_ok=True)
            for _ in range(10):
                try:
                    os.rename(folder, target)
                    sync(target.parent)
                    return target
                except OSError as error:
                    if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                        raise
                self._move_away(target)
        raise TransientError(f"{target} could not be replaced: others keep writing it; run again")

    def keep_input(self, ref: FileRef, source: Path) -> bool:
        """Copy what a row named into the library, unless a whole copy is there.

        Returns False, and keeps nothing, where ``source`` is gone or no longer what was planned.
        """
        if self.whole_input(ref) is not None:
            os.utime(self.input_file(ref))  # young again: gc leaves it alone
            return True
        try:
            file = source.open("rb")
        except OSError:
            return False
        with file, self.workspace() as folder:
            scratch = folder / ref.file
            with scratch.open("wb") as copy:
                shutil.copyfileobj(file, copy, 1 << 20)
            if sha256_file(scratch) != ref.sha256:
                return False
            with replaced(self.input_file(ref), durable=True) as whole:
                os.rename(scratch, whole)
        return True

    # --- finding -----------------------------------------------------------------------------------------------------

    def find(self, stage: str, key: str, *, quick: bool = False) -> dict[str, Any] | None:
        """The stage's record when its outputs are whole, else None.

        Every sha256 is computed again; with ``quick``, only for files whose size or time of change is not the recorded
        one. A damaged output is moved out of the way, so that the stage is simply made again.
        """
        target = self.stage_dir(stage, key)
        try:
            record = json.loads((target / RECORD).read_bytes())
            artifacts = record["artifacts"] if record["stage_key"] == key else None
            whole = artifacts is not None and all(self._is_whole(artifact, quick) for artifact in artifacts)
        except FileNotFoundError:
            if not target.exists():
                return None
            whole = False
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            self._move_away(target)
            return None
        return record

    def whole_file(self, stage: str, key: str, name: str) -> Path | None:
        """Where an output's file lies, whole to the last byte as this process knows it; None when it is damaged."""
        record = self.find(stage, key, quick=True)
        artifacts = record["artifacts"] if record else ()
        for artifact in artifacts:
            path = self.root / artifact["path"]
            if path.name == name:
                with contextlib.suppress(FileNotFoundError):  # somebody else found it damaged and moved it away
                    if known_sha256(path) == artifact["sha256"]:
                        return path
                self.discard(stage, key)
        return None

    def whole_input(self, ref: FileRef) -> Path | None:
        """Where the copy of a row's file lies, whole as this process knows it; None where it is not."""
        path = self.input_file(ref)
        with contextlib.suppress(FileNotFoundError):
            if known_sha256(path) == ref.sha256:
                return path
        return None

    def file(self, path: str) -> Path:
        """Where a file of the library, by its path in it, can be read on this machine. Raises ``FileNotFoundError``."""
        return self.root / path

    def has(self, stage: str, key: str) -> bool:
        """Whether a record is there: for previews such as ``splatmill plan``, which change nothing."""
        return (self.stage_dir(stage, key) / RECORD).is_file()

    def discard(self, stage: str, key: str) -> None:
        """Remove a stage's output, so that it is made again."""
        self._move_away(self.stage_dir(stage, key))

    def _is_whole(self, artifact: Mapping[str, Any], quick: bool) -> bool:
        path = self.root / artifact["path"]
        try:
            stat = path.stat()
        except OSError:
            return False
        if stat.st_size != artifact["bytes"]:
            return False
        if quick and stat.st_mtime_ns == artifact.get("mtime_ns"):
            return True
        return (known_sha256 if quick else sha256_file)(path) == artifact["sha256"]

    # --- sweeping ----------------------------------------------------------------------------------------------------

    def _move_away(self, target: Path) -> None:
        """Move a folder into ``tmp`` and delete it there; somebody else may be doing the same."""
        with contextlib.suppress(FileNotFoundError), disk_errors(self.root):
            (self.root / "tmp").mkdir(parents=True, exist_ok=True)
            away = self._private_folder()
            os.rename(target, away / "replaced")
            _delete(away / "replaced")
            away.rmdir()

    def sweep(self) -> int:
        """Delete what killed processes left in ``tmp`` and of checkpoints; returns how many folders and files.

        A folder goes when its process on this host is dead, or after a week, whoever made it; half a checkpoint after a
        week.
        """
        swept = 0
        for half in (self.local / "checkpoints").glob(".*.part"):
            with contextlib.suppress(OSError):
                if time.time() - half.stat().st_mtime > STALE_S:
                    half.unlink()
                    swept += 1
        with contextlib.suppress(FileNotFoundError):
            for entry in os.scandir(self.local / "tmp"):
                host, _, rest = entry.name.partition(".")
                pid = rest.partition(".")[0]
                with contextlib.suppress(OSError):
                    mine = host == _host() and pid.isdigit()
                    if (mine and not process_alive(int(pid))) or time.time() - entry.stat().st_mtime > STALE_S:
                        shutil.rmtree(entry.path, ignore_errors=True)
                        swept += 1
        return swept


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9-]", "-", socket.gethostname()) or "host"


def _sync_tree(folder: Path) -> None:
    for path in folder.iterdir():
        sync(path)
    sync(folder)
