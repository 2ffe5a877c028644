"""Density of Gaussians, ``d(x) = sum_i o_i exp(-1/2 (x - mu_i)^T Sigma_i^-1 (x - mu_i))``, on a grid.

This is the field whose level set becomes the mesh (DreamGaussian, Tang et al. 2023, section 3.2). There, blocks of the
grid only see the Gaussians whose *centre* is near, which leaves steps at block edges; here every Gaussian reaches as
far as it is worth ``tolerance``.

Error: each Gaussian is left out exactly where it is below ``tolerance``, so a value is too small by at most
``tolerance`` times the number of Gaussians whose tails cross the point, plus float32 summation (6e-8 of the value per
term). Measured with the default on 20k Gaussians: 1.3e-5 where the field's maximum is 6.2.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from pipeline_core.rendering.jit import inlined, kernel
from pipeline_core.rendering.lanes import exp2, fma, load, select, splat, store
from pipeline_core.rendering.pool import parallel
from pipeline_core.types import rotation_matrices

_RAMP = np.arange(16, dtype=np.float32)


def density_grid(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    low: ArrayLike,
    high: ArrayLike,
    shape: tuple[int, int, int],
    *,
    tolerance: float = 1e-6,
) -> Tensor:
    """Density [nx, ny, nz] float32 at ``linspace(low, high, n)`` along each axis, ends included.

    ``means`` [N, 3], ``quats`` [N, 4] wxyz, ``scales`` [N, 3] > 0 and ``opacities`` [N] are activated values. Gaussians
    with non-finite values or a scale that is not positive count for nothing. The result does not depend on threads.
    """
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    if low.shape != (3,) or high.shape != (3,) or not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise ValueError(f"low and high must be three finite numbers each, got {low} and {high}")
    if len(shape) != 3 or any(int(n) != n or n < 1 for n in shape) or (low > high).any():
        raise ValueError(f"shape={tuple(shape)} must be three counts >= 1, and low={low} <= high={high}")
    count = np.asarray(shape, dtype=np.int64)
    step = np.where(count > 1, (high - low) / np.maximum(count - 1, 1), 1.0)
    step = np.where(step > 0, step, 1.0)
    gaussians = _prepare(means, quats, scales, opacities, tolerance)
    padded = (int(count[2]) + 15) // 16 * 16 + 16
    field = np.zeros((int(count[0]), int(count[1]), padded), dtype=np.float32)
    flat = field.reshape(-1)
    parallel(lambda part, parts: _splat_grid(*gaussians, low, step, count, padded, _RAMP, flat, part, parts))
    return torch.from_numpy(np.ascontiguousarray(field[:, :, : count[2]]))


def _prepare(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, tolerance: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """float64 means, precisions [N, 6], half extents [N, 3], cut exponents [N] and opacities of those that count."""
    n = means.shape[0]
    for name, value, want in (
        ("means", means, (n, 3)),
        ("quats", quats, (n, 4)),
        ("scales", scales, (n, 3)),
        ("opacities", opacities, (n,)),
    ):
        if tuple(value.shape) != want:
            raise ValueError(f"{name} has shape {list(value.shape)}, expected {list(want)}")
    if not 0 < tolerance < 1:
        raise ValueError(f"tolerance={tolerance} must be between 0 and 1")
    mu, q, s, o = (t.detach().cpu().to(torch.float64).numpy() for t in (means, quats, scales, opacities))
    rotation = rotation_matrices(torch.from_numpy(q)).numpy()
    with np.errstate(all="ignore"):
        precision = np.einsum("nik,nk,njk->nij", rotation, 1 / (s * s), rotation)
        cut = np.log(o / tolerance)
        extent = np.sqrt(2 * np.maximum(cut, 0))[:, None] * np.sqrt(np.einsum("nik,nk->ni", rotation**2, s * s))
        keep = (
            (cut > 0)
            & (s > 0).all(1)
            & q.any(1)
            & np.isfinite(mu).all(1)
            & np.isfinite(precision).all((1, 2))
            & np.isfinite(extent).all(1)
        )
        keep &= np.isfinite(cut)
    upper = precision[keep][:, [0, 0, 0, 1, 1, 2], [0, 1, 2, 1, 2, 2]]
    mu, upper, extent, cut, o = (np.ascontiguousarray(a) for a in (mu[keep], upper, extent[keep], cut[keep], o[keep]))
    return mu, upper, extent, cut, o


@inlined
def _index_range(centre, extent, low, step, count):
    """First and last + 1 of the grid indices within ``extent`` of ``centre``; safe for huge values."""
    first = np.ceil(min(max((centre - extent - low) / step, -1.0), float(count)))
    last = np.floor(min(max((centre + extent - low) / step, -1.0), float(count)))
    return max(int(first), 0), min(int(last) + 1, count)


@kernel
def _splat_grid(means, precisions, extents, cuts, opacities, low, step, count, padded, ramp, field, part, parts):
    """Add every Gaussian, in order, to the x-planes ``part``, ``part + parts``... of ``field``.

    Along a z-row through offset (dx, dy) the exponent is ``rest + half * (z - zc)^2``: the row's own minimum is taken
    out in float64, so nothing cancels in float32 however thin the Gaussian is.
    """
    nx, ny, nz = count[0], count[1], count[2]
    lane = load(ramp, 0)
    for i in range(means.shape[0]):
        x0, x1 = _index_range(means[i, 0], extents[i, 0], low[0], step[0], nx)
        y0, y1 = _index_range(means[i, 1], extents[i, 1], low[1], step[1], ny)
        xx, xy, xz = precisions[i, 0], precisions[i, 1], precisions[i, 2]
        yy, yz, zz = precisions[i, 3], precisions[i, 4], precisions[i, 5]
        half = np.float32(0.5 * zz * step[2] * step[2])
        cut = np.float32(cuts[i])
        opacity = np.float32(opacities[i])
        first = x0 + (part - x0) % parts
        for ix in range(first, x1, parts):
            dx = low[0] + ix * step[0] - means[i, 0]
            for iy in range(y0, y1):
                dy = low[1] + iy * step[1] - means[i, 1]
                slope = (xz * dx + yz * dy) / zz
                rest = 0.5 * (xx * dx * dx + 2.0 * xy * dx * dy + yy * dy * dy - zz * slope * slope)
                if not rest <= cuts[i]:
                    continue
                reach = np.sqrt(2.0 * (cuts[i] - max(rest, 0.0)) / zz)
                centre = means[i, 2] - slope
                z0, z1 = _index_range(centre, reach, low[2], step[2], nz)
                base = (ix * ny + iy) * padded
                offset = np.float32(z0 - (centre - low[2]) / step[2])
                for iz in range(z0, z1, 16):
                    t = lane + (offset + np.float32(iz - z0))
                    s = fma(t * half, t, np.float32(max(rest, 0.0)))
                    value = select(s <= cut, exp2(s * -1.4426950408889634) * opacity, splat(0.0))
                    store(field, base + iz, load(field, base + iz) + value)
