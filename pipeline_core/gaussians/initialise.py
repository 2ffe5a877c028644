"""Gaussians from a coloured point cloud."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from pipeline_core.config import Init
from pipeline_core.errors import DataError
from pipeline_core.gaussians.tidy import normals, tidy
from pipeline_core.types import Gaussians, PointCloud, rgb_to_sh0

NEIGHBOURS = 3
"""Neighbours whose mean distance sets the scale of a Gaussian (3DGS)."""
ALONE = 0.05
"""That distance (object units) where there is no other point. Any will do."""
BALL_RADIUS = 0.5
"""Of the ball (object units), as in DreamGaussian's release."""
SMALLEST = 1e-4
"""The distance is at least so much (object units; the root of 3DGS's 1e-7 is 3e-4). Ten times and a tenth of it change
nothing: it is for points that coincide (docs/LOG.md: Constants at half and double)."""
NORMAL_NEIGHBOURS = 16
"""Neighbours that say how a Gaussian that is thin lies. At 8 outlines of discs agree by 0.001 less, at 32 by
0.001 more (docs/LOG.md: Constants at half and double)."""


def neighbour_distance(xyz: np.ndarray, kind: str = "mean") -> np.ndarray:
    """Mean distance [N] float64 of each point of ``xyz`` [N, 3] to its 3 nearest others (fewer where N < 4).

    ``rms``: its root mean square, which is what 3DGS's ``simple_knn`` gives.
    """
    k = min(NEIGHBOURS, len(xyz) - 1)
    if k < 1:
        return np.full(len(xyz), ALONE)
    distance = cKDTree(xyz).query(xyz, k=k + 1)[0][:, 1:]
    return distance.mean(axis=1) if kind == "mean" else np.sqrt((distance**2).mean(axis=1))


def ball(count: int, generator: torch.Generator) -> PointCloud:
    """``count`` grey points, uniform in a ball of :data:`BALL_RADIUS`: where DreamGaussian's release starts.

    Concave and thin things do not come out of it even with an exact prior; it is here for the published recipe.
    """
    direction = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1)
    radius = BALL_RADIUS * torch.rand(count, 1, generator=generator) ** (1 / 3)
    return PointCloud(direction * radius, torch.full((count, 3), 0.5))


def resample(cloud: PointCloud, count: int, generator: torch.Generator) -> PointCloud:
    """``count`` points: a random subset, or the cloud and jittered repeats of it.

    A repeat moves towards one of the 3 neighbours by a uniform share of the way (and so do its colours), hence it
    stays on the surface that the points sample; isotropic noise would thicken it.
    """
    n = len(cloud)
    if n >= count:
        keep = torch.randperm(n, generator=generator)[:count].sort().values
        return PointCloud(cloud.xyz[keep], cloud.rgb[keep])
    extra = count - n
    source = torch.cat([torch.randperm(n, generator=generator) for _ in range(-(-extra // n))])[:extra]
    share = torch.rand(extra, 1, generator=generator)
    pick = torch.randint(NEIGHBOURS, (extra,), generator=generator)
    _, neighbours = cKDTree(cloud.xyz.numpy()).query(cloud.xyz.numpy(), k=min(NEIGHBOURS, n - 1) + 1)
    neighbours = torch.from_numpy(np.asarray(neighbours).reshape(n, -1)[:, 1:])
    target = neighbours[source, pick % neighbours.shape[1]] if neighbours.shape[1] else source
    xyz = torch.lerp(cloud.xyz[source], cloud.xyz[target], share)
    rgb = torch.lerp(cloud.rgb[source], cloud.rgb[target], share)
    return PointCloud(torch.cat([cloud.xyz, xyz]), torch.cat([cloud.rgb, rgb]))


def centred(xyz: Tensor, radius: float) -> Tensor:
    """``xyz`` [N, 3] moved to its mean and scaled so that the farthest point is ``radius`` away (GSGen)."""
    xyz = xyz - xyz.mean(0)
    return xyz * (radius / (xyz.norm(dim=1).max() + 1e-5))


def lying_on(normals: Tensor) -> Tensor:
    """Quaternions [N, 4] wxyz that turn z onto unit ``normals`` [N, 3], or onto their opposites."""
    x, y, z = torch.where(normals[:, 2:] < 0, -normals, normals).unbind(1)
    return torch.nn.functional.normalize(torch.stack([1 + z, -y, x, torch.zeros_like(x)], dim=1), dim=1)


def from_points(cloud: PointCloud, settings: Init, generator: torch.Generator) -> Gaussians:
    """``settings.num_points`` isotropic Gaussians at the points of the tidied ``cloud``, in its colours from all sides.

    With a ``settings.thickness`` below 1 they are discs that lie on the surface, thin along their own z.

    The standard deviation is ``settings.scale``, or the mean distance to the 3 nearest neighbours, at least
    :data:`SMALLEST` and at most ``settings.scale_limit`` medians, times ``settings.scale_factor``. Points that are not
    finite are dropped. Raises DataError where fewer than 4 points remain.
    """
    finite = cloud.xyz.isfinite().all(1) & cloud.rgb.isfinite().all(1)
    if int(finite.sum()) < 4:
        raise DataError(
            f"the point cloud has {int(finite.sum())} finite points, at least 4 are needed: try another seed"
        )
    cloud = PointCloud(cloud.xyz[finite].float().cpu(), cloud.rgb[finite].float().cpu())
    cloud = resample(tidy(cloud, settings.tidy_neighbours), settings.num_points, generator)
    if settings.radius is not None:
        cloud = PointCloud(centred(cloud.xyz, settings.radius), cloud.rgb)
    if settings.colours == "random":
        cloud = PointCloud(cloud.xyz, torch.rand(cloud.rgb.shape, generator=generator))
    count = len(cloud)
    if settings.scale is not None:
        distance = np.full(count, settings.scale)
    else:
        distance = neighbour_distance(cloud.xyz.numpy(), settings.scale_of)
        most = max(settings.scale_limit * float(np.median(distance)), SMALLEST)
        distance = distance.clip(SMALLEST, most) * settings.scale_factor
    quats = torch.tensor([1.0, 0.0, 0.0, 0.0]).repeat(count, 1)
    scales = torch.from_numpy(np.log(distance)).float().unsqueeze(1).repeat(1, 3)
    if settings.thickness < 1:
        quats = lying_on(torch.from_numpy(normals(cloud.xyz.double().numpy(), NORMAL_NEIGHBOURS)).float())
        scales[:, 2] += math.log(settings.thickness)
    return Gaussians(
        means=cloud.xyz.clone(),
        quats=quats,
        scales=scales,
        opacities=torch.full((count,), math.log(settings.opacity / (1 - settings.opacity))),
        sh0=rgb_to_sh0(cloud.rgb.clamp(0, 1)),
        shN=torch.zeros(count, (settings.sh_degree + 1) ** 2 - 1, 3),
    )
