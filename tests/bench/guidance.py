"""Forms of guidance at equal calls of the starter's network: what each adds to the cloud that all begin with.

    python tests/bench/guidance.py                     # six held-out prompts, a few minutes of one core
    python tests/bench/guidance.py --prompts 24 --only sds,ism
    python tests/bench/guidance.py --ball              # from a grey ball, at DreamGaussian's rates and noise

Each form gets as many rows of the U-Net as ``draft``'s geometry stage has (or half of ``shared.FROM_A_BALL``'s), in
as many steps as that pays for; all else is that stage's. A margin is the caption margin of the splat's pictures, by the
starter's judge. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

sys.path[0] = str(Path(__file__).resolve().parents[2])  # not this folder: a module here may have a room's name

import torch  # noqa: E402

import pipeline_core as sm  # noqa: E402
from pipeline_core.config import RECIPES, Distill  # noqa: E402
from pipeline_core.engine.calls import ModelCalls  # noqa: E402
from pipeline_core.engine.distill import distill  # noqa: E402
from pipeline_core.engine.engine import DistillationEngine  # noqa: E402
from pipeline_core.guidance.schedules import window  # noqa: E402
from pipeline_core.metrics.fidelity import score_gaussians  # noqa: E402
from pipeline_core.metrics.judge import load_judge  # noqa: E402
from pipeline_core.priors.image import load_image_prior  # noqa: E402
from pipeline_core.props.captions import caption  # noqa: E402
from tests.bench.shared import FROM_A_BALL, heldout_prompts  # noqa: E402

FORMS: dict[str, dict[str, Any]] = {
    "sds": {},
    "csd": {"guidance": "csd"},
    "ism": {"guidance": "ism", "guidance_scale": 7.5, "weighting": "x0"},
    "sdi": {"guidance": "sdi", "guidance_scale": 8.5, "weighting": "x0"},
    "multistep": {"guidance": "multistep", "weighting": "x0"},
    "sds-clipped": {"grad_clip": 0.5, "grad_clip_last": 2.0},
    "sds-uniform": {"t_schedule": "uniform"},
}
"""What differs from the stage as it is; scales and weights of ISM and SDI as published."""
BALL = FROM_A_BALL.override({"geometry.steps": FROM_A_BALL.geometry.steps // 2})


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
        t = sum(window(stage.t_min, stage.t_max, progress, stage.t_schedule, stage.t_clip)) / 2
        more = {
            "ism": -(-max(t - 0.08, 0) // 0.2) + 1,
            "sdi": 2 * -(-t // 0.1),
            "multistep": 2 * (stage.target_steps - 1),
        }
        rows = more.get(stage.guidance, 0.0)
        total += stage.views * (2 + rows)
    return round(total)


def stage_of(base: Distill, changes: dict[str, Any]) -> Distill:
    """``base`` with the changes, and the steps that its rows pay for."""
    budget = rows_of(base)
    stages = [Distill.model_validate(base.model_dump() | changes | {"steps": n}) for n in range(1, base.steps + 1)]
    return min(stages, key=lambda stage: (abs(rows_of(stage) - budget), -stage.steps))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=6)
    parser.add_argument("--only", default=",".join(FORMS))
    parser.add_argument("--ball", action="store_true", help="begin with a ball, not with the point prior's cloud")
    told = parser.parse_args()
    recipe = BALL if told.ball else RECIPES["draft"]
    engine = DistillationEngine(load_image_prior("starter"))
    counted, judge, forms = Counted(), load_judge("starter"), told.only.split(",")
    results: dict[str, list[dict[str, float]]] = {name: [] for name in ("start", *forms)}
    for number, spec in enumerate(heldout_prompts(told.prompts)):
        prompt = caption(spec)
        start = sm.start(sm.points(prompt, recipe, seed=number), recipe, seed=number)
        for name in results:
            began, before, splat = time.process_time(), counted.rows, start
            if name != "start":
                stage = stage_of(recipe.geometry, FORMS[name])
                splat, _ = distill(start, prompt, "", stage, engine, seed=number)
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
        mean["steps"] = 0 if name == "start" else stage_of(recipe.geometry, FORMS[name]).steps
        summary[name] = {key: round(value, 4) for key, value in mean.items()}
        print(
            f"| {name:<16} | {mean['steps']} | {mean['rows']:.0f} | {mean['margin']:.3f} | {mean['better']:.2f} "
            f"| {mean['r_precision']:.2f} | {mean['janus']:.2f} | {mean['cpu_s']:.1f} |"
        )
    print(json.dumps({"prompts": told.prompts, "models": engine.image_prior.model_id, "forms": summary}))


if __name__ == "__main__":
    main()
