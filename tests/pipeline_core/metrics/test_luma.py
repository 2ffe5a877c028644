"""Light that is left in the texture of a thing of one colour (tests/bench/fidelity.py), on a ball of known shading."""

import numpy as np
import pytest
import trimesh

from tests.bench.fidelity import luma_front_back
from tests.pipeline_core.texturing.test_draw import textured


@pytest.mark.parametrize(
    ("shade", "told"),
    [
        (lambda at: np.ones(len(at)), 0.0),
        (lambda at: np.where(at[:, 2] > 0, 0.68, 0.55), 0.13 / 0.615),  # over the mean of both
        (lambda at: np.where(at[:, 2] > 0, 0.55, 0.68), 0.13 / 0.615),
        (lambda at: 0.6 + 0.5 * at[:, 0], 0.0),  # from the right, and from above: the front is as the back
        (lambda at: 0.6 + 0.5 * at[:, 1], 0.0),
        (lambda at: np.where(abs(at[:, 2]) < 0.3, 0.1, 0.6), 0.0),  # what faces neither does not count
    ],
)
def test_luma_of_front_and_back(shade, told):
    ball = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    lit = textured(ball, lambda at: shade(at)[:, None] * (0.9, 0.5, 0.2))
    assert luma_front_back(lit) == pytest.approx(told, abs=0.01)
