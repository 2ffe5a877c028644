"""The F-score between surfaces (tests/bench/fidelity.py): a true thing has nearly all of it, a worse one less."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline_core.props.props import PropSpec
from tests.bench.fidelity import DENSE, shape
from tests.bench.shared import truth_points

CRATE = PropSpec("crate", "orange", seed=7)


def row(points: np.ndarray) -> dict[str, float]:
    return shape(points[:: DENSE // 4096], CRATE, np.zeros((96, 96), bool), points)


def told(points: np.ndarray) -> float:
    return row(points)["f_score_2_surface"]


def test_a_true_thing_has_nearly_all_where_few_of_its_points_lie_near_another_few():
    points = truth_points(CRATE, DENSE)
    assert told(points) > 0.98
    assert row(points)["f_score_2"] < 0.75  # the same thing by 4096 points


def test_what_is_missing_and_what_is_too_much_count():
    points = truth_points(CRATE, DENSE)
    whole = told(points)
    half = points[points[:, 0] > 0]
    low = half[np.random.default_rng(0).integers(0, len(half), DENSE)]
    assert told(low) == pytest.approx(2 / 3, abs=0.06)  # all of it is true, and half of the truth is there
    assert told(points * 1.1) < 0.7 * whole
    other = truth_points(replace(CRATE, category="barrel"), DENSE)
    assert told(other) < 0.5
