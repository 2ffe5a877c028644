"""Ramps between colours become steps where they were half way, and nothing else changes."""

import numpy as np
import pytest

from pipeline_core.texturing.bake import Texels
from pipeline_core.texturing.edges import sharpen_edges

RED, BLUE = np.array([0.8, 0.1, 0.1], np.float32), np.array([0.1, 0.2, 0.7], np.float32)
REACH = 0.05


def sheet(fine: int = 160, *, z: float = 0.0, facing: float = 1.0) -> Texels:
    """A square of one object unit, parallel to the screen."""
    index = np.argwhere(np.ones((fine, fine), bool))
    position = np.column_stack([(index[:, ::-1] + 0.5) / fine - 0.5, np.full(len(index), z)]).astype(np.float32)
    normal = np.tile(np.array([0, 0, facing], np.float32), (len(index), 1))
    return Texels(fine, index, position, normal, np.zeros(len(index), int), np.zeros((len(index), 3), np.float32))


def ramp(inside: np.ndarray) -> np.ndarray:
    """Red where ``inside`` [T], a signed distance in object units, is above 0, blue below; about as far as the reach
    each way they are mixed."""
    share = 1 / (1 + np.exp(-3 * inside / REACH))
    return (share[:, None] * RED + (1 - share[:, None]) * BLUE).astype(np.float32)


def reds(colours: np.ndarray) -> np.ndarray:
    """Share of red in each of ``colours``, from -0.5 (blue) to 0.5."""
    return (colours - (RED + BLUE) / 2) @ (RED - BLUE) / ((RED - BLUE) ** 2).sum()


@pytest.mark.parametrize("fine", [100, 160, 320])
def test_a_ramp_becomes_a_step_in_its_middle_however_fine_the_atlas_is(fine):
    texels = sheet(fine)
    x = texels.position[:, 0]
    before = ramp(x - 0.1)
    after = sharpen_edges(before, texels.position, texels.normal, REACH)
    mixed = (np.abs(reds(after)) < 0.4).reshape(fine, fine).sum(axis=1)
    assert (np.abs(reds(before)) < 0.4).reshape(fine, fine).sum(axis=1).min() >= 3 * mixed.max()
    assert mixed.max() <= 3
    step = (reds(after) > 0).reshape(fine, fine).sum(axis=1)
    np.testing.assert_allclose(step / fine, 0.4, atol=0.012)  # as smooth as the patches are fine


def test_a_spot_keeps_its_place_and_its_size():
    texels = sheet()
    away = np.linalg.norm(texels.position[:, :2], axis=1)
    after = reds(sharpen_edges(ramp(0.15 - away), texels.position, texels.normal, REACH))
    assert (after[away < 0.13] > 0.45).all() and (after[away > 0.17] < -0.45).all()
    assert (after > 0).mean() == pytest.approx(np.pi * 0.15**2, rel=0.13)  # a texel wider: it is curved


@pytest.mark.parametrize("length", [0.09, 0.15, 0.2, 0.3])
def test_a_ragged_edge_comes_out_straighter(length):
    texels = sheet()
    x, y, _ = texels.position.T
    waves = 0.012 * np.sin(2 * np.pi * y / length)
    after = reds(sharpen_edges(ramp(x - waves), texels.position, texels.normal, REACH)) > 0
    step = after.reshape(160, 160)[10:-10].sum(axis=1) / 160
    assert step.mean() == pytest.approx(0.5, abs=0.01)
    assert np.ptp(step) < 0.7 * 0.024


def test_a_narrow_band_and_a_small_spot_keep_their_width():
    texels = sheet()
    x, y, _ = texels.position.T
    band = reds(sharpen_edges(ramp(0.03 - np.abs(x)), texels.position, texels.normal, REACH)) > 0
    assert band.mean() == pytest.approx(0.06, rel=0.1)
    spot = reds(sharpen_edges(ramp(0.08 - np.hypot(x, y)), texels.position, texels.normal, REACH)) > 0
    assert spot.mean() == pytest.approx(np.pi * 0.08**2, rel=0.15)


def test_grain_and_slow_gradients_make_no_edges():
    texels = sheet()
    grain = 0.5 + 0.05 * np.random.default_rng(0).standard_normal((len(texels.index), 3)).astype(np.float32)
    after = sharpen_edges(grain, texels.position, texels.normal, REACH)
    assert np.abs(after - grain).mean() < 0.05 and after[: 80 * 160].mean() == pytest.approx(0.5, abs=0.005)
    slow = (0.3 + 0.4 * (texels.position[:, :1] + 0.5) * np.ones(3)).astype(np.float32)
    assert np.abs(sharpen_edges(slow, texels.position, texels.normal, REACH) - slow).max() < 0.01


def test_the_two_sides_of_a_thin_sheet_keep_their_colours():
    front, back = sheet(), sheet(z=-0.002, facing=-1.0)
    both = Texels(160, *(np.concatenate(pair) for pair in zip(
        *((t.index, t.position, t.normal, t.face, t.share) for t in (front, back)), strict=True,
    )))  # fmt: skip
    colours = np.concatenate([np.tile(RED, (160 * 160, 1)), np.tile(BLUE, (160 * 160, 1))])
    np.testing.assert_allclose(sharpen_edges(colours, both.position, both.normal, REACH), colours, atol=1e-6)


def test_no_reach_or_hardly_any_texels_change_nothing():
    texels = sheet()
    colours = ramp(texels.position[:, 0])
    assert sharpen_edges(colours, texels.position, texels.normal, 0.0) is colours
    few = sheet(5)
    assert sharpen_edges(ramp(few.position[:, 0]), few.position, few.normal, REACH).shape == (25, 3)
