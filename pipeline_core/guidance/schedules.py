"""What changes over a stage: noise windows, learning rates, render sizes. ``progress`` runs from 0 to 1."""

from __future__ import annotations


def linear(ends: tuple[float, float], progress: float) -> float:
    """``ends[0]`` at progress 0, ``ends[1]`` at 1, a line between."""
    return ends[0] + (ends[1] - ends[0]) * progress


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
