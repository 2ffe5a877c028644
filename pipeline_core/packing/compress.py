"""GLBs for the web, made small by gltf-transform: one row a compression; nothing stays large in silence."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline_core.errors import DataError, RequestError
from pipeline_core.files import replaced
from pipeline_core.io.gltf import read_glb
from pipeline_core.packing.tools import command

PATIENCE_S = 600.0


@dataclass(frozen=True)
class Compression:
    """One row: the command of gltf-transform, the tools that it needs, and the extension by which its work is known."""

    name: str
    command: tuple[str, ...]
    tools: tuple[str, ...]
    extension: str


COMPRESSIONS: tuple[Compression, ...] = (
    Compression("webp", ("webp",), ("gltf-transform",), "EXT_texture_webp"),
    Compression("ktx2", ("uastc",), ("gltf-transform", "ktx"), "KHR_texture_basisu"),
    Compression("meshopt", ("meshopt",), ("gltf-transform",), "EXT_meshopt_compression"),
    Compression("draco", ("draco",), ("gltf-transform",), "KHR_draco_mesh_compression"),
)
"""In the order in which they are applied: pictures, then geometry."""


def compressions(names: Sequence[str]) -> tuple[str, ...]:
    """``names`` in the order of the table; ``none`` alone is none.

    Raises :class:`RequestError` for unknown ones, and for two of one kind.
    """
    if list(names) == ["none"]:
        return ()
    rows = [row.name for row in COMPRESSIONS]
    unknown = [name for name in names if name not in rows]
    if unknown or not names:
        raise RequestError(f"--compress {','.join(unknown)}: none, or some of {', '.join(rows)} with commas between")
    for pair in ({"webp", "ktx2"}, {"meshopt", "draco"}):
        if pair <= set(names):
            raise RequestError(f"--compress {','.join(names)}: {' or '.join(sorted(pair))}, not both")
    return tuple(name for name in rows if name in names)


def tools_of(names: Sequence[str]) -> set[str]:
    """What these compressions need."""
    return {tool for row in COMPRESSIONS if row.name in names for tool in row.tools}


def compress(path: Path, names: Sequence[str]) -> None:
    """Put a GLB through the compressions of these names. Raises :class:`DataError` where one did not do its work."""
    for row in (row for row in COMPRESSIONS if row.name in names):
        with replaced(path) as scratch:
            smaller = scratch.with_suffix(".glb")
            words = [*command("gltf-transform"), *row.command, str(path), str(smaller)]
            try:
                done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
                if done.returncode or not smaller.exists():
                    raise DataError(f"{path.name}: {row.name} failed: {(done.stderr or done.stdout).strip()[-500:]}")
                smaller.rename(scratch)
            except subprocess.TimeoutExpired:
                raise DataError(f"{path.name}: {row.name} took more than {PATIENCE_S:g} s") from None
            finally:
                smaller.unlink(missing_ok=True)
        if row.extension not in read_glb(path)[0].get("extensionsUsed", ()):
            raise DataError(f"{path.name}: gltf-transform left it without {row.extension}")
