"""Real spherical harmonics to degree 3: colour that depends on the direction it is seen from.

The basis, its order and its signs are those of every 3DGS file (Sloan 2013, "Efficient spherical harmonic evaluation",
with the Condon-Shortley phase), so ``rgb = sum_k basis_k(direction) * coefficient_k + 0.5``.
"""

from __future__ import annotations

import torch
from torch import Tensor

C0 = 0.28209479177387814
C1 = 0.4886025119029199
C2 = (1.0925484305920792, -1.0925484305920792, 0.31539156525252005, -1.0925484305920792, 0.5462742152960396)
C3 = (
    -0.5900435899266435,
    2.890611442640554,
    -0.4570457994644658,
    0.3731763325901154,
    -0.4570457994644658,
    1.445305721320277,
    -0.5900435899266435,
)


def sh_basis(degree: int, directions: Tensor) -> Tensor:
    """Values [..., (degree + 1)^2] of the basis at unit ``directions`` [..., 3]."""
    x, y, z = directions.unbind(-1)
    out = [torch.full_like(x, C0)]
    if degree >= 1:
        out += [-C1 * y, C1 * z, -C1 * x]
    if degree >= 2:
        xx, yy, zz = x * x, y * y, z * z
        out += [C2[0] * x * y, C2[1] * y * z, C2[2] * (2 * zz - xx - yy), C2[3] * x * z, C2[4] * (xx - yy)]
    if degree >= 3:
        out += [
            C3[0] * y * (3 * xx - yy),
            C3[1] * x * y * z,
            C3[2] * y * (4 * zz - xx - yy),
            C3[3] * z * (2 * zz - 3 * xx - 3 * yy),
            C3[4] * x * (4 * zz - xx - yy),
            C3[5] * z * (xx - yy),
            C3[6] * x * (xx - 3 * yy),
        ]
    return torch.stack(out, dim=-1)


def sh_colors(degree: int, directions: Tensor, coefficients: Tensor) -> Tensor:
    """Colours [..., 3] >= 0 seen along ``directions`` [..., 3] (any length) for ``coefficients`` [..., K, 3]."""
    basis = sh_basis(degree, torch.nn.functional.normalize(directions, dim=-1))
    colors = (basis.unsqueeze(-1) * coefficients[..., : basis.shape[-1], :]).sum(-2)
    return (colors + 0.5).clamp_min(0.0)
