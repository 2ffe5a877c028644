"""Which faces of a mesh pass through another one: exact, by integers.

    crossing = crossing_faces(vertices, faces)      # [F] bool

Places are rounded to a grid of 2^20 steps along the longest side (a micrometre of a metre), where the determinants that
decide fit into 64 bits: no tolerance, and no two runs differ. Faces that only touch do not cross.
"""

from __future__ import annotations

import numpy as np

from pipeline_core.rendering.jit import inlined, kernel

STEPS = 2**20 - 1
LEAF = 4
"""Faces in a leaf of the tree of boxes."""


def crossing_faces(vertices: np.ndarray, faces: np.ndarray, among: np.ndarray | None = None) -> np.ndarray:
    """Mask [F] of the ``faces`` [F, 3] that another one pierces or that pierce another; ``vertices`` [V, 3] welded.

    Faces that share a vertex cross where the side opposite of it pierces the other; faces that share an edge never do.
    With ``among`` [F] bool only pairs with one of these faces are looked at.

    Raises ValueError for vertices that are not finite.
    """
    if not np.isfinite(vertices).all():
        raise ValueError("crossing faces are asked of vertices that are NaN or infinite")
    crossing = np.zeros(len(faces), np.bool_)
    if len(faces) < 2:
        return crossing
    low = vertices.min(axis=0).astype(np.float64)
    size = max(float((vertices.max(axis=0) - low).max()), 1e-30)
    places = np.rint((vertices - low) * (STEPS / size)).astype(np.int64)
    corner = places[faces]
    box_low, box_high = corner.min(axis=1), corner.max(axis=1)
    order = np.argsort(morton(corner.sum(axis=1) // 3), kind="stable")
    asked = np.ones(len(faces), np.bool_) if among is None else among[order]
    _find(places, faces[order].astype(np.int64), *boxes(box_low[order], box_high[order]), order, asked, crossing)
    return crossing


def morton(places: np.ndarray) -> np.ndarray:
    """Codes [N] of ``places`` [N, 3] (below 2^20) by which near places are near in order."""
    code = np.zeros(len(places), np.int64)
    for axis in range(3):
        bits = places[:, axis].astype(np.int64)
        for shift, mask in ((32, 0x1F00000000FFFF), (16, 0x1F0000FF0000FF), (8, 0x100F00F00F00F00F)):
            bits = (bits | (bits << shift)) & mask
        for shift, mask in ((4, 0x10C30C30C30C30C3), (2, 0x1249249249249249)):
            bits = (bits | (bits << shift)) & mask
        code |= bits << axis
    return code


def boxes(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A heap [2 L, 3] of boxes about L leaves of :data:`LEAF` faces each; node n holds nodes 2 n and 2 n + 1."""
    leaves = 1 << int(np.ceil(np.log2(max(len(low) / LEAF, 1))))
    least, most = np.full((leaves * LEAF, 3), STEPS + 1, np.int64), np.full((leaves * LEAF, 3), -1, np.int64)
    least[: len(low)], most[: len(high)] = low, high
    levels = [(least.reshape(leaves, LEAF, 3).min(axis=1), most.reshape(leaves, LEAF, 3).max(axis=1))]
    while len(levels[0][0]) > 1:
        below = levels[0]
        levels.insert(0, (np.minimum(below[0][::2], below[0][1::2]), np.maximum(below[1][::2], below[1][1::2])))
    nothing = levels[0][0][:1]
    return np.concatenate([nothing, *(a for a, _ in levels)]), np.concatenate([nothing, *(b for _, b in levels)])


@inlined
def _side(p, a, b, c, d):
    """Six times the signed volume of the tetrahedron of places a, b, c, d; below 2^63 by the size of the grid."""
    ax, ay, az = p[a, 0] - p[d, 0], p[a, 1] - p[d, 1], p[a, 2] - p[d, 2]
    bx, by, bz = p[b, 0] - p[d, 0], p[b, 1] - p[d, 1], p[b, 2] - p[d, 2]
    cx, cy, cz = p[c, 0] - p[d, 0], p[c, 1] - p[d, 1], p[c, 2] - p[d, 2]
    return ax * (by * cz - bz * cy) + ay * (bz * cx - bx * cz) + az * (bx * cy - by * cx)


@inlined
def _pierces(p, s, t, a, b, c):
    """Whether the segment s-t passes from one side of the plane of a, b, c to the other, within the triangle."""
    first, second = _side(p, a, b, c, s), _side(p, a, b, c, t)
    if first == 0 or second == 0 or (first > 0) == (second > 0):
        return False
    x, y, z = _side(p, s, t, a, b), _side(p, s, t, b, c), _side(p, s, t, c, a)
    return (x >= 0 and y >= 0 and z >= 0) or (x <= 0 and y <= 0 and z <= 0)


@inlined
def _cross(p, f, g):
    """Whether two triangles of three vertices each cross; see :func:`crossing_faces`."""
    shared, at_f, at_g = 0, 0, 0
    for i in range(3):
        for j in range(3):
            if f[i] == g[j]:
                shared, at_f, at_g = shared + 1, i, j
    if shared > 1:
        return False
    if shared == 1:
        return _pierces(p, f[(at_f + 1) % 3], f[(at_f + 2) % 3], g[0], g[1], g[2]) or _pierces(
            p, g[(at_g + 1) % 3], g[(at_g + 2) % 3], f[0], f[1], f[2]
        )
    for i in range(3):
        if _pierces(p, f[i], f[(i + 1) % 3], g[0], g[1], g[2]) or _pierces(p, g[i], g[(i + 1) % 3], f[0], f[1], f[2]):
            return True
    return False


@kernel
def _find(places, faces, low, high, order, asked, crossing):
    """Mark in ``crossing`` what crosses among ``faces`` [F, 3], in the order of the tree's leaves."""
    leaves = len(low) // 2
    stack = np.empty(64, np.int64)
    for i in range(len(faces)):
        if not asked[i]:
            continue
        l0 = min(places[faces[i, 0], 0], places[faces[i, 1], 0], places[faces[i, 2], 0])
        l1 = min(places[faces[i, 0], 1], places[faces[i, 1], 1], places[faces[i, 2], 1])
        l2 = min(places[faces[i, 0], 2], places[faces[i, 1], 2], places[faces[i, 2], 2])
        h0 = max(places[faces[i, 0], 0], places[faces[i, 1], 0], places[faces[i, 2], 0])
        h1 = max(places[faces[i, 0], 1], places[faces[i, 1], 1], places[faces[i, 2], 1])
        h2 = max(places[faces[i, 0], 2], places[faces[i, 1], 2], places[faces[i, 2], 2])
        stack[0], count = 1, 1
        while count:
            count -= 1
            node = stack[count]
            if (
                low[node, 0] > h0 or high[node, 0] < l0 or low[node, 1] > h1
                or high[node, 1] < l1 or low[node, 2] > h2 or high[node, 2] < l2
            ):  # fmt: skip
                continue
            if node < leaves:
                stack[count], stack[count + 1] = 2 * node, 2 * node + 1
                count += 2
                continue
            first = (node - leaves) * LEAF
            for j in range(first, min(first + LEAF, len(faces))):
                if (j <= i and asked[j]) or (crossing[order[i]] and crossing[order[j]]):
                    continue
                if _cross(places, faces[i], faces[j]):
                    crossing[order[i]] = crossing[order[j]] = True
