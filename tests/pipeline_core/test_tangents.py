"""Tangents: along u, at right angles to the normal, the sign by the side that the atlas shows."""

import numpy as np

from pipeline_core.tangents import mirrored, tangents

SQUARE = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
FACES = np.array([[0, 1, 2], [0, 2, 3]])
UP = np.tile(np.float32([0, 0, 1]), (4, 1))
SEEN = np.float32([[0, 1], [1, 1], [1, 0], [0, 0]])  # as it is seen from outside: v runs down


def test_a_square_seen_from_outside_has_u_as_its_tangent():
    assert tangents(SQUARE, FACES, UP, SEEN).tolist() == [[1, 0, 0, 1]] * 4
    assert not mirrored(FACES, SEEN).any()


def test_in_a_mirror_the_sign_turns_and_up_stays_up_the_picture():
    flipped = SEEN * [-1, 1] + [1, 0]
    assert tangents(SQUARE, FACES, UP, flipped).tolist() == [[-1, 0, 0, -1]] * 4
    assert mirrored(FACES, flipped).all()
    assert np.cross([0, 0, 1], [-1, 0, 0]).tolist() == [0, -1, 0]  # times w = -1: +y, up the picture


def test_they_lie_in_the_plane_of_a_slanted_normal():
    normals = np.tile(np.float32([0.6, 0, 0.8]), (4, 1))
    np.testing.assert_allclose(tangents(SQUARE, FACES, normals, SEEN), [[0.8, 0, -0.6, 1]] * 4, atol=1e-6)


def test_without_uv_area_a_tangent_is_still_a_unit_vector():
    frame = tangents(SQUARE, FACES, UP, np.zeros((4, 2), np.float32))
    np.testing.assert_allclose(np.linalg.norm(frame[:, :3], axis=1), 1)
    assert np.abs((frame[:, :3] * UP).sum(axis=1)).max() < 1e-6
    assert not mirrored(FACES, np.zeros((4, 2))).any()
