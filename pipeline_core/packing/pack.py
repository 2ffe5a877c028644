"""One finished asset into a folder, whole or not at all.

    written = pack(Finished(folder), Path("shipped"), profile("unreal"), formats(["glb", "usdz"]))

The files of an asset lie in ``<target>/<asset_id>/``. They are written in a private folder beside it and then take
their places, so that a reader meets no half asset.
"""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline_core import files
from pipeline_core.errors import DataError
from pipeline_core.files import disk_errors
from pipeline_core.packing.compress import tools_of
from pipeline_core.packing.finished import HULLS, LEVELS, MESH, SPLAT, Finished
from pipeline_core.packing.formats import Format
from pipeline_core.packing.profiles import Profile, safe
from pipeline_core.storage import sha256_file

FOR_GLB = ("glb",)
"""Formats that a profile's compressions are for."""


@dataclass(frozen=True)
class Written:
    """A file of an export: its place below the target, format, sha256 and size."""

    file: str
    format: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Packed:
    """What was written of an asset, and in words what it has not that the profile asks for."""

    files: tuple[Written, ...]
    without: tuple[str, ...] = field(default=())


def tools(profile: Profile, formats: Iterable[Format]) -> set[str]:
    """What has to be there for these formats."""
    rows = list(formats)
    compressed = tools_of(profile.compress) if any(row.name in FOR_GLB for row in rows) else set()
    return {row.tool for row in rows if row.tool} | compressed


def pack(
    asset: Finished, target: Path, profile: Profile, formats: Sequence[Format], *, overwrite: bool = False
) -> Packed:
    """Write an asset in some formats.

    Raises:
        DataError: the asset lacks what a format holds, a file is not whole, or another is in its place and
            ``overwrite`` is not set; nothing of the asset was written then.
        DiskError: the disk is full or cannot be written.
    """
    for row in formats:
        source = {"mesh": MESH, "splat": SPLAT}[row.of]
        if not asset.has(source):
            raise DataError(f"{asset.asset_id}: no {row.name}, for it was delivered without {source}")
    place = target / safe(str(asset.asset_id))
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
        scratch = target / f".{place.name}.{uuid.uuid4().hex}.part"
        try:
            scratch.mkdir()
            found: dict[str, str] = {}
            for row in formats:
                row.write()(asset, profile, scratch / f"{_stem(asset, profile, row)}{row.suffix}")
                for path in sorted(each for each in scratch.rglob("*") if each.is_file()):
                    found.setdefault(path.relative_to(scratch).as_posix(), row.name)
            files = tuple(_told(scratch, place.name, name, row) for name, row in found.items())
            _put(scratch, place, list(found), overwrite)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    return Packed(files, _without(asset, profile, formats))


def _stem(asset: Finished, profile: Profile, row: Format) -> str:
    return profile.mesh_of(asset.name) if row.of == "mesh" else asset.name


def _told(folder: Path, asset: str, name: str, row: str) -> Written:
    path = folder / name
    return Written(f"{asset}/{name}", row, sha256_file(path), path.stat().st_size)


def _put(scratch: Path, place: Path, names: Sequence[str], overwrite: bool) -> None:
    """Give the files their places: the folder at once where there is none, else one after the other. What is there with
    the same bytes stays."""
    if not place.exists():
        os.rename(scratch, place)
        return
    new = [name for name in names if not _same(scratch / name, place / name)]
    there = [name for name in new if (place / name).exists()]
    if there and not overwrite:
        raise DataError(f"{place / there[0]} is another file: --overwrite replaces it, another --to leaves it")
    for name in new:
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        files.rename(scratch / name, place / name)


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and sha256_file(one) == sha256_file(other)


def _without(asset: Finished, profile: Profile, formats: Sequence[Format]) -> tuple[str, ...]:
    """What a profile would have put in, and the asset does not have."""
    if not any(row.of == "mesh" for row in formats):
        return ()
    wanted = {LEVELS: profile.levels, HULLS: profile.hulls}
    words = {LEVELS: "levels of detail", HULLS: "collision"}
    return tuple(words[file] for file, where in wanted.items() if where and not asset.has(file))
