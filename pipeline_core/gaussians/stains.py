"""An image prior paints its background into what it would have thinner, or open: grey linings, grey patches in a wheel.

    gaussians = destained(before, gaussians, ground)

A colour follows sooner than an opacity, so what ought to vanish takes on the background's colour instead. What may go
is carved away (``carve.py``); what is left of it has its first colour again.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from scipy.spatial import cKDTree
from torch import Tensor

from pipeline_core.types import Gaussians, rgb_to_sh0, sh0_to_rgb

GONE = (0.2, 0.5)
"""Shares of the way from the first colour to the background's: up to one it is a shade, from the other on a stain."""
ASIDE = (0.2, 0.1)
"""Distances in RGB from that way: from one on it is a colour of its own, up to the other on the way."""
OWN = (0.15, 0.25)
"""Distances of the first colour from the background's: up to one it is the thing's own grey, from the other on not."""


def destained(before: Gaussians, after: Gaussians, ground: Tensor) -> Gaussians:
    """``after`` with the colours of the nearest of ``before`` where it went over to the background's ``ground`` [3].

    On the device of ``after``; harmonics above the first stay.
    """
    near = torch.from_numpy(cKDTree(before.means.cpu().numpy()).query(after.means.cpu().numpy())[1])
    now = sh0_to_rgb(after.sh0)
    first = sh0_to_rgb(before.sh0)[near.to(before.sh0.device)].to(now)
    way = ground.to(now) - first
    share = ((now - first) * way).sum(dim=-1) / way.square().sum(dim=-1).clamp(min=1e-6)
    aside = (now - first - share[:, None] * way).norm(dim=-1)
    stain = _ramp(share, GONE) * _ramp(aside, ASIDE) * _ramp(way.norm(dim=-1), OWN)
    return replace(after, sh0=rgb_to_sh0(now + stain[:, None] * (first - now)))


def _ramp(value: Tensor, ends: tuple[float, float]) -> Tensor:
    """0 at the first of ``ends``, 1 at the second, a line between them."""
    return ((value - ends[0]) / (ends[1] - ends[0])).clamp(0, 1)
