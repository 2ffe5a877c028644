"""Random numbers drawn row by row, each row from its own generator."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Generators = torch.Generator | Sequence[torch.Generator]
"""One generator for the whole batch, or one a row."""


def row_noise(shape: Sequence[int], generators: Generators, device: torch.device | str) -> Tensor:
    """Standard normal [B, ...] float32 on ``device``.

    With one generator a row, a row does not depend on the others: an asset gets the same noise alone and in any
    batch. Numbers are drawn on the generator's own device, so a CPU generator gives the same noise everywhere.
    A generator that appears in several rows is simply used several times, in order.
    """
    if isinstance(generators, torch.Generator):
        return torch.randn(tuple(shape), generator=generators, device=generators.device).to(device)
    assert len(generators) == shape[0], f"{len(generators)} generators for {shape[0]} rows"
    rows = [torch.randn(tuple(shape[1:]), generator=g, device=g.device).to(device) for g in generators]
    return torch.stack(rows) if rows else torch.empty(tuple(shape), device=device)
