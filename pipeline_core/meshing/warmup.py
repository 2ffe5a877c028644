"""``warmup()``: compile the kernels of meshing now (``splatmill doctor --warmup``)."""

from __future__ import annotations

import numpy as np

from pipeline_core.meshing.collapse import simplify, simplify_charts
from pipeline_core.meshing.crossings import crossing_faces


def warmup() -> None:
    """Run every kernel once on an octahedron."""
    vertices = np.concatenate([np.eye(3), -np.eye(3)])
    faces = np.array([[0, 1, 2], [1, 3, 2], [3, 4, 2], [4, 0, 2], [1, 0, 5], [3, 1, 5], [4, 3, 5], [0, 4, 5]])
    crossing_faces(vertices, faces)
    simplify(vertices, faces, 6)
    simplify_charts(vertices, faces, vertices[:, :2], 6)
