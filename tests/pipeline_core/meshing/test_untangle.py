"""A surface that was pushed through itself comes apart again, and nothing else moves."""

import numpy as np

from pipeline_core.meshing.crossings import crossing_faces
from pipeline_core.meshing.untangle import untangle
from tests.pipeline_core.meshing.test_collapse import sphere


def test_what_crosses_is_taken_apart_and_the_rest_stays():
    before, faces = sphere(24, 32)
    moved = before.copy()
    top = before[:, 1] > 0.8
    moved[top, 1] -= 2.2  # the pole goes through the floor
    assert crossing_faces(moved, faces).sum() > 50
    apart = untangle(moved, before, faces)
    assert not crossing_faces(apart, faces).any()
    far = np.abs(before[:, 1]) < 0.2
    assert np.array_equal(apart[far], before[far])


def test_what_does_not_cross_is_returned_as_it_is():
    before, faces = sphere(8, 12)
    assert untangle(before, before * 2, faces) is before
