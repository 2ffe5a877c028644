"""Gaps that a cloud has filled become gaps again: between spokes, pickets, a cactus' arms.

    clear = openings(pictures, first, cover, ground)                 # [V, S, S]: where pictures see through
    opened, closed = seen_through(gaussians, cameras, grown(clear))  # [V, N] each: what views say of every Gaussian
    gone = carved(gaussians.means, share_open(opened, closed), 0.3)
    opens_gaps(gaussians, rest, cameras, clear)                      # or else nothing goes

The pictures are what an image prior makes of renders (``engine/carving.py``). Where such a picture shows its background
*between* parts of the thing, nothing can stand along the ray, in front or behind (space carving, Kutulakos and Seitz
2000, with the prior's word for what is seen). That a thing is thinner or shorter in a picture is no gap: outlines vary
from sample to sample, and are left alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from scipy.ndimage import binary_closing, binary_fill_holes, binary_opening
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import max_pool2d

from pipeline_core.cameras import Cameras
from pipeline_core.gaussians.strategies import linked
from pipeline_core.rendering.rasterize import rasterize_views
from pipeline_core.types import Gaussians, rgb_to_sh0, sh0_to_rgb

NEAR, HALFWAY = 0.3, 0.5
"""Distance in RGB up to which a colour may be the background's, and share of the first colour's distance. At 0.2 a gap
loses its edges: wheels and fences show 0.1 to 0.3 less of theirs (docs/LOG.md)."""
OWN, BESIDE = 0.3, 6
"""First colours nearer than this to the background's are the thing's own, which no picture tells from it, and so is
what turns to that within so many pixels of it, in pictures of 128: a grey cheese's dark hollows, painted over, would be
holes. At 0.2 two swords are open where a pale groove is, at 0.3 one, at 0.35 none, and a cactus is closed (docs/LOG.md:
Edges that are straight)."""
THERE = 0.3
"""Coverage from which on a pixel shows the thing. Not measured."""
WIDEST, THINNEST = 7, 3
"""Half the width of the widest gap that is open at an end, and the thinnest gap at all, in pixels of pictures of 128.
Without the first a chair's F-score falls by 0.05 (docs/LOG.md)."""
GROWN = 1
"""Pixels of pictures of 128 by which a gap is widened: a Gaussian whose centre lies beside it reaches into it. With it
six wheels, fences and cacti open 0.49 of what is seen through, without it 0.37 (docs/LOG.md)."""
DEPTH_SIDE, BEHIND = 48, 0.06
"""Pixels a side in which the foremost Gaussian is looked for, and object units behind it that are visible too."""
LEAST = 4
"""Views that see through a Gaussian that goes. Not measured."""
AROUND = 0.1
"""Shares by so much to either side of the limit are painted in part. Not measured."""
MEANT = 0.45
"""Share of what carving opens that must be what the pictures see through. Things with gaps have 0.47 to 0.95 (a fence
with pink rails, a cactus with spots the least), others, which lose by it, 0.1 to 0.41 (a grey signpost; docs/LOG.md).
"""
MORE, PIECES = 0.05, 0.01
"""By so much the limit rises until no more than this share of what is left has come off. Not measured."""
JOINED = 5.0
"""Median distances to the nearest neighbour within which two Gaussians hang together. Not measured."""


def openings(pictures: Tensor, first: Tensor, cover: Tensor, ground: Tensor) -> Tensor:
    """[V, S, S] bool: where ``pictures`` [V, S, S, 3] show their background ``ground`` [3] between parts of a thing
    whose first colours ``first`` [V, S, S, 3] (times coverage) were others, and that covered ``cover`` [V, S, S]."""
    away = (first / cover[..., None].clamp(min=THERE) - ground).norm(dim=-1)
    apart = (pictures - ground).norm(dim=-1)
    there, scale = cover > THERE, cover.shape[-1] / 128
    own = widened(there & (away <= OWN), BESIDE * scale)
    background = ~there | ((apart < NEAR) & (apart < HALFWAY * away) & ~own)
    found = [gaps(~each, scale) for each in background.numpy()]
    thin = max(round(THINNEST * scale), 1)
    wide = [binary_opening(each & on, np.ones((thin, thin))) for each, on in zip(found, there.numpy(), strict=True)]
    return torch.from_numpy(np.stack(wide))


def gaps(there: np.ndarray, scale: float = 1.0) -> np.ndarray:
    """[S, S] bool: holes of the outline ``there`` [S, S], and what lies between two of its parts."""
    reach = max(round(WIDEST * scale), 1)
    disc = np.hypot(*np.mgrid[-reach : reach + 1, -reach : reach + 1]) <= reach + 0.3
    edge = reach + 2
    closed = binary_closing(np.pad(there, edge), disc)[edge:-edge, edge:-edge]
    filled: np.ndarray = binary_fill_holes(closed | there) & ~there
    return filled


