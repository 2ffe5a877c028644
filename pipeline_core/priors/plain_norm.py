"""Group norm with a shift before it and SiLU behind it, in torch's words: the readable twin of :mod:`fused_norm`."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def norm_silu(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool = True
) -> Tensor:
    """``silu(group_norm(x + shift))``: x [B, C, H, W], ``shift`` [B, C] or [1, C], ``weight`` and ``bias`` [C]."""
    normed = F.group_norm(x + shift[:, :, None, None], groups, weight, bias, eps)
    return F.silu(normed) if silu else normed


def norm_silu_beside(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool = True
) -> tuple[Tensor, Tensor]:
    """The same, and ``x`` for a branch around it."""
    return norm_silu(x, shift, weight, bias, groups, eps, silu), x
