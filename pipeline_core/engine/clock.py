"""Where the time of engine steps goes, told without making the host wait for the device."""

from __future__ import annotations

import time
from itertools import pairwise

import torch

PARTS = ("render", "encode", "unet", "points", "decode", "loss", "backward_encode", "backward_render", "update")
"""Parts of an engine step, in order. The backward goes through the encoder first, then through the renderer."""


class Clock:
    """Seconds by part. Marks are CUDA events there (read only by :attr:`seconds`), the wall clock elsewhere.

    Off (``running=False``) it costs nothing. On a GPU the time between two marks includes what the device idled.
    """

    def __init__(self, device: torch.device, *, running: bool = True) -> None:
        self._on_cuda, self._running = device.type == "cuda", running
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._marks: list[tuple[str | None, torch.cuda.Event]] = []
        self._last = 0.0

    def start(self) -> None:
        """A step begins: what came before belongs to no part."""
        self._mark(None)

    def mark(self, part: str) -> None:
        """``part`` ends: it gets everything since the mark before."""
        self._mark(part)

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds by part so far; waits for the device."""
        marks = list(self._marks)  # the engine's thread adds to them meanwhile
        if len(marks) > 1:
            marks[-1][1].synchronize()
            for (_, before), (part, event) in pairwise(marks):
                if part is not None:
                    self._seconds[part] += before.elapsed_time(event) / 1000
            del self._marks[: len(marks) - 1]
        return dict(self._seconds)

    def _mark(self, part: str | None) -> None:
        if not self._running:
            return
        if self._on_cuda:
            event = torch.cuda.Event(enable_timing=True)
            event.record()
            self._marks.append((part, event))
            return
        now = time.perf_counter()
        if part is not None:
            self._seconds[part] += now - self._last
        self._last = now
