"""Does distillation from a trained flow transformer beat its start? The same for the starter's U-Net beside it.

    splatmill train-starter --part flow --out runs/flow --minutes 60
    python tests/bench/flow_starter.py runs/flow/flow/model
    python tests/bench/flow_starter.py runs/flow/flow/model --start ball --prompts 12

Prompts are colour and category pairs that neither prior was trained on, of the categories that the folder's model
card names. Both priors begin with the very same Gaussians, have the same steps, views, seeds and rates, and are judged
by the starter's judge, which guides nobody. Starts:

* ``grey``  a sample of the point prior for the prompt, without its colours: those have to come from the image prior
* ``ball``  a grey ball, DreamGaussian's start: so have all shapes

Every prompt counts. Intervals are 95 % bootstrap over the prompts, paired. The last line of stdout is one JSON
document.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from torch import Tensor

from pipeline_core import make
from pipeline_core.config import RECIPES, Distill, Recipe
from pipeline_core.engine.distill import distill
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.gaussians.initialise import from_points
from pipeline_core.io.images import save_png
from pipeline_core.io.ply import load_splat, save_splat
from pipeline_core.metrics import fidelity
from pipeline_core.metrics.judge import load_judge
from pipeline_core.metrics.views import render_gaussians
from pipeline_core.priors.image import load_image_prior
from pipeline_core.props.captions import caption
from pipeline_core.props.props import CATEGORIES, PropSpec
from pipeline_core.types import Gaussians, PointCloud
from tests.bench.shared import FROM_A_BALL, Row, column, gain, heldout_prompts, picture, sample_views

GREY = RECIPES["factory"].override({"init.num_points": 2000})
"""Points of the starter's point prior, as the recipe ``factory`` takes them."""
NAMES = ("start", "asset", "unet")
"""The start, what the flow made of it, what the U-Net made of it."""


