"""A training step's loss and gradients as one recorded CUDA graph: one launch in place of thousands.

    step = RecordedLoss(part, default_autocast(device), inputs)
    loss = step(inputs)                     # fills the parameters' ``grad``

Small networks wait for launches, not for arithmetic. What is recorded must do nothing but launch: a number that is sent
to the device, or asked of it, ends the recording. Inputs are drawn outside of it, and copied in.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

WARM_UP = 3
"""Steps before the recording, in which libraries pick their kernels."""


class RecordedLoss:
    """``part.loss`` and its gradients at inputs of the shapes of ``inputs``.

    The parameters' gradients are buffers of the recording, which every call fills anew: nothing may take them away.
    """

    def __init__(self, part: Any, autocast: Callable[[], Any], inputs: dict[str, Tensor]) -> None:
        self.inputs = {name: value.clone() for name, value in inputs.items()}

        def forget() -> None:
            for parameter in part.modules.parameters():
                parameter.grad = None

        here, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(here)
        with torch.cuda.stream(aside):
            for _ in range(WARM_UP):
                forget()
                part.loss(self.inputs, autocast).backward()
        here.wait_stream(aside)
        forget()
        self.graph = torch.cuda.CUDAGraph()
        try:
            # thread_local: the thread that brings data uses the same device meanwhile
            with torch.cuda.graph(self.graph, capture_error_mode="thread_local"):
                loss = part.loss(self.inputs, autocast)
                loss.backward()
        finally:
            torch.cuda.set_stream(here)  # a recording that fails leaves its own stream behind
        self.loss = loss.detach()

    def __call__(self, inputs: dict[str, Tensor]) -> Tensor:
        """The loss at ``inputs``; the gradients are where a backward leaves them."""
        for name, buffer in self.inputs.items():
            buffer.copy_(inputs[name], non_blocking=True)
        self.graph.replay()
        return self.loss.clone()
