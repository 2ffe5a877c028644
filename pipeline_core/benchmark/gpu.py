"""``splatmill bench gpu``: what one GPU does with 1, 2, 4, 8 and 16 assets at once.

Builds the U-Net, autoencoder and text encoder of Stable Diffusion 1.5 or 2.1-base with random weights. Speed does not
depend on the weights' values (only the number of Gaussians may drift, and is printed), so this is an honest measure of
speed and no measure of quality. The recipe's geometry stage and its texture refinement run as published; meshing and
evaluation are CPU work beside the GPU and are not counted. ``vs_sequential`` is against our own engine with one asset
at a time, ``vs_dreamgaussian`` against DreamGaussian's first stage in a plain loop (or its own code, with a checkout).
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline_core.benchmark import counters, dreamgaussian
from pipeline_core.benchmark.random_priors import SIZES, random_prior
from pipeline_core.config import RECIPES, Distill, Recipe
from pipeline_core.device import default_dtype, pick_device
from pipeline_core.engine.clock import PARTS
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.engine.gaussian_job import GaussianJob
from pipeline_core.engine.jobs import Job
from pipeline_core.errors import RequestError, StageError
from pipeline_core.gaussians.initialise import ball, from_points
from pipeline_core.priors.image import DiffusersPrior
from pipeline_core.texturing.refine import texture_job
from pipeline_core.types import Gaussians, TexturedMesh

PROMPT = "a red mug"
NO_GPU = (
    "no CUDA device is here, so there is nothing to measure; splatmill doctor says what is missing. "
    "To walk through the benchmark without one: splatmill bench gpu --device cpu --tiny"
)


@dataclass(frozen=True)
class Row:
    """One line of the table. Seconds are of ``active`` assets together; the parts are of one geometry step, or of the
    whole texture."""

    active: int
    assets_per_hour: float
    geometry_s: float
    texture_s: float
    step_s: float
    parts_s: dict[str, float]
    texture_parts_s: dict[str, float]
    fraction_of_peak: float
    utilisation: float | None
    peak_gb: float | None
    gaussians: float
    out_of_memory: bool

    def flat(self) -> dict[str, Any]:
        """Columns of the CSV file."""
        row = asdict(self)
        parts, texture = row.pop("parts_s"), row.pop("texture_parts_s")
        row |= {f"{part}_s": seconds for part, seconds in parts.items()}
        return row | {f"texture_{part}_s": seconds for part, seconds in texture.items()}


def squeezed(recipe: Recipe, steps: int) -> Recipe:
    """``recipe`` with ``steps`` geometry steps and the same share of its texture rounds; 0 = as published."""
    if not steps:
        return recipe
    rounds = max(round(recipe.texture.steps * steps / recipe.geometry.steps), 1)
    return recipe.override({"geometry.steps": steps, "texture.steps": rounds})


def tiny(recipe: Recipe) -> Recipe:
    """``recipe`` at sizes that a CPU walks through in seconds."""
    small = {"geometry.resolution": ((0.3, 16), (0.6, 32), (1.0, 64)), "init.num_points": 64, "mesh.texture_size": 64}
    return squeezed(recipe, 4).override({**small, "texture.resolution": 64, "texture.denoise_steps": 10})


def sphere(texture_size: int) -> TexturedMesh:
    """A grey ball with a texture of the recipe's size (at 1024: 16k faces): work for the refinement."""
    rings = texture_size // 16
    turns = 2 * rings
    v, u = (grid.ravel() for grid in np.mgrid[0 : 1 : (rings + 1) * 1j, 0 : 1 : (turns + 1) * 1j])
    across, around = np.sin(np.pi * v), 2 * np.pi * u
    normals = np.stack([across * np.sin(around), np.cos(np.pi * v), across * np.cos(around)], 1).astype(np.float32)
    corner = (np.arange(rings)[:, None] * (turns + 1) + np.arange(turns)).ravel()
    below = corner + turns + 1
    faces = np.concatenate([np.stack([corner, below, below + 1], 1), np.stack([corner, below + 1, corner + 1], 1)])
    texture = np.full((texture_size, texture_size, 3), 0.5, np.float32)
    return TexturedMesh(0.5 * normals, faces.astype(np.int32), normals, np.stack([u, v], 1).astype(np.float32), texture)


def run_all(engine: DistillationEngine, jobs: Sequence[Job]) -> tuple[float, list[Any]]:
    """Seconds from the first submission to the last result, and the results."""
    counters.synchronize(engine.device)
    began = time.perf_counter()
    results = [future.result() for future in [engine.submit(job) for job in jobs]]
    counters.synchronize(engine.device)
    return time.perf_counter() - began, results


