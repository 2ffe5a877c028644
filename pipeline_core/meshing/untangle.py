"""Take a surface apart where moving its vertices has pushed it through itself.

    moved = untangle(moved, before, faces)      # before: the same vertices where nothing crossed

Where faces cross, their vertices are evened out and drawn back towards where they came from, in patches that grow from
round to round, until nothing crosses.
"""

from __future__ import annotations

import numpy as np

from pipeline_core.meshing.crossings import crossing_faces
from pipeline_core.meshing.neighbours import neighbour_mean

ROUNDS = 16
"""Rounds at most; 8 do it too."""
BACK = 0.15
"""Share of the way back to where it came from that a tangled vertex goes in a round. 0.3 costs 0.005 of the F-score at
2 % and gains as much of the outlines' overlap, 0.08 the other way round, and some faces stay crossed (docs/LOG.md:
Constants at half and double)."""


def untangle(vertices: np.ndarray, before: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """``vertices`` [V, 3] with as few crossing faces as can be; those of ``before`` [V, 3] are kept where none cross.

    What still crosses after :data:`ROUNDS` rounds (``before`` crossed itself, say) is left.
    """
    crossing = crossing_faces(vertices, faces)
    if not crossing.any():
        return vertices
    mean = neighbour_mean(faces, len(vertices))
    vertices = vertices.copy()
    for step in range(ROUNDS):
        tangled = np.zeros(len(vertices))
        tangled[faces[crossing]] = 1.0
        for _ in range(1 + step // 2):
            tangled = np.maximum(tangled, mean @ tangled > 0)
        patch = tangled > 0
        even = 0.5 * (vertices + mean @ vertices)
        vertices[patch] = even[patch] + BACK * (before[patch] - even[patch])
        crossing = crossing_faces(vertices, faces, among=crossing | patch[faces].any(axis=1))
        if not crossing.any():
            break
    return vertices
