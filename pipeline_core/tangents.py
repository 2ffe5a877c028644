"""The tangent space that a normal map is written in: MikkTSpace's, which engines agree on.

    frame = tangents(vertices, faces, normals, uvs)      # [V, 4], glTF's TANGENT

A texel (r, g, b) of a normal map is the direction x T + y B + z N with (x, y, z) = 2 rgb - 1: T runs along u, B up the
picture (against v, which runs down in glTF) as ``w * cross(N, T)``, N is the vertex normal; all three are
interpolated.
"""

from __future__ import annotations

import numpy as np


def tangents(vertices: np.ndarray, faces: np.ndarray, normals: np.ndarray, uvs: np.ndarray) -> np.ndarray:
    """Tangent and sign w [V, 4] float32 of each vertex, as MikkTSpace has them (Mikkelsen 2008).

    The faces' directions of u are projected into the plane of the vertex normal and weighted by the corner's angle
    there. MikkTSpace would cut a vertex in two where it has mirrored and other faces; here the larger share decides,
    which is exact for an atlas, whose charts lie all on one side. Vertices without any UV area get some tangent.
    """
    corners, flat = vertices[faces].astype(np.float64), uvs[faces].astype(np.float64)
    edge, step = corners[:, 1:] - corners[:, :1], flat[:, 1:] - flat[:, :1]
    area = step[:, 0, 0] * step[:, 1, 1] - step[:, 0, 1] * step[:, 1, 0]
    along_u = (step[:, 1, 1, None] * edge[:, 0] - step[:, 0, 1, None] * edge[:, 1]) * np.sign(area)[:, None]
    normal = normals.astype(np.float64)
    at = normal[faces]
    angle = _plane_angles(corners, at)
    share = _unit(along_u[:, None] - (along_u[:, None] * at).sum(axis=2, keepdims=True) * at) * angle[..., None]
    index = faces.reshape(-1)
    total = np.stack([np.bincount(index, share[..., a].reshape(-1), len(vertices)) for a in range(3)], axis=1)
    # v runs down: an atlas that shows the surface as it is seen from outside has negative area in (u, v).
    side = np.bincount(index, (-np.sign(area)[:, None] * angle).reshape(-1), len(vertices))
    lost = np.linalg.norm(total, axis=1) < 1e-12
    total[lost] = _some_tangent(normal[lost])
    return np.concatenate([_unit(total), np.where(side < 0, -1.0, 1.0)[:, None]], axis=1).astype(np.float32)


def mirrored(faces: np.ndarray, uvs: np.ndarray) -> np.ndarray:
    """Which faces [F] an atlas shows as in a mirror; a face without area in it is not one of them."""
    a, b, c = (uvs[faces[:, i]].astype(np.float64) for i in range(3))
    return (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) > (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-20)


def _plane_angles(corners: np.ndarray, normal: np.ndarray) -> np.ndarray:
    """Angle [F, 3] between the two edges at each corner, both projected into the plane of ``normal`` [F, 3, 3]."""
    edges = [np.roll(corners, shift, axis=1) - corners for shift in (-1, 1)]
    first, second = (_unit(e - (e * normal).sum(axis=2, keepdims=True) * normal) for e in edges)
    return np.arccos((first * second).sum(axis=2).clip(-1, 1))


def _some_tangent(normal: np.ndarray) -> np.ndarray:
    """A direction [V, 3] at right angles to each ``normal`` [V, 3]."""
    axis = np.where(np.abs(normal[:, :1]) < 0.9, [[1.0, 0, 0]], [[0, 1.0, 0]])
    return np.cross(np.cross(normal, axis), normal)