def measure(
    prior: DiffusersPrior, recipe: Recipe, start: Gaussians, active: int, model_rate: tuple[float, float], *,
    fixed_sizes: bool | None = None,
) -> Row:  # fmt: skip
    """Run ``active`` assets through both stages, after a short run that compiles, records and allocates.

    ``model_rate``: operations of one asset's step, and the device's peak operations a second.
    """
    device, mesh = prior.device, sphere(recipe.mesh.texture_size)
    counters.forget_peak(device)
    engine = DistillationEngine(prior, device=device, max_active=active, fixed_sizes=fixed_sizes, profile=True)

    def shapes(stage: Distill) -> list[Job]:
        return [GaussianJob(start, PROMPT, stage, seed=i, name=f"asset {i}") for i in range(active)]

    def textures(rounds: int) -> list[Job]:
        settings = recipe.texture.model_copy(update={"steps": rounds})
        return [texture_job(mesh, PROMPT, settings, seed=i, name=f"asset {i}") for i in range(active)]

    try:
        run_all(engine, shapes(recipe.geometry.model_copy(update={"steps": 3})))
        run_all(engine, textures(1))
        before, steps = engine.clock.seconds, engine.steps
        with counters.utilisation(device) as samples:
            geometry_s, results = run_all(engine, shapes(recipe.geometry))
            after, steps = engine.clock.seconds, engine.steps - steps
            texture_s, _ = run_all(engine, textures(recipe.texture.steps)) if recipe.texture.steps else (0.0, [])
    finally:
        engine.close()
    parts = {part: (after[part] - before[part]) / steps for part in PARTS}
    end = engine.clock.seconds
    busy = parts["encode"] + parts["unet"] + parts["backward_encode"]
    return Row(
        active=active,
        assets_per_hour=3600 * active / (geometry_s + texture_s),
        geometry_s=geometry_s,
        texture_s=texture_s,
        step_s=geometry_s / steps,
        parts_s=parts,
        texture_parts_s={part: end[part] - after[part] for part in PARTS},
        fraction_of_peak=active * model_rate[0] / busy / model_rate[1],
        utilisation=sum(samples) / len(samples) if samples else None,
        peak_gb=counters.peak_memory_gb(device),
        gaussians=sum(len(gaussians) for gaussians, _ in results) / active,
        out_of_memory=engine.max_active < active or engine.saves_memory,
    )


def ablations(
    prior: DiffusersPrior, plain: DiffusersPrior, recipe: Recipe, start: Gaussians, active: int,
    rate: tuple[float, float],
) -> dict[str, float]:  # fmt: skip
    """Seconds of a geometry step without each of what is done for speed, beside all of it; ``plain`` is not sped up."""
    geometry_only = recipe.override({"texture.steps": 0})
    found = {"everything": measure(prior, geometry_only, start, active, rate).step_s}
    found["no CUDA graphs"] = measure(prior, geometry_only, start, active, rate, fixed_sizes=False).step_s
    found["no channels_last"] = measure(plain, geometry_only, start, active, rate).step_s
    return found


def baseline(
    prior: DiffusersPrior, recipe: Recipe, start: Gaussians, checkout: Path | None, python: str
) -> tuple[float, str]:
    """Seconds of DreamGaussian's first stage for one asset, and whose code that was.

    ``prior`` has diffusers' networks as they are, in torch's default layout, as the release has them.
    """
    if checkout is not None:
        try:
            per_step = dreamgaussian.time_checkout(checkout, python=python)
            return per_step * recipe.geometry.steps, f"DreamGaussian's own code in {checkout.name}, its own weights"
        except RequestError as error:
            print(f"{error}; its schedule in a plain loop is measured instead", file=sys.stderr)
    dreamgaussian.plain_loop(prior, start, recipe.geometry.model_copy(update={"steps": 3}), PROMPT, prior.device)
    seconds = dreamgaussian.plain_loop(prior, start, recipe.geometry, PROMPT, prior.device)
    return seconds, "DreamGaussian's schedule in a plain loop on the same kernels"


def figures(rows: list[Row], name: str, baseline_s: float) -> dict[str, Any]:
    """The summary that other programs read."""
    fit = [row for row in rows if not row.out_of_memory]
    if not fit:
        raise RequestError("no number of assets at once fits this GPU without a fallback to save memory")
    rates = {str(row.active): round(row.assets_per_hour, 2) for row in fit}
    at_one = next((row for row in rows if row.active == 1), None)
    fastest = min(row.geometry_s / row.active for row in fit)
    return {
        "name": name,
        "assets_per_hour": rates,
        "peak_gb_at_1": round(at_one.peak_gb, 2) if at_one and at_one.peak_gb else None,
        "vs_sequential": round(max(rates.values()) / rates["1"], 2) if "1" in rates else None,
        "vs_dreamgaussian": round(baseline_s / fastest, 2),
        "fraction_of_peak": round(max(row.fraction_of_peak for row in fit), 3),
    }


