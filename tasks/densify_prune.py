"""The appearance stage optimises the Gaussians further; it clones, splits and prunes them on the way."""

from __future__ import annotations

from pathlib import Path

from tasks.distill import distill_to
from tasks.journey import Journey
from tasks.policy import stage_task
from tasks.stage import Reference
from tasks.start import splat_of


@stage_task
def densify_prune(journey: Journey, folder: Path, gaussians: Reference) -> dict[str, float]:
    """Write ``splat.ply`` and ``curves.json``, from the splat of the geometry stage."""
    coarse = splat_of(journey, gaussians)
    return distill_to(folder, journey, "densify_prune", coarse, journey.spec.recipe.appearance)
