"""What is committed here for benchmarks: a judge that guides and selects nothing, and the newest result of a GPU below
``results/``, ``bench.json`` of ``tests/gpu/run.py``."""

from __future__ import annotations

import json
from collections.abc import Iterable
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

    What the last of a card's day left out is that of the one before it; each ratio is of one file, that is of one host.
    """
    files = sorted(folder.glob("*-bench.json"), key=lambda file: (_day(file), file.stem))
    if not files:
        return None
    last = files[-1].stem.partition("-")[0], _day(files[-1])
    found: dict[str, Any] = {}
    for file in files:
        if (file.stem.partition("-")[0], _day(file)) == last:
            new = figures(json.loads(file.read_text()), last[1])
            rates = found.get("assets_per_hour", {}) | new["assets_per_hour"]
            found = {name: found.get(name) if value is None else value for name, value in new.items()}
            found["assets_per_hour"] = dict(sorted(rates.items(), key=lambda rate: int(rate[0])))
    return found


def _day(file: Path) -> str:
    return "-".join(file.stem.split("-")[1:4])


def figures(notes: dict[str, Any], date: str) -> dict[str, Any]:
    """The figures of one ``bench.json``; None where its rows were left out.

    Assets per hour are of both stages at the published numbers of steps: what was run is a share of them with the same
    mix of render sizes and noise levels, so its seconds are divided by that share.
    """
    fit = {name: value for name, value in notes.items() if " at once" in name and not value["out_of_memory"]}
    rows = [value for name, value in fit.items() if DISTILLED not in name]
    geometry, texture = (done / of for done, of in (notes["geometry steps"], notes["texture rounds"]))
    seconds = {row["active"]: row["geometry_s"] / geometry + row["texture_s"] / texture for row in rows}
    rates = {active: 3600 * active / each for active, each in seconds.items()}

    def least(rows: Iterable[dict[str, Any]]) -> float | None:
        return min((row["ms_per_asset_step"] for row in rows), default=None)

    def ratio(value: float | None, to: float | None = 1.0) -> float | None:
        return None if value is None or to is None else round(value / to, 2)

    distilled = least(value for name, value in fit.items() if DISTILLED in name)
    return {
        "name": notes["card"],
        "date": date,
        "assets_per_hour": {str(active): round(rate, 1) for active, rate in sorted(rates.items())},
        "ms_per_asset_step_16": ratio(least(row for row in rows if row["active"] == 16)),
        "peak_gb_at_1": ratio(next((row["peak_gb"] for row in rows if row["active"] == 1), None)),
        "vs_sequential": ratio(max(rates.values(), default=None), rates.get(1)),
        "vs_dreamgaussian": ratio(notes["baseline, ms a step"], least(rows)),
        "vs_dreamgaussian_distilled": ratio(notes["baseline, ms a step"], distilled),
        "fraction_of_peak": round(max((row["fraction_of_peak"] for row in rows), default=0.0), 3) or None,
    }
