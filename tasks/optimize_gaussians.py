"""Point cloud to Gaussians that the priors take for the prompt: score distillation in 2D, and in 3D where asked."""

from __future__ import annotations

from pathlib import Path

from tasks.distill import distill_to
from tasks.journey import Journey
from tasks.policy import stage_task
from tasks.stage import Reference, path_of


@stage_task
def optimize_gaussians(journey: Journey, folder: Path, points: Reference) -> dict[str, float]:
    """``splat.ply`` and ``curves.json`` after the geometry stage."""
    from pipeline_core import make
    from pipeline_core.io.ply import load_points

    cloud = load_points(path_of(journey, points, "points.ply"))
    gaussians = make.start(cloud, journey.spec.recipe, seed=journey.spec.seed)
    return distill_to(folder, journey, "optimize_gaussians", gaussians, journey.spec.recipe.geometry)
