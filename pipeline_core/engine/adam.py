"""One Adam step of many optimisers: each by itself, or on a GPU those of one rate in one launch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim.adam import adam

Optimizers = Sequence[torch.optim.Optimizer]


def step_each(optimizers: Optimizers) -> None:
    """Step every optimiser and drop the gradients."""
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


@torch.no_grad()
def step_together(optimizers: Optimizers) -> None:
    """The same, to the last bit, for Adams of one leaf each that differ in nothing but their rates.

    The first step of a leaf, which makes its moments, is its own optimiser's.
    """
    alike: defaultdict[float, list[tuple[Tensor, dict[str, Any]]]] = defaultdict(list)
    for optimizer in optimizers:
        (group,) = optimizer.param_groups
        (leaf,) = group["params"]
        if leaf.grad is None or not optimizer.state.get(leaf):
            optimizer.step()
        else:
            alike[group["lr"]].append((leaf, optimizer.state[leaf]))
    for rate, members in alike.items():
        leaves, states = zip(*members, strict=True)
        adam(
            list(leaves), [leaf.grad for leaf in leaves], [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states], [], [state["step"] for state in states],
            fused=True, foreach=False, amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1], lr=rate,
            weight_decay=0.0, eps=group["eps"], maximize=False,
        )  # fmt: skip
    for optimizer in optimizers:
        optimizer.zero_grad(set_to_none=True)
