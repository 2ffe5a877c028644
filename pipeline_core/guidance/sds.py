"""Score distillation: from predicted noise to a gradient on latents (DreamFusion).

The U-Net is never differentiated: its answer is a constant, and the gradient enters through
``0.5 * ||latents - stopgrad(latents - grad)||^2 / B``, whose derivative with respect to ``latents`` is ``grad / B``.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor


def noise_rescale(guided: Tensor, conditional: Tensor, latents_t: Tensor, alpha_bar: Tensor, share: float) -> Tensor:
    """Guided noise whose x0 has, to ``share``, the standard deviation of the conditional x0 (threestudio, MVDream).

    Large guidance scales saturate colours; x0' = share * x0 * std(x0_cond) / std(x0) + (1 - share) * x0. All tensors
    [B, C, h, w], ``alpha_bar`` [B, 1, 1, 1].
    """
    if share == 0.0:
        return guided
    signal, noise = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
    x0 = (latents_t - noise * guided) / signal
    x0_conditional = (latents_t - noise * conditional) / signal
    dims = tuple(range(1, x0.ndim))
    ratio = x0_conditional.std(dims, keepdim=True) / x0.std(dims, keepdim=True).clamp(min=1e-8)
    x0 = x0 * (share * ratio + (1 - share))
    return (latents_t - signal * x0) / noise


def sds_gradient(
    eps: Tensor,
    noise: Tensor,
    alpha_bar: Tensor,
    *,
    weighting: Literal["sds", "uniform", "x0"] = "sds",
    clip: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Gradient [B, C, ...] on the latents, and which rows are finite [B] bool.

    ``sds``: (1 - alpha_bar)(eps - noise); ``uniform``: eps - noise; ``x0``: x - x0, that is
    sqrt((1 - alpha_bar) / alpha_bar)(eps - noise). A row with any NaN or infinity becomes zero as a whole: part of a
    broken prediction is not trusted. ``clip`` bounds the norm of each latent pixel (or point) over its channels.
    """
    weight = {
        "sds": lambda: 1 - alpha_bar,
        "uniform": lambda: torch.ones_like(alpha_bar),
        "x0": lambda: ((1 - alpha_bar) / alpha_bar.clamp(min=1e-4)).sqrt(),
    }[weighting]()
    gradient = weight * (eps - noise)
    finite = gradient.isfinite().flatten(1).all(1)
    gradient = torch.where(finite.reshape(-1, *[1] * (gradient.ndim - 1)), gradient, torch.zeros_like(gradient))
    if clip:
        norm = gradient.norm(dim=1, keepdim=True)
        gradient = gradient * (clip / norm.clamp(min=clip))
    return gradient, finite


def sds_loss(latents: Tensor, gradient: Tensor) -> Tensor:
    """Scalar with d loss / d latents = ``gradient`` / B; its value is half the squared norm of ``gradient`` / B."""
    target = (latents - gradient).detach()
    return 0.5 * (latents - target).square().sum() / latents.shape[0]
