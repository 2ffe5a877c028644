"""A gradient that goes through a half-precision network at a scale of its own.

float16 ends at 65504 and knows no number between 0 and 6e-8. Guidance at 100 makes gradients that leave that range on
either side. A network is linear in its gradient, so each row is divided by its largest entry before the network and
multiplied by it behind, in float32, without the host looking at a number.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class GradientScale:
    """The scales of one call: ``into(network(out(x)))`` has the gradient of ``network(x)``, without its overflows."""

    def __init__(self) -> None:
        self.scale: Tensor | None = None

    def out(self, x: Tensor) -> Tensor:
        """``x`` [B, ...], in front of the network: its gradient gets its scale back."""
        return _Out.apply(x, self)

    def into(self, y: Tensor) -> Tensor:
        """``y`` [B, ...], behind the network: from here on back the gradient of each row is at most 1."""
        return _Into.apply(y, self)


class _Into(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, y: Tensor, owner: GradientScale) -> Tensor:
        ctx.owner = owner
        return y.view_as(y)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        scale = gradient.abs().flatten(1).amax(dim=1).clamp(min=1e-30)
        ctx.owner.scale = scale.reshape(-1, *[1] * (gradient.ndim - 1))
        return gradient / ctx.owner.scale, None


class _Out(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, owner: GradientScale) -> Tensor:
        ctx.owner = owner
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return gradient * ctx.owner.scale, None
