"""What became the background's colour is seen through; what had it from the start is not."""

from dataclasses import replace

import pytest
import torch

from pipeline_core.gaussians.carve import painted
from pipeline_core.types import Gaussians, rgb_to_sh0

GREY, RED = (0.5, 0.5, 0.5), torch.tensor([0.8, 0.1, 0.1])


def plate(colours: torch.Tensor) -> Gaussians:
    """A plate that faces the front, 33 x 33 x 3 Gaussians."""
    line = torch.linspace(-0.4, 0.4, 33)
    means = torch.cartesian_prod(line, line, torch.tensor([-0.03, 0.0, 0.03]))
    n = len(means)
    return Gaussians(
        means, torch.tensor([1.0, 0, 0, 0]).repeat(n, 1), torch.full((n, 3), 0.02).log(), torch.full((n,), 0.9).logit(),
        rgb_to_sh0(colours.expand(n, 3)), torch.zeros(n, 0, 3),
    )  # fmt: skip


@pytest.fixture
def window():
    """Numbers of the Gaussians well within a window of the plate, and well outside of it, whatever their depth."""
    x, y, _ = plate(RED).means.T.abs()
    return (x < 0.12) & (y < 0.12), (x > 0.25) | (y > 0.25)


def test_a_window_that_was_painted_is_open_through_the_plate(window):
    inside, outside = window
    before, skin = plate(RED), plate(RED).means[:, 2].abs() > 0.01
    x, y, _ = before.means.T.abs()
    painted_on = (x < 0.16) & (y < 0.16) & skin  # what lies inside nobody sees, and nobody paints
    after = replace(before, sh0=torch.where(painted_on[:, None, None], rgb_to_sh0(torch.tensor([GREY])), before.sh0))
    share = painted(before, after, background=GREY, elevation=(-15, 50))
    assert share[inside].min() > 0.3 and share[outside].max() < 0.3
    assert not painted(after, after, background=GREY, elevation=(-15, 50)).any()  # it was grey before


def test_another_grey_is_no_background(window):
    before = plate(RED)
    x, y, _ = before.means.T.abs()
    hub = rgb_to_sh0(torch.tensor([[0.7, 0.75, 0.8]]))
    after = replace(before, sh0=torch.where(((x < 0.16) & (y < 0.16))[:, None, None], hub, before.sh0))
    assert not painted(before, after, background=GREY, elevation=(-15, 50)).any()
