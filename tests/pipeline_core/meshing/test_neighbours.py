"""Neighbours along edges, and faces across them."""

import numpy as np

from pipeline_core.meshing.neighbours import neighbour_mean, paired_faces

TETRAHEDRON = np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def test_the_mean_is_over_neighbours_along_edges():
    mean = neighbour_mean(TETRAHEDRON[:1], 4).toarray()
    assert mean[0].tolist() == [0, 0.5, 0.5, 0] and mean[3].tolist() == [0, 0, 0, 0]


def test_each_side_knows_the_face_beyond():
    assert paired_faces(TETRAHEDRON, 4).tolist() == [[2, 3, 1], [0, 3, 2], [1, 3, 0], [0, 2, 1]]


def test_open_crowded_and_turned_sides_have_none():
    assert (paired_faces(TETRAHEDRON[:3], 4) == -1).sum() == 3
    crowded = np.concatenate([TETRAHEDRON, [[0, 1, 4]]])
    assert (paired_faces(crowded, 5)[[0, 1]] == -1).sum() == 2
    turned = TETRAHEDRON.copy()
    turned[3] = turned[3][::-1]
    assert (paired_faces(turned, 4) == -1).sum() == 6
