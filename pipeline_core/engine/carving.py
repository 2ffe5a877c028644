"""Carving as a job of the engine: an image prior redraws an asset from all around, and what it sees through goes.

Each round renders :data:`ROUNDS`' views, noises them, has the prior take :data:`STEPS` steps down to a clean picture,
and notes which Gaussians lie where that shows the background between parts (``gaussians/carve.py``). The prior draws
spokes where it likes: two views of a full disc come with gaps in different places. So what the rounds before have seen
through is painted in the background's colour for the next, and all views are drawn a second time when the first ones
have settled where gaps are. Most things have no gaps: a job whose first rounds would not open what their pictures see
through ends with these, and nothing is taken.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

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

LOOK = 3
"""Rounds after which a job without gaps ends. Of 13 things the first three decided as all twelve did (docs/LOG.md)."""


def shows_gaps(prior: ImagePrior, stage: Distill, gaussians: Gaussians) -> bool:
    """Whether pictures of ``prior`` can say of ``gaussians`` what is open: single unlit views of one thing, on a
    background that it was trained on."""
    single = prior.background is not None and prior.num_views == 1 and stage.shown == "unlit"
    return single and not isinstance(gaussians, Composed)


class CarvingJob:
    """Takes gaps out of ``after``, which a stage made of the Gaussians ``before``: of those only the colours count, for
    a place that was grey from the start is no gap. The result is ``(Gaussians on the CPU, how many are gone)``."""

    even_over = "sphere"

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
        self.before, self.after = before.detach().to("cpu"), after.detach().to("cpu")
        self.name = name or prompt
        self.prompt, self.negative_prompt, self.picture, self.stage = prompt, negative_prompt, picture, stage
        self.generator = torch.Generator().manual_seed(seed)
        self.step, self.steps = 0, SWEEPS * len(ROUNDS) * STEPS
        self.checkpoint_path: Path | None = None
        self.on_progress: Progress | None = None
        self.fingerprint = sha256(json.dumps([stage.fingerprint(), prompt, negative_prompt, seed]).encode()).hexdigest()
        shape = (len(ROUNDS), len(TILTS) * len(ROUNDS[0]), len(after))
        self.opened, self.closed = (torch.zeros(shape, dtype=torch.bool) for _ in range(2))
        self.clear = torch.zeros(shape[0], shape[1], SIZE, SIZE, dtype=torch.bool)
        self.x = torch.zeros(0)

    # -- the protocol: see engine/jobs.py ------------------------------------------------------------------------

    @property
    def done(self) -> bool:
        return self.step >= self.steps

    def start(self, image_prior: ImagePrior, point_prior: Callable[[], PointPrior], device: torch.device) -> None:
        assert image_prior.background is not None
        self.prior, self.device = image_prior, device
        self.ground = torch.tensor(image_prior.background, dtype=torch.float32)
        self.text = encode_text(
            image_prior, self.prompt, self.negative_prompt, picture=self.picture,
            view_prompts=self.stage.view_prompts, perp_neg=self.stage.perp_neg, turns=self.stage.view_turns,
            front_words=self.stage.front_words,
        )  # fmt: skip

    def draw(self) -> Tensor | None:
        if self.phase:
            return None
        shown = painted(self.after, self.opened.flatten(0, 1), self.closed.flatten(0, 1), self.stage.carve, self.ground)
        cameras = self.cameras
        images, _ = rasterize_views(shown, cameras, backgrounds=self.ground.expand(len(cameras), 3))
        return upload(images.permute(0, 3, 1, 2), self.device)

    def ask(self, latents: Tensor | None) -> Query:
        if latents is not None:
            noise = upload(torch.randn(latents.shape, generator=self.generator), self.device)
            self.x = self.prior.add_noise(latents.detach(), noise, self._t(0))
        return Query(self.text.rows(self.x, self._t(self.phase), *self._angles, scale=SCALE))

    def receive(self, image: Tensor | Judged | None, points: Tensor | None) -> Tensor | None:
        assert isinstance(image, Tensor)
        guided, _ = self.text.guide(image.float(), *self._angles, scale=SCALE)
        x, t = self.x.float(), self._t(self.phase)
        if self.phase + 1 < STEPS:
            self.x = self.prior.step(x, guided, t, self._t(self.phase + 1))
            return None
        return self.prior.x0_and_noise(x, guided, t)[0]

    def loss(self, images: Tensor | None) -> None:
        if images is not None:
            pictures = interpolate(images.detach().float().to("cpu"), (SIZE, SIZE), mode="area").permute(0, 2, 3, 1)
            self._note(pictures)

    def update(self) -> None:
        self.step += 1
        if self.step == LOOK * STEPS and self._carved() is None:
            self.step = self.steps

    def report(self) -> dict[str, float]:
        return {"gaussians": float(len(self.after))}

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {"opened": self.opened, "closed": self.closed, "clear": self.clear, "x": self.x}
        tensors["generator"] = self.generator.get_state()
        return {name: value.detach().to("cpu", copy=True) for name, value in tensors.items()}, {"step": self.step}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.opened, self.closed, self.clear = (tensors[name].clone() for name in ("opened", "closed", "clear"))
        self.x = tensors["x"].to(self.device, copy=True)
        self.generator.set_state(tensors["generator"])
        self.step = values["step"]

    def result(self) -> tuple[Gaussians, int]:
        rest = self._carved()
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

    @property
    def cameras(self) -> Cameras:
        """Those of this round."""
        return self._cameras([self.round])

    def _cameras(self, rounds: Sequence[int]) -> Cameras:
        """Those of several, on the CPU."""
        (low, high), turns = self.stage.elevation, len(ROUNDS[0])
        azimuth = torch.tensor([ROUNDS[each] * len(TILTS) for each in rounds], dtype=torch.float32).flatten()
        elevation = torch.tensor([low + (high - low) * tilt for tilt in TILTS])
        elevation = elevation.repeat_interleave(turns).repeat(len(rounds))
        return orbit(azimuth, elevation, size=SIZE, distance=self.stage.distance, fovy=self.stage.fovy)

    @property
    def _angles(self) -> tuple[Tensor, Tensor]:
        cameras = self.cameras
        return cameras.azimuth, cameras.elevation

    def _t(self, phase: int) -> Tensor:
        """Share of the schedule [V] of a round's step."""
        level = (FIRST if self.step < STEPS else LATER) * (1 - phase / STEPS)
        return upload(self.prior.nearest(torch.full((len(self.cameras),), level)), self.device)

    def _note(self, pictures: Tensor) -> None:
        """What ``pictures`` [V, S, S, 3] of this round say, in place of what they said a sweep before."""
        first, cover = rasterize_views(self.before, self.cameras)
        clear = openings(pictures, first, cover[..., 0], self.ground)
        self.opened[self.round], self.closed[self.round] = seen_through(self.after, self.cameras, grown(clear))
        self.clear[self.round] = clear

    def _carved(self) -> Gaussians | None:
        """What is left by the rounds so far; None where that opens no gaps."""
        share = share_open(self.opened.flatten(0, 1), self.closed.flatten(0, 1))
        kept = ~carved(self.after.means, share, self.stage.carve)
        if kept.all():
            return None
        rest = replace(self.after, **{name: value[kept] for name, value in self.after.tensors().items()})
        rounds = range(min(self.step // STEPS, len(ROUNDS)))
        clear = self.clear[: len(rounds)].flatten(0, 1)
        return rest if opens_gaps(self.after, rest, self._cameras(rounds), clear) else None
