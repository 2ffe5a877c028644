"""A library in a bucket: work is done on this machine's disk, and what is finished is put into the bucket.

    Library("s3://farm/props")

    s3://farm/props/stages/<stage>/<key>/<attempt>/<file>   what one attempt wrote
                    stages/<stage>/<key>/record.json        created last: it names the attempt whose files count
                    assets/<asset_id>/<file>                what an artist takes
                    leases/<asset_id>/<number>.json         who makes an asset (``pipeline_core.bucket.held``)
                    create-only                             shows that the store honours If-None-Match
                    inputs/, catalog/, records/, runs/      as in a local folder

    <cache>/libraries/<digits>/tmp/            work in progress
                               checkpoints/    unfinished optimisations: another machine begins them anew
                               files/<sha256>/ copies that stages read; the longest unused go first

A process that is killed before its ``record.json`` leaves files that no record names; ``splatmill gc`` removes them. Of
two that make one stage, the store lets one create the record, and the other takes that output. Deliverables are written
in place, so that their addresses stay; their record has the tags that the store gave them, and no longer holds where
one of them is written again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline_core.bucket import BucketPath, Place, check_create_only, held
from pipeline_core.errors import RequestError, TransientError
from pipeline_core.files import cache_folder, disk_errors, replaced
from pipeline_core.spec import FileRef
from pipeline_core.storage import RECORD, Library, known_sha256, sha256_file

SIZE = "SPLATMILL_COPIES_GB"
"""Environment variable: GiB that the copies of one bucket's files may take on this machine; unset: 20."""
IN_USE_S = 3600.0
"""A copy that was asked for since so long is not removed."""
LOOK_AGAIN = 64
"""After so many new copies their size is looked at."""


