"""Carving as a job of the engine: an image prior redraws an asset from all around, and what it sees through goes.

Each round renders :data:`ROUNDS`' views, noises them, has the prior take :data:`STEPS` steps down to a clean picture,
and notes which Gaussians lie where that shows the background between parts (``gaussians/carve.py``). The prior draws
spokes where it likes: two views of a full disc come with gaps in different places. So what the rounds before have seen
through is painted in the background's colour for the next, and all views are drawn a second time when the first ones
have settled where gaps are. Most things have no gaps: a job whose first rounds would not open what their pictures see
through ends with these, and nothing is taken. What lies between two rounds is the CPU's work: beside a GPU a process
does it (``aside.py``), and the job sits out the engine's steps until it is done.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline_core.aside import elsewhere, soon
from pipeline_core.cameras import Cameras, orbit
from pipeline_core.composition import Composed
from pipeline_core.config import Distill
from pipeline_core.device import upload
from pipeline_core.engine.jobs import Judged, Progress, Query
from pipeline_core.gaussians.carve import carved, grown, openings, opens_gaps, painted, seen_through, share_open
from pipeline_core.guidance.prompts import encode_text
from pipeline_core.picture import Picture
from pipeline_core.priors.interface import ImagePrior, PointPrior
from pipeline_core.rendering.rasterize import rasterize_views
from pipeline_core.types import Gaussians

SIZE, STEPS, SCALE = 128, 5, 2.5
"""Pixels a side, denoising steps and guidance of the pictures. At guidance 1 a fence stays closed, at 5 the background
within a wheel turns blue."""
ROUNDS = ((0, 180), (20, 200), (-20, 160), (45, 225), (-45, 135), (80, -80))
"""Azimuths of each round. Most are near the front and the back: that is where things with gaps are seen through."""
TILTS = (0.23, 0.54)
"""Elevations of each, as shares of the stage's range. Not measured."""
SWEEPS, FIRST, LATER = 2, 0.75, 0.5
"""Times that all rounds are gone through, and noise level of the very first pictures and of those after it. With 0.75
and then 0.6 for all a wheel and a fence show 0.39 and 0.33 of their gaps, with 0.5 0.69 and 0.58 (docs/LOG.md)."""

PAINTED = 0.25
"""Share of the views that see through a Gaussian from which on the next pictures are made without it: less than the
limit of what goes, for a picture shows a gap more readily where it is half open. Not measured by itself."""

TURN_S = 0.001
"""Seconds that a step waits for a process: other jobs lose less than a hundredth of theirs, and alone a job does not
turn in circles. Not measured."""
LOOK = 3
"""Rounds after which a job without gaps ends. Of 13 things the first three decided as all twelve did (docs/LOG.md)."""


def knows_background(prior: ImagePrior, stage: Distill, gaussians: Gaussians) -> bool:
    """Whether pictures of ``prior`` can say of ``gaussians`` what is background: single unlit views of one thing, on
    one that it was trained on."""
    single = prior.background is not None and prior.num_views == 1 and stage.shown == "unlit"
    return single and not isinstance(gaussians, Composed)


@dataclass(frozen=True)
class Thing:
    """What is carved, on the CPU: Gaussians ``before`` and ``after`` a stage; with the ``cameras`` of all rounds, the
    ``ground`` [3] of the pictures and the ``limit`` of what goes."""

    before: Gaussians
    after: Gaussians
    cameras: Cameras
    ground: Tensor
    limit: float

    def views(self, first: int, rounds: int = 1) -> Cameras:
        """The cameras of so many ``rounds`` from the ``first`` on."""
        each = len(self.cameras) // len(ROUNDS)
        return self.cameras.chosen(list(range(first * each, (first + rounds) * each)))


@dataclass(frozen=True)
class Words:
    """What the pictures of each round say: of which Gaussians, ``opened`` and ``closed`` [R, V, N] bool, and where they
    see through, ``clear`` [R, V, S, S] bool."""

    opened: Tensor
    closed: Tensor
    clear: Tensor


Turn = tuple[Words, Tensor | None]


