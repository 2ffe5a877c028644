"""A UV atlas for a mesh: xatlas with its default options, in a process of its own.

    vertices, faces, uvs, source = unwrap(mesh)

No normals are passed: with them xatlas took four times as long and cut an order of magnitude more charts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import xatlas

from pipeline_core.errors import DataError
from pipeline_core.meshing.process import run_in_process

if TYPE_CHECKING:
    from pipeline_core.types import Mesh

PADDING = 4
"""Texels between charts, so that the first mip levels do not mix them."""


def unwrap(mesh: Mesh, texture_size: int = 1024) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Cut ``mesh`` into charts packed into one square.

    Returns:
        vertices [W, 3] float32 (duplicated along seams), faces [F, 3] int32, uvs [W, 2] float32 in [0, 1],
        source [W] int32: the vertex of ``mesh`` each comes from.
    """
    source, faces, uvs = run_in_process(
        "pipeline_core.meshing.unwrap:atlas", mesh.vertices, mesh.faces, texture_size=texture_size
    )
    return mesh.vertices[source], faces, uvs, source


def atlas(vertices: np.ndarray, faces: np.ndarray, *, texture_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Source vertex [W], faces [F, 3] and uvs [W, 2] of an atlas; holds the GIL for its whole run."""
    packer = xatlas.Atlas()
    packer.add_mesh(np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(faces, np.uint32))
    packing = xatlas.PackOptions()
    packing.resolution = texture_size
    packing.padding = PADDING
    packer.generate(pack_options=packing)
    source, corners, uvs = packer[0]
    if len(corners) != len(faces) or not np.isfinite(uvs).all():
        raise DataError(f"no UV atlas: {len(corners)} of {len(faces)} faces were mapped")
    return source.astype(np.int32), corners.astype(np.int32), uvs.astype(np.float32).clip(0, 1)
