"""The library around the catalogue: stage outputs, their records, and artifacts, in a folder or a bucket."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from catalog.store import LocalStore, Store, remote_errors
from pipeline_core.files import disk_errors, write_bytes


@dataclass(frozen=True)
class Output:
    """One folder ``stages/<stage>/<key>``: its size in bytes, last change, and record (None: there is none)."""

    stage: str
    key: str
    bytes: int
    modified: float
    record: dict[str, Any] | None
    problem: str = ""


def base(store: Store) -> str:
    """Root of the library that the catalogue belongs to."""
    return str(store.root).removesuffix("/catalog")


def size(store: Store, path: str) -> int | None:
    """Size of a file of the library in bytes; None when it is not there."""
    full = f"{base(store)}/{path}"
    try:
        if isinstance(store, LocalStore):
            return os.stat(full).st_size
        with remote_errors(full):
            return store.filesystem.size(full)
    except FileNotFoundError:
        return None


def open_file(store: Store, path: str) -> BinaryIO:
    """A file of the library for reading."""
    full = f"{base(store)}/{path}"
    if isinstance(store, LocalStore):
        return open(full, "rb")
    with remote_errors(full):
        return store.filesystem.open(full, "rb")


def keep_record(store: Store, name: str, data: bytes) -> None:
    """Write ``records/<name>.json``, durably and whole; the same name has the same content."""
    write_file(store, f"records/{name}.json", data)


def copy_file(store: Store, source: str, target: str) -> None:
    """Make ``target`` a copy of another file of the library, whole or not at all."""
    with open_file(store, source) as file:
        write_file(store, target, file.read())


def set_aside(store: Store, path: str) -> None:
    """Move a file of the library to the catalogue's quarantine, under its path with ``~`` for ``/``."""
    full, aside = f"{base(store)}/{path}", f"{store.root}/quarantine/{path.replace('/', '~')}"
    if isinstance(store, LocalStore):
        with disk_errors(Path(base(store))):
            Path(aside).parent.mkdir(parents=True, exist_ok=True)
            os.replace(full, aside)
        return
    store.filesystem.copy(full, aside)
    store.filesystem.rm_file(full)


def write_file(store: Store, path: str, data: bytes) -> None:
    """Write a file of the library, durably, whole or not at all."""
    path = f"{base(store)}/{path}"
    if not isinstance(store, LocalStore):
        with remote_errors(path):
            store.filesystem.pipe_file(path, data)
        return
    write_bytes(Path(path), data, durable=True)


def outputs(store: Store) -> Iterator[Output]:
    """Every stage output, complete or not."""
    for stage, key, changed, files in _folders(store):
        total, modified = sum(f[1] for f in files.values()), max((f[2] for f in files.values()), default=changed)
        record, problem = None, ""
        if "record.json" in files:
            try:
                with open_file(store, f"stages/{stage}/{key}/record.json") as file:
                    record = json.load(file)
            except (ValueError, OSError) as error:
                problem = f"record.json cannot be read: {error}"
        yield Output(stage, key, total, modified, record, problem)


def _folders(store: Store) -> Iterator[tuple[str, str, float, dict[str, tuple[str, int, float]]]]:
    """(stage, key, last change of the folder, {relative name: (path, bytes, modified)}) of all outputs."""
    root = f"{base(store)}/stages"
    if isinstance(store, LocalStore):
        for folder in sorted(Path(root).glob("*/*")):
            if folder.is_dir():
                yield folder.parent.name, folder.name, folder.stat().st_mtime, _local_files(folder)
        return
    store.filesystem.invalidate_cache()
    groups: dict[tuple[str, str], dict[str, tuple[str, int, float]]] = {}
    for path, info in store.filesystem.find(root, detail=True).items():
        stage, key, name = path.removeprefix(root + "/").split("/", 2)
        stamp = info.get("LastModified")
        groups.setdefault((stage, key), {})[name] = (path, info["size"], stamp.timestamp() if stamp else 0.0)
    for (stage, key), files in sorted(groups.items()):
        yield stage, key, 0.0, files


def _local_files(folder: Path) -> dict[str, tuple[str, int, float]]:
    found = {}
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.is_file():
                stat = path.stat()
                found[path.relative_to(folder).as_posix()] = (str(path), stat.st_size, stat.st_mtime)
    return found
