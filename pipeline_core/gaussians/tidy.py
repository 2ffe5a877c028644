"""Tidy a sampled point cloud before it becomes Gaussians: strays dropped, surfaces thinned, colours agreed on.

    cloud = tidy(cloud, neighbours=48)

A point prior's samples lie *about* a surface. Left so, every point that is off it becomes a bump of the mesh and a
speckle of the texture, and low-noise distillation is too timid to take them away.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial import cKDTree

from pipeline_core.types import PointCloud

STRAY_NEIGHBOURS, STRAY_FACTOR = 12, 2.5
"""A stray's mean distance to so many neighbours is over this many times the cloud's median. Twice the median costs
recall (F-score 0.91 for 0.92; docs/LOG.md: Starter clouds), though clouds of the second training gain 0.012 at 2 % by
it, those of the third nothing; four times costs 0.012, 24 neighbours 0.005 (docs/LOG.md: Constants at half and
double, as the next three)."""
ROUNDS = 3
"""Projections one after another. One costs 0.018 of the F-score at 2 %, six gain nothing."""
COLOUR_NEIGHBOURS = 16
"""Neighbours, itself among them, whose median is a point's colour: bands of chests become bands. At
8 and 32 the caption margin is the same."""
COLOUR_ROUNDS = 4
"""Medians of those one after another: specks go and edges straighten, for a median repeated moves them by their
curvature (Merriman et al. 1994). With one a sail of two colours is torn; of 24 or 32 neighbours small windows go
(docs/LOG.md: Edges that are straight)."""
WIDTH = 0.6
"""Standard deviation of the weights over the distance to the farthest neighbour, as in ``meshing/settle.py``. At 0.3
the F-score is 0.027 lower, at 1.2 the same."""


def tidy(cloud: PointCloud, neighbours: int) -> PointCloud:
    """``cloud`` without its strays, the rest moved onto the surface they sample; at most as many points, same order.

    Args:
        cloud: object units
        neighbours: points that define the surface about a point; 0, or more than the cloud has, leaves it as it is
    """
    if neighbours == 0 or len(cloud) <= max(neighbours, STRAY_NEIGHBOURS):
        return cloud
    xyz, rgb = cloud.xyz.double().cpu().numpy(), cloud.rgb.double().cpu().numpy()
    keep = ~strays(xyz)
    if keep.sum() <= neighbours:
        return cloud
    xyz, rgb = xyz[keep], rgb[keep]
    for _ in range(ROUNDS):
        xyz = project(xyz, neighbours)
    _, near = cKDTree(xyz).query(xyz, k=min(COLOUR_NEIGHBOURS, len(xyz)))
    for _ in range(COLOUR_ROUNDS):
        rgb = np.median(rgb[near], axis=1)
    return PointCloud(torch.from_numpy(xyz).float(), torch.from_numpy(rgb).float())


def strays(xyz: np.ndarray) -> np.ndarray:
    """[N] bool: points of ``xyz`` [N, 3] that lie too far from their neighbours (statistical outlier removal,
    Rusu & Cousins 2011)."""
    distance, _ = cKDTree(xyz).query(xyz, k=STRAY_NEIGHBOURS + 1)
    mean = distance[:, 1:].mean(axis=1)
    return mean > STRAY_FACTOR * np.median(mean)


def project(xyz: np.ndarray, neighbours: int) -> np.ndarray:
    """Each point moved along the normal of the plane through its neighbours, onto that plane (moving least squares
    of degree 1, Alexa et al. 2001): the whole way where they do lie in a plane, less at edges, not at all in clumps."""
    mean, variance, axes = _planes(xyz, neighbours)
    flat = 1 - variance[:, 0] / np.maximum(variance[:, 1], 1e-20)
    normal = axes[:, :, 0]
    return xyz + (flat * np.einsum("ni,ni->n", mean - xyz, normal))[:, None] * normal


def normals(xyz: np.ndarray, neighbours: int) -> np.ndarray:
    """Unit normals [N, 3] of the planes through the ``neighbours`` of each of ``xyz`` [N, 3], of either sign."""
    return _planes(xyz, min(neighbours, len(xyz) - 1))[2][:, :, 0]


def _planes(xyz: np.ndarray, neighbours: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean [N, 3], variances [N, 3] and axes [N, 3, 3] (columns) of the neighbours: the first axis is the normal."""
    distance, near = cKDTree(xyz).query(xyz, k=neighbours + 1)
    weight = np.exp(-0.5 * (distance / (WIDTH * np.maximum(distance[:, -1:], 1e-12))) ** 2)
    weight /= weight.sum(axis=1, keepdims=True)
    mean = np.einsum("nk,nki->ni", weight, xyz[near])
    offset = xyz[near] - mean[:, None]
    covariance = np.einsum("nk,nki,nkj->nij", weight, offset, offset)
    variance, axes = np.linalg.eigh(covariance)  # ascending
    return mean, variance, axes