def cameras_of(stage: Distill) -> Cameras:
    """Those of all rounds."""
    (low, high), turns = stage.elevation, len(ROUNDS[0])
    azimuth = torch.tensor([each * len(TILTS) for each in ROUNDS], dtype=torch.float32).flatten()
    elevation = torch.tensor([low + (high - low) * tilt for tilt in TILTS])
    elevation = elevation.repeat_interleave(turns).repeat(len(ROUNDS))
    return orbit(azimuth, elevation, size=SIZE, distance=stage.distance, fovy=stage.fovy)


def turn(thing: Thing, words: Words, step: int, images: Tensor | None, *, last: bool) -> Turn:
    """What comes between two rounds, after so many steps: ``words`` with those of the round's ``images`` [V, 3, H, W],
    and what the next one's are made of [V, 3, S, S]; None after the ``last``, and where there are no gaps."""
    if images is not None:
        words = noted(thing, words, (step // STEPS - 1) % len(ROUNDS), images)
    if last or (step == LOOK * STEPS and left(thing, words, LOOK) is None):
        return words, None
    return words, shown(thing, words, step // STEPS % len(ROUNDS))


def shown(thing: Thing, words: Words, number: int) -> Tensor:
    """Renders [V, 3, S, S] of a round, what was seen through in the background's colour."""
    opened, closed = words.opened.flatten(0, 1), words.closed.flatten(0, 1)
    gaussians, cameras = painted(thing.after, opened, closed, PAINTED, thing.ground), thing.views(number)
    images, _ = rasterize_views(gaussians, cameras, backgrounds=thing.ground.expand(len(cameras), 3))
    return images.permute(0, 3, 1, 2)


def noted(thing: Thing, words: Words, number: int, images: Tensor) -> Words:
    """What ``images`` [V, 3, H, W] of a round say, in place of what they said a sweep before."""
    pictures = interpolate(images.to("cpu"), (SIZE, SIZE), mode="area").permute(0, 2, 3, 1)
    cameras, told = thing.views(number), Words(*(each.clone() for each in vars(words).values()))
    first, cover = rasterize_views(thing.before, cameras)
    clear = openings(pictures, first, cover[..., 0], thing.ground)
    told.opened[number], told.closed[number] = seen_through(thing.after, cameras, grown(clear))
    told.clear[number] = clear
    return told


def left(thing: Thing, words: Words, rounds: int) -> Gaussians | None:
    """What is left by the first ``rounds``; None where that opens no gaps."""
    share = share_open(words.opened.flatten(0, 1), words.closed.flatten(0, 1))
    kept = ~carved(thing.after.means, share, thing.limit)
    if kept.all():
        return None
    rest = thing.after.chosen(kept)
    clear = words.clear[:rounds].flatten(0, 1)
    return rest if opens_gaps(thing.after, rest, thing.views(0, rounds), clear) else None


class CarvingJob:
    """Takes gaps out of ``after``, which a stage made of the Gaussians ``before``: of those only the colours count, for
    a place that was grey from the start is no gap. The result is ``(Gaussians on the CPU, how many are gone)``."""

    def __init__(
        self,
        before: Gaussians,
        after: Gaussians,
        prompt: str,
        stage: Distill,
        *,
        negative_prompt: str = "",
        picture: Picture | None = None,
        seed: int = 0,
        name: str = "",
    ) -> None:
        before, self.after = before.detach().to("cpu"), after.detach().to("cpu")
        self.thing = Thing(before, self.after, cameras_of(stage), torch.zeros(3), stage.carve)
        cameras = [self.thing.views(number) for number in range(len(ROUNDS))]
        self.angles = [(each.azimuth, each.elevation) for each in cameras]
        self.name = name or prompt
        self.prompt, self.negative_prompt, self.picture, self.stage = prompt, negative_prompt, picture, stage
        self.generator = torch.Generator().manual_seed(seed)
        self.step, self.steps = 0, SWEEPS * len(ROUNDS) * STEPS
        self.checkpoint_path: Path | None = None
        self.fingerprint = ""  # nobody reads it: there is no checkpoint on disk
        self.on_progress: Progress | None = None
        rounds, views = len(ROUNDS), len(cameras[0])
        opened, closed = (torch.zeros(rounds, views, len(after), dtype=torch.bool) for _ in range(2))
        self.words = Words(opened, closed, torch.zeros(rounds, views, SIZE, SIZE, dtype=torch.bool))
        self.x = torch.zeros(0)
        self._turn: Future[Turn] | None = None
        self._pictures: Tensor | None = None  # what the next round's are made of
        self._asked = False  # in this step

    # -- the protocol: see engine/jobs.py ------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        return self.step >= self.steps

    def start(self, image_prior: ImagePrior, point_prior: Callable[[], PointPrior], device: torch.device) -> None:
        assert image_prior.background is not None
        self.prior, self.device = image_prior, device
        self.thing = replace(self.thing, ground=torch.tensor(image_prior.background, dtype=torch.float32))
        self.text = encode_text(
            image_prior, self.prompt, self.negative_prompt, picture=self.picture,
            view_prompts=self.stage.view_prompts, perp_neg=self.stage.perp_neg, turns=self.stage.view_turns,
            front_words=self.stage.front_words, distilled=self.stage.distilled_guidance,
        )  # fmt: skip

    def draw(self) -> Tensor | None:
        if self.phase:
            return None
        if self._turn is None and self._pictures is None:  # at the beginning, or after a checkpoint
            self._begin_turn(None)
        self._take_turn(TURN_S)
        pictures, self._pictures = self._pictures, None
        return None if pictures is None else upload(pictures, self.device)

    def ask(self, latents: Tensor | None) -> Query:
        self._asked = self.phase > 0 or latents is not None
        if not self._asked:
            return Query()
        if latents is not None:
            noise = upload(torch.randn(latents.shape, generator=self.generator), self.device)
            self.x = self.prior.add_noise(latents.detach(), noise, self._t(0))
        return Query(self.text.rows(self.x, self._t(self.phase), *self.angles[self.round], scale=SCALE))

    def receive(self, image: Tensor | Judged | None, points: Tensor | None) -> Tensor | None:
        if not isinstance(image, Tensor):
            return None
        guided, _ = self.text.guide(image.float(), *self.angles[self.round], scale=SCALE)
        x, t = self.x.float(), self._t(self.phase)
        if self.phase + 1 < STEPS:
            self.x = self.prior.step(x, guided, t, self._t(self.phase + 1))
            return None
        return self.prior.x0_and_noise(x, guided, t)[0]

    def loss(self, images: Tensor | None) -> None:
        if images is not None:
            self._begin_turn(images.detach().float())

    def update(self) -> None:
        self.step += self._asked
        self._take_turn(0.0)

    def report(self) -> dict[str, float]:
        return {"gaussians": float(len(self.after))}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        self._take_turn(None)
        tensors = {**vars(self.words), "x": self.x, "generator": self.generator.get_state()}
        return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}, {"step": self.step}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self._turn = self._pictures = None
        self.words = Words(*(tensors[name].clone() for name in vars(self.words)))
        self.x = tensors["x"].to(self.device, copy=True)
        self.generator.set_state(tensors["generator"])
        self.step = values["step"]

    def result(self) -> tuple[Gaussians, int]:
        self._take_turn(None)
        rest = elsewhere(left, self.thing, self.words, min(self.step // STEPS, len(ROUNDS)))
        return (self.after, 0) if rest is None else (rest, len(self.after) - len(rest))

    # -- parts ---------------------------------------------------------------------------------------------------

    @property
    def phase(self) -> int:
        """Which denoising step of its round is next."""
        return self.step % STEPS

    @property
    def round(self) -> int:
        """Its number within a sweep."""
        return self.step // STEPS % len(ROUNDS)

    def _t(self, phase: int) -> Tensor:
        """Share of the schedule [V] of a round's step."""
        level = (FIRST if self.step < STEPS else LATER) * (1 - phase / STEPS)
        return upload(self.prior.nearest(torch.full((len(self.angles[0][0]),), level)), self.device)

    def _begin_turn(self, images: Tensor | None) -> None:
        """Begin what comes after a round's ``images``; None = before the first, or again after a checkpoint."""
        step = self.step + (images is not None)
        self._turn = soon(turn, self.thing, self.words, step, images, last=step >= self.steps)

    def _take_turn(self, patience: float | None) -> None:
        """Take what was begun, if it is there within so many seconds; None = whenever it is."""
        if self._turn is not None and wait([self._turn], patience).done:
            done, self._turn = self._turn, None
            self.words, self._pictures = done.result()
            if self._pictures is None:
                self.step = self.steps
