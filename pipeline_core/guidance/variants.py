"""Score distillation in five forms: which noise the prior is asked for, and which noise its answer is compared with.

    asking = VARIANTS["ism"](views)
    rows = next(asking)                               # rows of a U-Net call
    rows = asking.send(prediction)                    # further ones, until StopIteration's value: (noise, target)

Each variant is a generator: what it yields the engine answers together with the rows of all other jobs, and what it
returns goes into one loss (:meth:`Views.judged`), whose gradient on the latents is w(t) (noise - target) (sds.py).
Schedules of t, weights, view words, Perp-Neg and rescaling are the same for all. They ask ``NoiseProcess`` for all that
depends on what a prior predicts, so that they hold for noise, v, x_0 and flows alike.

Notation: x_0 the latents of a render, y the prompt, 0 the negative (by default the empty) prompt, s the guidance scale,
eps(x_t; y) the noise that the prior's answer implies, eps_s = eps(x_t; 0) + s (eps(x_t; y) - eps(x_t; 0)).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from pipeline_core.config import Distill
from pipeline_core.device import upload
from pipeline_core.guidance.prompts import TextConditioning
from pipeline_core.guidance.rows import Rows
from pipeline_core.guidance.sds import implied_noise, sds_gradient, sds_losses
from pipeline_core.priors.interface import ImagePrior, NoiseProcess

Compared = tuple[Tensor, Tensor]
"""Noise and target [B, C, h, w] float32: the gradient is their difference times a weight."""


@dataclass(frozen=True)
class Judged:
    """What one job's views came to: a scalar ``loss`` with a graph, and the share of rows that were ``finite``."""

    loss: Tensor
    finite: Tensor


@dataclass(frozen=True)
class Views:
    """The views of one job in one step, or of ``jobs`` that ask alike (:func:`together`).

    ``encoded`` latents [B, C, h, w] with their graph; ``drawn`` noise like them and ``level`` [B] shares of the
    schedule, on the CPU, so that nobody waits to see how many steps lead there; ``angles`` azimuth and elevation [B].
    More noise comes from ``generator``. ``clip`` bounds the gradient (:func:`sds_gradient`).
    """

    prior: ImagePrior
    text: TextConditioning
    stage: Distill
    encoded: Tensor
    drawn: Tensor
    level: Tensor
    angles: tuple[Tensor, Tensor]
    generator: torch.Generator
    clip: float = 0.0
    jobs: int = 1

    @property
    def kind(self) -> Hashable:
        """Views of one kind can be judged together; None = only alone."""
        stage, text = self.stage, self.text
        if stage.guidance not in DRAW_NOTHING:
            return None
        return (
            stage.guidance, stage.guidance_scale, stage.guidance_rescale, stage.weighting, self.clip,
            self.encoded.shape, text.plain.shape[-2:], text.perp_neg, tuple(text.views), text.turns, text.kind,
            text.scales,
        )  # fmt: skip

    @cached_property
    def latents(self) -> Tensor:
        """``encoded`` without a graph."""
        return self.encoded.detach()

    @cached_property
    def noise(self) -> Tensor:
        """``drawn`` beside the latents."""
        return self.on_device(self.drawn)

    @cached_property
    def t(self) -> Tensor:
        """``level`` beside the latents."""
        return self.on_device(self.level)

    @cached_property
    def noisy(self) -> Tensor:
        """x_t of ``noise``."""
        return self.prior.add_noise(self.latents, self.noise, self.t)

    def on_device(self, values: Tensor) -> Tensor:
        return upload(values, self.encoded.device)

    def judged(self, compared: Compared) -> list[Judged]:
        """The loss of each job, out of what its variant came to."""
        weight = self.prior.weight(self.t, self.stage.weighting)
        gradient, finite = sds_gradient(*compared, weight, clip=self.clip)
        losses = sds_losses(self.encoded.float(), gradient, self.jobs)
        return [Judged(*each) for each in zip(losses, finite.float().reshape(self.jobs, -1).mean(1), strict=True)]

    def guided(self, x: Tensor, t: Tensor, scale: float) -> Generator[Rows, Tensor, tuple[Tensor, Tensor]]:
        """The prior's guided and conditional predictions at ``x``; scale 0 asks for the unconditional one alone."""
        if scale == 0.0:
            prediction = (yield self.text.unconditional(x, t, *self.angles)).float()
            return prediction, prediction
        predictions = yield self.text.rows(x, t, *self.angles, scale=scale)
        return self.text.guide(predictions.float(), *self.angles, scale=scale)

    def guided_noise(self, x: Tensor) -> Generator[Rows, Tensor, Tensor]:
        """eps_s of ``x`` at this step's t, rescaled where the stage says so."""
        guided = yield from self.guided(x, self.t, self.stage.guidance_scale)
        return self.implied(x, *guided)

    def implied(self, x: Tensor, guided: Tensor, conditional: Tensor) -> Tensor:
        rescale, group = self.stage.guidance_rescale, self.prior.num_views
        return implied_noise(self.prior, x.float(), self.t, guided, conditional, rescale, group)


