"""Cameras: azimuth 0 looks at the front (+Z), 90 stands on +X; elevation +90 looks down from above.

``viewmats`` are world-to-camera in OpenCV axes (x right, y down, z forward), ``Ks`` are in pixels with the pixel
centre at +0.5, as gsplat has them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from pipeline_core.device import upload

DISTANCE = 2.5
"""Default distance of the camera from the origin, object units."""
FOVY = 40.0
"""Default vertical field of view in degrees: the object sphere (radius 0.7) spans about 80 % of the image."""


@dataclass(frozen=True)
class Cameras:
    """V cameras of one image size. ``viewmats`` [V, 4, 4], ``Ks`` [V, 3, 3], ``azimuth``/``elevation`` [V] degrees."""

    viewmats: Tensor
    Ks: Tensor
    azimuth: Tensor
    elevation: Tensor
    width: int
    height: int

    def __len__(self) -> int:
        return self.viewmats.shape[0]

    def chosen(self, views: list[int]) -> Cameras:
        """Those of the numbers ``views``."""
        viewmats, Ks, azimuth, elevation = (
            torch.stack([values[view] for view in views])
            for values in (self.viewmats, self.Ks, self.azimuth, self.elevation)
        )
        return replace(self, viewmats=viewmats, Ks=Ks, azimuth=azimuth, elevation=elevation)

    def seen_at(self, points: Tensor, view: int) -> tuple[Tensor, Tensor]:
        """Pixel coordinates [N, 2] and depths [N] of ``points`` [N, 3] in one view."""
        viewmat, K = self.viewmats[view], self.Ks[view]
        place = points @ viewmat[:3, :3].T + viewmat[:3, 3]
        return place[:, :2] / place[:, 2:] * K.diagonal()[:2] + K[:2, 2], place[:, 2]

    def finer(self, times: int) -> Cameras:
        """The same cameras with ``times`` as many pixels a side."""
        scale = torch.tensor([[times, 1, times], [1, times, times], [1, 1, 1]], dtype=torch.float32)
        return Cameras(
            self.viewmats, self.Ks * scale, self.azimuth, self.elevation, self.width * times, self.height * times
        )

    def to(self, device: torch.device | str) -> Cameras:
        """The same cameras on ``device``."""
        names = ("viewmats", "Ks", "azimuth", "elevation")
        return replace(self, **{name: getattr(self, name).to(device) for name in names})

    def upload(self, device: torch.device) -> Cameras:
        """The same, ``viewmats`` and ``Ks`` on ``device``, without a wait of the host; angles stay where they are."""
        return replace(self, viewmats=upload(self.viewmats, device), Ks=upload(self.Ks, device))


def camera_positions(azimuth: Tensor, elevation: Tensor, distance: Tensor | float = DISTANCE) -> Tensor:
    """World positions [V, 3] of cameras at ``azimuth``/``elevation`` [V] degrees and ``distance``."""
    az, el = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    direction = torch.stack([el.cos() * az.sin(), el.sin(), el.cos() * az.cos()], dim=-1)
    return direction * torch.as_tensor(distance, dtype=azimuth.dtype, device=azimuth.device).reshape(-1, 1)


def orbit(
    azimuth: Tensor,
    elevation: Tensor,
    *,
    size: int,
    distance: Tensor | float = DISTANCE,
    fovy: Tensor | float = FOVY,
    target: Tensor | None = None,
) -> Cameras:
    """Square cameras that look from ``azimuth``/``elevation`` [V] degrees at ``target`` ([3] or [V, 3], or the origin).

    At elevation +-90 the image's up is the horizontal direction that azimuth names, so the basis never degenerates.
    """
    azimuth = torch.as_tensor(azimuth, dtype=torch.float32).reshape(-1)
    elevation = torch.as_tensor(elevation, dtype=torch.float32).reshape(-1).expand_as(azimuth)
    az, el = torch.deg2rad(azimuth), torch.deg2rad(elevation)
    position = camera_positions(azimuth, elevation, distance)
    if target is not None:
        position = position + target
    # The three axes in closed form: derivatives of the spherical coordinates, hence defined at the poles as well.
    back = torch.stack([el.cos() * az.sin(), el.sin(), el.cos() * az.cos()], dim=-1)
    right = torch.stack([az.cos(), torch.zeros_like(az), -az.sin()], dim=-1)
    up = torch.stack([-el.sin() * az.sin(), el.cos(), -el.sin() * az.cos()], dim=-1)
    rotation = torch.stack([right, -up, -back], dim=1)  # [V, 3, 3] rows = camera axes in world coordinates
    viewmats = torch.eye(4).expand(len(azimuth), 4, 4).clone()
    viewmats[:, :3, :3] = rotation
    viewmats[:, :3, 3] = -(rotation @ position.unsqueeze(-1)).squeeze(-1)
    fovy_rad = torch.deg2rad(torch.as_tensor(fovy, dtype=torch.float32)).expand(len(azimuth))
    focal = 0.5 * size / (0.5 * fovy_rad).tan()
    Ks = torch.zeros(len(azimuth), 3, 3)
    Ks[:, 0, 0] = Ks[:, 1, 1] = focal
    Ks[:, 0, 2] = Ks[:, 1, 2] = size / 2
    Ks[:, 2, 2] = 1
    return Cameras(viewmats, Ks, azimuth, elevation, size, size)
