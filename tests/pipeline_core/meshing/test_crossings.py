"""Faces that cross: exact against a slow reference, and touching is not crossing."""

import numpy as np
import pytest

from pipeline_core.meshing.crossings import crossing_faces

TRIANGLE = np.array([[0, 0, 0], [4, 0, 0], [0, 4, 0]], float)


def pair(other, faces=((0, 1, 2), (3, 4, 5))):
    return crossing_faces(np.concatenate([TRIANGLE, np.array(other, float)]), np.array(faces))


def test_a_face_that_is_pierced_crosses_and_so_does_the_one_that_pierces():
    assert pair([[1, 1, -1], [1, 1, 1], [9, 9, 0]]).tolist() == [True, True]


@pytest.mark.parametrize("other", [
    [[1, 1, 0], [1, 1, 3], [2, 1, 3]],  # a corner rests on the face
    [[0, 0, 0.5], [4, 0, 0.5], [0, 4, 0.5]],  # beside it
    [[1, 1, 0], [2, 1, 0], [1, 2, 0]],  # within its plane
    [[5, 5, -1], [5, 5, 1], [9, 9, 0]],  # through the plane, outside of the face
])  # fmt: skip
def test_faces_that_touch_or_miss_do_not_cross(other):
    assert not pair(other).any()


def test_faces_at_one_vertex_cross_where_the_side_opposite_of_it_pierces():
    away = [[-1, -1, 1], [-1, -1, -1]]
    through = [[1, 1, 1], [1.5, 1, -1]]
    assert not pair(away, ((0, 1, 2), (0, 3, 4))).any()
    assert pair(through, ((0, 1, 2), (0, 3, 4))).all()


def test_faces_at_one_edge_never_cross():
    assert not pair([[1, 1, 1]], ((0, 1, 2), (1, 0, 3))).any()


def plain(vertices, faces):
    """All pairs, in floating point."""

    def volume(a, b, c, d):
        return np.dot(np.cross(b - a, c - a), d - a)

    def pierces(s, t, tri):
        if volume(*tri, s) * volume(*tri, t) >= 0:
            return False
        signs = [volume(s, t, tri[k], tri[(k + 1) % 3]) for k in range(3)]
        return min(signs) >= 0 or max(signs) <= 0

    out = np.zeros(len(faces), bool)
    for i in range(len(faces)):
        for j in range(i):
            if not set(faces[i]) & set(faces[j]):
                f, g = vertices[faces[i]], vertices[faces[j]]
                if any(pierces(f[k], f[k - 1], g) or pierces(g[k], g[k - 1], f) for k in range(3)):
                    out[i] = out[j] = True
    return out


def test_a_soup_of_faces_as_a_slow_reference_counts_it():
    rng = np.random.default_rng(0)
    vertices = (rng.random((60, 1, 3)) + 0.5 * rng.random((60, 3, 3))).reshape(-1, 3)
    faces = np.arange(180).reshape(60, 3)
    found = crossing_faces(vertices, faces)
    assert 5 < found.sum() < 60
    assert np.array_equal(found, plain(vertices, faces))
    some = np.arange(60) < 10
    assert np.array_equal(crossing_faces(vertices, faces, among=some)[:10], found[:10])


def test_many_faces_in_one_place_take_bounded_time():
    """Every face crosses every other: each is looked at until it is known to cross."""
    rng = np.random.default_rng(0)
    vertices, faces = rng.normal(size=(15_000, 3)), np.arange(15_000).reshape(5000, 3)
    assert crossing_faces(vertices, faces).mean() > 0.99


def test_what_cannot_be_asked():
    assert len(crossing_faces(np.zeros((0, 3)), np.zeros((0, 3), int))) == 0
    assert not crossing_faces(np.zeros((3, 3)), np.array([[0, 1, 2], [0, 2, 1]])).any()
    with pytest.raises(ValueError, match="NaN or infinite"):
        crossing_faces(np.full((3, 3), np.nan), np.array([[0, 1, 2], [0, 1, 2]]))