Asking = Generator[Rows, Tensor, Compared]


def sds(views: Views) -> Asking:
    """Score distillation sampling (Poole et al. 2022): w(t) (eps_s(x_t) - eps), of a noise eps that is drawn."""
    noise = yield from views.guided_noise(views.noisy)
    return noise, views.noise


def csd(views: Views) -> Asking:
    """Classifier score distillation (Yu et al. 2023): w(t) (eps(x_t; y) - eps(x_t; 0)), s times.

    What is left of SDS when the drawn noise and the unconditional score go. A negative prompt takes the place of the
    empty one (theirs with equal weights). Nothing holds the picture to the data, so it has no optimum of
    its own: steps and rates bound it.
    """
    x, t, scale = views.noisy, views.t, views.stage.guidance_scale
    predictions = (yield views.text.rows(x, t, *views.angles, scale=scale, contrast=True)).float()
    guided, conditional = views.text.guide(predictions, *views.angles, scale=scale)
    unconditional = predictions[len(x) : 2 * len(x)]
    return views.implied(x, guided, conditional), implied_noise(views.prior, x.float(), t, unconditional, unconditional)


def ism(views: Views) -> Asking:
    """Interval score matching (LucidDreamer, Liang et al. 2023): w(t) (eps_s(x_t) - eps(x_s; 0)).

    x_s comes by DDIM inversion without a prompt, in steps of ``inversion_stride``, x_t by one more step of
    ``ism_interval`` = t - s. As in the release it begins at the schedule's first level, with a noise that is drawn.
    """
    prior, stage = views.prior, views.stage
    level = prior.nearest((views.level - stage.ism_interval).clamp(min=0.0))
    scale = 0.0 if stage.inversion_scale is None else stage.inversion_scale
    x = yield from _invert(views, level, scale, stage.inversion_stride or 0.2)
    s = views.on_device(level)
    prediction, _ = yield from views.guided(x, s, scale)
    _, target = prior.x0_and_noise(x, prediction, s)
    noise = yield from views.guided_noise(prior.step(x, prediction, s, views.t))
    return noise, target


def sdi(views: Views) -> Asking:
    """Score distillation via inversion (Lukoianov et al. 2024): w(t) (eps_s(x_t) - kappa).

    kappa is the noise that DDIM inversion with the prompt finds for x_0: x_t = signal x_0 + sigma kappa. They guide the
    inversion by -7.5 in the form c + s (c - u), which is -6.5 here, take steps of a tenth of the schedule, and add
    ``inversion_noise`` (0.3) times DDIM's deviation in each. Their weight is that of x_0.
    """
    prior, stage = views.prior, views.stage
    scale = -6.5 if stage.inversion_scale is None else stage.inversion_scale
    x = yield from _invert(views, views.level, scale, stage.inversion_stride or 0.1, stage.inversion_noise)
    noise = yield from views.guided_noise(x)
    return noise, prior.noise_of(x, views.latents.float(), views.t)


