"""Forms of guidance at equal calls of the starter's network: what each adds to the cloud that all begin with.

    python tests/bench/guidance.py                     # six held-out prompts, a few minutes of one core
    python tests/bench/guidance.py --prompts 24 --only sds,ism

Each form gets as many rows of the U-Net as ``draft``'s geometry stage has, in as many steps as that pays for; all else
is ``draft``'s. A margin is the caption margin of the splat's pictures, by the starter's judge. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import torch

import pipeline_core as sm
from pipeline_core import models
from pipeline_core.config import RECIPES, Distill
from pipeline_core.engine.calls import ModelCalls
from pipeline_core.metrics.fidelity import score_gaussians
from pipeline_core.metrics.judge import load_judge
from pipeline_core.props.captions import caption
from tests.bench.fidelity import heldout_prompts

FORMS: dict[str, dict[str, Any]] = {
    "sds": {},
    "csd": {"guidance": "csd"},
    "ism": {"guidance": "ism", "guidance_scale": 7.5, "weighting": "x0"},
    "sdi": {"guidance": "sdi", "guidance_scale": 8.5, "weighting": "x0"},
    "sds, clipped": {"grad_clip": 0.5, "grad_clip_last": 2.0},
    "sds, t uniform": {"t_schedule": "uniform"},
}
"""What differs from ``draft``'s geometry stage; scales and weights of ISM and SDI as published."""
DRAFT = RECIPES["draft"]


class Counted:
    """Counts the rows that the engine asks the image prior for."""

    def __init__(self) -> None:
        self.rows, asked = 0, ModelCalls.predict_image

        def predict_image(calls: ModelCalls, parts: list[Any]) -> torch.Tensor:
            self.rows += sum(len(part) for part in parts)
            return asked(calls, parts)

        ModelCalls.predict_image = predict_image  # type: ignore[method-assign]


def rows_of(stage: Distill) -> int:
    """About what a stage asks for, from the middle of its window."""
    total = 0.0
    for step in range(stage.steps):
        progress = step / max(stage.steps - 1, 1)
        t = sum(sum(ends) / 2 if stage.t_schedule == "uniform" else ends[0] + (ends[1] - ends[0]) * progress
                for ends in (stage.t_min, stage.t_max)) / 2  # fmt: skip
        rows = {"ism": -(-max(t - 0.08, 0) // 0.2) + 1, "sdi": 2 * -(-t // 0.1)}.get(stage.guidance, 0.0)
        total += stage.views * (2 + rows)
    return round(total)


def stage_of(changes: dict[str, Any]) -> Distill:
    """``draft``'s geometry stage with the changes, and the steps that its rows pay for."""
    budget = rows_of(DRAFT.geometry)
    stages = [
        Distill.model_validate(DRAFT.geometry.model_dump() | changes | {"steps": n})
        for n in range(1, DRAFT.geometry.steps + 1)
    ]
    return min(stages, key=lambda stage: (abs(rows_of(stage) - budget), -stage.steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--only", default=",".join(FORMS))
    told = parser.parse_args()
    counted, judge, forms = Counted(), load_judge("starter"), told.only.split(",")
    results: dict[str, list[dict[str, float]]] = {name: [] for name in ("start", *forms)}
    for number, spec in enumerate(heldout_prompts(told.prompts)):
        prompt = caption(spec)
        start = sm.start(sm.points(prompt, DRAFT, seed=number), DRAFT, seed=number)
        for name in results:
            began, before, splat = time.process_time(), counted.rows, start
            if name != "start":
                splat = sm.distill(start, prompt, DRAFT, stage=stage_of(FORMS[name]), seed=number)
            seconds = time.process_time() - began
            scores = score_gaussians(splat, prompt, judge=judge, shape=False)
            row = {
                "margin": scores["caption_margin"], "r_precision": scores["r_precision"],
                "janus": scores["janus_score"], "rows": counted.rows - before, "cpu_s": seconds,
            }  # fmt: skip
            results[name].append(row)
            print(f"{prompt:<50} {name:<16}" + "".join(f"{k} {v:8.3f}  " for k, v in row.items()), flush=True)
    print(f"\n| {'form':<16} | steps | rows | margin | better than start | r_precision | janus | CPU s |")
    summary: dict[str, dict[str, float]] = {}
    for name, rows in results.items():
        mean = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
        pairs = zip(rows, results["start"], strict=True)
        mean["better"] = sum(row["margin"] > first["margin"] for row, first in pairs) / len(rows)
        mean["steps"] = 0 if name == "start" else stage_of(FORMS[name]).steps
        summary[name] = {key: round(value, 4) for key, value in mean.items()}
        print(
            f"| {name:<16} | {mean['steps']} | {mean['rows']:.0f} | {mean['margin']:.3f} | {mean['better']:.2f} "
            f"| {mean['r_precision']:.2f} | {mean['janus']:.2f} | {mean['cpu_s']:.1f} |"
        )
    print(json.dumps({"prompts": told.prompts, "models": models.engine(DRAFT).image_prior.model_id, "forms": summary}))


if __name__ == "__main__":
    main()
