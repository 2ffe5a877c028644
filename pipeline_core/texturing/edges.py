"""Edges between colours that have run, made sharp again: a shock filter on the surface.

    colours = sharpen_edges(colours, position, normal, reach=0.05)

A texture is as sharp as what it was baked from: where two colours meet, Gaussians leave a ramp. Osher and Rudin (1990)
steepen it: on the bright side of the ramp's middle a texel takes the brightest colour next to it, on the dark side the
darkest, over and over, until the two meet as a step. Which side a texel is on a smoother picture says, as in Alvarez
and Mazorra (1994), so that noise makes no edge: medians of the colours less a blur of them point, in the space of
colours, from the other side's to this one's. A median repeated moves an edge by its curvature (Guichard and Morel
1997): hoops come out straight and spots round, where the points of a cloud had them ragged. Neighbours and blurs are
those of the surface, wherever the atlas was cut.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.sparse import csr_matrix
from scipy.spatial import cKDTree

FINENESS, AROUND = 6.0, 31
"""Medians and blurs are of patches, so many to the reach; one pass is of so many."""
MEDIANS, BLURS = 4, 4
"""Passes of both; the blur is 0.5 of the reach wide. With none, and a blur instead, hoops come out ragged; with
eight they are straighter still, and a chest's lock is smaller (docs/LOG.md: Edges that are straight)."""
RING = 9
"""Texels, itself among them, of which one takes its colour. 5 are 0.5 dB nearer to the splat's colours, 17 as
much farther; the margin is the same (docs/LOG.md: Constants at half and double, as those below)."""
MIXED = 8
"""Patches that a texel asks for its side. 4 and 16 are within 0.03 dB."""
FACING = 4.0
"""Spacings that two texels at one place are apart when they face opposite ways: sides of a sheet keep their colours.
8 cost 0.001 of the margin and 0.15 dB, 2 nothing."""
FAINT = 0.03
"""Length of that difference up to which there is no edge; from twice as much on it is made wholly.
0.06 leaves more as it was baked, 1.2 dB nearer to the splat's colours; by the margin all are one."""
MOST = 200
"""Texels in a reach at most: what is finer is not swept to its end."""
TOLD = 2
"""Times that the sides are told: the second time of edges that are half made. Once and four
times: half a decibel nearer to the splat's colours and farther."""


def sharpen_edges(colours: np.ndarray, position: np.ndarray, normal: np.ndarray, reach: float) -> np.ndarray:
    """``colours`` [T, 3] of texels, their edges made sharp.

    Args:
        colours: float32 in [0, 1]
        position, normal: [T, 3] of the texels, which are about evenly spaced on the surface
        reach: object units from the middle of a ramp to where its colour is whole; 0 = as they are
    """
    if reach == 0 or len(colours) <= AROUND:
        return colours
    few = cKDTree(position).query(position[:: len(position) // 1000 + 1], k=RING)[0][:, -1]
    apart = max(float(np.median(few)) * math.sqrt(math.pi / RING), reach / MOST)
    ring = _nearest(position, normal, position, normal, apart, RING)[1]
    patches = Patches(position, normal, reach / FINENESS)
    sweeps = math.ceil(reach / apart)
    for sweep in range(sweeps):
        if sweep % math.ceil(sweeps / TOLD) == 0:
            side, share = patches.sides(colours)
        beside = colours[ring]
        chosen = np.einsum("tki,ti->tk", beside, side).argmax(axis=1)
        colours = colours + share[:, None] * (beside[np.arange(len(ring)), chosen] - colours)
    # A step as wide as a texel is not jagged; where no edge was made nothing is blurred.
    return (colours + share[:, None] * (colours[ring[:, :5]].mean(axis=1) - colours) / 2).astype(np.float32)


class Patches:
    """Places about ``size`` apart on the surface, on which colours are blurred however fine the atlas is."""

    def __init__(self, position: np.ndarray, normal: np.ndarray, size: float) -> None:
        cells = np.concatenate([position / size, normal], axis=1).round().astype(np.int32)
        of = np.unique(cells, axis=0, return_inverse=True)[1].ravel()
        members = np.bincount(of)
        rows = np.arange(len(of))
        self.gather = csr_matrix(((1 / members[of]).astype(np.float32), (of, rows)), (len(members), len(of)))
        place, facing = self.gather @ position, self.gather @ normal
        self.blur, self.near = _mean(place, facing, place, facing, size, AROUND)
        self.spread, _ = _mean(position, normal, place, facing, size, MIXED)

    def sides(self, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Of each texel the direction [T, 3] of its side's colour from the other's, and how much of an edge [T] in
        [0, 1] there is within a reach."""
        smooth = self.gather @ colours
        for _ in range(MEDIANS):
            smooth = np.partition(smooth[self.near], AROUND // 2, axis=1)[:, AROUND // 2]
        blurred = smooth
        for _ in range(BLURS):
            blurred = self.blur @ blurred
        side = smooth - blurred
        edge = np.linalg.norm(side, axis=1)
        edge = edge[self.near].max(axis=1)[self.near].max(axis=1)
        return self.spread @ side, np.clip(self.spread @ edge / FAINT - 1, 0, 1)


def _nearest(
    position: np.ndarray, normal: np.ndarray, of: np.ndarray, its: np.ndarray, spacing: float, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Distances and numbers [N, count] of the places ``of`` [M, 3] with normals ``its`` nearest to ``position`` [N, 3],
    the nearest first. What faces the opposite way is :data:`FACING` ``spacing`` farther."""
    weight = FACING / 2 * spacing
    tree = cKDTree(np.concatenate([of, weight * its], axis=1))
    found: tuple[np.ndarray, np.ndarray] = tree.query(
        np.concatenate([position, weight * normal], axis=1), k=np.arange(min(count, len(of))) + 1
    )
    return found


def _mean(
    position: np.ndarray, normal: np.ndarray, of: np.ndarray, its: np.ndarray, spacing: float, count: int
) -> tuple[csr_matrix, np.ndarray]:
    """The matrix that takes means of values of the ``count`` nearest places, the nearer weighing more; and their
    numbers."""
    distance, chosen = _nearest(position, normal, of, its, spacing, count)
    weight = np.exp(-2 * (distance / np.maximum(distance[:, -1:], 1e-12)) ** 2)
    weight /= weight.sum(axis=1, keepdims=True)
    starts = np.arange(0, chosen.size + 1, chosen.shape[1])
    return csr_matrix((weight.astype(np.float32).ravel(), chosen.ravel(), starts), (len(position), len(of))), chosen
