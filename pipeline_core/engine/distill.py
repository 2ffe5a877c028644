"""One call for a stage of score distillation: submit to the engine, wait, be interruptible."""

from __future__ import annotations

from concurrent.futures import Future, TimeoutError
from pathlib import Path
from typing import Any, TypeVar

import torch

from pipeline_core.aside import elsewhere
from pipeline_core.config import Distill
from pipeline_core.engine.carving import CarvingJob, knows_background
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.engine.gaussian_job import GaussianJob
from pipeline_core.engine.jobs import Progress
from pipeline_core.gaussians.stains import destained
from pipeline_core.picture import Picture
from pipeline_core.seeds import stream
from pipeline_core.types import Gaussians

Result = TypeVar("Result")


def distill(
    gaussians: Gaussians,
    prompt: str,
    negative_prompt: str,
    stage: Distill,
    engine: DistillationEngine,
    *,
    picture: Picture | None = None,
    seed: int,
    until: int | None = None,
    name: str = "",
    on_progress: Progress | None = None,
    checkpoint_path: Path | None = None,
) -> tuple[Gaussians, dict[str, Any]]:
    """Optimise ``gaussians`` until their renders are what the priors expect of ``prompt``, or of ``picture`` where the
    image prior is shown one; blocks until done.

    Other threads' calls share the engine's batches. ``checkpoint_path`` is a file that exists only while the stage is
    unfinished: the same call continues from it; ``until`` leaves it so after that many steps. Returns the Gaussians and
    ``curves`` (lists ``step``, ``loss_image``, ``loss_points``, ``gaussians`` of about 50 samples, and ``events``:
    counts of cloned, split, filled, pruned, carved).
    Raises DivergedError on NaN, OutOfMemory, or ``concurrent.futures.CancelledError`` when the engine is closed.
    """
    job = GaussianJob(
        gaussians, prompt, stage, negative_prompt=negative_prompt, picture=picture, seed=seed, until=until, name=name,
        checkpoint_path=checkpoint_path, on_progress=on_progress,
    )  # fmt: skip
    outcome: tuple[Gaussians, dict[str, Any]] = wait(engine.submit(job))
    after, curves = outcome
    if not (stage.steps and job.complete and knows_background(engine.image_prior, stage, gaussians)):
        return outcome
    after, events = without_background(
        gaussians, after, prompt, stage, engine, negative_prompt=negative_prompt, picture=picture, seed=seed, name=name
    )
    return after, curves | {"events": curves["events"] | events}


def without_background(
    before: Gaussians, after: Gaussians, prompt: str, stage: Distill, engine: DistillationEngine, *,
    negative_prompt: str = "", picture: Picture | None = None, seed: int, name: str = "",
) -> tuple[Gaussians, dict[str, int]]:  # fmt: skip
    """``after``, which a ``stage`` made of ``before``, without what its prior knows as background: gaps are carved,
    stains undone, as the stage asks. With the count of what was carved, where that was tried."""
    events = {}
    if stage.carve:
        carving = CarvingJob(
            before, after, prompt, stage, negative_prompt=negative_prompt, picture=picture,
            seed=stream(seed, "carve"), name=name,
        )  # fmt: skip
        after, events["carved"] = wait(engine.submit(carving))
    if stage.destain:
        after = elsewhere(destained, before, after, torch.tensor(engine.image_prior.background))
    return after, events


def wait(future: Future[Result]) -> Result:
    """``future.result()`` that an exception raised in this thread (Ctrl-C, a task's timeout) can interrupt.

    The job is then cancelled; its checkpoint stays.
    """
    try:
        while True:
            try:
                return future.result(timeout=0.5)
            except TimeoutError:
                if future.done():
                    raise
    except BaseException:
        future.cancel()
        raise
