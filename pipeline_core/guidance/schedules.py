"""What changes over a stage: noise windows, learning rates, render sizes. ``progress`` runs from 0 to 1."""

from __future__ import annotations

import math


def linear(ends: tuple[float, float], progress: float) -> float:
    """``ends[0]`` at progress 0, ``ends[1]`` at 1, a line between."""
    return ends[0] + (ends[1] - ends[0]) * progress


def window(
    low: tuple[float, float], high: tuple[float, float], progress: float, kind: str, clip: tuple[float, float] | None
) -> tuple[float, float]:
    """Bottom and top of the noise window at ``progress``: ends that move by a line, or by the square root of progress
    (GSGen's corgi.yaml; HiFA), or stand as wide as they ever are (``uniform``, DreamFusion), and are held within
    ``clip``, which makes the plateaus of DreamGaussian's annealing."""
    share = math.sqrt(progress) if kind == "sqrt" else progress
    ends = (min(low), max(high)) if kind == "uniform" else (linear(low, share), linear(high, share))
    return ends if clip is None else (min(max(ends[0], clip[0]), clip[1]), min(max(ends[1], clip[0]), clip[1]))


def log_linear(start: float, end: float, progress: float, until: float = 1.0) -> float:
    """Exponential decay from ``start`` to ``end`` at ``progress == until``, constant after (3DGS; GSGen)."""
    share = min(progress / until, 1.0)
    return float(start ** (1 - share) * end**share)


def resolution(table: tuple[tuple[float, int], ...], progress: float) -> int:
    """Render size of the first row whose share is not yet reached, else of the last row."""
    for until, size in table:
        if progress < until:
            return size
    return table[-1][1]
