"""What is committed here for benchmarks: a judge that guides and selects nothing, and the newest result of a GPU below
``results/``, ``bench.json`` of ``tests/gpu/run.py``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

OTHER_JUDGE = Path(__file__).parent / "judge"
"""Trained by ``python -m pipeline_core.training.judge_train --seed 9191 --steps 6000 --widths 16 32 64 128``, then on
from that with ``--seed 9292 --steps 4000 --lr 0.0015``, which taught it the categories that came later."""
RESULTS = Path(__file__).parent / "results"
DISTILLED = "distilled encoder"
"""In the titles of rows whose gradient goes through a distilled encoder: a cheaper method, told apart."""


def newest(folder: Path = RESULTS) -> dict[str, Any] | None:
    """Its figures and the day, or None where there is none. Files are ``<card>-<yyyy-mm-dd>[-<which>]-bench.json``.

    Rows that the last of a card's day left out are those of the one before it.
    """
    files = sorted(folder.glob("*-bench.json"), key=lambda file: (_day(file), file.stem))
    if not files:
        return None
    last = files[-1].stem.partition("-")[0], _day(files[-1])
    notes: dict[str, Any] = {}
    for file in files:
        if (file.stem.partition("-")[0], _day(file)) == last:
            notes |= json.loads(file.read_text())
    return figures(notes, last[1])


def _day(file: Path) -> str:
    return "-".join(file.stem.split("-")[1:4])


def figures(notes: dict[str, Any], date: str) -> dict[str, Any]:
    """The figures of one ``bench.json``.

    Assets per hour are of both stages at the published numbers of steps: what was run is a share of them with the same
    mix of render sizes and noise levels, so its seconds are divided by that share.
    """
    fit = {name: value for name, value in notes.items() if " at once" in name and not value["out_of_memory"]}
    distilled = [value["ms_per_asset_step"] for name, value in fit.items() if DISTILLED in name]
    rows = [value for name, value in fit.items() if DISTILLED not in name]
    geometry, texture = (done / of for done, of in (notes["geometry steps"], notes["texture rounds"]))
    seconds = {row["active"]: row["geometry_s"] / geometry + row["texture_s"] / texture for row in rows}
    rates = {active: 3600 * active / each for active, each in seconds.items()}
    best = min(rows, key=lambda row: row["ms_per_asset_step"])
    return {
        "name": notes["card"],
        "date": date,
        "assets_per_hour": {str(active): round(rate, 1) for active, rate in sorted(rates.items())},
        "ms_per_asset_step_16": round(min(row["ms_per_asset_step"] for row in rows if row["active"] == 16), 2),
        "peak_gb_at_1": round(next(row["peak_gb"] for row in rows if row["active"] == 1), 2),
        "vs_sequential": round(max(rates.values()) / rates[1], 2),
        "vs_dreamgaussian": round(notes["baseline, ms a step"] / best["ms_per_asset_step"], 2),
        "vs_dreamgaussian_distilled": round(notes["baseline, ms a step"] / min(distilled), 2) if distilled else None,
        "fraction_of_peak": round(max(row["fraction_of_peak"] for row in rows), 3),
    }
