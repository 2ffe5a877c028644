"""The geometry stage distils Gaussians from the point cloud: in 2D, and in 3D where the recipe gives that a weight."""

from __future__ import annotations

from pathlib import Path

from tasks.distill import distill_to
from tasks.journey import Journey
from tasks.policy import stage_task
from tasks.stage import Reference
from tasks.start import start_of


@stage_task
def optimize_gaussians(journey: Journey, folder: Path, points: Reference) -> dict[str, float]:
    """Write ``splat.ply`` and ``curves.json``, from Gaussians at the points of the cloud, or those of a file."""
    return distill_to(folder, journey, "optimize_gaussians", start_of(journey, points), journey.spec.recipe.geometry)
