"""Sampling a diffusion model along Karras noise levels: Heun's method, and a multistep solver of half its calls.

In the form Point-E uses it (``point_e/diffusion/k_diffusion.py``): noise levels are sigmas of x = x_0 +
sigma n, the network is the discrete eps-model of a VP process, and guidance acts on the clamped x_0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pipeline_core.priors.noise import Generators, row_noise

Denoise = Callable[[Tensor, float], Tensor]
"""(x [B, ...] at noise level sigma, sigma) -> x_0 [B, ...]."""


def karras_sigmas(steps: int, sigma_min: float, sigma_max: float, rho: float = 7.0) -> list[float]:
    """``steps`` falling noise levels, evenly spaced in sigma^(1 / rho), then 0 (Equation 5)."""
    ramp = np.linspace(0, 1, steps)
    high, low = sigma_max ** (1 / rho), sigma_min ** (1 / rho)
    return [*((high + ramp * (low - high)) ** rho).tolist(), 0.0]


@torch.no_grad()
def sample_heun(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], generators: Generators, s_churn: float = 0.0
) -> Tensor:
    """From ``x`` [B, ...] at noise level ``sigmas[0]`` to a sample of x_0, with 2 len(sigmas) - 3 calls of ``denoise``
    (Karras et al. 2022, Algorithm 2).

    ``generators`` draw the churn noise, row by row; the step to sigma = 0 is Euler's.
    """
    gamma = min(s_churn / (len(sigmas) - 1), math.sqrt(2) - 1)
    for sigma, following in pairwise(sigmas):
        sigma_hat = sigma * (1 + gamma)
        if gamma > 0:
            x = x + math.sqrt(sigma_hat**2 - sigma**2) * row_noise(x.shape, generators, x.device)
        x_0 = denoise(x, sigma_hat)
        if following == 0:
            return x_0  # x + (0 - sigma_hat) (x - x_0) / sigma_hat
        slope = (x - x_0) / sigma_hat
        ahead = x + (following - sigma_hat) * slope
        slope_ahead = (ahead - denoise(ahead, following)) / following
        x = x + (following - sigma_hat) * 0.5 * (slope + slope_ahead)
    return x


@torch.no_grad()
def sample_multistep(
    denoise: Denoise, x: Tensor, sigmas: Sequence[float], generators: Generators, s_churn: float = 0.0
) -> Tensor:
    """The same without churn, with len(sigmas) - 1 calls: DPM-Solver++(2M) (Lu et al. 2022, Algorithm 2), whose steps
    go along the line through the last two x_0 in the logarithm of sigma.

    Raises ValueError for ``s_churn``: a step that begins elsewhere than where the last one ended has no line.
    """
    if s_churn:
        raise ValueError(f"s_churn = {s_churn:g}: the multistep solver adds no noise; use sample_heun")
    before, last_step = None, 1.0
    for sigma, following in pairwise(sigmas):
        x_0 = denoise(x, sigma)
        if following == 0:
            return x_0
        step = math.log(sigma / following)
        line = x_0 if before is None else x_0 + 0.5 * step / last_step * (x_0 - before)
        x = following / sigma * x + (1 - following / sigma) * line
        before, last_step = x_0, step
    return x


def timestep_of_sigma(sigma: float, alphas_cumprod: np.ndarray) -> int:
    """Timestep whose alphas_cumprod is 1 / (sigma^2 + 1): interpolated, held at the ends, truncated."""
    alpha_bar = 1 / (sigma**2 + 1)
    return int(np.interp(alpha_bar, alphas_cumprod[::-1], np.arange(len(alphas_cumprod), dtype=np.float64)[::-1]))


def guided_denoiser(
    predict_noise: Callable[[Tensor, Tensor, Tensor], Tensor],
    alphas_cumprod: np.ndarray,
    condition: Tensor,
    null_condition: Tensor,
    guidance_scale: float,
    limits: Tensor | float = 1.0,
    guidance_sigma_min: float = 0.0,
) -> Denoise:
    """Denoiser for :func:`sample_heun` out of an eps-model ``predict_noise(x, t [B], condition [B, ...])``.

    x_0 is kept within +- ``limits`` (broadcast against [B, C, N]; Point-E: 1), then guided: u + s (c - u). A scale of
    0 or 1 means no guidance, one call a step on ``condition`` alone, as in Point-E; so does a sigma below
    ``guidance_sigma_min`` (Kynkaanniemi et al. 2024, "Applying guidance in a limited interval").
    """

    limit = torch.as_tensor(limits)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        guided = guidance_scale not in (0, 1) and sigma >= guidance_sigma_min
        rows = torch.cat([condition, null_condition]) if guided else condition
        step = timestep_of_sigma(sigma, alphas_cumprod)
        alpha_bar = float(alphas_cumprod[step])
        x_t = (torch.cat([x, x]) if guided else x) / math.sqrt(sigma**2 + 1)
        t = torch.full((len(x_t),), step, dtype=torch.long, device=x.device)
        eps = predict_noise(x_t, t, rows)
        x_0 = (x_t * math.sqrt(1 / alpha_bar) - eps * math.sqrt(1 / alpha_bar - 1)).clamp(min=-limit, max=limit)
        if not guided:
            return x_0
        conditional, unconditional = x_0.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    return denoise
