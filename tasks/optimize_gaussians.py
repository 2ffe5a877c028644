"""The geometry stage distils Gaussians from the point cloud: in 2D, and in 3D where the recipe gives that a weight."""

from __future__ import annotations

from pathlib import Path

from tasks.distill import distill_to
from tasks.journey import Journey
from tasks.policy import stage_task
from tasks.stage import Reference, path_of


@stage_task
def optimize_gaussians(journey: Journey, folder: Path, points: Reference) -> dict[str, float]:
    """Write ``splat.ply`` and ``curves.json``, from Gaussians at the points of the cloud."""
    from pipeline_core import make
    from pipeline_core.io.ply import load_points

    cloud = load_points(path_of(journey, points, "points.ply"))
    gaussians = make.start(cloud, journey.spec.recipe, seed=journey.spec.seed)
    return distill_to(folder, journey, "optimize_gaussians", gaussians, journey.spec.recipe.geometry)
