"""Files that a manifest's rows name: where they may lie, and what they are known by.

    inputs = Inputs(Path("props.csv"))
    ref = inputs.look_up("init_file", "starts/mug.glb")     # FileRef(name, sha256); ValueError says what is wrong
    inputs.sources[ref]                                      # the file on this machine, to be copied into the library

A name is a path relative to the manifest's folder. What it leads to, links included, must lie in that folder, unless
``outside`` files are allowed. Nothing is parsed here: whether a file holds what its name says is found by the stage
that reads it. Loads neither torch nor Prefect.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from pipeline_core.files import Hashes
from pipeline_core.spec import FILES, FileRef, suffix_of


class Inputs(Hashes):
    """The files of one manifest; each is looked at once. A context, as :class:`Hashes` is.

    Args:
        manifest: names are relative to its folder.
        outside: whether files elsewhere on this machine may be named, by absolute paths, ``..`` or links.
        kept: sha256 by name, of files that the library has: they stand in for files that are gone.

    Attributes:
        sources: where the files lie on this machine; those in ``kept`` that are gone are not among them.
    """

    def __init__(self, manifest: Path, *, outside: bool = False, kept: Mapping[str, str] | None = None) -> None:
        super().__init__()
        self.folder, self.outside, self.kept = manifest.absolute().parent, outside, kept or {}
        self.sources: dict[FileRef, Path] = {}
        self._seen: dict[tuple[str, str], FileRef] = {}

    def look_up(self, column: str, name: str) -> FileRef:
        """The file ``name`` as ``column`` takes it. Raises ``ValueError`` with what is needed instead."""
        if (column, name) not in self._seen:
            self._seen[column, name] = self._look_up(column, name)
        return self._seen[column, name]

    def _look_up(self, column: str, name: str) -> FileRef:
        takes = FILES[column]
        if suffix_of(name) not in takes.suffixes or len(name) > 1000 or not name.isprintable():
            raise ValueError(f"the path of a {' or '.join(takes.suffixes)} file, relative to the manifest")
        try:
            path = (self.folder / name).resolve(strict=True)
            self._must_lie_inside(path)
            info = path.stat()
            if not stat.S_ISREG(info.st_mode):
                raise ValueError("a regular file; this is a folder, a device or a pipe")
            if not 0 < info.st_size <= takes.most_bytes:
                raise ValueError(f"a file of 1 to {takes.most_bytes} bytes; this has {info.st_size}")
            if not os.access(path, os.R_OK):
                raise PermissionError(13, "Permission denied")
            ref = FileRef(name=name, sha256=self.sha256(path))
        except FileNotFoundError:
            if name not in self.kept:
                where = self.folder if not self.outside else f"{self.folder}, nor elsewhere"
                raise ValueError(f"a file that is there; there is none of this name in {where}") from None
            return FileRef(name=name, sha256=self.kept[name])
        except (OSError, RuntimeError) as error:  # a loop of links is a RuntimeError before Python 3.13
            raise ValueError(f"a file that can be read ({getattr(error, 'strerror', None) or error})") from None
        self.sources[ref] = path
        return ref

    def _must_lie_inside(self, path: Path) -> None:
        home = self.folder.resolve()
        if not self.outside and not path.is_relative_to(home):
            raise ValueError(
                f"a file in the manifest's folder, {home}, that no link or .. leads out of; copy it there, "
                "or give --allow-outside"
            )
