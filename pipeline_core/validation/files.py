"""What is wrong with any file that splatmill delivers: found by its suffix, whoever has it now.

    findings = check_files([Path("asset.glb"), Path("preview.png")])

A file is looked at in itself (:mod:`pipeline_core.validation.glb`), for its mark, its signature, and against the sha256
that ``asset.json`` beside it holds. Nothing raises for what is in a file: what cannot be read is a finding.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline_core.deliverables import PROVENANCE
from pipeline_core.errors import DataError
from pipeline_core.findings import Finding, merged
from pipeline_core.io import signature, xmp
from pipeline_core.io.gltf import read_glb
from pipeline_core.io.images import decode_image
from pipeline_core.io.ply import load_splat
from pipeline_core.storage import sha256_file
from pipeline_core.validation import khronos
from pipeline_core.validation.glb import check_glb

OF_ORIGIN = ("MARK_MISSING", "SIGNATURE_INVALID", "SIGNATURE_MISSING", "FILE_CHANGED")
"""Codes that tell where a file comes from, and nothing of what it holds."""
_BROKEN = (
    DataError,
    ValueError,
    KeyError,
    IndexError,
    TypeError,
    AttributeError,
    RecursionError,
    struct.error,
    OSError,
)


def check_files(paths: Iterable[Path], *, whole: bool = True) -> list[Finding]:
    """Everything wrong with files, worst first. ``whole``: compare them with the ``asset.json`` beside each."""
    paths = list(paths)
    found = [each for path in paths for each in check_file(path)]
    if whole:
        found += [each for path in paths for each in _changed(path)]
    readable = [path for path in paths if path.suffix == ".glb" and path.is_file()]
    return merged(found + khronos.validate(readable))


def check_file(path: Path) -> list[Finding]:
    """What is wrong with one file by our own rules; nothing where none are for its suffix."""
    found: list[Finding] = []
    for check in (CHECKS.get(path.suffix), _mark if path.suffix in xmp.SUFFIXES else None, _signature):
        try:
            found += check(path) if check else ()
        except _BROKEN as error:
            found.append(Finding("UNREADABLE", "error", f"{path.name} cannot be read: {error}", path.name))
    return [replace(each, file=path.name) for each in found]


def _mark(path: Path) -> Iterator[Finding]:
    said = xmp.read_file(path)
    if not said.generated:
        bare = sum(not each.generated for each in said.pictures)
        where = f"{bare} of its {len(said.pictures)} pictures do" if bare else "it does"
        yield Finding("MARK_MISSING", "error", f"{where} not say that a model made it", count=max(bare, 1))


def _signature(path: Path) -> Iterator[Finding]:
    """Of a file that is signed, whether it is what was signed."""
    wrong = signature.problem(path)
    if wrong:
        yield Finding("SIGNATURE_INVALID", "error", wrong)


def _changed(path: Path) -> Iterator[Finding]:
    """Whether the file is the one that ``asset.json`` beside it tells of; what it does not tell of passes."""
    try:
        told = json.loads(path.with_name(PROVENANCE).read_bytes())["files"][path.name]["sha256"]
        if sha256_file(path) != told:
            yield Finding("FILE_CHANGED", "error", f"its sha256 is not the one in {PROVENANCE}", path.name)
    except (OSError, ValueError, KeyError, TypeError):
        return


def _glb(path: Path) -> list[Finding]:
    return check_glb(*read_glb(path), hulls=path.stem.endswith("collision"))


def _picture(path: Path) -> Iterator[Finding]:
    picture = decode_image(path.read_bytes(), path.name)
    if np.ptp(picture) == 0:
        yield Finding("PICTURE_BLANK", "warning", "every pixel has the same colour")


def _splat(path: Path) -> Iterator[Finding]:
    if not len(load_splat(path)):  # which also refuses NaN and infinity
        yield Finding("SPLAT_EMPTY", "error", "it has no Gaussian")


CHECKS: dict[str, Callable[[Path], Iterable[Finding]]] = {
    ".glb": _glb,
    ".ply": _splat,
    ".png": _picture,
    ".webp": _picture,
}
"""By suffix, what is looked at in the file itself."""
