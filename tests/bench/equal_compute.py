"""Networks trained side by side, in turns of equal compute: what the benchmarks of priors share.

A second is one of CPU time, or on a GPU one of the clock, which nobody else should be using then.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from pipeline_core.training.train import Averaged, default_autocast, rate

CPU = torch.device("cpu")
TURN_S = 20.0
"""Seconds of a turn."""
DECAY_SHARE = 0.2
"""Share of the budget over which the learning rate falls to zero."""


class Contestant:
    """A part of the starter prior in training: ``part`` as in `training/train.py`, from scratch, with an average.

    ``optimisers`` None is AdamW, as the trainer has it. ``steps`` are the inputs of each step, None the part's own.
    """

    def __init__(
        self, name: str, part: Any, *, lr: float, warmup: int = 200, ema: float = 0.998,
        optimisers: Sequence[torch.optim.Optimizer] | None = None, device: torch.device = CPU, steps: Any = None,
    ) -> None:  # fmt: skip
        self.name, self.part, self.warmup, self.device = name, part, warmup, device
        self.steps = steps or part.steps
        self.optimisers = optimisers or [
            torch.optim.AdamW(part.modules.parameters(), lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
        ]
        self.rates = [[group["lr"] for group in o.param_groups] for o in self.optimisers]
        self.average, self.step, self.spent, self.losses = Averaged(part.modules, ema), 0, 0.0, []
        self.autocast = default_autocast(device)
        self.parameters = sum(p.numel() for p in part.modules.parameters())

    def loss(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """The part's own loss."""
        return self.part.loss(inputs, self.autocast)

    def train(self, seconds: float, budget: float) -> None:
        """A turn of ``seconds`` out of ``budget`` in all."""
        until = self.spent + seconds
        while self.spent < until:
            inputs = self.steps[self.step]  # drawing the data is not the network's time
            began = self.clock()
            left = min(1.0, max(0.0, (budget - self.spent) / (DECAY_SHARE * budget)))
            for optimiser, rates in zip(self.optimisers, self.rates, strict=True):
                for group, lr in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = lr * left * rate(self.step, self.warmup, None, None)
            loss = self.loss(inputs)
            loss.backward()
            nn.utils.clip_grad_norm_(self.part.modules.parameters(), 1.0)
            for optimiser in self.optimisers:
                optimiser.step()
                optimiser.zero_grad(set_to_none=True)
            self.average.update(self.part.modules, self.step)
            self.step += 1
            self.losses.append(float(loss.detach()))
            self.spent += self.clock() - began

    def clock(self) -> float:
        """Seconds of compute so far."""
        if self.device.type == "cpu":
            return time.process_time()
        torch.cuda.synchronize(self.device)
        return time.perf_counter()


def train_in_turns(contestants: Sequence[Contestant], seconds: float) -> None:
    """Train each for ``seconds``, one turn after another, so that a busy machine is busy for all of them."""
    turns = max(1, round(seconds / TURN_S))
    for _ in range(turns):
        for contestant in contestants:
            contestant.train(seconds / turns, seconds)


def name_of(device: torch.device) -> str:
    """What the seconds are of."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
