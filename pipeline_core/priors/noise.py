"""Noise and its level: random numbers drawn row by row, and the embedding of a timestep."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline_core.device import upload

Generators = torch.Generator | Sequence[torch.Generator | None]
"""One generator for the whole batch, or one a row; a row of None has no noise."""


def row_noise(shape: Sequence[int], generators: Generators, device: torch.device | str) -> Tensor:
    """Standard normal [B, ...] float32 on ``device``.

    With one generator a row, a row does not depend on the others: an asset gets the same noise alone and in any
    batch. Numbers are drawn on the generator's own device, so a CPU generator gives the same noise everywhere.
    A generator that appears in several rows is simply used several times, in order.
    """
    if isinstance(generators, torch.Generator):
        return torch.randn(tuple(shape), generator=generators, device=generators.device).to(device)
    assert len(generators) == shape[0], f"{len(generators)} generators for {shape[0]} rows"
    one = tuple(shape[1:])
    rows = [torch.zeros(one) if g is None else torch.randn(one, generator=g, device=g.device) for g in generators]
    return upload(torch.stack(rows), torch.device(device)) if rows else torch.empty(tuple(shape), device=device)


def time_embedding(t: Tensor, width: int) -> Tensor:
    """[B, width] float32: cosines, then sines, of ``t`` [B] at ``width`` / 2 frequencies from 1 down to 1 / 10000."""
    half = width // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t[:, None].float() * frequencies
    return torch.cat([angles.cos(), angles.sin()], dim=-1)
