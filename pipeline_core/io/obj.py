"""OBJ files: triangles and polygons, with the colours that some programs write after a vertex.

The materials and pictures of an OBJ are other files, which no row names: they are not read, and without colours of its
own a mesh is grey. A GLB has everything in one file.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline_core.errors import DataError
from pipeline_core.io.surface import GREY, Surface, check_count, corners_of, fan


def load_surfaces(path: Path) -> list[Surface]:
    """The triangles of an OBJ; polygons become fans."""
    vertices: list[list[float]] = []
    faces: list[tuple[int, int, int]] = []
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if b"\0" in line:
                raise DataError(f"{path} is not an OBJ file: it is not text")
            kind, _, rest = line.partition(b" ")
            try:
                if kind == b"v":
                    values = [float(word) for word in rest.split()[:6]]
                    vertices.append(values if len(values) == 6 else [*values[:3], GREY, GREY, GREY])
                elif kind == b"f":
                    faces += fan([_index(word, len(vertices)) for word in rest.split()])
            except (ValueError, IndexError):
                raise DataError(f"{path}, line {number}: {line[:60]!r} is not understood") from None
            check_count(path, len(vertices), "vertices")
            check_count(path, len(faces), "triangles")
    if not vertices or any(len(values) != 6 for values in vertices):
        raise DataError(f"{path} has no vertices (lines v x y z), or some without three numbers")
    at = corners_of(path, np.array(vertices), np.array(faces, dtype=np.int64).reshape(-1, 3))
    return [Surface(at[..., :3], at[..., 3:])]


def _index(word: bytes, count: int) -> int:
    """``7/1/3`` is the seventh vertex, ``-1`` the last so far."""
    index = int(word.split(b"/")[0])
    return index - 1 if index > 0 else count + index
