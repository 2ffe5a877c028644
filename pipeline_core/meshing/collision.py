"""Simple convex bodies for a physics engine: one hull of the whole, and up to eight that follow its shape.

    bodies = collision_bodies(vertices, faces, hulls=8, corners=32)

The surface is cut by planes along the axes: again and again the part, and the plane, by which the hulls of the halves
hold the least, until there are as many parts as wanted or the rest is hardly worth it. V-HACD asked for as much took
many times as long and held more air (docs/LOG.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.spatial import ConvexHull, QhullError

from pipeline_core.errors import DataError
from pipeline_core.meshing.collapse import simplify
from pipeline_core.meshing.process import run_in_process

if TYPE_CHECKING:
    from pipeline_core.config import Levels
    from pipeline_core.types import Mesh

CELLS = 32
"""Cells along the longest side, one place of the surface in each, by which parts are cut."""
PLANES = 7
"""Places at which a part is tried to be split, along each axis."""
WORTH = 0.02
"""Parts are split while that saves more than this share of the solid's volume."""

LOOSE = 1.5
"""Bodies of more than this many times the mesh's volume are flagged: things will stop short of what they see."""


@dataclass(frozen=True)
class Body:
    """A convex solid: ``vertices`` [V, 3] float32, ``faces`` [F, 3] int32 counter-clockwise from outside."""

    vertices: np.ndarray
    faces: np.ndarray

    @property
    def volume(self) -> float:
        """In cubes of the vertices' unit."""
        a, b, c = (self.vertices[self.faces[:, i]].astype(np.float64) for i in range(3))
        return float(np.einsum("fi,fi->", a, np.cross(b, c))) / 6


def collision_bodies(vertices: np.ndarray, faces: np.ndarray, *, hulls: int, corners: int) -> list[Body]:
    """The hull of the whole mesh, then one to ``hulls`` bodies that together hold it, but for what is flat of it; each
    of at most ``corners``.

    Args:
        vertices: [V, 3] of a closed mesh.
        faces: [F, 3].

    Raises:
        DataError: the mesh is flat.
    """
    places = vertices.astype(np.float64)
    points = np.unique(places[np.unique(faces)], axis=0)
    size = np.ptp(points, axis=0)
    cell = float(size.max()) / CELLS
    if not size.min() > 1e-6 * size.max():
        raise DataError(f"a mesh of {' x '.join(f'{each:g}' for each in size)} units has no inside to collide with")
    exact = surface_points(places, faces, cell)
    cells = ((exact - points.min(axis=0)) / cell).astype(int)
    _, first, of = np.unique(cells, axis=0, return_index=True, return_inverse=True)
    solid = (
        abs(float(np.einsum("fi,fi->", places[faces[:, 0]], np.cross(places[faces[:, 1]], places[faces[:, 2]])))) / 6
    )
    parts = split(cells[first], exact[first], hulls, WORTH * solid)
    of = of.reshape(-1)
    held = [exact[np.isin(of, part)] for part in parts]
    # A flat part, a fin's, has no inside to collide with.
    return [body_of(points, corners), *(body_of(each, corners) for each in held if hull_volume(each) > 0)]


def bodies_of(mesh: Mesh, settings: Levels) -> tuple[list[tuple[str, np.ndarray, np.ndarray]], dict[str, float]]:
    """Name, vertices and faces of each body of ``mesh``, made in a process of their own, and the catalogue's numbers.

    ``collision_excess`` is the volume of the parts over the mesh's, ``collision_hull_excess`` that of the one hull;
    ``collision_loose`` is 1 where the excess is above :data:`LOOSE`.
    """
    flat = run_in_process(
        "pipeline_core.meshing.collision:flattened", mesh.vertices, mesh.faces,
        hulls=settings.hulls, corners=settings.hull_vertices,
    )  # fmt: skip
    bodies = [Body(*pair) for pair in zip(flat[::2], flat[1::2], strict=True)]
    solid = max(abs(Body(mesh.vertices, mesh.faces).volume), 1e-30)
    excess = sum(each.volume for each in bodies[1:]) / solid
    named = [("hull" if i == 0 else f"{i - 1:02d}", each.vertices, each.faces) for i, each in enumerate(bodies)]
    return named, {
        "collision_bodies": float(len(bodies) - 1),
        "collision_excess": excess,
        "collision_hull_excess": bodies[0].volume / solid,
        "collision_loose": float(excess > LOOSE),
    }