def card(folder: Path) -> dict[str, Any]:
    """What the model card in ``folder`` says of the training: its table by row, and its settings."""
    text = (folder / "README.md").read_text()
    rows = dict(re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", text, re.MULTILINE))
    wanted = ("commit", "seed", "samples seen", "training time", "loss (mean of the last steps logged)")
    settings = json.loads(text.split("```json")[1].split("```")[0])["settings"]
    return {name: rows[name] for name in wanted} | {"categories": settings["categories"]}


def specs_of(categories: list[str], count: int) -> list[PropSpec]:
    """``count`` held-out specs of ``categories``, in turn; none named = all."""
    wanted = set(categories or CATEGORIES)
    rounds = -(-count // len(wanted)) + 1
    return [spec for spec in heldout_prompts(rounds * len(CATEGORIES)) if spec.category in wanted][:count]


def start_of(kind: str, prompt: str, seed: int) -> Gaussians:
    """The Gaussians that both priors begin with; nothing in them has a colour."""
    recipe: Recipe = FROM_A_BALL if kind == "ball" else GREY
    cloud = make.points(prompt, recipe, seed=seed)
    grey = PointCloud(cloud.xyz, torch.full_like(cloud.rgb, 0.5))
    return from_points(grey, recipe.init, torch.Generator().manual_seed(seed))


def stage_of(kind: str, steps: int, guidance_scale: float) -> Distill:
    """DreamGaussian's stage with the starter's cameras; shapes that are there already are hardly moved."""
    changes: dict[str, Any] = {"geometry.steps": steps, "geometry.guidance_scale": guidance_scale}
    if kind == "grey":
        changes |= {"geometry.lr.means": 0.0005, "geometry.lr.sh0": 0.02, "geometry.densify.every": 0}
    return FROM_A_BALL.override(changes).geometry


def found_or_made(keep: Path | None, name: str, make_it: Callable[[], Gaussians]) -> Gaussians:
    """The splat that ``keep`` has under ``name``, else a new one, which is kept there."""
    path = keep / f"{hashlib.sha256(name.encode()).hexdigest()[:16]}.ply" if keep else None
    if path is not None and path.exists():
        return load_splat(path)
    splat = make_it()
    if path is not None:
        save_splat(path, splat)
    print(name.partition("{")[0], file=sys.stderr, flush=True)
    return splat


def distilled(
    prior: Any, starts: list[Gaussians], prompts: list[str], stage: Distill, keep: Path | None
) -> list[Gaussians]:
    """What ``prior`` makes of each start."""
    with contextlib.closing(DistillationEngine(prior)) as engine:
        return [
            found_or_made(
                keep,
                f"{prior.model_id} {prompt} {i} {len(start)} {stage.model_dump_json()}",
                lambda start=start, prompt=prompt, i=i: distill(start, prompt, "", stage, engine, seed=i)[0],
            )
            for i, (start, prompt) in enumerate(zip(starts, prompts, strict=True))
        ]


def parameters(prior: Any) -> int:
    """Of the denoiser and its text encoders."""
    networks = [getattr(prior, "transformer", None) or prior.unet, *(encoder.model for encoder in prior.encoders)]
    return sum(p.numel() for network in networks for p in network.parameters())


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="what train-starter --part flow exported")
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--start", choices=("grey", "ball"), default="grey")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--guidance-scale", type=float, default=10.0)
    parser.add_argument(
        "--keep", type=Path, help="where what was distilled is kept, and found again (default: nowhere)"
    )
    parser.add_argument("--sheet", type=Path, help="contact sheet: start, flow, U-Net and the flow's own samples")
    args = parser.parse_args(argv)

    if args.keep:
        args.keep.mkdir(parents=True, exist_ok=True)
    training, judge = card(args.folder), load_judge("starter")
    specs = specs_of(training["categories"], args.prompts)
    prompts = [caption(spec) for spec in specs]
    stage = stage_of(args.start, args.steps, args.guidance_scale)
    priors = {"asset": load_image_prior(str(args.folder)), "unet": load_image_prior("starter")}
    starts = [
        found_or_made(args.keep, f"start {args.start} {prompt} {i}", partial(start_of, args.start, prompt, seed=i))
        for i, prompt in enumerate(prompts)
    ]
    splats = {"start": starts}
    for name, prior in priors.items():
        splats[name] = distilled(prior, splats["start"], prompts, stage, args.keep)
    table: dict[str, list[Row]] = {
        name: [
            fidelity.score_gaussians(splat, prompt, judge=judge) for splat, prompt in zip(each, prompts, strict=True)
        ]
        for name, each in splats.items()
    }
    cameras = fidelity.evaluation_cameras()
    samples: list[Tensor] = [sample_views(priors["asset"], prompt, 3.0, 16, seed=i) for i, prompt in enumerate(prompts)]
    table["2d"] = [
        fidelity.score(images, cameras.azimuth, cameras.elevation, prompt, judge=judge)
        for images, prompt in zip(samples, prompts, strict=True)
    ]
    if args.sheet:
        rows = [
            np.concatenate(
                [picture(render_gaussians(splats[n][i], cameras)[0]) for n in NAMES] + [picture(each)], axis=1
            )
            for i, each in enumerate(samples)
        ]
        save_png(args.sheet, np.concatenate(rows))
    result: dict[str, Any] = {
        "prompts": len(prompts), "start": args.start, "steps": args.steps, "guidance_scale": args.guidance_scale,
        "views": stage.views, "parameters": parameters(priors["asset"]), "parameters_unet": parameters(priors["unet"]),
    }  # fmt: skip
    named = {"r_precision": "r_precision", "r_precision_views": "r_precision_views", "margin": "caption_margin",
             "category": "category_correct", "colour": "colour_correct"}  # fmt: skip
    for short, name in named.items():
        result |= {f"{short}_{row}": round(float(column(rows, name).mean()), 4) for row, rows in table.items()}
    for row in NAMES[1:]:
        result[f"margin_gain_{row}"] = gain(table[row], table["start"], "caption_margin")
        result[f"r_precision_gain_{row}"] = gain(table[row], table["start"])
    result |= {"judge": judge.model_id, "training": training, "asked": prompts}
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
