"""What went over to the background's colour has its first one again; shades, other colours and own grey stay."""

from dataclasses import replace

import pytest
import torch

from pipeline_core.gaussians.stains import destained
from pipeline_core.types import Gaussians, rgb_to_sh0, sh0_to_rgb

GREY = torch.tensor([0.5, 0.5, 0.5])
RED, BROWN = (0.8, 0.1, 0.1), (0.4, 0.25, 0.1)


def row(*colours):
    """Gaussians of these ``colours``, side by side."""
    n = len(colours)
    means = torch.stack([torch.arange(n) * 0.1, torch.zeros(n), torch.zeros(n)], dim=1)
    return Gaussians(
        means, torch.tensor([1.0, 0, 0, 0]).repeat(n, 1), torch.full((n, 3), -3.0), torch.full((n,), 3.0),
        rgb_to_sh0(torch.tensor(colours)), torch.zeros(n, 0, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    "first, now, whose",
    [
        (RED, (0.52, 0.48, 0.5), "first"),  # grey
        (RED, (0.62, 0.34, 0.34), "first"),  # more than half way
        (RED, (0.78, 0.13, 0.13), "now"),  # hardly
        (RED, (0.3, 0.1, 0.1), "now"),  # darker
        (RED, (0.1, 0.1, 0.8), "now"),  # another colour
        ((0.55, 0.5, 0.48), (0.5, 0.5, 0.5), "now"),  # its own grey
    ],
)
def test_whose_colour_it_has(first, now, whose):
    found = sh0_to_rgb(destained(row(first), row(now), GREY).sh0)
    assert torch.allclose(found, torch.tensor([{"first": first, "now": now}[whose]]), atol=0.02)


def test_between_a_shade_and_a_stain_it_is_mended_in_part():
    red, shade = torch.tensor(RED), torch.tensor(RED) + 0.35 * (GREY - torch.tensor(RED))
    found = sh0_to_rgb(destained(row(RED), row(tuple(shade.tolist())), GREY).sh0)[0]
    assert torch.allclose(found, (red + shade) / 2, atol=1e-5)


def test_the_first_colour_is_that_of_the_place():
    """Gaussians that were pruned, grown or moved ask the nearest; all but their colours stays."""
    before, after = row(RED, BROWN, RED), row(*[(0.5, 0.5, 0.5)] * 2)
    after = replace(after, means=before.means[[2, 1]] + 0.01)
    found = destained(before, after, GREY)
    assert torch.allclose(sh0_to_rgb(found.sh0), torch.tensor([RED, BROWN]), atol=1e-5)
    kept = {name: value for name, value in found.tensors().items() if name != "sh0"}
    assert all(torch.equal(value, after.tensors()[name]) for name, value in kept.items())
