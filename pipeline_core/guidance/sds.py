"""Score distillation: from predicted noise to a gradient on latents (DreamFusion).

The U-Net is never differentiated: its answer is a constant, and the gradient enters through
``0.5 * ||latents - stopgrad(latents - grad)||^2 / B``, whose derivative with respect to ``latents`` is ``grad / B``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pipeline_core.priors.interface import NoiseProcess


def implied_noise(
    prior: NoiseProcess,
    latents_t: Tensor,
    t: Tensor,
    guided: Tensor,
    conditional: Tensor,
    rescale: float = 0.0,
    group: int = 1,
) -> Tensor:
    """Noise of the prediction ``guided``, whose x0 gets, to the share ``rescale``, the standard deviation of the
    x0 of ``conditional`` (threestudio, MVDream): large guidance scales saturate colours.

    x0' = rescale * x0 * std(x0_cond) / std(x0) + (1 - rescale) * x0. All tensors [B, C, h, w], ``t`` [B]. A deviation
    is that of ``group`` rows together: the views of one sample of a multi-view prior.
    """
    x0, noise = prior.x0_and_noise(latents_t, guided, t)
    if rescale == 0.0:
        return noise
    x0_conditional, _ = prior.x0_and_noise(latents_t, conditional, t)
    deviation, wanted = (each.reshape(len(x0) // group, -1).std(1) for each in (x0, x0_conditional))
    ratio = (wanted / deviation.clamp(min=1e-8)).repeat_interleave(group).reshape(-1, *[1] * (x0.ndim - 1))
    return prior.noise_of(latents_t, x0 * (rescale * ratio + (1 - rescale)), t)


def sds_gradient(eps: Tensor, noise: Tensor, weight: Tensor, *, clip: float = 0.0) -> tuple[Tensor, Tensor]:
    """Gradient ``weight`` (eps - noise) [B, C, ...] on the latents, and which rows are finite [B] bool.

    ``weight`` [B]: see ``NoiseProcess.weight``. A row with any NaN or infinity becomes zero as a whole: part of a
    broken prediction is not trusted. ``clip`` bounds the norm of each latent pixel (or point) over its channels.
    """
    shape = (-1, *[1] * (eps.ndim - 1))
    gradient = weight.reshape(shape) * (eps - noise)
    finite = gradient.isfinite().flatten(1).all(1)
    gradient = torch.where(finite.reshape(shape), gradient, torch.zeros_like(gradient))
    if clip:
        norm = gradient.norm(dim=1, keepdim=True)
        gradient = gradient * (clip / norm.clamp(min=clip))
    return gradient, finite


def sds_loss(latents: Tensor, gradient: Tensor) -> Tensor:
    """Scalar with d loss / d latents = ``gradient`` / B; its value is half the squared norm of ``gradient`` / B."""
    return sds_losses(latents, gradient, 1)[0]


def sds_losses(latents: Tensor, gradient: Tensor, jobs: int) -> Tensor:
    """:func:`sds_loss` of each of ``jobs`` [jobs] that have equal shares of the rows."""
    target = (latents - gradient).detach()
    return 0.5 * (latents - target).square().reshape(jobs, -1).sum(1) / (latents.shape[0] // jobs)
