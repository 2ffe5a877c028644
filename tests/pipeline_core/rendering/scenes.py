"""Scenes on which the kernels are held against the float64 reference.

Float32 and float64 can disagree on which side of a threshold (alpha 1/255, alpha 0.999, transmittance 1e-4) a pixel
falls, which is a jump and not an error. Scenes are therefore drawn, seed after seed, until no pixel is that close.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline_core.cameras import Cameras, orbit
from pipeline_core.rendering import reference

Scene = tuple[dict[str, Tensor], Cameras, dict]
NAMES = ("means", "quats", "scales", "opacities", "colors")


def cameras(views: int, width: int, height: int, distance: float = 2.5) -> Cameras:
    """Cameras around the origin with a principal point that is not the middle of an odd-sized image."""
    c = orbit(
        torch.arange(views) * 77.0 + 10, torch.linspace(-35, 50, views), size=max(width, height), distance=distance
    )
    Ks = c.Ks.clone()
    Ks[:, 0, 2], Ks[:, 1, 2] = width / 2 + 1.3, height / 2 - 0.7
    return Cameras(c.viewmats, Ks, c.azimuth, c.elevation, width, height)


def cloud(
    n: int, generator: torch.Generator, *, spread: float = 0.25, size: float = 0.04, coefficients: int = 0
) -> dict[str, Tensor]:
    """n Gaussians of all shapes and opacities about the origin."""
    return {
        "means": torch.randn(n, 3, generator=generator) * spread,
        "quats": torch.randn(n, 4, generator=generator),
        "scales": torch.exp(torch.randn(n, 3, generator=generator) * 0.7 + math.log(size)),
        "opacities": torch.sigmoid(torch.randn(n, generator=generator) * 1.5),
        "colors": torch.rand(n, 3, generator=generator)
        if coefficients == 0
        else torch.randn(n, coefficients, 3, generator=generator) * 0.4,
    }


def _sparse(g: torch.Generator) -> Scene:
    return cloud(40, g, spread=0.4), cameras(2, 48, 48), {}


def _dense_opaque(g: torch.Generator) -> Scene:
    p = cloud(200, g, spread=0.15, size=0.08)
    p["opacities"] = 0.9 + 0.0999 * torch.rand(200, generator=g)
    return p, cameras(2, 48, 32), {}


def _single(g: torch.Generator) -> Scene:
    return cloud(1, g, spread=0.1, size=0.1), cameras(3, 40, 40), {}


def _off_screen(g: torch.Generator) -> Scene:
    p = cloud(80, g, spread=0.9, size=0.15)
    return p, cameras(2, 32, 32, distance=2.0), {}


def _behind_camera(g: torch.Generator) -> Scene:
    return cloud(80, g, spread=0.5), cameras(3, 32, 32, distance=0.4), {"near_plane": 0.15, "far_plane": 1.2}


def _degenerate_scale(g: torch.Generator) -> Scene:
    p = cloud(60, g, spread=0.3)
    p["scales"][:20] = torch.tensor([0.4, 0.004, 1e-6])  # needles
    p["scales"][20:40] = torch.tensor([0.15, 0.15, 1e-7])  # sheets
    p["scales"][40:50] = 1e-6  # points
    p["scales"][50:52] = 3.0  # larger than the scene
    return p, cameras(2, 48, 48), {}


def _odd_size(g: torch.Generator) -> Scene:
    return cloud(60, g), cameras(2, 37, 19), {}


def _many_views(g: torch.Generator) -> Scene:
    return cloud(30, g), cameras(9, 24, 20), {}


SCENES = {
    f.__name__[1:]: f
    for f in (_sparse, _dense_opaque, _single, _off_screen, _behind_camera, _degenerate_scale, _odd_size, _many_views)
}


def margin(parameters: dict[str, Tensor], c: Cameras, near_plane: float = 0.01, far_plane: float = 1e10) -> float:
    """Least relative distance of any pixel's alpha or transmittance to a threshold."""
    p = {k: v.double() for k, v in parameters.items()}
    y, x = torch.meshgrid(torch.arange(c.height), torch.arange(c.width), indexing="ij")
    pixels = torch.stack([x, y], -1).reshape(-1, 1, 2).double() + 0.5
    closest = math.inf
    for v in range(len(c)):
        m, z, s = reference.project(
            p["means"], p["quats"], p["scales"], c.viewmats[v].double(), c.Ks[v].double(), c.width, c.height, 0.3
        )
        order = torch.argsort(z)
        order = order[(z[order] >= near_plane) & (z[order] <= far_plane)]
        d = pixels - m[order]
        raw = p["opacities"][order] * torch.exp(
            -0.5 * torch.einsum("pni,nij,pnj->pn", d, torch.linalg.inv(s[order]), d)
        )
        alpha = torch.where(raw >= reference.ALPHA_MIN, raw.clamp_max(reference.ALPHA_MAX), 0.0)
        after = torch.cumprod(1 - alpha, 1)
        for value, threshold in (
            (raw, reference.ALPHA_MIN),
            (raw, reference.ALPHA_MAX),
            (after, reference.TRANSMITTANCE_MIN),
        ):
            if value.numel():
                closest = min(closest, float((value / threshold - 1).abs().min()))
    return closest


def scene(name: str, coefficients: int = 0) -> Scene:
    """The first scene of that name without a pixel near a threshold."""
    for seed in range(100):
        generator = torch.Generator().manual_seed(seed)
        parameters, views, options = SCENES[name](generator)
        if coefficients:
            parameters["colors"] = torch.randn(len(parameters["means"]), coefficients, 3, generator=generator) * 0.4
        if margin(parameters, views, **options) > 1e-5:
            return parameters, views, options
    raise AssertionError(f"no seed gives a scene {name} without a pixel near a threshold")