class BucketLibrary(Library):
    """The same verbs as a local folder's. Raises :class:`pipeline_core.bucket.BucketError` while the store is away."""

    root: BucketPath
    look_again_s = 2.0
    looks_at_once = 16

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = BucketPath(str(root))
        digest = hashlib.sha256(str(self.root).encode()).hexdigest()[:16]
        self.local = cache_folder() / "libraries" / digest
        self._tags: dict[str, str] = {}

    def create(self) -> Library:
        """Look whether the bucket can be used. Raises :class:`RequestError` when it cannot."""
        for name in ("tmp", "checkpoints", "files"):
            with disk_errors(self.local):
                (self.local / name).mkdir(parents=True, exist_ok=True)
        most_bytes()
        try:
            check_create_only(self.root)
        except (FileNotFoundError, TransientError) as error:
            raise RequestError(f"--library {self.root}: {error}") from error
        return self

    @contextlib.contextmanager
    def taking(self, asset_id: str) -> Iterator[bool]:
        with held(self.lease(asset_id)) as mine:
            yield mine is not None

    # --- making ------------------------------------------------------------------------------------------------------

    def outputs(self, folder: Path, place: Any) -> list[dict[str, Any]]:
        """As for a local folder; a stage's files lie in a folder of this attempt's own."""
        mine = place if place.parent.name == "assets" else place / folder.name.rpartition(".")[2]
        return super().outputs(folder, mine)

    def publish(self, folder: Path, stage: str, key: str, record: Mapping[str, Any]) -> dict[str, Any]:
        """Put a workspace's files into the bucket, and then create the record. Returns the record that holds then."""
        record = dict(record) | {"artifacts": [self._put(folder, each) for each in record["artifacts"]]}
        marker, data = self.stage_dir(stage, key) / RECORD, json.dumps(record, indent=2, sort_keys=True).encode()
        for _ in range(10):
            if marker.create(data):
                self._bound()
                return record
            theirs = self.find(stage, key)  # ours where the answer to the first PUT was lost
            if theirs is not None:
                self._remove({each["path"] for each in record["artifacts"]} - {e["path"] for e in theirs["artifacts"]})
                return theirs
        raise TransientError(f"{marker} could not be created: others keep replacing it; run again")

    def publish_asset(self, folder: Path, asset_id: str) -> Place:
        """Put a workspace's files into ``assets/<asset_id>``, and remove those of an older one that has more."""
        target = self.asset_dir(asset_id)
        for path in sorted(folder.iterdir()):
            place = target / path.name
            self._tags[_path(self.root, place)] = place.write_bytes(path.read_bytes())
        for old in target.iterdir():
            if not (folder / old.name).exists():
                old.unlink()
        return target

    def _put(self, folder: Path, artifact: Mapping[str, Any]) -> dict[str, Any]:
        """Put an artifact into the bucket, unless that was done; returns it with its tag for its time of change."""
        path = artifact["path"]
        told = {name: value for name, value in artifact.items() if name != "mtime_ns"}
        if path in self._tags:
            return told | {"tag": self._tags[path]}
        source = folder / path.rpartition("/")[2]
        tag = (self.root / path).write_bytes(source.read_bytes())
        with replaced(self._copy(artifact["sha256"], source.name)) as copy:
            os.rename(source, copy)  # the next stage reads it
        return told | {"tag": tag}

    def keep_input(self, ref: FileRef, source: Path) -> bool:
        """As for a local folder: the file's name is its content's."""
        try:
            if known_sha256(source) != ref.sha256:
                return False
        except FileNotFoundError:
            return False
        self.input_file(ref).write_bytes(source.read_bytes())  # young again: gc leaves it alone
        return True

    # --- finding -----------------------------------------------------------------------------------------------------

    def find(self, stage: str, key: str, *, quick: bool = False) -> dict[str, Any] | None:
        """As for a local folder; ``quick`` compares the tags that the store tells, and reads no file."""
        target = self.stage_dir(stage, key)
        try:
            record = json.loads((target / RECORD).read_bytes())
            whole = record["stage_key"] == key and self._are_whole(record["artifacts"], quick)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError):
            whole = False
        if not whole:
            self.discard(stage, key)
            return None
        return record

    def _are_whole(self, artifacts: list[dict[str, Any]], quick: bool) -> bool:
        folders = {(self.root / each["path"]).parent for each in artifacts}
        there = {_path(self.root, file): file.stat() for folder in folders for file in folder.iterdir()}
        for each in artifacts:
            file = there.get(each["path"])
            if file is None or file.st_size != each["bytes"] or each.get("tag", file.tag) != file.tag:
                return False
        return quick or all(self._fetch(each["path"], each["sha256"], anew=True) for each in artifacts)

    def whole_file(self, stage: str, key: str, name: str) -> Path | None:
        """A copy of an output's file, whole to the last byte; None when it is damaged."""
        record = self.find(stage, key, quick=True)
        for artifact in record["artifacts"] if record else ():
            if artifact["path"].rpartition("/")[2] == name:
                found = self._fetch(artifact["path"], artifact["sha256"])
                if found is None:
                    self.discard(stage, key)
                return found
        return None

    def whole_input(self, ref: FileRef) -> Path | None:
        """A copy of a row's file, whole to the last byte; None where it is not."""
        return self._fetch(_path(self.root, self.input_file(ref)), ref.sha256)

    def file(self, path: str) -> Path:
        """A copy of a file as it is now."""
        data = (self.root / path).read_bytes()
        with replaced(self._copy(hashlib.sha256(data).hexdigest(), path.rpartition("/")[2])) as scratch:
            scratch.write_bytes(data)
        return self._copy(hashlib.sha256(data).hexdigest(), path.rpartition("/")[2])

    def discard(self, stage: str, key: str) -> None:
        """Remove a stage's output, the record first: without it the files count for nothing."""
        marker, named = self.stage_dir(stage, key) / RECORD, set()
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            named = {each["path"] for each in json.loads(marker.read_bytes())["artifacts"]}
        marker.unlink()
        self._remove(named)

    def _remove(self, paths: set[str]) -> None:
        """Delete files of an attempt; what lies in ``assets`` may be another's by now."""
        for path in paths:
            if path.startswith("stages/"):
                (self.root / path).unlink()

    # --- copies ------------------------------------------------------------------------------------------------------

    def _copy(self, sha256: str, name: str) -> Path:
        return self.local / "files" / sha256 / name

    def _fetch(self, path: str, sha256: str, *, anew: bool = False) -> Path | None:
        """The copy of a file, fetched where there is none or ``anew``; None where the bucket's is not what it was."""
        copy = self._copy(sha256, path.rpartition("/")[2])
        with contextlib.suppress(FileNotFoundError):
            if not anew and known_sha256(copy) == sha256:
                os.utime(copy.parent)
                return copy
        try:
            with disk_errors(self.local), replaced(copy) as scratch:
                (self.root / path).download(scratch)
                if sha256_file(scratch) != sha256:
                    raise FileNotFoundError(path)
        except FileNotFoundError:
            return None
        self._bound()
        return copy

    _fetched = 0

    def _bound(self) -> None:
        """Every now and then, remove copies that are not in use until the rest is small enough."""
        BucketLibrary._fetched += 1
        if BucketLibrary._fetched % LOOK_AGAIN == 0:
            self.forget_copies()

    def forget_copies(self, most: float | None = None) -> int:
        """Remove the copies that were not asked for the longest until the rest has ``most`` bytes; returns how many."""
        copies, removed = [], 0
        for folder in (self.local / "files").glob("*"):
            with contextlib.suppress(OSError):
                copies.append((folder.stat().st_mtime, sum(each.stat().st_size for each in folder.iterdir()), folder))
        total, most = sum(size for _, size, _ in copies), most_bytes() if most is None else most
        for used, size, folder in sorted(copies):
            if total <= most or time.time() - used < IN_USE_S:
                break
            shutil.rmtree(folder, ignore_errors=True)
            total, removed = total - size, removed + 1
        return removed

    def sweep(self) -> int:
        """As for a local folder, and bring the copies to their size."""
        return super().sweep() + self.forget_copies()


def most_bytes() -> float:
    """Bytes that copies may take. Raises :class:`RequestError` for a setting that is no number."""
    text = os.environ.get(SIZE, "").strip() or "20"
    if not text.replace(".", "", 1).isdecimal():
        raise RequestError(f"{SIZE}={text!r} is not a number of GiB; set it to 0 or more, or unset it")
    return float(text) * 2**30


def _path(root: BucketPath, place: BucketPath) -> str:
    return place.relative_to(root).as_posix()
