"""``warmup()``: compile every CPU kernel now, so that the first real call is quick (``splatmill doctor --warmup``)."""

from __future__ import annotations

import numpy as np
import torch

from pipeline_core.cameras import orbit
from pipeline_core.rendering.density import density_grid
from pipeline_core.rendering.jit import cache_folder
from pipeline_core.rendering.lit import render_lit
from pipeline_core.rendering.packing import place
from pipeline_core.rendering.rasterize import rasterize
from pipeline_core.rendering.visibility import visibility
from pipeline_core.types import TexturedMesh


def warmup() -> str:
    """Run every kernel once on a toy scene; returns where the machine code is kept, or why it is not.

    Left out is only the backward pass with ``absgrad``, a second version of two kernels that no recipe uses.
    """
    generator = torch.Generator().manual_seed(0)
    means = torch.rand(8, 3, generator=generator) - 0.5
    quats = torch.rand(8, 4, generator=generator) + 0.1
    scales, opacities = torch.full((8, 3), 0.1), torch.full((8,), 0.5)
    harmonics = torch.rand(8, 1, 3, generator=generator)
    cameras = orbit(torch.tensor([0.0]), torch.tensor([0.0]), size=16)
    for each in (means, quats, scales, opacities, harmonics):
        each.requires_grad_()
    image, alphas, _ = rasterize(
        means, quats, scales, opacities, harmonics, cameras.viewmats, cameras.Ks, 16, 16, sh_degree=0,
        render_mode="RGB+ED",
    )  # fmt: skip
    (image.sum() + alphas.sum()).backward()
    density_grid(means, quats, scales, opacities, (-1, -1, -1), (1, 1, 1), (4, 4, 4))
    visibility(means, torch.tensor([[0, 1, 2]]), None, cameras)
    corners = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0, 0.5, 0]], np.float32)
    towards = np.tile(np.array([0, 0, 1], np.float32), (3, 1))
    white = np.ones((2, 2, 3), np.float32)
    render_lit(TexturedMesh(corners, np.array([[0, 1, 2]], np.int32), towards, corners[:, :2] + 0.5, white), cameras)
    triangle = np.array([[[0.0, 0], [4, 0], [0, 4]]])
    place(triangle, np.array([0, 1]), triangle.mean(axis=1), 16, 4)
    folder = cache_folder()
    return (
        str(folder) if folder else "nowhere: no folder can be written, every process compiles anew; set NUMBA_CACHE_DIR"
    )
