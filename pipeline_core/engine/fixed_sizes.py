"""A model called at a few batch sizes only, so that a GPU can replay it as one recorded graph."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline_core.device import upload
from pipeline_core.errors import is_out_of_memory

log = logging.getLogger(__name__)

SIZES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)
"""At most a third of a batch is padding."""
LARGEST_GRAPH = 8
"""Rows up to which a call is recorded: beyond, a large network keeps the device busy longer than the host takes to
launch it (measured: nothing gained at 16 rows), and may be compiled instead (priors/compiled.py)."""


def bucket(rows: int, group: int = 1) -> int:
    """Smallest of :data:`SIZES` times ``group`` that holds ``rows``; beyond the largest, ``rows`` itself."""
    return next((size * group for size in SIZES if size * group >= rows), rows)


@dataclass
class _Slot:
    """Buffers of one batch size, and what runs the function on them."""

    buffers: list[Tensor]
    run: Callable[[], Tensor]


class FixedSizes:
    """``function`` of tensors that have one row each for every case, at the sizes of :func:`bucket`.

    Inputs are copied into buffers that stay where they are; the rows behind them hold what earlier calls left there.
    That changes nothing where rows do not look at each other, or only within runs of ``group`` rows. With ``graphs``
    (CUDA) each size up to ``largest`` is recorded once and replayed: one launch instead of a thousand.
    """

    def __init__(
        self, function: Callable[..., Tensor], device: torch.device, *,
        group: int = 1, graphs: bool = False, largest: int = LARGEST_GRAPH,
    ) -> None:  # fmt: skip
        self.function, self.device, self.group, self.graphs, self.largest = function, device, group, graphs, largest
        self._slots: dict[tuple[object, ...], _Slot] = {}
        self._pool: Any = None

    def __call__(self, *inputs: Tensor) -> Tensor:
        rows = len(inputs[0])
        size = bucket(rows, self.group)
        key = (size, *((value.shape[1:], value.dtype) for value in inputs))
        slot = self._slots.get(key)
        if slot is None:
            buffers = [torch.zeros(size, *v.shape[1:], dtype=v.dtype, device=self.device) for v in inputs]
            slot = self._slots[key] = _Slot(buffers, self._prepare(buffers))
        for buffer, value in zip(slot.buffers, inputs, strict=True):
            buffer[:rows].copy_(upload(value, self.device))
        return slot.run()[:rows].clone()

    def forget(self) -> None:
        """Give the buffers and graphs back: memory is short."""
        self._slots.clear()
        self._pool = None

    def _prepare(self, buffers: list[Tensor]) -> Callable[[], Tensor]:
        if self.graphs and len(buffers[0]) <= self.largest:
            try:
                return self._record(buffers)
            except RuntimeError as error:
                if is_out_of_memory(error):
                    raise
                torch.cuda.synchronize(self.device)
                log.warning("CUDA graphs are off, the model cannot be recorded: %s", error)
                self.graphs = False
        return lambda: self.function(*buffers)

    def _record(self, buffers: list[Tensor]) -> Callable[[], Tensor]:
        here, aside = torch.cuda.current_stream(self.device), torch.cuda.Stream(self.device)
        aside.wait_stream(here)
        with torch.cuda.stream(aside):  # libraries pick their kernels and allocate workspaces outside of the recording
            for _ in range(2):
                self.function(*buffers)
        here.wait_stream(aside)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads of the process use the same device meanwhile
        try:
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                output = self.function(*buffers)
        finally:
            torch.cuda.set_stream(here)  # a capture that fails leaves its own stream behind
        self._pool = self._pool or graph.pool()  # one pool for all: an answer is copied before the next graph runs

        def replay() -> Tensor:
            graph.replay()
            return output

        return replay