def grown(clear: Tensor) -> Tensor:
    """``clear`` [V, S, S] bool, wider by :data:`GROWN` on all sides."""
    return widened(clear, GROWN * clear.shape[-1] / 128)


def widened(mask: Tensor, pixels: float) -> Tensor:
    """``mask`` [V, S, S] bool, wider by ``pixels`` (a whole number, 1 at least) on all sides."""
    reach = max(round(pixels), 1)
    return max_pool2d(mask[:, None].float(), 2 * reach + 1, 1, reach)[:, 0] > 0


def seen_through(gaussians: Gaussians, cameras: Cameras, clear: Tensor) -> tuple[Tensor, Tensor]:
    """Two [V, N] bool: Gaussians on a ray that is ``clear`` [V, S, S], at any depth; and visible ones on one that is
    not. What is hidden in a view, that view says nothing for: from the side nobody sees through a wheel."""
    opened, closed = [], []
    for view, pixels in enumerate(clear):
        at, depth = cameras.seen_at(gaussians.means, view)
        x, y = at.long().clamp(0, cameras.width - 1).unbind(dim=1)
        column, row = (at * DEPTH_SIDE / cameras.width).long().clamp(0, DEPTH_SIDE - 1).unbind(dim=1)
        cell = row * DEPTH_SIDE + column
        foremost = torch.full((DEPTH_SIDE**2,), torch.inf).scatter_reduce(0, cell, depth, "amin")
        opened.append(pixels[y, x])
        closed.append(~opened[-1] & (depth < foremost[cell] + BEHIND))
    return torch.stack(opened), torch.stack(closed)


def share_open(opened: Tensor, closed: Tensor) -> Tensor:
    """Share [N] of the views [V, N] with a word on a Gaussian that see through it; 0 of what :data:`LEAST` do not."""
    through, share = _heard(opened, closed)
    return torch.where(through >= LEAST, share, torch.zeros(()))


def _heard(opened: Tensor, closed: Tensor) -> tuple[Tensor, Tensor]:
    """How many of the views [V, N] see through each Gaussian [N], and their share of those with a word on it."""
    through = opened.sum(dim=0)
    return through, through / (opened | closed).sum(dim=0).clamp(min=1)


def carved(means: Tensor, share: Tensor, limit: float) -> Tensor:
    """[N] bool: those of ``means`` [N, 3] whose ``share`` [N] is ``limit`` or more; fewer, by a higher limit, where the
    rest would fall into pieces (a wheel would lose its spokes, a mushroom its stem) or be less than half."""
    apart = cKDTree(means.numpy()).query(means.numpy(), k=2)[0][:, 1]
    reach, together = JOINED * float(np.median(apart)), None
    while limit <= 1:
        gone = share >= limit
        if 2 * int(gone.sum()) < len(gone):
            together = _together(means, reach) if together is None else together
            if _together(means[~gone], reach) >= together - PIECES:
                return gone
        limit += MORE
    return torch.zeros(len(means), dtype=torch.bool)


def opens_gaps(before: Gaussians, after: Gaussians, cameras: Cameras, clear: Tensor) -> bool:
    """Whether ``after``, of which something is gone, opens in the V views what is ``clear`` there [V, S, S], for a
    share of :data:`MEANT` of all that it opens. Of a mushroom, a chest, a table it opens mostly something else: their
    pictures see through in no place alike."""
    covered, left = (rasterize_views(each, cameras)[1][..., 0] > THERE for each in (before, after))
    new = covered & ~left
    return bool((new & clear).sum() > MEANT * new.sum())


def _together(means: Tensor, reach: float) -> float:
    """Share of ``means`` [N, 3] in the largest cluster of those that are within ``reach`` of another."""
    return float(np.bincount(linked(means.numpy(), reach)).max() / len(means))


def painted(gaussians: Gaussians, opened: Tensor, closed: Tensor, limit: float, ground: Tensor) -> Gaussians:
    """``gaussians`` with the colour ``ground`` [3] where the views so far [V, N] see through: half of it at a share of
    ``limit``. A picture of that has its gaps where earlier ones had theirs."""
    through, share = _heard(opened, closed)
    weight = ((share - limit) / (2 * AROUND) + 0.5).clamp(0, 1) * (through / 2).clamp(max=1)
    colours = sh0_to_rgb(gaussians.sh0)
    return replace(gaussians, sh0=rgb_to_sh0(colours + weight[:, None] * (ground - colours)))
