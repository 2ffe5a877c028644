"""Assets per hour of the engine with 1, 2 and 4 active jobs: does continuous batching pay on this CPU?

    python tests/bench/engine.py [--image-prior starter] [--recipe factory] [--steps 12] [--rounds 3]

What is timed is one engine step: render, encode, both priors with guidance rows, backward, optimiser, at the recipe's
geometry settings. An asset is the recipe's geometry and appearance steps; other stages are not counted. The speed
does not depend on the weights' values. The rounds are interleaved and the best of each is taken, because the machine
may have other work; where it has much, CPU seconds (all threads) say more than the clock. The last line of stdout is
one JSON document; its ``gpu`` is the newest result committed below ``results/`` (``make gpu`` measures one).
"""

from __future__ import annotations

import argparse
import json
import sys
import time

from pipeline_core.device import configure

threads = configure()

import torch  # noqa: E402
from committed import newest  # noqa: E402

from pipeline_core.config import RECIPES, Recipe  # noqa: E402
from pipeline_core.engine.clock import PARTS  # noqa: E402
from pipeline_core.engine.engine import DistillationEngine  # noqa: E402
from pipeline_core.engine.gaussian_job import GaussianJob  # noqa: E402
from pipeline_core.gaussians.initialise import from_points  # noqa: E402
from pipeline_core.priors.image import load_image_prior  # noqa: E402
from pipeline_core.priors.interface import ImagePrior, PointPrior  # noqa: E402
from pipeline_core.priors.points import load_point_prior  # noqa: E402
from pipeline_core.types import OBJECT_RADIUS, Gaussians, PointCloud  # noqa: E402


def ball(recipe: Recipe) -> Gaussians:
    """As many Gaussians as the recipe starts with, on a sphere: the renderer's work is that of a solid object."""
    generator = torch.Generator().manual_seed(0)
    direction = torch.nn.functional.normalize(torch.randn(recipe.init.num_points, 3, generator=generator), dim=1)
    colour = torch.rand(recipe.init.num_points, 3, generator=generator)
    return from_points(PointCloud(direction * (0.8 * OBJECT_RADIUS), colour), recipe.init, generator)


def step_seconds(
    prior: ImagePrior, points: PointPrior, recipe: Recipe, active: int, steps: int
) -> tuple[float, dict[str, float]]:
    """Seconds per engine step with ``active`` jobs, and of each part."""
    engine = DistillationEngine(prior, points, max_active=active)
    start = ball(recipe)
    for count in (2, steps):  # a short run first: kernels compile, allocators grow
        stage = recipe.geometry.model_copy(update={"steps": count})
        jobs = [GaussianJob(start, "a red mug", stage, seed=i) for i in range(active)]
        before = (time.perf_counter(), engine.steps, engine.clock.seconds, time.process_time())
        for future in [engine.submit(job) for job in jobs]:
            future.result()
    taken, done, cpu = time.perf_counter() - before[0], engine.steps - before[1], time.process_time() - before[3]
    after = engine.clock.seconds
    engine.close()
    return taken / steps, {name: (after[name] - before[2][name]) / done for name in PARTS} | {"cpu": cpu / steps}


def measure(
    priors: tuple[ImagePrior, PointPrior], recipe: Recipe, args: argparse.Namespace
) -> dict[int, tuple[float, dict]]:
    """Best of the rounds for each number of active jobs."""
    best: dict[int, tuple[float, dict[str, float]]] = {}
    for _ in range(args.rounds):
        for active in args.active:
            found = step_seconds(*priors, recipe, active, args.steps)
            best[active] = min(best.get(active, found), found, key=lambda pair: pair[0])
            print(
                f"{active} active: {found[0] * 1e3:7.1f} ms a step, {found[0] / active * 1e3:7.1f} an asset", flush=True
            )
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--image-prior", default="starter")
    parser.add_argument("--point-prior", default="starter")
    parser.add_argument("--recipe", choices=list(RECIPES), default="factory")
    parser.add_argument("--active", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()

    recipe = RECIPES[args.recipe]
    prior, points = load_image_prior(args.image_prior), load_point_prior(args.point_prior)
    best = measure((prior, points), recipe, args)

    total = recipe.geometry.steps + recipe.appearance.steps
    per_hour = {str(n): round(3600 * n / (seconds * total), 1) for n, (seconds, _) in best.items()}
    report = {
        "bench": "engine",
        "threads": threads,
        "precision": str(prior.dtype).removeprefix("torch."),
        "image_prior": prior.model_id,
        "recipe": args.recipe,
        "steps_per_asset": total,
        "rows_per_asset": recipe.geometry.views * (1 if recipe.geometry.guidance_scale == 1 else 2),
        "ms_per_step": {str(n): round(seconds * 1e3, 1) for n, (seconds, _) in best.items()},
        "cpu_ms_per_asset_step": {str(n): round(parts["cpu"] / n * 1e3, 1) for n, (_, parts) in best.items()},
        "ms_by_part": {str(n): {k: round(v * 1e3, 1) for k, v in parts.items() if v} for n, (_, parts) in best.items()},
        "best_active": max(per_hour, key=lambda n: per_hour[n]),
        "cpu_assets_per_hour": per_hour,
        "gpu": newest(),
    }
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
