"""Bodies are convex, few, small, hold the mesh, and follow its shape."""

import numpy as np
import pytest

from pipeline_core.config import Levels
from pipeline_core.errors import DataError
from pipeline_core.meshing import surface as S
from pipeline_core.meshing.collision import bodies_of, collision_bodies
from pipeline_core.types import Mesh
from tests.pipeline_core.meshing.test_collapse import cube, sphere


def tee():
    """Two boxes as a T: convex in two parts."""
    one, faces = cube(8)
    bar, post = (one - 0.5) * [2, 0.4, 0.4] + [0, 1, 0], (one - 0.5) * [0.4, 1.8, 0.4]
    return np.concatenate([bar, post]), np.concatenate([faces, faces + len(one)])


def is_convex(body):
    a, b, c = (body.vertices[body.faces[:, i]].astype(float) for i in range(3))
    normal = np.cross(b - a, c - a)
    return ((body.vertices @ normal.T - np.einsum("fi,fi->f", normal, a)).max() < 1e-6) and body.volume > 0


def test_a_tee_falls_into_its_two_boxes():
    vertices, faces = tee()
    hull, *parts = collision_bodies(vertices, faces, hulls=8, corners=32)
    assert all(is_convex(each) and len(each.vertices) <= 32 for each in (hull, *parts))
    solid = 2 * 0.16 + 1.8 * 0.16
    assert hull.volume > 1.8 * solid
    assert 2 <= len(parts) <= 4 and sum(each.volume for each in parts) < 1.25 * solid
    inside = [((np.cross(*(p.vertices[p.faces[:, k]] - p.vertices[p.faces[:, 0]] for k in (1, 2)))) @ vertices.T.astype(
        np.float32) - np.einsum("fi,fi->f", np.cross(*(p.vertices[p.faces[:, k]] - p.vertices[p.faces[:, 0]]
        for k in (1, 2))), p.vertices[p.faces[:, 0]])[:, None]).max(axis=0) < 1e-4 for p in parts]  # fmt: skip
    assert np.any(inside, axis=0).all()


def test_a_ball_is_one_body_of_few_corners():
    _, *parts = collision_bodies(*sphere(), hulls=8, corners=32)
    assert len(parts) == 1 and len(parts[0].vertices) <= 32 and is_convex(parts[0])
    assert S.edge_counts(parts[0].faces)["watertight"] == 1


def test_numbers_and_the_flag():
    vertices, faces = tee()
    mesh = Mesh(vertices.astype(np.float32), faces.astype(np.int32))
    bodies, scores = bodies_of(mesh, Levels(hulls=1))
    assert [name for name, _, _ in bodies] == ["hull", "00"]
    assert scores["collision_excess"] == pytest.approx(scores["collision_hull_excess"], rel=0.1)
    assert scores["collision_loose"] == 1 and scores["collision_bodies"] == 1


def test_a_fin_without_a_thickness_is_no_body_and_no_error():
    """An axe's edge was cut off as a part of 17 places in one plane, and the asset failed."""
    one, faces = cube(8)
    fin = np.array([[0.5, -0.5, 0.0], [2.0, -0.5, 0.0], [2.0, 0.5, 0.0], [0.5, 0.5, 0.0]])
    both = np.array([[0, 1, 2], [0, 2, 3], [0, 2, 1], [0, 3, 2]]) + len(one)
    bodies = collision_bodies(np.concatenate([one - 0.5, fin]), np.concatenate([faces, both]), hulls=8, corners=32)
    assert len(bodies) >= 2 and all(is_convex(each) for each in bodies)
    assert sum(each.volume for each in bodies[1:]) < 1.2 < bodies[0].volume


def test_a_flat_mesh_is_refused():
    with pytest.raises(DataError, match="no inside to collide with"):
        collision_bodies(np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]), np.array([[0, 1, 2]]), hulls=8, corners=32)
