"""Collapsing edges: closed stays closed, edges stay sharp, faces stay well shaped, an atlas stays valid."""

import numpy as np
import pytest

from pipeline_core.meshing import surface as S
from pipeline_core.meshing.collapse import ASPECT, simplify, simplify_charts
from pipeline_core.metrics.mesh_health import aspects


def sphere(rings=40, turns=60):
    """A closed sphere of ``2 * turns * (rings - 1)`` faces."""
    polar, turn = np.meshgrid(np.pi * np.arange(1, rings) / rings, 2 * np.pi * np.arange(turns) / turns, indexing="ij")
    around = np.stack([np.sin(polar) * np.cos(turn), np.cos(polar), np.sin(polar) * np.sin(turn)], -1).reshape(-1, 3)
    faces = []
    for i in range(rings - 2):
        for j in range(turns):
            a, b = i * turns + j, i * turns + (j + 1) % turns
            faces += [[a, b, a + turns], [b, b + turns, a + turns]]
    top, bottom, last = len(around), len(around) + 1, (rings - 2) * turns
    for j in range(turns):
        faces += [[top, (j + 1) % turns, j], [bottom, last + j, last + (j + 1) % turns]]
    return np.concatenate([around, [[0, 1, 0], [0, -1, 0]]]), np.array(faces)


def cube(n=16):
    """A closed cube of side 1 with ``12 n^2`` faces."""
    field = np.zeros((n + 2,) * 3, np.float32)
    field[1:-1, 1:-1, 1:-1] = 1
    vertices, faces, number = [], [], {}
    solid = field > 0
    for axis in range(3):
        for sign in (1, -1):
            for at in np.argwhere(solid & ~np.roll(solid, -sign, axis)):
                u, v = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3]
                middle = at + 0.5 * sign * np.eye(3)[axis]
                corners = [middle + a * u + b * v for a, b in ((-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5))]
                ids = [number.setdefault(tuple(c), len(number)) for c in (corners if sign > 0 else corners[::-1])]
                faces += [[ids[0], ids[1], ids[2]], [ids[0], ids[2], ids[3]]]
    vertices = (np.array(list(number)) - 0.5) / n
    return vertices, np.array(faces)


@pytest.mark.parametrize("target", [2000, 400, 64, 4])
def test_a_closed_mesh_stays_closed_at_any_target(target):
    vertices, faces = simplify(*sphere(), target)
    assert S.edge_counts(faces)["watertight"] == 1
    assert len(faces) <= target
    if target >= 64:
        assert aspects(vertices, faces).max() <= ASPECT
        assert np.abs(np.linalg.norm(vertices, axis=1) - 1).max() < 6 / target + 0.002


def test_a_cube_keeps_its_edges_and_volume():
    vertices, faces = simplify(*cube(), 12)
    assert len(faces) == 12 and S.edge_counts(faces)["watertight"] == 1
    assert S.tetra_volumes(vertices, faces).sum() == pytest.approx(1, rel=1e-5)


def test_handles_and_pieces_are_kept():
    one, faces = sphere(12, 16)
    many = np.concatenate([one + 3 * np.array([i, 0, 0]) for i in range(5)])
    vertices, left = simplify(many, np.concatenate([faces + i * len(one) for i in range(5)]), 3)
    assert S.face_components(left, len(vertices)).max() == 4
    assert S.edge_counts(left)["watertight"] == 1


def test_an_open_border_stays_where_it_is():
    vertices, faces = sphere()
    half = faces[(vertices[faces][..., 1] >= -1e-9).all(axis=1)]
    edge = vertices[np.abs(vertices[:, 1]) < 1e-9]
    small, left = simplify(*S.compact(vertices, half), 300)
    assert S.edge_counts(left)["boundary_edges"] == len(edge)
    assert all((np.abs(small - each).max(axis=1) < 1e-9).any() for each in edge)


def test_same_mesh_same_bytes():
    first, second = simplify(*sphere(), 500), simplify(*sphere(), 500)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(first, second, strict=True))


def six_charts(n=12):
    """A cube whose sides are charts of 1/3 by 1/2 of the atlas, vertices duplicated along its edges."""
    vertices, faces = cube(n)
    normal = np.cross(*(vertices[faces[:, k]] - vertices[faces[:, 0]] for k in (1, 2)))
    side = np.abs(normal).argmax(axis=1) * 2 + (normal[np.arange(len(faces)), np.abs(normal).argmax(axis=1)] < 0)
    place, uv, out = [], [], np.empty_like(faces)
    for chart in range(6):
        axis = chart // 2
        mine = faces[side == chart]
        used, local = np.unique(mine, return_inverse=True)
        out[side == chart] = local.reshape(-1, 3) + len(place)
        flat = np.delete(vertices[used], axis, axis=1)
        flat = flat if (chart % 2 == 0) == (axis != 1) else flat * [-1, 1] + [1, 0]
        place += list(vertices[used])
        uv += list((np.array([chart % 3, chart // 3]) + 0.1 + 0.8 * flat) / [3, 2])
    return np.array(place), out, np.array(uv)


def doubled(uvs, faces):
    a, b = uvs[faces[:, 1]] - uvs[faces[:, 0]], uvs[faces[:, 2]] - uvs[faces[:, 0]]
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


def test_levels_share_the_atlas():
    """Flat charts collapse to two faces each: the surface is the cube still, and each chart fills the same square."""
    vertices, faces, uvs = six_charts()
    less = simplify_charts(vertices, faces, uvs, 12)
    assert len(less) == 12
    welded, inverse = np.unique(vertices, axis=0, return_inverse=True)
    assert S.edge_counts(inverse.reshape(-1)[less])["watertight"] == 1
    assert S.tetra_volumes(vertices, less).sum() == pytest.approx(1)
    before, after = doubled(uvs, faces), doubled(uvs, less)
    assert (np.sign(after) == np.sign(before[0])).all()
    assert after.sum() == pytest.approx(before.sum())
    # every place of a face has the uv that it had: uv and place are the same linear map on a whole side
    middle = vertices[less].mean(axis=1)
    for chart_face, at in zip(less, middle, strict=True):
        off = np.abs(uvs[faces].mean(axis=1) - uvs[chart_face].mean(axis=0))
        same = faces[(off < [1 / 6, 1 / 4]).all(axis=1)]
        nearest = same[np.linalg.norm(vertices[same].mean(axis=1) - at, axis=1).argmin()]
        assert np.abs(uvs[nearest].mean(axis=0) - uvs[chart_face].mean(axis=0)).max() < 0.05


def test_the_corners_of_charts_stay():
    vertices, faces, uvs = six_charts(6)
    less = simplify_charts(vertices, faces, uvs, 4)
    corners = {tuple(c) for c in vertices[np.unique(less)]}
    assert corners == {(x, y, z) for x in (0.0, 1.0) for y in (0.0, 1.0) for z in (0.0, 1.0)}
