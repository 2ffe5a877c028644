"""Pictures of textured meshes and of Gaussians, without light: what the colours are, from any side. The preview and
the turntable of a mesh with an ORM map are in light (rendering/lit.py).

image = preview(textured)                       # [512, 512, 3]
frames = turntable(textured, frames=24)         # [24, H, W, 3]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline_core.cameras import Cameras, orbit
from pipeline_core.rendering.lit import render_lit
from pipeline_core.rendering.mesh import render_mesh
from pipeline_core.rendering.rasterize import rasterize_views
from pipeline_core.types import Gaussians, TexturedMesh

PREVIEW_ANGLES = (30.0, 20.0)
"""Azimuth and elevation of the one picture that stands for an asset."""
BACKDROP = ((0.97, 0.97, 0.98), (0.80, 0.81, 0.84))
"""Colours of the top and the bottom of the preview's background."""
CLAY = 0.72
"""Grey of a mesh that is shown without its colours, sRGB."""
SHADE = 0.25
"""How much a surface that turns away from the camera darkens in previews, so that shape shows without lights."""


def render_gaussians(
    gaussians: Gaussians, cameras: Cameras, *, background: tuple[float, float, float] = (1.0, 1.0, 1.0)
) -> tuple[Tensor, Tensor]:
    """Images [V, H, W, 3] and alpha [V, H, W] of ``gaussians``."""
    backgrounds = torch.tensor(background).expand(len(cameras), 3).contiguous()
    images, alphas = rasterize_views(gaussians, cameras, backgrounds=backgrounds)
    return images.clamp(0, 1), alphas[..., 0]


def preview(textured: TexturedMesh, size: int = 512) -> np.ndarray:
    """One image [size, size, 3] of the asset on a soft backdrop, 3x3 rays a pixel."""
    return _shown(textured, _preview_camera(size), 3, _backdrop(size))[0].numpy()


def stages(splats: Sequence[Gaussians], textured: TexturedMesh, picture: np.ndarray, size: int = 256) -> np.ndarray:
    """How an asset came to be, a row of images [size, size * (len(splats) + 2), 3] from the preview's side: ``splats``
    in order, the mesh as a grey body in light, and the preview itself (``picture``, of any size)."""
    camera, backdrop = _preview_camera(size), _backdrop(size)
    row = []
    for splat in splats:
        image, alpha = render_gaussians(splat, camera, background=(0.0, 0.0, 0.0))
        row.append(image[0] + backdrop * (1 - alpha[0, ..., None]))
    grey = np.full((2, 2, 3), CLAY, np.float32)
    clay = replace(textured, texture=grey, normal_map=None, orm=None, emissive=None)
    row.append(render_lit(clay, camera, background=backdrop)[0][0])
    last = torch.from_numpy(picture).permute(2, 0, 1)[None]
    row.append(
        interpolate(last, (size, size), mode="bilinear", antialias=True, align_corners=False)[0].permute(1, 2, 0)
    )
    return torch.cat(row, dim=1).clamp(0, 1).numpy()


def turntable(textured: TexturedMesh, frames: int = 24, size: int = 256, elevation: float = 15.0) -> np.ndarray:
    """``frames`` images [T, size, size, 3] once around the asset, starting at the front."""
    azimuth = torch.arange(frames) * (360.0 / frames)
    cameras = orbit(azimuth, torch.full((frames,), elevation), size=size)
    return _shown(textured, cameras, 2, torch.tensor(BACKDROP[0])).numpy()


def _preview_camera(size: int) -> Cameras:
    return orbit(torch.tensor([PREVIEW_ANGLES[0]]), torch.tensor([PREVIEW_ANGLES[1]]), size=size)


def _backdrop(size: int) -> Tensor:
    """The preview's background [size, 1, 3]."""
    top, bottom = (torch.tensor(colour) for colour in BACKDROP)
    ramp = torch.linspace(0, 1, size)[:, None, None]
    return top * (1 - ramp) + bottom * ramp


def _shown(textured: TexturedMesh, cameras: Cameras, supersample: int, background: Tensor) -> Tensor:
    """Images [V, H, W, 3]: in light where the mesh has materials, else by a headlight."""
    if textured.orm is not None:
        return render_lit(textured, cameras, supersample=supersample, background=background)[0]
    return render_mesh(textured, cameras, supersample=supersample, shade=SHADE, background=background)[0]