def multistep(views: Views) -> Asking:
    """Targets of several steps (ReconFusion, Wu et al. 2023): x_0 comes of ``target_steps`` guided DDIM steps from x_t
    down, not of one: w(t) ((x_t - signal x_0) / sigma - eps), which with the weight of x_0 is theirs on latents.

    ``guidance_rescale`` has no part in it."""
    prior, stage = views.prior, views.stage
    x, count = views.noisy, stage.target_steps
    levels = [prior.nearest(views.level * (1 - step / count)) for step in range(count)]
    for level, following in pairwise(levels):
        t = views.on_device(level)
        guided, _ = yield from views.guided(x, t, stage.guidance_scale)
        x = prior.step(x, guided, t, views.on_device(following))
    last = views.on_device(levels[-1])
    guided, _ = yield from views.guided(x, last, stage.guidance_scale)
    clean, _ = prior.x0_and_noise(x, guided, last)
    return prior.noise_of(views.noisy.float(), clean, views.t), views.noise


VARIANTS: dict[str, Callable[[Views], Asking]] = {
    "sds": sds, "csd": csd, "ism": ism, "sdi": sdi, "multistep": multistep,
}  # fmt: skip
"""By their names in ``geometry.guidance`` and ``appearance.guidance``."""
DRAW_NOTHING = ("sds", "csd")
"""Variants with one call and no noise of their own: views of several jobs can be judged as one."""


def together(views: Sequence[Views], text: TextConditioning) -> Views:
    """Views of one kind as one, row for row; ``text`` is that of all (:func:`text_of_all`)."""
    if len(views) == 1:
        return views[0]
    azimuth, elevation = (torch.cat([each.angles[k] for each in views]) for k in range(2))
    return replace(
        views[0], text=text, encoded=torch.cat([each.encoded for each in views]),
        drawn=torch.cat([each.drawn for each in views]), level=torch.cat([each.level for each in views]),
        angles=(azimuth, elevation), jobs=len(views),
    )  # fmt: skip


def _invert(
    views: Views, until: Tensor, scale: float, stride: float, eta: float = 0.0
) -> Generator[Rows, Tensor, Tensor]:
    """x [B, C, h, w] at the levels ``until`` [B], by DDIM's steps (of a flow: Euler's) towards noise.

    From the schedule's first level, in multiples of ``stride``; rows that have arrived stay as they are. ``eta`` times
    the deviation of DDIM's step back is added to each as new noise.
    """
    prior = views.prior
    level = prior.nearest(torch.zeros_like(until))
    x, count = prior.add_noise(views.latents, views.noise, views.on_device(level)), 0
    while bool((level < until).any()):
        count += 1
        following = torch.minimum(prior.nearest(torch.full_like(level, min(count * stride, 1.0))), until)
        t, t_next = views.on_device(level), views.on_device(following)
        prediction, _ = yield from views.guided(x, t, scale)
        stepped = prior.step(x, prediction, t, t_next)
        shape = (-1, *[1] * (x.ndim - 1))
        if eta:
            drawn = views.on_device(torch.randn(x.shape, generator=views.generator))
            stepped = stepped + (eta * deviation(prior, t, t_next)).reshape(shape) * drawn
        x = torch.where((t < t_next).reshape(shape), stepped, x)
        level = following
    return x


def deviation(prior: NoiseProcess, s: Tensor, t: Tensor) -> Tensor:
    """Standard deviation [B] of x_s given x_t and x_0, s <= t [B]: sigma_s sigma_t|s / sigma_t, with sigma_t|s^2 =
    sigma_t^2 - (signal_t / signal_s)^2 sigma_s^2 (DDIM's, for any process)."""
    one, zero = torch.ones_like(t), torch.zeros_like(t)
    (signal_s, sigma_s), (signal_t, sigma_t) = (
        (prior.add_noise(one, zero, each), prior.add_noise(zero, one, each)) for each in (s, t)
    )
    between = sigma_t.square() - (signal_t / signal_s * sigma_s).square()
    return sigma_s * between.clamp(min=0).sqrt() / sigma_t
