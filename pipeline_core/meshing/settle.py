"""Move a surface that was drawn around Gaussians onto the surface that their centres sample.

    vertices = settle(vertices, faces, anchors)       # all in units of the grid spacing

Where Gaussians start from points of a surface, a level of their density lies outside of it on either side, by about a
standard deviation: thin parts swell, edges grow round, gaps close. The level still says what is connected to what, and
the centres say where it is.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from pipeline_core.meshing.neighbours import neighbour_mean
from pipeline_core.meshing.normals import vertex_normals

NEIGHBOURS = 8
"""Centres that say where the surface is near a vertex. Settling onto 8 took the F-score of 22 meshes from 0.77 to 0.89
(docs/LOG.md: Starter prior and its assets). At 4 outlines agree by 0.003 more, at 16 by 0.005 less
(docs/LOG.md: Constants at half and double, as those below)."""
WIDTH = 0.6
"""Standard deviation of their weights, over the distance to the farthest of them. At 0.3 and 1.2 outlines agree
by 0.003 more, 0.001 less."""
KEPT = 0.35
"""Distance from the centres that is left, so that a sheet with a single layer of them keeps two sides. A ball of radius
0.5 becomes one of 0.506 with 0.2 and of 0.517 with 0.5 (docs/LOG.md: Starter prior, third round); 0.35 came with
``untangle``. 0.5 costs 0.008 of the F-score at 2 % and gains 0.010 of the outlines' overlap, 0.2 loses as much
of that and gains nothing."""
LIMIT = 4.0
"""Vertices move by at most this much: what lies deeper is another part of the thing. At 2 and 8
the margin is 0.001 lower."""
PASSES = 2
"""Once more with the normals of the settled surface: the first pass's are those of rounded edges and swollen parts. Ten
hard clouds: F-score 0.990 with one, 0.993 with two, the same with three or four (docs/LOG.md: fifth round)."""
SMOOTHING = 3
"""Rounds in which a vertex's distance is averaged with its neighbours'. Six cost 0.002 of the margin, one
gains nothing."""


def settle(vertices: np.ndarray, faces: np.ndarray, anchors: np.ndarray) -> np.ndarray:
    """``vertices`` moved along their normals until they lie in the planes of the nearest ``anchors``.

    Args:
        vertices: [V, 3] in units of the grid spacing
        faces: [F, 3], counter-clockwise from outside, or from inside throughout
        anchors: [N, 3] in the same units; with fewer than :data:`NEIGHBOURS` nothing moves

    Returns:
        [V, 3] float64; connectivity is untouched, so a closed mesh stays closed
    """
    vertices = vertices.astype(np.float64)
    if len(anchors) < NEIGHBOURS or not len(vertices):
        return vertices
    tree, mean = cKDTree(anchors), neighbour_mean(faces, len(vertices))
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    sign = np.sign(np.einsum("fi,fi->", a - vertices.mean(0), np.cross(b - a, c - a))) or 1.0  # of the volume
    for _ in range(PASSES):
        normals = vertex_normals(vertices, faces)
        distance, near = tree.query(vertices, k=NEIGHBOURS)
        weights = np.exp(-0.5 * (distance / np.maximum(WIDTH * distance[:, -1:], 1e-9)) ** 2)
        above = np.einsum("vki,vi->vk", vertices[:, None] - anchors[near], normals)
        outside = (weights * above).sum(1) / weights.sum(1)
        # Inwards only: a level may be drawn outside of the anchors, hardly ever within.
        move = np.clip(outside * sign - KEPT, 0.0, LIMIT)
        for _ in range(SMOOTHING):
            move = 0.5 * (move + mean @ move)
        vertices = vertices - (sign * move)[:, None] * normals
    return vertices
