"""Point cloud to Gaussians that the priors take for the prompt: score distillation in 2D, and in 3D where asked."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from tasks.distill import distill_to
from tasks.journey import Journey
from tasks.policy import policy
from tasks.stage import Reference, path_of, run_stage


@task(**policy("optimize_gaussians", hours=24))
def optimize_gaussians(journey: Journey, points: Reference) -> Reference:
    """``splat.ply`` and ``curves.json`` after the geometry stage."""

    def work(folder: Path) -> dict[str, float]:
        import torch

        from pipeline_core.gaussians.initialise import from_points
        from pipeline_core.io.ply import load_points

        cloud = load_points(path_of(journey, points, "points.ply"))
        generator = torch.Generator("cpu").manual_seed(journey.spec.seed)
        gaussians = from_points(cloud, journey.spec.recipe.init, generator)
        return distill_to(folder, journey, "optimize_gaussians", gaussians, journey.spec.recipe.geometry)

    return run_stage(journey, "optimize_gaussians", work, (points,))
