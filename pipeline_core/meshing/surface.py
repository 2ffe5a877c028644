"""A closed triangle mesh from a density grid: cavities filled, marching cubes, clean-up, smoothing, decimation.

    vertices, faces = surface(density, iso=1.0, face_budget=10_000)

It runs in a process of its own (``process.py``) and loads no torch.
Grid indices are coordinates here: ``vertices`` are in units of the grid spacing, from the first sample.
"""

from __future__ import annotations

from typing import Any

import mcubes
import numpy as np
from scipy import ndimage, sparse
from scipy.sparse import csgraph

from pipeline_core.errors import DivergedError
from pipeline_core.meshing.collapse import simplify
from pipeline_core.meshing.neighbours import neighbour_mean
from pipeline_core.meshing.settle import settle
from pipeline_core.meshing.sharpen import sharpen
from pipeline_core.meshing.untangle import untangle

SEAL_RADIUS = 2.0
"""Cavities whose openings are narrower than twice this many grid spacings count as closed. 1 and 4 change no
figure by more than noise; what it is for is rare (docs/LOG.md: Constants at half and double)."""
TAUBIN = (0.5, -0.53)
"""Taubin's lambda and mu (A signal processing approach to fair surface design, 1995): smooths without shrinking. The
usual pair of 0.5 and a pass band of 1 / 0.5 - 1 / 0.53 = 0.11; 6 and 12 iterations gave the same F-score once surfaces
settled (docs/LOG.md: Starter prior and its assets)."""
FINE = 2
"""A settled surface is sharpened at this many times the faces that it is given in the end; the larger faces are, the
farther the filter sees. With 4 normals are 0.2 degrees farther off, with 8 another 0.5 (docs/LOG.md: Flat parts
flat)."""
SHARPENINGS = 2
"""Times that it is sharpened, settled in between by normals that have become clear. Once costs 0.4 degrees, a third
time gains nothing."""
SMALLEST_PIECE = 4
"""Faces of the smallest closed piece, a tetrahedron; smaller ones are debris whatever ``min_component`` is."""
APART = 0.05
"""Share of the way to its fan by which a doubled vertex moves, so that the places differ as well. No figure tells
0.02, 0.05 and 0.2 apart."""


def surface(density: np.ndarray, anchors: np.ndarray | None = None, **options: Any) -> tuple[np.ndarray, np.ndarray]:
    """The first two of what :func:`surfaces` returns."""
    vertices, faces, _, _ = surfaces(density, anchors, **options)
    return vertices, faces


