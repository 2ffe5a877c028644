"""The cameras and backgrounds of one step."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from pipeline_core.cameras import DISTANCE, FOVY, Cameras, orbit


def draw_cameras(
    views: int,
    size: int,
    generator: torch.Generator,
    *,
    elevation: tuple[float, float],
    distance: float = DISTANCE,
    framing: tuple[float, float] | None = None,
    fovy: float = FOVY,
    fovy_jitter: float = 0.0,
    focal: tuple[float, float] | None = None,
    even_over: str = "sphere",
    target_jitter: float = 0.0,
    group: int = 1,
) -> Cameras:
    """``views`` random cameras around the asset; the settings are those of ``config.Distill``.

    Azimuths are stratified over the turn with a random start (GSGen), elevations uniform on the sphere, or in degrees
    (DreamGaussian's release, which draws whole ones). Views stand in
    groups of ``group`` (a multiple of which ``views`` must be), spread evenly over the turn at one elevation, distance
    and field of view, which is what a multi-view prior was trained on (MVDream: 4).
    """
    # Fixed number of draws whatever the settings (but for framing's), so that turning one feature on does not reseed
    # the others.
    turn, spread = torch.rand(1, generator=generator), torch.rand(views, generator=generator)
    height, zoom = torch.rand(views, generator=generator), torch.rand(views, generator=generator)
    aim = torch.randn(views, 3, generator=generator)
    if group > 1:
        assert views % group == 0, f"a multi-view prior needs views in groups of {group}, got {views}"
        apart = 360.0 / group
        height, zoom = (value[::group].repeat_interleave(group) for value in (height, zoom))
        start = (turn * 360 + spread[::group] * apart).repeat_interleave(group)
        azimuth = start + apart * (torch.arange(views) % group)
        aim = aim[::group].repeat_interleave(group, dim=0)
    else:
        azimuth = turn * 360 + (torch.arange(views) + spread) * (360.0 / views)
    azimuth = (azimuth + 180.0) % 360.0 - 180.0
    if even_over == "degrees":
        heights = elevation[0] + (elevation[1] - elevation[0]) * height
    else:
        low, high = (math.sin(math.radians(e)) for e in elevation)
        heights = torch.rad2deg((low + (high - low) * height).asin())
    target = aim * target_jitter if target_jitter else None
    fovys = fovy + fovy_jitter * (2 * zoom - 1)
    if focal is not None:
        fovys = 2 * torch.rad2deg((0.5 / (focal[0] + (focal[1] - focal[0]) * zoom)).atan())
    if framing is None:
        return orbit(azimuth, heights, size=size, distance=distance, fovy=fovys, target=target)
    nearest, farthest = framing
    frame = nearest + (farthest - nearest) * torch.rand(views, generator=generator)[::group].repeat_interleave(group)
    return orbit(
        azimuth, heights, size=size, distance=frame / torch.deg2rad(fovys / 2).tan(), fovy=fovys, target=target
    )


def around(elevation: tuple[float, float], picture: float) -> tuple[float, float]:
    """The range ``elevation``, widened to reach as far around a ``picture`` that was taken from so many degrees above
    the horizon as it does around 0 (DreamGaussian); within 80 degrees."""
    low, high = elevation
    return max(min(low, low + picture), -80.0), min(max(high, high + picture), 80.0)


def draw_backgrounds(
    kind: str,
    prior_background: tuple[float, float, float] | None,
    count: int,
    generator: torch.Generator,
    *,
    group: int = 1,
) -> Tensor:
    """Background colours [count, 3] in [0, 1]. ``prior`` = the one the prior was trained on, else white or black.

    Views of one ``group`` (see :func:`draw_cameras`) share theirs: a multi-view prior takes them for one picture.
    """
    colour = torch.rand(count, 3, generator=generator)[::group].repeat_interleave(group, dim=0)
    if kind == "prior" and prior_background is not None:
        return torch.tensor(prior_background, dtype=torch.float32).expand(count, 3)
    if kind in ("prior", "white_black"):
        return (colour[:, :1] > 0.5).float().expand(count, 3)
    return {"white": torch.ones(count, 3), "black": torch.zeros(count, 3), "random": colour}[kind]
