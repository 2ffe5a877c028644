"""What pictures show between parts is seen through at any depth; thinner outlines and a thing's own grey are not."""

import numpy as np
import pytest
import torch

from pipeline_core.cameras import orbit
from pipeline_core.gaussians.carve import LEAST, carved, gaps, openings, painted, seen_through, share_open
from pipeline_core.types import Gaussians, rgb_to_sh0, sh0_to_rgb

GREY, RED = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0.8, 0.1, 0.1])


def plate() -> Gaussians:
    """A red plate that faces the front, 33 x 33 x 3 Gaussians, 0.8 wide."""
    line = torch.linspace(-0.4, 0.4, 33)
    means = torch.cartesian_prod(line, line, torch.tensor([-0.15, 0.0, 0.15]))
    n = len(means)
    return Gaussians(
        means, torch.tensor([1.0, 0, 0, 0]).repeat(n, 1), torch.full((n, 3), 0.02).log(), torch.full((n,), 0.9).logit(),
        rgb_to_sh0(RED.expand(n, 3)), torch.zeros(n, 0, 3),
    )  # fmt: skip


def square(low: int, high: int, size: int = 128) -> np.ndarray:
    mask = np.zeros((size, size), bool)
    mask[low:high, low:high] = True
    return mask


def shown(mask: np.ndarray, colour: torch.Tensor = RED) -> torch.Tensor:
    """A picture [S, S, 3] of what is where ``mask`` is, on grey."""
    return torch.where(torch.from_numpy(mask)[..., None], colour, GREY)


@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_gaps_are_holes_and_what_lies_between_parts(scale):
    size = int(128 * scale)
    whole, hole = square(size // 4, 3 * size // 4, size), square(3 * size // 8, 5 * size // 8, size)
    assert np.array_equal(gaps(whole & ~hole, scale), hole)  # however wide
    assert not gaps(whole, scale).any()
    slit = whole.copy()
    slit[:, : size // 2 - int(5 * scale)] = slit[:, size // 2 + int(5 * scale) :] = False
    found = gaps(whole & ~slit, scale)  # open above and below
    assert found[size // 2, size // 2] and not (found & ~whole).any()


def test_openings_are_where_pictures_see_through_what_was_there():
    whole, hole, small = square(32, 96), square(50, 70), square(40, 88)
    cover = torch.from_numpy(whole).float()[None]
    first = RED * cover[..., None]
    pictures = torch.stack([shown(whole & ~hole), shown(small), shown(whole)])
    clear = openings(pictures, first.expand(3, -1, -1, -1), cover.expand(3, -1, -1), GREY).numpy()
    assert np.array_equal(clear[0], hole)
    assert not clear[1:].any()  # a thinner thing has no gap, nor has a whole one
    grey, pale = torch.full((3,), 0.55), torch.tensor([0.65, 0.42, 0.72])
    for own in (grey, pale):
        assert not openings(pictures[:1], own * cover[..., None], cover, GREY).any()  # no picture tells it from grey


def test_a_hollow_of_a_grey_thing_that_is_painted_over_is_no_opening():
    whole, hollow = square(32, 96), square(56, 66)
    cover = torch.from_numpy(whole).float()[None]
    dark, grey = torch.full((3,), 0.3), torch.full((3,), 0.55)
    first = torch.where(torch.from_numpy(hollow)[None, ..., None], dark, grey) * cover[..., None]
    assert not openings(shown(whole & ~hollow)[None], first, cover, GREY).any()
    assert openings(shown(whole & ~hollow)[None], dark * cover[..., None], cover, GREY).any()


def test_a_clear_ray_is_clear_at_any_depth_and_what_is_hidden_has_no_say():
    gaussians, cameras = plate(), orbit(torch.tensor([0.0]), torch.tensor([0.0]), size=128)
    clear = torch.from_numpy(square(58, 70))[None]
    opened, closed = (each[0] for each in seen_through(gaussians, cameras, clear))
    x, y, z = gaussians.means.T
    inside, outside = (x.abs() < 0.05) & (y.abs() < 0.05), (x.abs() > 0.15) | (y.abs() > 0.15)
    assert opened[inside].all() and not opened[outside].any() and not (opened & closed).any()
    assert closed[outside & (z > 0.1)].all() and closed[outside & (z < -0.1)].float().mean() < 0.2


def test_what_hides_counts_neither_way_and_few_views_decide_nothing():
    opened = torch.tensor([[1, 0, 0]] * LEAST + [[0, 1, 0]] * (LEAST - 1)).bool()
    closed = torch.tensor([[0, 0, 1]] * LEAST + [[0, 0, 1]] * (LEAST - 1)).bool()
    assert share_open(opened, closed).tolist() == [1.0, 0.0, 0.0]


def test_what_is_seen_through_is_painted_by_its_share():
    gaussians = plate()
    opened = torch.zeros(10, len(gaussians), dtype=torch.bool)
    opened[:3, 0], opened[:, 1], opened[:1, 2] = True, True, True
    colours = sh0_to_rgb(painted(gaussians, opened, ~opened, 0.3, GREY).sh0)
    torch.testing.assert_close(colours[:4], torch.stack([(RED + GREY) / 2, GREY, RED, RED]))


def test_a_thing_stays_whole_by_a_higher_limit():
    means = plate().means
    x = means[:, 0]
    bar = (x.abs() < 0.1).float()
    assert torch.equal(carved(means, 0.4 * bar * (means[:, 1] < 0.2), 0.3), (bar > 0) & (means[:, 1] < 0.2))
    bridged = bar * torch.where(means[:, 1] < 0.2, 0.6, 0.4)  # at 0.3 it would be two halves, from 0.4 on it is one
    assert torch.equal(carved(means, bridged, 0.3), bridged > 0.5)
    assert not carved(means, bar, 0.3).any() and not carved(means, torch.ones(len(means)), 0.3).any()
