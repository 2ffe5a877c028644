"""Gaussians drawn on a textured mesh: a splat that shows the same asset as the mesh does.

    splat = draw(textured, 8192, recipe.dress)

What distillation leaves is soft: Gaussians about as wide as their neighbours are far, half of each outside of the
surface that the mesh settles on, in the colours from before the texture was refined. Here every Gaussian stands for a
piece of the finished surface: in its middle, as wide as it is, thin across, in its colour. Some steps of gradient
descent on pictures of the mesh then take back what reaches over edges. Neither the prompt nor a seed has a part in it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import sparse
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation
from torch.nn.functional import grid_sample, mse_loss

from pipeline_core.config import Dress
from pipeline_core.engine.scenes import render
from pipeline_core.rendering.mesh import render_mesh
from pipeline_core.texturing.bake import bake_cameras
from pipeline_core.types import Gaussians, TexturedMesh, rgb_to_sh0

SAMPLES = 12
"""Points of the surface for each Gaussian, which say how its piece lies. 6 lose 0.4 dB, and 1 dB from near."""
WIDE, THIN = 1.8, 0.1
"""Standard deviations: along the surface over the piece's own, where 1.4 leaves gaps between neighbours; across it over
the piece's width, where 0.3 puffs outlines up (docs/LOG.md: Splat and mesh)."""
OPACITY = 0.99
VIEWS = 16
"""Pictures of the mesh that they are fitted to, evenly over the sphere; 32 gained nothing."""
RATES = {"means": 0.02, "quats": 0.01, "scales": 0.02, "opacities": 0.05, "sh0": 0.02}
"""Adam's, which fall to 0 by a line; that of the centres in widths of a piece. Slower centres leave outlines puffy."""


def draw(textured: TexturedMesh, count: int, settings: Dress) -> Gaussians:
    """``count`` Gaussians on ``textured``, fitted in ``settings.splat_steps`` steps to pictures of it of
    ``settings.splat_resolution`` pixels. Their colours are those of the texture, the same from all sides."""
    gaussians, width = pieces(textured, count)
    return fitted(gaussians, textured, width, settings) if settings.splat_steps else gaussians


def pieces(textured: TexturedMesh, count: int) -> tuple[Gaussians, float]:
    """The surface in ``count`` pieces as Gaussians, by the moments of points on each; and the width of a piece."""
    rng = np.random.default_rng(0)
    corners = textured.vertices[textured.faces].astype(np.float64)
    cross = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    area = np.linalg.norm(cross, axis=1)
    n = SAMPLES * count
    along = (np.arange(n) + rng.random(n)) / n * area.sum()
    face = np.searchsorted(np.cumsum(area), along).clip(max=len(area) - 1)
    share = rng.dirichlet(np.ones(3), n)
    at = np.einsum("nk,nki->ni", share, corners[face])
    uv = np.einsum("nk,nki->ni", share, textured.uvs[textured.faces[face]])
    normal = cross[face] / np.maximum(area[face], 1e-30)[:, None]
    width = max(math.sqrt(area.sum() / 2 / count), 1e-9)
    place = np.concatenate([at / width, normal], axis=1)  # the two sides of a sheet are two pieces
    _, piece = cKDTree(place[::SAMPLES]).query(place)
    mean = sparse.csr_matrix((1 / np.bincount(piece, minlength=count)[piece], (piece, np.arange(n))), (count, n))
    middle, facing = mean @ at, mean @ normal
    facing /= np.maximum(np.linalg.norm(facing, axis=1, keepdims=True), 1e-9)
    off = at - middle[piece]
    spread = (mean @ np.einsum("ni,nj->nij", off, off).reshape(n, 9)).reshape(count, 3, 3)
    across = facing[:, :, None] * facing[:, None, :]
    flat = np.eye(3) - across
    variance, axes = np.linalg.eigh(flat @ spread @ flat - across)  # ascending: the first axis is the normal
    turn = np.stack([axes[:, :, 2], axes[:, :, 1], np.cross(axes[:, :, 2], axes[:, :, 1])], axis=2)
    deviation = WIDE * np.sqrt(np.maximum(variance[:, :0:-1], (THIN * width) ** 2))
    scales = np.concatenate([deviation, np.full((count, 1), THIN * width)], axis=1)
    texture = torch.from_numpy(np.ascontiguousarray(textured.texture)).permute(2, 0, 1)[None]
    grid = torch.from_numpy(uv).float()[None, None] * 2 - 1
    colour = mean @ grid_sample(texture, grid, align_corners=False, padding_mode="border")[0, :, 0].T.double().numpy()
    gaussians = Gaussians(
        means=torch.from_numpy(middle).float(),
        quats=torch.from_numpy(np.roll(Rotation.from_matrix(turn).as_quat(), 1, axis=1)).float(),
        scales=torch.from_numpy(np.log(scales)).float(),
        opacities=torch.full((count,), math.log(OPACITY / (1 - OPACITY))),
        sh0=rgb_to_sh0(torch.from_numpy(colour).float()),
        shN=torch.zeros(count, 0, 3),
    )
    return gaussians, width


def fitted(gaussians: Gaussians, textured: TexturedMesh, width: float, settings: Dress) -> Gaussians:
    """``gaussians`` after Adam on the mean squared distance of colours and cover to pictures of ``textured``, a picture
    a step, on a background of another colour each time."""
    generator = torch.Generator().manual_seed(0)
    steps = settings.splat_steps
    every = bake_cameras(VIEWS, settings.splat_resolution)
    order = torch.randperm(VIEWS, generator=generator)[:steps].tolist()
    cameras = [every.chosen([view]) for view in order]
    pictures = [render_mesh(textured, camera, background=(0.0, 0.0, 0.0)) for camera in cameras]
    leaves = {name: value.clone() for name, value in gaussians.tensors().items()}
    rates = RATES | {"means": RATES["means"] * width}
    optimiser = torch.optim.Adam([{"params": [leaves[name].requires_grad_()], "lr": rates[name]} for name in rates])
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / steps)
    for step in range(steps):
        camera, (picture, cover) = cameras[step % len(order)], pictures[step % len(order)]
        background = torch.rand(1, 3, generator=generator)
        colours, alpha, _ = render(leaves, camera, background)
        wanted = picture + (1 - cover[..., None]) * background[:, None, None]
        loss = mse_loss(colours, wanted) + mse_loss(alpha[..., 0], cover)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        schedule.step()
    return Gaussians(**{name: value.detach() for name, value in leaves.items()})
