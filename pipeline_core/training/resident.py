"""Training data that stays on the device: what a GPU trains on, which would wait for any CPU to draw its batches.

    chunks = ResidentChunks(100, 2048, exists, read, device=torch.device("cuda"))
    chunks.require(8)                       # waits until chunks 0 .. 7 are there
    batch = chunks["rgba"][rows]            # of every chunk: [limit * rows, ...]

A thread brings chunks in one after another, as soon as their files are there; whoever writes them may be another
process (:meth:`~pipeline_core.training.data.ChunkPool.fill`, ``train-starter --only-data``).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline_core.training.data import POLL_S
from pipeline_core.training.tokenizer import tokenize

TEXTS = 4
"""Captions of a row that are kept, each with its own synonyms, made-up words and view words."""


class ResidentChunks:
    """Chunks 0 .. limit - 1 on ``device``, brought in order by a thread of their own.

    Args:
        rows: of each chunk
        exists: whether a chunk's files are all there
        read: a chunk's arrays, the first axis of each has ``rows`` entries
    """

    def __init__(
        self,
        limit: int,
        rows: int,
        exists: Callable[[int], bool],
        read: Callable[[int], dict[str, np.ndarray]],
        device: torch.device,
    ) -> None:
        self.limit, self.rows, self.exists, self.read, self.device = limit, rows, exists, read, device
        self.there = 0
        self._arrays: dict[str, Tensor] = {}
        self._changed = threading.Condition()
        self._problem: BaseException | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._bring, name="resident chunks", daemon=True)
        self._thread.start()

    def __getitem__(self, name: str) -> Tensor:
        """An array of all chunks [limit * rows, ...]; rows beyond ``there * rows`` are not filled yet."""
        return self._arrays[name]

    def require(self, count: int) -> None:
        """Wait until the first ``count`` chunks are there; a failure to bring one is raised here."""
        with self._changed:
            self._changed.wait_for(lambda: self._problem is not None or self.there >= count)
            if self._problem is not None:
                raise self._problem

    def close(self) -> None:
        """Stop bringing chunks."""
        self._closed = True
        self._thread.join()

    def _bring(self) -> None:
        try:
            stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
            for index in range(self.limit):
                while not self.exists(index):
                    if self._closed:
                        return
                    time.sleep(POLL_S)
                self._put(index, self.read(index), stream)
                with self._changed:
                    self.there += 1
                    self._changed.notify_all()
                if self._closed:
                    return
        except BaseException as problem:
            with self._changed:
                self._problem = problem
                self._changed.notify_all()

    def _put(self, index: int, arrays: dict[str, np.ndarray], stream: torch.cuda.Stream | None) -> None:
        with torch.cuda.stream(stream):
            for name, array in arrays.items():
                rows = torch.from_numpy(np.array(array))
                if name not in self._arrays:
                    shape = (self.limit * self.rows, *rows.shape[1:])
                    self._arrays[name] = torch.empty(shape, dtype=rows.dtype, device=self.device)
                rows = rows.pin_memory() if stream is not None else rows
                self._arrays[name][index * self.rows : (index + 1) * self.rows].copy_(rows, non_blocking=True)
            if stream is not None:
                stream.synchronize()


class ResidentSteps:
    """Steps from chunks on a device and drawn there: other draws than on a CPU, the same distribution.

    Args:
        steps: an ``ImageSteps`` or ``PointSteps``: its settings, its :meth:`read` and its :meth:`visible`
        chunks: those of other steps of the same data; None brings them
    """

    def __init__(self, steps: Any, device: torch.device, chunks: ResidentChunks | None = None) -> None:
        self.steps, self.device = steps, device
        s = steps.settings
        self.chunks = chunks or ResidentChunks(s.chunks, s.chunk_size, steps.pool.exists, steps.read, device)
        self.empty = tokenize(steps.tokenizer, [""]).to(device)

    def begin(self, step: int) -> tuple[torch.Generator, Tensor]:
        """The generator of ``step`` and the rows [B] that it draws, all of which are there."""
        steps = self.steps
        generator = torch.Generator(self.device).manual_seed(steps.seed * 1_000_003 + step)
        visible = steps.visible(step)
        if not steps.pool.patient:
            visible = max(min(visible, self.chunks.there), min(visible, steps.settings.first_chunks))
        self.chunks.require(visible)
        return generator, pick(steps.size, visible * steps.settings.chunk_size, generator)

    def ids(self, rows: Tensor, generator: torch.Generator) -> Tensor:
        """Token ids [B, L] of one of the captions of each of ``rows``."""
        return self.chunks["ids"][rows, pick(len(rows), TEXTS, generator)].long()

    def close(self) -> None:
        """Stop bringing chunks."""
        self.chunks.close()


def pick(count: int, of: int, generator: torch.Generator) -> Tensor:
    """``count`` integers below ``of``, uniform, on the generator's device."""
    return torch.randint(of, (count,), generator=generator, device=generator.device)


def uniform(count: int, generator: torch.Generator) -> Tensor:
    """``count`` numbers in [0, 1), on the generator's device."""
    return torch.rand(count, generator=generator, device=generator.device)
