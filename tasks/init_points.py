"""The first stage draws a point cloud for the prompt: one sample of the point prior."""

from __future__ import annotations

from pathlib import Path

from tasks.journey import Journey
from tasks.policy import stage_task
from tasks.stage import input_of


@stage_task
def init_points(journey: Journey, folder: Path) -> dict[str, float]:
    """Write ``points.ply``: what the prompt looks like to the point prior, or a grey ball."""
    from pipeline_core import make
    from pipeline_core.io.ply import save_points

    file = input_of(journey, "init_file") if journey.spec.init_file else None
    cloud = make.points(journey.spec.prompt, journey.spec.recipe, seed=journey.spec.seed, init_file=file)
    save_points(folder / "points.ply", cloud)
    return {"points": len(cloud)}
