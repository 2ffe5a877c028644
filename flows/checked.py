"""``splatmill validate`` and ``splatmill sign``: files as they are handed on, whoever has them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from catalog.render import aligned
from pipeline_core.errors import RequestError
from pipeline_core.findings import Finding, merged, tally
from pipeline_core.io import signature, xmp
from pipeline_core.validation.files import CHECKS, check_files


def validate_paths(paths: Sequence[Path], *, signed: bool, as_json: bool) -> bool:
    """Print what is wrong with files and all below folders; returns whether there is no error.

    ``signed``: a file that could be signed and is not is an error.
    """
    found: list[Finding] = []
    files = list(_files(paths, CHECKS))
    for folder in dict.fromkeys(path.parent for path in files):
        here = [path for path in files if path.parent == folder]
        bare = [path.name for path in here if signed and path.suffix in xmp.SUFFIXES and not signature.is_signed(path)]
        said = check_files(here) + [Finding("SIGNATURE_MISSING", "error", "it is not signed", name) for name in bare]
        found += [Finding(**vars(each) | {"file": str(folder / each.file) if each.file else ""}) for each in said]
    found = merged(found)
    by = {str(path): who for path in files if (who := signature.signer_of(path))}
    if as_json:
        print(
            json.dumps({"files": [str(path) for path in files], "signed_by": by, "findings": [vars(f) for f in found]})
        )
        return not tally(found)["error"]
    if found:
        rows = [[each.severity, each.code, each.file, each.count, each.message[:100]] for each in found]
        print(aligned(["severity", "code", "file", "count", "message"], rows) + "\n")
    for who in sorted({*by.values()}):
        print(f"{sum(each == who for each in by.values())} signed by {who}")
    print(f"{len(files)} files: " + ", ".join(f"{count} {severity}s" for severity, count in tally(found).items()))
    return not tally(found)["error"]


def sign_paths(paths: Sequence[Path]) -> list[Path]:
    """Sign files and all below folders, as the environment says; returns the files that hold the signatures."""
    signer = signature.Signer.from_environment()
    files = list(_files(paths, xmp.SUFFIXES))
    for path in files:
        if any((folder / "catalog").is_dir() and (folder / "stages").is_dir() for folder in path.absolute().parents):
            raise RequestError(f"{path} belongs to a library, whose catalogue knows its sha256; copy it out, then sign")
    return [signature.sign(path, signer) for path in files]


def _files(paths: Sequence[Path], suffixes: Sequence[str] | dict) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(each for each in path.rglob("*") if each.suffix in suffixes and each.is_file())
        elif path.is_file():
            yield path
        else:
            raise RequestError(f"{path} does not exist")
