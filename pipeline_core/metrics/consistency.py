"""Does the mesh look like the splat? Renders of both from the same cameras, compared.

scores = consistency(gaussians, textured, recipe.evaluate)    # {"mesh_psnr": 31.2, "mesh_iou": 0.97}
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline_core.cameras import Cameras, orbit
from pipeline_core.config import Evaluate
from pipeline_core.metrics.views import render_gaussians
from pipeline_core.rendering.mesh import render_mesh
from pipeline_core.types import Gaussians, TexturedMesh

ELEVATIONS = (15.0, 40.0, -10.0)
"""Elevations of the views compared, in turn."""


def ring_cameras(count: int, size: int) -> Cameras:
    """``count`` cameras evenly around the asset, their elevations taking turns."""
    i = torch.arange(count)
    return orbit(i * (360.0 / count), torch.tensor(ELEVATIONS)[i % len(ELEVATIONS)], size=size)


def consistency(
    gaussians: Gaussians, textured: TexturedMesh, settings: Evaluate, optimised: Gaussians | None = None
) -> dict[str, float]:
    """``mesh_psnr``: of the two renders on white, over the pixels where either is; ``mesh_iou``: of the silhouettes.

    ``optimised_iou``: the same of the mesh and ``optimised``, where the splat is another than was optimised.
    """
    cameras = ring_cameras(settings.views, settings.resolution)
    splat, alpha = render_gaussians(gaussians.detach().to("cpu"), cameras)
    mesh, coverage = render_mesh(textured, cameras)
    inside, outside = alpha > 0.5, coverage > 0.5
    either = inside | outside
    scores = {"mesh_psnr": psnr(splat[either], mesh[either]), "mesh_iou": overlap(inside, outside)}
    if optimised is not None:
        _, alpha = render_gaussians(optimised.detach().to("cpu"), cameras)
        scores["optimised_iou"] = overlap(alpha > 0.5, outside)
    return scores


def overlap(one: Tensor, other: Tensor) -> float:
    """Intersection over union of two masks; 0 where both are empty."""
    return float((one & other).sum()) / max(float((one | other).sum()), 1.0)


def likeness(one: Gaussians, other: Gaussians, settings: Evaluate) -> float:
    """PSNR of the renders of two splats on white, over the pixels where either is."""
    cameras = ring_cameras(settings.views, settings.resolution)
    (a, inside), (b, outside) = (render_gaussians(each.detach().to("cpu"), cameras) for each in (one, other))
    either = (inside > 0.5) | (outside > 0.5)
    return psnr(a[either], b[either])


def psnr(first: Tensor, second: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of values in [0, 1], at most 99."""
    if not first.numel():
        return 0.0
    error = float((first - second).double().square().mean())
    return min(-10 * math.log10(max(error, 1e-12)), 99.0)