def flattened(vertices: np.ndarray, faces: np.ndarray, *, hulls: int, corners: int) -> tuple[np.ndarray, ...]:
    """:func:`collision_bodies` as arrays: vertices and faces of one after another."""
    bodies = collision_bodies(vertices, faces, hulls=hulls, corners=corners)
    return tuple(array for each in bodies for array in (each.vertices, each.faces))


def surface_points(places: np.ndarray, faces: np.ndarray, cell: float) -> np.ndarray:
    """Corners of the ``faces``, and places between them so that hardly any lie more than a ``cell`` apart."""
    corner = places[faces]
    longest = np.linalg.norm(corner - np.roll(corner, 1, axis=1), axis=2).max(axis=1)
    steps = np.ceil(longest / cell).astype(int).clip(1, CELLS)
    out = []
    for count in np.unique(steps):
        share = np.array([(i, j, count - i - j) for i in range(count + 1) for j in range(count + 1 - i)]) / count
        out.append(np.einsum("sk,fki->fsi", share, corner[steps == count]).reshape(-1, 3))
    return np.concatenate(out)


def split(cells: np.ndarray, exact: np.ndarray, most: int, worth: float) -> list[np.ndarray]:
    """Numbers of the places of each part: of ``cells`` [N, 3] whole numbers, ``exact`` [N, 3] the places."""
    parts = [np.arange(len(cells))]
    cuts = [best_cut(cells, exact, parts[0])]
    while len(parts) < most:
        at = int(np.argmax([saved for saved, _ in cuts]))
        saved, halves = cuts[at]
        if saved < worth:
            break
        parts[at : at + 1] = halves
        cuts[at : at + 1] = [best_cut(cells, exact, half) for half in halves]
    return parts


def best_cut(cells: np.ndarray, exact: np.ndarray, part: np.ndarray) -> tuple[float, tuple[np.ndarray, np.ndarray]]:
    """Volume of hull that the best plane along an axis saves, and the two halves."""
    whole, best, halves = hull_volume(exact[part]), 0.0, (part, part[:0])
    for axis in range(3):
        values = cells[part, axis]
        least, most = int(values.min()), int(values.max())
        for plane in np.unique(np.linspace(least, most, PLANES + 2).round().astype(int)[1:-1]):
            below, above = part[values <= plane], part[values >= plane]  # one layer is in both: no gap between them
            saved = whole - hull_volume(exact[below]) - hull_volume(exact[above])
            if saved > best:
                best, halves = saved, (below, above)
    return best, halves


def hull_volume(points: np.ndarray) -> float:
    """Volume of the hull of ``points`` [N, 3]; 0 where they are flat."""
    try:
        return float(ConvexHull(outermost(points)).volume)
    except (QhullError, ValueError):
        return 0.0


def outermost(points: np.ndarray) -> np.ndarray:
    """The ``points`` that reach farthest in one of 128 directions: enough to judge a hull by."""
    if len(points) < 200:
        return points
    return points[np.unique((points @ DIRECTIONS.T).argmax(axis=0))]


def _directions() -> np.ndarray:
    i = np.arange(128) + 0.5
    polar, turn = np.arccos(1 - i / 64), i * np.pi * (1 + 5**0.5)
    return np.stack([np.cos(turn) * np.sin(polar), np.cos(polar), np.sin(turn) * np.sin(polar)], axis=1)


DIRECTIONS = _directions()


def body_of(points: np.ndarray, corners: int) -> Body:
    """The hull of ``points`` with at most ``corners`` vertices. Raises DataError where they are flat."""
    try:
        hull = ConvexHull(points)
    except (QhullError, ValueError):
        raise DataError(f"a hull of {len(points)} places in one plane has no inside to collide with") from None
    for share in (1.0, 0.9, 0.75, 0.5):
        if len(hull.vertices) <= corners:
            break
        vertices, faces = _turned(hull)
        fewer, _ = simplify(vertices, faces, max(int(share * (2 * corners - 4)), 4))
        hull = ConvexHull(fewer)
    vertices, faces = _turned(hull)
    return Body(vertices.astype(np.float32), faces.astype(np.int32))


def _turned(hull: ConvexHull) -> tuple[np.ndarray, np.ndarray]:
    """Vertices and outward faces of a hull."""
    used, index = np.unique(hull.simplices, return_inverse=True)
    vertices, faces = hull.points[used], index.reshape(-1, 3).copy()
    a, b, c = (vertices[faces[:, i]] for i in range(3))
    inward = np.einsum("fi,fi->f", np.cross(b - a, c - a), hull.equations[:, :3]) < 0
    faces[inward] = faces[inward][:, ::-1]
    return vertices, faces
