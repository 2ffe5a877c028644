"""Prompt to point cloud: one sample of the point prior."""

from __future__ import annotations

from pathlib import Path

from prefect import task

from tasks import models
from tasks.journey import Journey
from tasks.policy import policy
from tasks.stage import Reference, run_stage


@task(**policy("init_points", hours=1))
def init_points(journey: Journey) -> Reference:
    """``points.ply``: what the prompt looks like to the point prior."""

    def work(folder: Path) -> dict[str, float]:
        import torch

        from pipeline_core.io.ply import save_points

        spec, settings = journey.spec, journey.spec.recipe.init
        prior = models.point_prior(settings.point_prior)
        with models.sampling:  # one sampler at a time: side by side they would only share the same cores
            clouds = prior.sample(
                [spec.prompt],
                [torch.Generator("cpu").manual_seed(spec.seed)],
                guidance_scale=settings.guidance_scale,
                steps=settings.sampler_steps,
                num_points=settings.num_points,
            )
        save_points(folder / "points.ply", clouds[0])
        return {"points": len(clouds[0])}

    return run_stage(journey, "init_points", work)
