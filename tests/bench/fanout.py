"""How long the fastest worker waits for the last one: a manifest divided over workers of different speeds.

    python tests/bench/fanout.py

Discrete events, no processes: the product's own ``split`` makes the shards, workers take them from one queue, each
shard costs ``START_S`` before its first asset, and an asset's seconds are lognormal (a third of their mean one way or
the other). Beside it an equal share for each worker, and a shard for each asset. The tail is the time from the first
worker's end to the last's, as a share of the whole; the loss is the workers' time spent on starting and waiting.
Twenty seeds each, means. Real workers are measured by ``python -m tests.chaos.farm --calm``. Last line: JSON.
"""

from __future__ import annotations

import heapq
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from catalog.render import aligned
from flows.farm.shards import START_S, split

SPEEDS = {
    "8 alike": (1.0,) * 8,
    "one slow in 8": (1.0,) * 7 + (0.3,),
    "1 : 2 : 4": (1.0, 0.5, 0.25),
    "two kinds of 4": (1.0,) * 4 + (0.5,) * 4,
}
ASSETS, MEAN_S, SPREAD = 1000, 60.0, 0.33
Divide = Callable[[Sequence[str], int], Sequence[Sequence[str]]]


def ours(assets: Sequence[str], workers: int) -> Sequence[Sequence[str]]:
    """The product's."""
    return split(assets, workers=workers, asset_s=MEAN_S)


def equal(assets: Sequence[str], workers: int) -> Sequence[Sequence[str]]:
    """One shard for each worker."""
    return [assets[i::workers] for i in range(workers)]


def single(assets: Sequence[str], workers: int) -> Sequence[Sequence[str]]:
    """One shard for each asset."""
    return [[name] for name in assets]


def ends(shards: Sequence[Sequence[str]], speeds: Sequence[float], seconds: dict[str, float]) -> np.ndarray:
    """When each worker has no more to do; those that start late take what is next."""
    free = [(0.0, i) for i in range(len(speeds))]
    for shard in shards:
        now, i = heapq.heappop(free)
        heapq.heappush(free, (now + START_S + sum(seconds[name] for name in shard) / speeds[i], i))
    return np.array([now for now, _ in free])


def measure(divide: Divide, speeds: Sequence[float], seed: int) -> tuple[float, float, float]:
    """Seconds in all; tail and loss as shares."""
    rng = np.random.default_rng(seed)
    names = [f"a{i}" for i in range(ASSETS)]
    scale = rng.lognormal(-(SPREAD**2) / 2, SPREAD, ASSETS)
    seconds = dict(zip(names, MEAN_S * scale))
    done = ends(divide(names, len(speeds)), speeds, seconds)
    useful = sum(seconds.values()) / sum(speeds)  # if nobody ever waited or started
    return done.max(), (done.max() - done.min()) / done.max(), 1 - useful / done.max()


def main() -> None:
    """Measure, print."""
    report, rows = {}, []
    for name, speeds in SPEEDS.items():
        for label, divide in (("guided shards", ours), ("equal shares", equal), ("one by one", single)):
            wall, tail, loss = np.mean([measure(divide, speeds, seed) for seed in range(20)], axis=0)
            report[f"{name}, {label}"] = {"wall_s": round(wall), "tail": round(tail, 4), "loss": round(loss, 4)}
            rows.append([name, label, f"{wall:.0f}", f"{100 * tail:.1f} %", f"{100 * loss:.1f} %"])
    print(aligned(["workers", "divided in", "seconds", "tail", "loss"], rows))
    print(json.dumps(report))


if __name__ == "__main__":
    main()
