"""What the engine asks of a job: the protocol behind continuous batching (``engine.py``).

One engine step runs, for all active jobs together, with one model call per line on the right:

    images  = job.draw()             render what is to be encoded        -> one encode
    query   = job.ask(latents)       views to be judged, or rows, own t  -> one U-Net call, one point-prior call
    latents = job.receive(answers)   use the answers                     -> one decode, for those that want one
    loss    = job.loss(images)       scalar with a graph, or None        -> one backward of the sum
    job.update()                     optimiser step, densification, schedules

Any line may be skipped by returning None (or an empty :class:`Query`): a texture job that denoises for ten engine steps
draws once, asks ten times, decodes once and only then has a loss. A job that waits for the CPU elsewhere returns
nothing at all, and does not count the step. Guidance that takes several calls one after another (DDIM inversion) goes
on until it is done: its further rows and those of other jobs are answered together. A job draws random numbers from its
own generator only, so its result does not depend on who shares its batch. All methods run on the engine's thread,
except ``__init__`` and ``result``. A job that also :class:`SharesLaunches` is cut once more, for a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from pipeline_core.engine.scenes import Scene
from pipeline_core.guidance.rows import PointRows, Rows
from pipeline_core.guidance.variants import Judged, Views
from pipeline_core.priors.interface import ImagePrior, PointPrior

__all__ = ["Forgets", "Job", "Judged", "PointRows", "Progress", "Query", "Rows", "Samples", "SharesLaunches", "Views"]

Progress = Callable[[int, int, dict[str, float]], None]
"""``on_progress(step, steps, report)``; called on the engine's thread, so it must be quick."""


@dataclass(frozen=True)
class Query:
    """What one job asks of the priors in one engine step; all may be None, and ``image`` or ``views`` is.

    Of ``image`` rows the answer is what the prior predicts, of ``views`` what guidance made of it (variants.py).
    """

    image: Rows | None = None
    points: PointRows | None = None
    views: Views | None = None


class Job(Protocol):
    """One asset's optimisation, cut into engine steps.

    ``step`` counts finished steps of ``steps``; the job leaves when ``done``, and keeps its checkpoint where that is
    before the last step. ``fingerprint`` names everything the result depends on: a checkpoint with another fingerprint
    is not used. ``checkpoint_path`` None = keep none on disk.
    """

    name: str
    step: int
    steps: int
    fingerprint: str
    checkpoint_path: Path | None
    on_progress: Progress | None

    @property
    def done(self) -> bool:
        """True when nothing is left to do; also asked before the first step."""
        ...

    def start(self, image_prior: ImagePrior, point_prior: Callable[[], PointPrior], device: torch.device) -> None:
        """Move to ``device``, encode the prompts, settle ``fingerprint``; ``point_prior()`` loads that prior."""
        ...

    def draw(self) -> Tensor | None:
        """Images [B, 3, H, W] in [0, 1] to encode, with a graph where the loss needs one."""
        ...

    def ask(self, latents: Tensor | None) -> Query:
        """Rows for the denoisers; ``latents`` [B, C, h, w] are those of :meth:`draw` (with its graph), else None."""
        ...

    def receive(self, image: Tensor | Judged | None, points: Tensor | None) -> Tensor | None:
        """Take the predictions of the rows just asked for (no graph), or what the views were judged.

        Returns latents [D, C, h, w] to decode, or None.
        """
        ...

    def loss(self, images: Tensor | None) -> Tensor | None:
        """Scalar loss with a graph; ``images`` [D, 3, S, S] are the decoded latents of :meth:`receive` (no graph)."""
        ...

    def update(self) -> None:
        """After the backward: optimiser step, densification; advances ``step``. Raises DivergedError on NaN."""
        ...

    def report(self) -> dict[str, float]:
        """Current numbers for progress displays, for example ``{"loss": 0.3, "gaussians": 4096}``."""
        ...

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Everything that decides the future: CPU tensors (cloned), and JSON-able values. Called between steps only."""
        ...

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Continue from :meth:`state`, bit for bit. Called after :meth:`start`."""
        ...

    def result(self) -> Any:
        """What the future resolves to, on the CPU; called once, when ``done``, on a thread that may take its time."""
        ...


@runtime_checkable
class Forgets(Protocol):
    """A job that holds on to something of a step, a graph above all, which is in the way where memory has run out."""

    def forget(self) -> None:
        """Drop what belongs to one step only; called after each, and where one came to nothing."""
        ...


@runtime_checkable
class Samples(Protocol):
    """A job whose latents may be samples of the encoder's posterior: seeds of them, one an image; none = its mean."""

    posterior: list[int]


@runtime_checkable
class SharesLaunches(Protocol):
    """A job whose ``draw`` is ``show(render(scene()))`` and whose ``update`` steps the ``due`` and settles.

    On a GPU the engine does what stands between for all such jobs at once: one rasterisation, one Adam, and one wait
    for the numbers that they want to see.
    """

    def scene(self) -> Scene | None:
        """What to rasterise in this step."""
        ...

    def show(self, images: Tensor, info: dict[str, Any]) -> Tensor:
        """Take the images [V, 3, H, W] of :meth:`scene` and what was seen (scenes.py); returns what to encode."""
        ...

    def due(self) -> list[torch.optim.Optimizer]:
        """Optimisers to be stepped now, at the rates of this step: Adams of one leaf each (adam.py)."""
        ...

    def settle(self) -> Tensor | None:
        """After their step: densification and schedules; advances ``step``. Returns numbers to :meth:`look` at [K]."""
        ...

    def look(self, numbers: list[float]) -> None:
        """Take the values of what :meth:`settle` returned. Raises DivergedError on NaN."""
        ...
