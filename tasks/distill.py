"""What the stages of distillation share: they submit a job to the process's engine, and write its splat."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_core import models
from pipeline_core.config import Distill
from pipeline_core.files import write_json
from pipeline_core.seeds import stream
from pipeline_core.storage import Library
from tasks.journey import Journey
from tasks.progress import board
from tasks.stage import picture_of
from tasks.start import save

if TYPE_CHECKING:
    from pipeline_core.types import Gaussians


def distill_to(folder: Path, journey: Journey, stage: str, gaussians: Gaussians, settings: Distill) -> dict[str, float]:
    """Optimise ``gaussians`` and write ``splat.ply``, its parts, and ``curves.json``; returns the stage's metrics."""
    began, before = time.monotonic(), len(gaussians)
    gaussians, curves = distilled(
        journey, stage, gaussians, settings,
        checkpoint_path=Library(journey.library).checkpoint(stage, journey.keys[stage]),
        on_progress=board.follow(journey.asset_id, stage),
    )  # fmt: skip
    save(folder, gaussians)
    write_json(folder / "curves.json", curves)
    metrics: dict[str, float] = {"gaussians_before": before, "gaussians": len(gaussians), "steps": settings.steps}
    if settings.steps:
        metrics["step_s"] = (time.monotonic() - began) / settings.steps
    return metrics


def distilled(
    journey: Journey, stage: str, gaussians: Gaussians, settings: Distill, **options: Any
) -> tuple[Gaussians, dict[str, Any]]:
    """``gaussians`` as the stage optimises them, and its curves; ``options`` are those of the engine's ``distill``."""
    from pipeline_core.engine.distill import distill

    spec = journey.spec
    return distill(
        gaussians, spec.prompt, spec.negative_prompt, settings, models.engine(spec.recipe),
        picture=picture_of(journey), seed=stream(spec.seed, stage), name=spec.asset_id, **options,
    )  # fmt: skip
