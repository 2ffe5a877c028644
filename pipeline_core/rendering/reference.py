"""The rasteriser as a page of torch: every pixel against every Gaussian, in any float dtype, on any device.

It is what the kernels are tested against, so it is written to be read, not to be fast: memory and time grow with
``pixels * Gaussians`` per view. Semantics are gsplat's (EWA splatting, Zwicker et al. 2001; 3DGS, Kerbl et al. 2023).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pipeline_core.rendering.sh import sh_colors
from pipeline_core.types import rotation_matrices

ALPHA_MIN = 1.0 / 255.0
"""A Gaussian adds nothing to a pixel where its alpha is below this."""
ALPHA_MAX = 0.999
"""Alpha is clamped to this, and has no gradient above."""
TRANSMITTANCE_MIN = 1e-4
"""A pixel is finished before the Gaussian that would take its transmittance to this or less."""


def covariances(quats: Tensor, scales: Tensor) -> Tensor:
    """World covariances [N, 3, 3] = R S S^T R^T of ``quats`` [N, 4] wxyz (any length) and ``scales`` [N, 3]."""
    m = rotation_matrices(quats) * scales.unsqueeze(-2)
    return m @ m.transpose(-1, -2)


def project(
    means: Tensor, quats: Tensor, scales: Tensor, viewmat: Tensor, K: Tensor, width: int, height: int, eps2d: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One view's ``means2d`` [N, 2] pixels, depths [N] and 2D covariances [N, 2, 2] pixels^2, blurred by ``eps2d``.

    The perspective map is linearised at the mean (EWA eq. 29), whose direction is first clamped to 1.3 times the
    field of view: beyond, the linearisation explodes.
    """
    rotation, translation = viewmat[:3, :3], viewmat[:3, 3]
    x, y, z = (means @ rotation.T + translation).unbind(-1)
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x, margin_y = 0.15 * width / fx, 0.15 * height / fy
    tx = z * torch.minimum(torch.maximum(x / z, -(cx / fx + margin_x)), (width - cx) / fx + margin_x)
    ty = z * torch.minimum(torch.maximum(y / z, -(cy / fy + margin_y)), (height - cy) / fy + margin_y)
    zero = torch.zeros_like(z)
    jacobian = torch.stack([fx / z, zero, -fx * tx / z**2, zero, fy / z, -fy * ty / z**2], dim=-1).reshape(-1, 2, 3)
    m = jacobian @ rotation
    covar2d = m @ covariances(quats, scales) @ m.transpose(-1, -2) + eps2d * torch.eye(
        2, dtype=z.dtype, device=z.device
    )
    return torch.stack([fx * x / z + cx, fy * y / z + cy], dim=-1), z, covar2d


class _PerPixel(torch.autograd.Function):
    """``means2d`` [M, 2] repeated for P pixels; the gradient's absolute values sum into ``absgrad[index]``."""

    @staticmethod
    def forward(ctx: Any, means2d: Tensor, pixels: int, absgrad: Tensor, index: Tensor) -> Tensor:
        ctx.absgrad, ctx.index = absgrad, index
        return means2d.unsqueeze(0).expand(pixels, -1, -1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        ctx.absgrad[ctx.index] += grad.abs().sum(0)
        return grad.sum(0), None, None, None


def composite(
    means2d: Tensor, conics: Tensor, opacities: Tensor, features: Tensor, pixels: Tensor
) -> tuple[Tensor, Tensor]:
    """Front-to-back blend of M depth-sorted Gaussians at P pixels: features [P, C] and transmittance [P, 1].

    ``means2d`` [P, M, 2], ``conics`` [M, 3] (xx, xy, yy of the inverse covariance), ``opacities`` [M],
    ``features`` [M, C], ``pixels`` [P, 2] centres.
    """
    dx, dy = (pixels[:, None] - means2d).unbind(-1)
    sigma = 0.5 * (conics[:, 0] * dx * dx + conics[:, 2] * dy * dy) + conics[:, 1] * dx * dy
    alpha = (opacities * torch.exp(-sigma)).clamp_max(ALPHA_MAX)
    alpha = torch.where((alpha >= ALPHA_MIN) & (sigma >= 0), alpha, 0.0)
    alpha = torch.where(torch.cumprod(1 - alpha, dim=1) > TRANSMITTANCE_MIN, alpha, 0.0)
    after = torch.cumprod(torch.cat([alpha.new_ones(len(pixels), 1), 1 - alpha], dim=1), dim=1)  # [P, M + 1]
    return (alpha * after[:, :-1]) @ features, after[:, -1:]


def rasterize_reference(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float,
    far_plane: float,
    eps2d: float,
    sh_degree: int | None,
    backgrounds: Tensor | None,
    absgrad: bool,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Arguments as :func:`..rasterize.rasterize`; returns colour and accumulated depth [V, H, W, 4], alphas, info."""
    V, N = viewmats.shape[0], means.shape[0]
    means2d, depths, covars2d = (
        torch.stack(out)
        for out in zip(
            *(project(means, quats, scales, viewmats[v], Ks[v], width, height, eps2d) for v in range(V)), strict=True
        )
    )
    det = covars2d[..., 0, 0] * covars2d[..., 1, 1] - covars2d[..., 0, 1] ** 2
    conics = torch.stack([covars2d[..., 1, 1], -covars2d[..., 0, 1], covars2d[..., 0, 0]], dim=-1) / det.unsqueeze(-1)
    with torch.no_grad():
        finite = torch.isfinite(conics).all(-1) & torch.isfinite(means2d).all(-1) & torch.isfinite(opacities)
        drawn = finite & (depths >= near_plane) & (depths <= far_plane) & (det > 0) & (opacities >= ALPHA_MIN)
        extent = (2 * torch.log(opacities / ALPHA_MIN)).clamp(0, 3.33**2).sqrt()
        radii = (extent[..., None] * covars2d.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()).ceil()
        low, high = means2d + radii, means2d - radii
        drawn &= (low > 0).all(-1) & (high[..., 0] < width) & (high[..., 1] < height)
        radii = torch.where(drawn[..., None], radii, 0).to(torch.int32)
    absolute = torch.zeros_like(means2d)
    if absgrad:
        means2d.absgrad = absolute  # type: ignore[attr-defined]  # gsplat's way to hand it on
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([x, y], dim=-1).reshape(-1, 2).to(means) + 0.5
    images, transmittances = [], []
    for v in range(V):
        index = torch.nonzero(drawn[v]).squeeze(-1)
        index = index[torch.argsort(depths[v, index], stable=True)]
        rgb = colors[v, index] if colors.ndim == 3 and sh_degree is None else colors[index]
        if sh_degree is not None:
            rgb = sh_colors(sh_degree, means[index] - torch.linalg.inv(viewmats[v])[:3, 3], rgb)
        features = torch.cat([rgb, depths[v, index, None]], dim=-1)
        spread = _PerPixel.apply(means2d[v, index], len(pixels), absolute[v], index)
        image, transmittance = composite(spread, conics[v, index], opacities[index], features, pixels)
        images.append(image.reshape(height, width, 4))
        transmittances.append(transmittance.reshape(height, width, 1))
    image, transmittance = torch.stack(images), torch.stack(transmittances)
    if backgrounds is not None:
        image = torch.cat([image[..., :3] + transmittance * backgrounds[:, None, None], image[..., 3:]], dim=-1)
    info = {"radii": radii, "means2d": means2d, "depths": depths, "conics": conics, "opacities": opacities.expand(V, N)}
    return image, 1 - transmittance, info
