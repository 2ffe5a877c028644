"""Degraded pictures: still the same thing, by its own amounts, and nothing outside what a picture may hold."""

import torch
from torch.testing import assert_close

from pipeline_core.training.degrade import degrade


def disc(size=64, count=8):
    """A disc, left half red and right half green, in the middle."""
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    inside = ((x - size / 2) ** 2 + (y - size / 2) ** 2 < (size / 3) ** 2).float()
    left = (x < size / 2).float()
    return torch.stack([left, 1 - left, torch.zeros_like(left), inside]).repeat(count, 1, 1, 1)


def test_degraded_pictures_are_pictures_of_the_same_thing():
    rgba = disc()
    seen = degrade(rgba, torch.Generator().manual_seed(0))
    assert seen.shape == rgba.shape and seen.isfinite().all() and seen.min() >= 0 and seen.max() <= 1
    overlap = ((seen[:, 3] > 0.5) & (rgba[:, 3] > 0.5)).sum() / ((seen[:, 3] > 0.5) | (rgba[:, 3] > 0.5)).sum()
    assert overlap > 0.75
    # far from the seam and from the edge, colours are what they were, up to a little light
    assert_close(seen[:, :2, 32, 18].mean(0), torch.tensor([1.0, 0.0]), atol=0.12, rtol=0)
    assert_close(seen[:, :2, 32, 46].mean(0), torch.tensor([0.0, 1.0]), atol=0.12, rtol=0)


def test_every_picture_is_degraded_in_its_own_way_and_again_the_same():
    rgba = disc()
    seen = degrade(rgba, torch.Generator().manual_seed(1))
    assert len({tuple(picture.flatten().tolist()) for picture in seen}) == len(seen)
    assert torch.equal(seen, degrade(rgba, torch.Generator().manual_seed(1)))


def test_amounts_grow_with_the_picture():
    """A picture of twice the size is bent by about as large a share of it."""
    small, large = (degrade(disc(size, 16), torch.Generator().manual_seed(2)) for size in (32, 64))
    share = [float((seen[:, 3] - disc(size, 1)[0, 3]).abs().mean()) for seen, size in ((small, 32), (large, 64))]
    assert 0.5 < share[0] / share[1] < 2