def arguments(argv: Sequence[str]) -> argparse.Namespace:
    """The command's options."""
    parser = argparse.ArgumentParser("splatmill bench gpu", description=__doc__.split("\n\n", 1)[1],
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    parser.add_argument("--model", choices=[n for n in SIZES if n != "tiny"], default="sd21", help="size of the model")
    parser.add_argument("--recipe", choices=list(RECIPES), default="dreamgaussian")
    parser.add_argument("--active", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="assets at once")
    parser.add_argument("--steps", type=int, default=0, help="geometry steps; 0 = as published")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:<number>; cpu only to try the program")
    parser.add_argument("--tiny", action="store_true", help="toy sizes: a check of the program, no measurement")
    parser.add_argument("--ablate", action="store_true", help="also time a step without each means of speed")
    parser.add_argument("--dreamgaussian", type=Path, help="a checkout of DreamGaussian that runs here")
    parser.add_argument("--python", default=sys.executable, help="the interpreter that has its extensions")
    parser.add_argument("--csv", type=Path, help="write the table, for example below tests/bench/results/")
    return parser.parse_args(list(argv))


def main(argv: Sequence[str]) -> int:
    """Measure, print the table, and one JSON document as the last line."""
    print(json.dumps(bench(argv)))
    return 0


def bench(argv: Sequence[str]) -> dict[str, Any]:
    """Measure and print the table; returns the summary. Raises :class:`RequestError` where there is no GPU."""
    options = arguments(argv)
    if not (options.tiny if options.device == "cpu" else torch.cuda.is_available()):
        raise RequestError(NO_GPU)
    device = pick_device(options.device)
    recipe, model = squeezed(RECIPES[options.recipe], options.steps), options.model
    if options.tiny:
        recipe, model = tiny(recipe), "tiny"
    recipe = recipe.override({"geometry.point_weight": 0.0})
    prior = random_prior(model, device, default_dtype(device))
    generator = torch.Generator().manual_seed(0)
    start = from_points(ball(recipe.init.num_points, generator), recipe.init, generator)
    views, peak = recipe.geometry.views, counters.dense_peak(device, 64 if options.tiny else 8192)
    rows_of_unet = views * (1 if recipe.geometry.guidance_scale == 1 else 2)
    rate = (counters.model_flops(prior, views, rows_of_unet), peak)
    baseline_s, baseline_of = baseline(prior, recipe, start, options.dreamgaussian, options.python)
    print(f"{baseline_of}: {baseline_s:.2f} s for one asset's {recipe.geometry.steps} steps", flush=True)
    if device.type == "cuda":
        prior.speed_up()
    rows = table(prior, recipe, start, options.active, rate, options.csv)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu, toy sizes: no measurement"
    found = figures(rows, name, baseline_s)
    report = {
        "bench": "gpu", "weights": "random: speed only", "model": model, "recipe": recipe.name,
        "steps": recipe.geometry.steps, "precision": str(prior.dtype).removeprefix("torch."),
        "baseline": baseline_of, "dense_peak_tflops": round(peak / 1e12, 1), "cpu_assets_per_hour": None,
        "gpu": found if device.type == "cuda" else None, "trial": None if device.type == "cuda" else found,
    }  # fmt: skip
    if options.ablate:
        best = max(rows, key=lambda row: row.assets_per_hour).active
        plain = random_prior(model, device, default_dtype(device))
        report["ablations_step_s"] = ablations(prior, plain, recipe, start, best, rate)
    return report


def table(
    prior: DiffusersPrior, recipe: Recipe, start: Gaussians, active: list[int], rate: tuple[float, float],
    path: Path | None = None,
) -> list[Row]:  # fmt: skip
    """A row for each number of assets at once, printed, and written to ``path``, as it comes; what does not fit is said
    and left out."""
    rows = []
    for count in active:
        try:
            rows.append(measure(prior, recipe, start, count, rate))
        except StageError as error:
            print(f"{count} at once: {error}", flush=True)
            continue
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in rows[-1].flat().items()}, flush=True)
        if path:
            write_csv(path, rows)
    if not rows:
        raise RequestError("not one number of assets at once could be measured; the messages above say why")
    return rows


def write_csv(path: Path, rows: list[Row]) -> None:
    """One line for each number of assets at once."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0].flat()))
        writer.writeheader()
        writer.writerows(row.flat() for row in rows)
