"""Prompt to point cloud: one sample of the point prior."""

from __future__ import annotations

from pathlib import Path

from tasks import models
from tasks.journey import Journey
from tasks.policy import stage_task


@stage_task
def init_points(journey: Journey, folder: Path) -> dict[str, float]:
    """``points.ply``: what the prompt looks like to the point prior."""
    import torch

    from pipeline_core.gaussians.initialise import ball
    from pipeline_core.io.ply import save_points

    spec, settings = journey.spec, journey.spec.recipe.init
    generator = torch.Generator("cpu").manual_seed(spec.seed)
    if settings.start == "ball":
        cloud = ball(settings.num_points, generator)
    else:
        prior = models.point_prior(settings.point_prior)
        with models.sampling:  # one sampler at a time: side by side they would only share the same cores
            [cloud] = prior.sample(
                [spec.prompt],
                [generator],
                guidance_scale=settings.guidance_scale,
                guidance_sigma_min=settings.guidance_sigma_min,
                steps=settings.sampler_steps,
                num_points=settings.num_points,
            )
    save_points(folder / "points.ply", cloud)
    return {"points": len(cloud)}