def surfaces(
    density: np.ndarray,
    anchors: np.ndarray | None = None,
    *,
    iso: float,
    face_budget: int,
    min_component: float = 0.05,
    smooth: int = 2,
    seal_radius: float = SEAL_RADIUS,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Closed, outward-oriented mesh of the region ``density`` [X, Y, Z] > ``iso``.

    Args:
        anchors: points [N, 3] in grid units that the smoothed surface is settled onto (settle.py); None = it stays.
        face_budget: largest number of faces.
        min_component: components with less than this share of the largest one's faces are dropped.
        smooth: Taubin iterations before decimation.
        seal_radius: see :data:`SEAL_RADIUS`; 0 fills only cavities that are closed entirely.

    Returns:
        vertices [V, 3] float32 in grid units, faces [F, 3] int32 counter-clockwise from outside; then the same of the
        surface as it was before decimation.
    """
    margin = int(seal_radius) + 2  # so that a ball of seal_radius can go all the way round
    field = np.pad(density.astype(np.float32), margin)
    if not (field > iso).any():
        raise DivergedError(f"nothing is inside: the largest density is {field.max():.3g}, the surface is at {iso:.3g}")
    field = fill_cavities(field, iso, seal_radius)
    vertices, faces = mcubes.marching_cubes(field, iso)
    vertices, faces = clean(vertices - margin, faces.astype(np.int64), min_component)
    vertices = taubin(vertices, faces, smooth)
    if len(faces) < 4:
        raise DivergedError(f"only {len(faces)} faces are left after clean-up; the density field has no usable surface")
    if anchors is not None:
        for _ in range(SHARPENINGS):
            vertices = untangle(settle(vertices, faces, anchors), vertices, faces)
            vertices, faces = simplify(vertices, faces, FINE * face_budget)
            vertices = untangle(sharpen(vertices, faces), vertices, faces)
    fine_vertices, fine_faces = outward(vertices, faces)
    vertices, faces = decimate(vertices, faces, face_budget)
    vertices, faces = outward(vertices, faces)
    fine = fine_vertices.astype(np.float32), fine_faces.astype(np.int32)
    return vertices.astype(np.float32), faces.astype(np.int32), *fine


def fill_cavities(field: np.ndarray, iso: float, seal_radius: float) -> np.ndarray:
    """``field`` with every void that no ball of ``seal_radius`` can enter from outside made solid.

    Gaussians are optimised from outside only, so a model is a shell with pinholes around junk. What is behind the
    pinholes would cost faces and texels that nobody sees, and would make the mesh a thin double wall. Gaps that lead
    to no chamber (between a handle and its mug) stay open.
    """
    empty = field <= iso
    if seal_radius > 0:
        room = ndimage.distance_transform_edt(empty) > seal_radius
        chambers, _ = ndimage.label(room)
        closed = room & (chambers != chambers[0, 0, 0])
        if closed.any():
            reach = ndimage.distance_transform_edt(~closed) <= seal_radius + 1
            outer = ndimage.distance_transform_edt(chambers != chambers[0, 0, 0]) <= seal_radius
            empty = empty & ~(reach & ~outer)
    pockets, _ = ndimage.label(empty)
    solid = pockets != pockets[0, 0, 0]
    filled = field.copy()
    # Deep inside a filled void the value only has to be above iso; next to the old surface this keeps its shape.
    filled[solid & (field <= iso)] = 2 * iso - np.minimum(field, iso)[solid & (field <= iso)] + 1e-6 * iso
    return filled


def clean(vertices: np.ndarray, faces: np.ndarray, min_component: float) -> tuple[np.ndarray, np.ndarray]:
    """Weld equal vertices; drop degenerate and folded faces, small components and components inside another; take
    sheets apart that touch along an edge."""
    vertices, inverse = np.unique(vertices, axis=0, return_inverse=True)
    vertices, faces = repair(vertices, inverse.reshape(-1)[faces])
    vertices, faces = split_pinches(vertices, faces)
    label = face_components(faces, len(vertices))
    counts = np.bincount(label)
    if not len(counts):
        return vertices, faces
    keep = counts >= max(min_component * counts.max(), SMALLEST_PIECE)
    # An inward component is the wall of a cavity: it has negative volume and nobody sees it.
    volume = np.bincount(label, weights=tetra_volumes(vertices, faces), minlength=len(counts))
    sign = np.sign(volume[counts.argmax()]) or 1.0
    keep &= volume * sign > 0
    return compact(vertices, faces[keep[label]])


def compact(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Without vertices that no face uses."""
    used, inverse = np.unique(faces, return_inverse=True)
    return vertices[used], inverse.reshape(-1, 3)


def face_components(faces: np.ndarray, vertex_count: int) -> np.ndarray:
    """Component number [F] of each face; faces that share a vertex are connected."""
    edges = faces[:, [0, 1, 1, 2]].reshape(-1, 2)
    graph = sparse.coo_matrix((np.ones(len(edges), bool), edges.T), shape=(vertex_count, vertex_count))
    _, label = csgraph.connected_components(graph, directed=False)
    return np.unique(label[faces[:, 0]], return_inverse=True)[1].reshape(-1)


def tetra_volumes(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Signed volume [F] of the tetrahedra from the origin to each face; the sum is the volume of a closed mesh."""
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    return np.einsum("fi,fi->f", a, np.cross(b, c)) / 6


def taubin(vertices: np.ndarray, faces: np.ndarray, iterations: int) -> np.ndarray:
    """``vertices`` after ``iterations`` pairs of Laplacian steps with :data:`TAUBIN` weights."""
    if iterations == 0:
        return vertices
    mean = neighbour_mean(faces, len(vertices))
    out = vertices.astype(np.float64)
    for _ in range(iterations):
        for weight in TAUBIN:
            out = out + weight * (mean @ out - out)
    return out


def decimate(vertices: np.ndarray, faces: np.ndarray, face_budget: int) -> tuple[np.ndarray, np.ndarray]:
    """Quadric edge collapse to at most ``face_budget`` faces, closed where the input is closed.

    Raises DivergedError where so few faces cannot close it: it has too many pieces or handles.
    """
    if len(faces) <= face_budget:
        return vertices, faces
    vertices, faces = simplify(vertices, faces, face_budget)
    if len(faces) > face_budget:
        pieces = int(face_components(faces, len(vertices)).max()) + 1
        raise DivergedError(
            f"the surface has {pieces} pieces and needs {len(faces)} faces to stay closed, more than mesh.face_budget "
            f"= {face_budget}; raise it, or mesh.min_component, which drops small pieces"
        )
    return vertices, faces


def repair(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Drop degenerate and repeated faces, and pairs of faces folded onto each other."""
    faces = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    _, group, count = np.unique(np.sort(faces, axis=1), axis=0, return_inverse=True, return_counts=True)
    # Two faces on the same three vertices enclose nothing; dropping both keeps their neighbours closed.
    faces = faces[count[group.reshape(-1)] == 1]
    return compact(vertices, faces)


def split_pinches(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take sheets apart that touch along an edge: each sheet gets its own copy of the edge's vertices.

    The faces around a vertex fall into fans that are joined by ordinary edges (two faces each). Every fan but the first
    gets a copy of the vertex, moved towards the fan (:data:`APART`).
    """
    edges = np.sort(np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]]), axis=1)
    unique, which, count = np.unique(edges, axis=0, return_inverse=True, return_counts=True)
    crowded = count[which.reshape(-1)].reshape(3, -1).T > 2  # [F, 3]: side k runs from corner k to corner k + 1
    pinched = np.unique(unique[count > 2])
    if not len(pinched):
        return vertices, faces
    order = np.argsort(faces, axis=None, kind="stable")
    first, last = (np.searchsorted(faces.reshape(-1)[order], pinched, side) for side in ("left", "right"))
    faces, points = faces.copy(), list(vertices)
    for vertex, start, end in zip(pinched, first, last, strict=True):
        around = order[start:end] // 3
        fans = _fans(vertex, faces[around], crowded[around])
        for fan in range(1, fans.max() + 1):
            members = around[fans == fan]
            block = faces[members]
            centre = np.mean([points[i] for i in block.ravel()], axis=0)
            block[block == vertex] = len(points)
            faces[members] = block
            points.append(vertices[vertex] + APART * (centre - vertices[vertex]))
    return np.array(points), faces


def _fans(vertex: int, faces: np.ndarray, crowded: np.ndarray) -> np.ndarray:
    """Number of the fan of each of the ``faces`` around ``vertex``; sides that are ``crowded`` do not join them."""
    partner: dict[int, list[int]] = {}
    for i, (face, tight) in enumerate(zip(faces, crowded, strict=True)):
        k = int(np.flatnonzero(face == vertex)[0])
        for side, other in ((k, face[(k + 1) % 3]), ((k + 2) % 3, face[(k + 2) % 3])):
            if not tight[side]:
                partner.setdefault(int(other), []).append(i)
    pairs = np.array([p for p in partner.values() if len(p) == 2]).reshape(-1, 2)
    graph = sparse.coo_matrix((np.ones(len(pairs)), pairs.T), shape=(len(faces), len(faces)))
    return csgraph.connected_components(graph, directed=False)[1]


def outward(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flip each component that encloses a negative volume."""
    label = face_components(faces, len(vertices))
    inward = np.bincount(label, weights=tetra_volumes(vertices, faces)) < 0
    flip = inward[label]
    faces = faces.copy()
    faces[flip] = faces[flip][:, ::-1]
    return vertices, faces


def edge_counts(faces: np.ndarray) -> dict[str, float]:
    """``boundary_edges`` (one face), ``nonmanifold_edges`` (three or more, or two of equal direction), ``watertight``.

    A mesh is watertight when every edge has exactly two faces that run along it in opposite directions.
    """
    edges = np.concatenate([faces[:, [0, 1]], faces[:, [1, 2]], faces[:, [2, 0]]])
    forward = edges[:, 0] < edges[:, 1]
    _, which, count = np.unique(np.sort(edges, axis=1), axis=0, return_inverse=True, return_counts=True)
    balance = np.bincount(which.reshape(-1), weights=np.where(forward, 1.0, -1.0), minlength=len(count))
    boundary, bad = int((count == 1).sum()), int(((count > 2) | ((count == 2) & (balance != 0))).sum())
    return {
        "boundary_edges": boundary,
        "nonmanifold_edges": bad,
        "watertight": float(boundary == 0 and bad == 0 and len(faces) > 0),
    }
