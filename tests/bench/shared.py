"""What several benchmarks share: held-out prompts, the factory as it is called, intervals, pictures."""

from __future__ import annotations

import csv
import itertools
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline_core.config import RECIPES
from pipeline_core.guidance.prompts import view_prompt, view_word
from pipeline_core.metrics import fidelity
from pipeline_core.metrics.judges import caption_of, judged_categories
from pipeline_core.metrics.negatives import full
from pipeline_core.priors.sampling import sample_images
from pipeline_core.props.captions import caption
from pipeline_core.props.props import PropSpec, build, sample_spec
from pipeline_core.props.raycast import sample_points

ROOT = Path(__file__).resolve().parents[2]
FROM_A_BALL = RECIPES["dreamgaussian"].override(
    {
        "init.num_points": 2000, "geometry.steps": 120, "geometry.views": 4, "geometry.resolution": ((1.0, 128),),
        "geometry.elevation": (-15.0, 50.0), "geometry.fovy": 40.0, "geometry.background": "prior",
        "geometry.guidance_scale": 10.0,
    }
)  # fmt: skip
"""DreamGaussian's first stage, its rates and its noise, with the starter prior's cameras, guidance and budget."""
TRUTH_SEED = 1_000_003
"""Seeds of the true things start here, away from the instances that the F-score compares with."""
Row = dict[str, float]


def heldout_prompts(count: int, seed: int = 2026) -> list[PropSpec]:
    """``count`` specs with different captions, held-out pairs only, the categories in turn; what the judge knows."""
    rng = np.random.default_rng(seed)
    specs: list[PropSpec] = []
    while len(specs) < count:
        category = judged_categories()[len(specs) % len(judged_categories())]
        drawn = sample_spec(rng, split="heldout", category=category, composed=0.0)
        spec = replace(full(drawn), seed=TRUTH_SEED + len(specs))
        if caption_of(caption(spec)) is not None and caption(spec) not in {caption(s) for s in specs}:
            specs.append(spec)
    return specs


def run_factory(
    library: Path, manifest: str, ids: Iterable[str], prompts: Iterable[str], seed: int, changes: Iterable[str],
    *options: str,
) -> None:  # fmt: skip
    """Run the factory on ``prompts``, their seeds from ``seed`` on; what ``library`` has is not made again.

    ``changes`` are of recipe fields, ``options`` further words of the command.
    """
    library = library.resolve()
    library.mkdir(parents=True, exist_ok=True)
    with (library / manifest).open("w", newline="") as file:
        csv.writer(file).writerows([("id", "prompt", "seed"), *zip(ids, prompts, itertools.count(seed))])
    command = [sys.executable, "-m", "flows.cli", "run", str(library / manifest), "--library", str(library), *options]
    sets = [word for change in changes for word in ("--set", change)]
    subprocess.run([*command, *sets], check=False, stdout=sys.stderr, cwd=ROOT)


def truth_row(spec: PropSpec, judge, prompt: str | None = None) -> Row:
    """The thing itself, asked for ``prompt`` (its own caption)."""
    cameras, images = fidelity.evaluation_cameras(), fidelity.truth_images(spec)
    prompt, points = prompt or caption(spec), truth_points(spec)
    return fidelity.score(images, cameras.azimuth, cameras.elevation, prompt, points=points, judge=judge)


def truth_points(spec: PropSpec, count: int = fidelity.POINTS) -> np.ndarray:
    """Points [count, 3] of the thing itself."""
    return sample_points(build(spec), count, np.random.default_rng(spec.seed))[0]


def sample_views(prior, prompt: str, guidance_scale: float, steps: int, seed: int) -> Tensor:
    """Images [8, 3, S, S] of the image prior at the evaluation cameras, told in words where it takes none."""
    cameras = fidelity.evaluation_cameras()
    angles = (cameras.azimuth, cameras.elevation) if prior.camera == "angles" else None
    generator = torch.Generator().manual_seed(seed)
    prompts = [prompt] * len(cameras)
    if prior.camera == "none":
        views = zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True)
        prompts = [view_prompt(prompt, view_word(*view)) for view in views]
    return sample_images(prior, prompts, generator, guidance_scale=guidance_scale, steps=steps, cameras=angles)


def interval(values: np.ndarray, resamples: int = 4000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of ``values`` [n]."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (resamples, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def paired(differences: Iterable[float], digits: int | None = None) -> dict[str, Any]:
    """Mean of paired ``differences`` and its 95 % interval, to so many digits; None = four, and the interval whole."""
    values = np.array(list(differences))
    bounds = interval(values) if digits is None else [round(bound, digits) for bound in interval(values)]
    return {"mean": round(float(values.mean()), 4 if digits is None else digits), "interval": bounds}


def column(rows: list[Row], name: str) -> np.ndarray:
    """The values of the rows that have ``name``."""
    return np.array([row[name] for row in rows if name in row])


def gain(rows: list[Row], before: list[Row], name: str = "r_precision") -> dict[str, Any]:
    """Paired difference of ``name`` with its 95 % interval."""
    return paired(a[name] - b[name] for a, b in zip(rows, before, strict=True))


def picture(images: Tensor | None) -> np.ndarray:
    """Front, quarter, side and back of eight images, side by side in a white frame; grey where there is nothing."""
    if images is None:
        images = torch.full((8, fidelity.SIZE, fidelity.SIZE, 3), 0.5)
    images = images.permute(0, 3, 1, 2) if images.shape[-1] == 3 else images
    images = interpolate(images, (fidelity.SIZE, fidelity.SIZE), mode="area").permute(0, 2, 3, 1)
    row = np.concatenate([images[i].numpy() for i in (0, 1, 2, 4)], axis=1)
    return np.pad(row, ((2, 2), (2, 2), (0, 0)), constant_values=1.0)
