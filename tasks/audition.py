"""What a candidate shows after a cheap part of the work: its cloud, or what the geometry stage made of it by then."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from pipeline_core import models
from pipeline_core.config import Recipe
from pipeline_core.errors import DivergedError
from pipeline_core.files import write_json
from pipeline_core.metrics.judges import judge_of
from pipeline_core.storage import Library
from tasks.distill import distilled
from tasks.journey import Journey
from tasks.policy import stage_task
from tasks.progress import board
from tasks.stage import Reference
from tasks.start import start_of


@stage_task
def audition(journey: Journey, folder: Path, points: Reference) -> dict[str, float]:
    """Write ``scores.json``, what the judge sees of the candidate; its optimisation leaves a checkpoint."""
    from pipeline_core.metrics.fidelity import score_gaussians
    from pipeline_core.metrics.judge import load_judge

    spec, gaussians, steps = journey.spec, start_of(journey, points), steps_of(journey.spec.recipe)
    if steps:
        gaussians, _ = distilled(
            journey, "optimize_gaussians", gaussians, spec.recipe.geometry, until=steps,
            checkpoint_path=_checkpoint(journey), on_progress=board.among(spec.asset_id, spec.seed, spec.recipe),
        )  # fmt: skip
    judge, scores = judge_of(spec.prompt, spec.recipe.evaluate), {"judged": 0.0}
    if judge is not None:
        judged_by = load_judge(judge, models.device())
        scores = score_gaussians(gaussians, spec.prompt, judge=judged_by, shape=False)
    if not all(value == value for value in scores.values()):
        raise DivergedError(f"{spec.asset_id}: what the judge sees of seed {spec.seed} is no number; try another seed")
    write_json(folder / "scores.json", scores)
    told = {"judged": scores["judged"], "margin": scores.get("caption_margin"), "janus": scores.get("janus_score")}
    return {f"candidate_{name}": value for name, value in told.items() if value is not None} | {"steps": steps}


def steps_of(recipe: Recipe) -> int:
    """Steps of the geometry stage that a candidate has done when it is judged."""
    return round(recipe.choice.audition * recipe.geometry.steps)


def go_on(candidate: Journey) -> None:
    """Have the geometry stage of a candidate begin where its audition ended."""
    mine = Library(candidate.library).checkpoint("optimize_gaussians", candidate.keys["optimize_gaussians"])
    with suppress(OSError):  # gone: the stage begins anew, and comes to the same
        if not mine.exists():
            _checkpoint(candidate).replace(mine)


def forget(candidate: Journey) -> None:
    """Remove the checkpoint of a candidate that is not taken."""
    with suppress(OSError):
        _checkpoint(candidate).unlink(missing_ok=True)


def _checkpoint(journey: Journey) -> Path:
    return Library(journey.library).checkpoint("audition", journey.keys["audition"])
