"""Pictures as an unfinished splat shows them: what the image prior learns to see through.

    seen = degrade(rgba, torch.Generator().manual_seed(0))      # straight RGBA [B, 4, S, S] in [0, 1], the same shape

Distillation never shows a denoiser anything like its training data: it shows renders of Gaussians whose outlines are
lumpy, whose patterns have run and whose thin parts have gone. A prior that has only seen clean pictures takes such
faults for intended ones as soon as the noise no longer hides them. So some of the pictures that it is asked to denoise
are degraded first, and the answer is the clean one (the idea of Difix3D+, Wu et al. 2025, section 3, with random
faults in place of recorded ones).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LEVELS = 4
"""Levels of the blur pyramid: 1, 2, 4 and 8 pixels."""


def smooth_noise(shape: tuple[int, ...], cells: int, size: int, generator: torch.Generator) -> Tensor:
    """Noise [*shape, size, size] of unit deviation at the cells, interpolated between ``cells`` x ``cells`` of them."""
    coarse = torch.randn((*shape, cells, cells), generator=generator, device=generator.device)
    return F.interpolate(coarse.flatten(0, -4), (size, size), mode="bicubic").reshape(*shape, size, size)


def _pyramid(x: Tensor) -> Tensor:
    """[B, C, S, S] to [LEVELS, B, C, S, S]: ever more blurred."""
    size = x.shape[-1]
    levels = [x]
    for i in range(1, LEVELS):
        small = F.interpolate(x, (size >> i, size >> i), mode="area")
        levels.append(F.interpolate(small, (size, size), mode="bilinear"))
    return torch.stack(levels)


def _at_level(pyramid: Tensor, level: Tensor) -> Tensor:
    """Linear between the levels of ``pyramid`` [L, B, C, S, S], by ``level`` [B, 1, S or 1, S or 1]."""
    level = level.clamp(0, LEVELS - 1)
    steps = torch.arange(LEVELS, device=level.device).reshape(-1, 1, 1, 1, 1)
    weights = (1 - (level - steps).abs()).clamp(min=0)
    return (pyramid * weights).sum(0)


def _warp(x: Tensor, pixels: Tensor) -> Tensor:
    """``x`` [B, C, S, S] read at positions moved by ``pixels`` [B, 2, S, S] (x, y)."""
    b, _, size, _ = x.shape
    identity = F.affine_grid(torch.eye(2, 3, device=x.device).expand(b, 2, 3), [b, 1, size, size], align_corners=False)
    return F.grid_sample(x, identity + pixels.permute(0, 2, 3, 1) * (2 / size), align_corners=False)


def degrade(rgba: Tensor, generator: torch.Generator) -> Tensor:
    """Degraded copies of straight RGBA pictures [B, 4, S, S] in [0, 1], each by its own amounts.

    Outlines are bent and made ragged, colours run along the surface and into each other, outlines swell or shrink (so
    that gaps close and thin parts vanish), holes open, and the whole is a little lighter or darker. ``generator`` is on
    the pictures' device.
    """
    b, _, size, _ = rgba.shape
    unit = size / 64  # amounts below are in pixels of a 64-pixel picture

    def uniform(low: float, high: float) -> Tensor:
        return low + (high - low) * torch.rand((b, 1, 1, 1), generator=generator, device=generator.device)

    bend = uniform(0, 1.5) * smooth_noise((b, 2), 5, size, generator)
    ragged = uniform(0, 0.8) * smooth_noise((b, 2), 20, size, generator)
    alpha = rgba[:, 3:]
    moved = _warp(torch.cat([rgba[:, :3] * alpha, alpha], 1), (bend + ragged) * unit)

    # Colours: moved about by themselves and blurred, more in some places than in others.
    run = uniform(0, 4).square() / 4 * smooth_noise((b, 2), 12, size, generator)
    level = uniform(0, 2.5) + uniform(0, 1.2) * smooth_noise((b, 1), 6, size, generator)
    pyramid = _pyramid(_warp(moved, run * unit))
    colours = _at_level(pyramid, level)
    wide = pyramid[-1]
    inside = colours[:, 3:].clamp(max=0.5) * 2
    # Where the outline has grown beyond the colours, the widest blur has some.
    colour = inside * colours[:, :3] / colours[:, 3:].clamp(min=1e-3)
    colour = colour + (1 - inside) * wide[:, :3] / wide[:, 3:].clamp(min=1e-3)

    outline = _at_level(_pyramid(moved[:, 3:]), uniform(0, 1.4))
    gain, bias = uniform(1, 3), uniform(-0.25, 0.25) + 0.12 * smooth_noise((b, 1), 10, size, generator)
    outline = ((outline + bias - 0.5) * gain + 0.5).clamp(0, 1) * (outline > 0.02)
    holes = (smooth_noise((b, 1), 24, size, generator) - uniform(1.6, 6)).clamp(0, 0.5) * 2
    light = uniform(0.92, 1.08)
    return torch.cat([colour * light, outline * (1 - holes)], 1).clamp(0, 1)
