"""What distillation asks of a prior: protocols, so that any class with these answers guides, tests' exact priors too.

    t   = prior.draw_t(0.02, 0.98, len(latents), generator)    # shares of the prior's own noise schedule, in (0, 1)
    x_t = prior.add_noise(latents, noise, t)
    p   = prior.predict(x_t, t, embeddings, cameras)           # in the prior's own terms
    x0, implied = prior.x0_and_noise(x_t, p, t)
    gradient = prior.weight(t, "sds") * (implied - noise)

Predictions at the same x_t and t may be mixed linearly (guidance), and mean nothing else outside of the prior.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from pipeline_core.picture import Picture
from pipeline_core.priors.noise import Generators
from pipeline_core.types import PointCloud

Camera = Literal["none", "angles", "mvdream"]
Weighting = Literal["sds", "uniform", "x0", "velocity"]


class Negative(str):
    """A negative prompt: what guidance leads away from. A prior may word what it is asked for, and not this (Sana)."""


class NoiseProcess(Protocol):
    """x_t = signal(t) x_0 + sigma(t) noise. Samples are [B, ...], ``t`` [B] float32 shares of the schedule."""

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """x_t [B, ...]."""
        ...

    def x0_and_noise(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """The x_0 and the noise [B, ...] that ``prediction`` implies."""
        ...

    def noise_of(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        """The noise [B, ...] that leads from ``x0`` to ``x_t``."""
        ...

    def weight(self, t: Tensor, kind: Weighting) -> Tensor:
        """Weight [B] of (implied noise - noise) in score distillation, with a = signal^2 / (signal^2 + sigma^2).

        ``sds``: 1 - a (DreamFusion); ``uniform``: 1; ``x0``: sigma / signal, which makes it x - x_0; ``velocity``: 1 /
        signal, which makes it the residual of the process's velocity (RFDS).
        """
        ...

    def nearest(self, t: Tensor) -> Tensor:
        """The levels [B] float32 of the schedule next to ``t``, which may be the ends 0 and 1: those are moved in."""
        ...

    def draw_t(self, low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
        """``count`` levels on the generator's device, uniform in the window from ``low`` to ``high``.

        Equal ends give DreamGaussian's annealing (no choice left); a fixed wide window gives DreamFusion's sampling.
        The generator advances by ``count`` draws in either case.
        """
        ...

    def step(self, x_t: Tensor, prediction: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        """x at ``t_next`` from x at ``t``, without new noise (DDIM with eta = 0, Euler's step of a flow)."""
        ...


@runtime_checkable
class ImagePrior(NoiseProcess, Protocol):
    """A frozen text-to-image (or text-to-view) model.

    Attributes:
        model_id: name and content hash of the weights (resolve.py)
        dtype: precision of :meth:`predict`
        size: pixels a side that images are encoded at
        latent_channels, latent_size: C and h = w of the latents
        background: the colour images must be rendered on, or None for any
        camera: "none", "angles" (a camera per row, or none) or "mvdream" (a camera per row, always)
        num_views: rows that the network looks at together, views of one object a turn / ``num_views`` apart; else 1
    """

    model_id: str
    dtype: torch.dtype
    size: int
    latent_channels: int
    latent_size: int
    background: tuple[float, float, float] | None
    camera: Camera
    num_views: int

    def encode_prompts(self, prompts: list[str]) -> Tensor:
        """Embeddings [B, L, D]; negative prompts come as :class:`Negative`, and no prompt at all as the empty one."""
        ...

    def encode(self, images: Tensor, generator: Generators | None = None) -> Tensor:
        """Latents [B, C, h, w] float32 of ``images`` [B, 3, H, W] in [0, 1]; differentiable.

        The means of the encoder's posterior, or with ``generator`` samples of it.
        """
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, size, size] float32 in [0, 1] of ``latents`` [B, C, h, w]."""
        ...

    def predict(
        self, x_t: Tensor, t: Tensor, embeddings: Tensor, cameras: tuple[Tensor, Tensor] | None = None
    ) -> Tensor:
        """Prediction [B, C, h, w] float32; no graph, and no guidance inside: rows are whatever the caller stacks.

        Args:
            x_t: [B, C, h, w] noisy latents
            t: [B] shares of the schedule
            embeddings: [B, L, D] rows of :meth:`encode_prompts`
            cameras: (azimuth [B], elevation [B]) degrees, NaN azimuth for rows without a camera; ignored where
                ``camera`` is "none". Each run of ``num_views`` rows must be views of one object.
        """
        ...


@runtime_checkable
class PicturePrior(ImagePrior, Protocol):
    """An image prior that is shown a picture of the object in place of a prompt (Zero-1-to-3)."""

    def encode_image(self, picture: Picture) -> Tensor:
        """The row [L, D] that stands where a prompt's embedding would; all zeros and no camera = unconditional."""
        ...


@runtime_checkable
class KindPrior(ImagePrior, Protocol):
    """An image prior that is told what kind of render it is asked for.

    ``kinds``: some of ``checks.KINDS``, the one that is meant where none is told first; empty = it knows one kind only.
    Its ``predict`` takes ``kinds`` [B] too: places in these, for unconditional rows as well.
    """

    kinds: tuple[str, ...]


def kinds_of(prior: ImagePrior) -> tuple[str, ...]:
    """The kinds of render that ``prior`` is told apart, none where it knows one only."""
    return prior.kinds if isinstance(prior, KindPrior) else ()


@runtime_checkable
class DistilledPrior(KindPrior, Protocol):
    """An image prior that guidance was distilled into (Meng et al. 2023, their first stage): told a guidance scale, one
    row is the guided answer.

    ``guidance_scales``: the lowest and the highest that it was taught; None = none was distilled into it. Its
    ``predict`` takes ``scales`` [B] too: 1 for rows that are as they are asked.
    """

    guidance_scales: tuple[float, float] | None


def guidance_scales_of(prior: ImagePrior) -> tuple[float, float] | None:
    """The lowest and highest guidance scale that one row of ``prior`` answers, None where it was taught none."""
    return prior.guidance_scales if isinstance(prior, DistilledPrior) else None


@runtime_checkable
class PointPrior(NoiseProcess, Protocol):
    """A frozen text-to-point-cloud model. Clouds are [B, C, N] in its own channels (:meth:`to_model`).

    Attributes:
        model_id: name and content hash of the weights (resolve.py)
        num_points: N of :meth:`predict`
    """

    model_id: str
    num_points: int

    def encode_object(self, prompt: str, xyz: Tensor, rgb: Tensor) -> Tensor:
        """Condition rows [2, ...] for distilling one object: the prompt's, and the null condition.

        ``xyz`` [N, 3] in our axes, ``rgb`` [N, 3] in [0, 1]: what the prompt leaves open may be read off the cloud.
        """
        ...

    def to_model(self, xyz: Tensor, rgb: Tensor) -> Tensor:
        """[..., C, N] of points [..., N, 3] in our axes and colours [..., N, 3] in [0, 1]; with a graph."""
        ...

    def predict(self, x_t: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Prediction [B, C, N] float32 of clouds [B, C, N] at ``t`` [B]; no graph, no guidance inside."""
        ...

    def sample(
        self,
        prompts: list[str],
        generators: Sequence[torch.Generator],
        *,
        guidance_scale: float,
        guidance_sigma_min: float,
        steps: int,
        num_points: int | None,
    ) -> list[PointCloud]:
        """One cloud a prompt: our axes, centred on its bounding box, bounding radius OBJECT_RADIUS; on the CPU."""
        ...
