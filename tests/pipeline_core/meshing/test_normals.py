"""Normals: outwards, and the same however a flat face is cut."""

import numpy as np
from numpy.testing import assert_allclose

from pipeline_core.meshing.normals import vertex_normals

CUBE = np.array([[x, y, z] for x in (-1, 1) for y in (-1, 1) for z in (-1, 1)], np.float32)
QUADS = np.array([[0, 1, 3, 2], [4, 6, 7, 5], [0, 4, 5, 1], [2, 3, 7, 6], [0, 2, 6, 4], [1, 5, 7, 3]])


def test_a_cubes_corners_look_outwards_along_their_diagonals_however_its_faces_are_cut():
    cuts = [np.concatenate([QUADS[:, [0, 1, 2]], QUADS[:, [0, 2, 3]]]),
            np.concatenate([QUADS[:, [1, 2, 3]], QUADS[:, [1, 3, 0]]])]  # fmt: skip
    for faces in cuts:
        assert_allclose(vertex_normals(CUBE, faces), CUBE / np.sqrt(3), atol=1e-6)
    assert_allclose(vertex_normals(CUBE, cuts[0][:, ::-1]), -CUBE / np.sqrt(3), atol=1e-6)


def test_a_vertex_without_area_has_no_normal():
    vertices = np.array([[0, 0, 0], [1, 0, 0], [2, 0, 0], [5, 5, 5]], float)
    assert_allclose(vertex_normals(vertices, np.array([[0, 1, 2]])), 0.0)
