"""Pictures of a textured mesh without light: what its colours are, from any side.

images, coverage = render_mesh(textured, cameras)
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from pipeline_core.cameras import Cameras
from pipeline_core.rendering.visibility import visibility
from pipeline_core.types import TexturedMesh


def render_mesh(
    textured: TexturedMesh,
    cameras: Cameras,
    *,
    supersample: int = 2,
    shade: float = 0.0,
    background: tuple[float, float, float] | Tensor = (1.0, 1.0, 1.0),
) -> tuple[Tensor, Tensor]:
    """Images [V, H, W, 3] and coverage [V, H, W] of ``textured``: plain texture colours, antialiased.

    Args:
        supersample: rays a pixel side.
        shade: 0 = colours as they are; else the share by which grazing surfaces darken (a headlight).
        background: a colour, or an image [H, W, 3].
    """
    s = supersample
    seen = visibility(textured.vertices, textured.faces, textured.uvs, cameras.finer(s))
    texture = torch.from_numpy(np.ascontiguousarray(textured.texture)).permute(2, 0, 1)[None]
    back = torch.as_tensor(background, dtype=torch.float32).expand(cameras.height, cameras.width, 3)
    images, masks = [], []
    for view in range(len(cameras)):
        mask = (torch.as_tensor(seen.face_id[view]) >= 0).float()[None, None]
        uv = torch.as_tensor(seen.uv[view])[None] * 2 - 1
        colour = grid_sample(texture, uv, align_corners=False, padding_mode="border")
        if shade:
            colour = colour * (1 - shade * (1 - torch.as_tensor(seen.cosine[view]).clamp(0, 1)))
        coverage = avg_pool2d(mask, s)[0, 0]
        image = avg_pool2d(colour * mask, s)[0].permute(1, 2, 0) + back * (1 - coverage[..., None])
        images.append(image.clamp(0, 1))
        masks.append(coverage)
    return torch.stack(images), torch.stack(masks)
