"""Gaussians to finer Gaussians: the appearance stage, in which they are cloned, split and pruned."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from tasks.distill import distill_to
from tasks.journey import Journey
from tasks.policy import policy
from tasks.stage import Reference, path_of, run_stage


@task(**policy("densify_prune", hours=24))
def densify_prune(journey: Journey, gaussians: Reference) -> Reference:
    """``splat.ply`` and ``curves.json`` after the appearance stage."""

    def work(folder: Path) -> dict[str, float]:
        from pipeline_core.io.ply import load_splat

        coarse = load_splat(path_of(journey, gaussians, "splat.ply"))
        return distill_to(folder, journey, "densify_prune", coarse, journey.spec.recipe.appearance)

    return run_stage(journey, "densify_prune", work, (gaussians,))
