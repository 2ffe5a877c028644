"""Gaps that a prior has painted in its background's colour become gaps.

    gone = painted(before, after, background=(0.5, 0.5, 0.5), elevation=(-15, 50)) >= 0.28

Where a cloud fills what is open (between spokes, pickets, a cactus' arms), an image prior paints the background on it:
in its pictures that is what a gap looks like, and a colour is sooner changed than an opacity. So what has *become* the
background's colour, in so many of the views that see the place, is taken away, all through: along a ray that meets the
background nothing can stand (space carving, Kutulakos and Seitz 2000, with the prior's word for what is seen). What had
that colour from the start stays.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from pipeline_core.cameras import orbit
from pipeline_core.rendering.rasterize import rasterize_views
from pipeline_core.types import Gaussians, rgb_to_sh0, sh0_to_rgb

ROUND, SIZE = 16, 128
"""Views at each of three elevations, and their pixels a side. Not measured."""
NEAR = 0.22
"""Distance of a pixel's colour to the background's, in RGB, up to which it may be that; 0.25 eats edges of chairs."""
MOVED = 0.45
"""Share of the way from its first colour to the background's that it has come at least."""
OTHER = 0.25
"""Colours nearer than this to the background's at first are the thing's own."""


def painted(
    before: Gaussians, after: Gaussians, *, background: tuple[float, float, float], elevation: tuple[float, float]
) -> Tensor:
    """Share [N] of the views that see an object where a Gaussian is in which that looks like background now.

    Args:
        before, after: the same N Gaussians at the start and now, on the CPU
        background: RGB in [0, 1] of the prior's pictures
        elevation: degrees, of the views that the prior was shown: of others it has said nothing
    """
    ground = torch.tensor(background)
    first, now = sh0_to_rgb(before.sh0), sh0_to_rgb(after.sh0)
    way = ground - first
    far = way.norm(dim=1)
    moved = ((now - first) * way).sum(dim=1) / far.square().clamp(min=1e-9)
    moved = torch.where(far > OTHER, moved.clamp(0, 1), torch.zeros(()))
    low, high = elevation
    tilts = torch.tensor([low + (high - low) * k for k in (0.1, 0.4, 0.7)])
    cameras = orbit((torch.arange(ROUND) * 360 / ROUND).repeat(3), tilts.repeat_interleave(ROUND), size=SIZE)
    colour, alpha = rasterize_views(after, cameras)
    gone, _ = rasterize_views(replace(after, sh0=rgb_to_sh0(moved[:, None].expand(-1, 3))), cameras)
    alpha = alpha[..., 0]
    cover = alpha.clamp(min=0.3)
    like = (colour / cover[..., None] - ground).norm(dim=-1) < NEAR
    open_ = (alpha > 0.5) & like & (gone[..., 0] / cover > MOVED)
    votes = torch.zeros(2, len(after))
    for view in range(len(cameras)):
        viewmat, K = cameras.viewmats[view], cameras.Ks[view]
        place = after.means @ viewmat[:3, :3].T + viewmat[:3, 3]
        pixel = place[:, :2] / place[:, 2:] * K.diagonal()[:2] + K[:2, 2]
        x, y = pixel.long().clamp(0, SIZE - 1).unbind(dim=1)
        votes += torch.stack([open_[view][y, x], alpha[view][y, x] > 0.5])
    return votes[0] / votes[1].clamp(min=1)
