"""The cameras and backgrounds of one step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline_core.cameras import Cameras, orbit
from pipeline_core.config import Distill


def draw_cameras(stage: Distill, size: int, generator: torch.Generator, *, rig: bool = False) -> Cameras:
    """``stage.views`` random cameras around the asset.

    Azimuths are stratified over the turn with a random start (GSGen), elevations uniform on the sphere. With
    ``rig`` the views stand in groups of four, a quarter turn apart at one elevation and field of view, which is what
    a multi-view prior was trained on (MVDream).
    """
    views = stage.views
    # Fixed number of draws whatever the settings, so that turning one feature on does not reseed the others.
    turn, spread = torch.rand(1, generator=generator), torch.rand(views, generator=generator)
    height, zoom = torch.rand(views, generator=generator), torch.rand(views, generator=generator)
    aim = torch.randn(views, 3, generator=generator)
    if rig:
        assert views % 4 == 0, f"a multi-view prior needs views in groups of 4, got {views}"
        height, zoom = (value[::4].repeat_interleave(4) for value in (height, zoom))
        start = (turn * 360 + spread[::4] * 90).repeat_interleave(4)
        azimuth = start + 90.0 * (torch.arange(views) % 4)
        aim = aim[::4].repeat_interleave(4, dim=0)
    else:
        azimuth = turn * 360 + (torch.arange(views) + spread) * (360.0 / views)
    azimuth = (azimuth + 180.0) % 360.0 - 180.0
    low, high = (math.sin(math.radians(e)) for e in stage.elevation)
    elevation = torch.rad2deg((low + (high - low) * height).asin())
    fovy = stage.fovy + stage.fovy_jitter * (2 * zoom - 1)
    target = aim * stage.target_jitter if stage.target_jitter else None
    return orbit(azimuth, elevation, size=size, distance=stage.distance, fovy=fovy, target=target)


def draw_backgrounds(
    kind: str, prior_background: tuple[float, float, float] | None, count: int, generator: torch.Generator
) -> Tensor:
    """Background colours [count, 3] in [0, 1]. ``prior`` = the one the prior was trained on, else white or black."""
    colour = torch.rand(count, 3, generator=generator)
    if kind == "prior" and prior_background is not None:
        return torch.tensor(prior_background, dtype=torch.float32).expand(count, 3)
    if kind in ("prior", "white_black"):
        return (colour[:, :1] > 0.5).float().expand(count, 3)
    return {"white": torch.ones(count, 3), "black": torch.zeros(count, 3), "random": colour}[kind]
