"""DreamGaussian's second stage as published: gradient descent on the texture towards denoised renders (main2.py).

Beside ``refine.py``, which paints the change that the prior asks for. Here every pixel counts, what the autoencoder
loses included, so the texture becomes as sharp as the prior's pictures and no sharper.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import embedding, grid_sample, interpolate

from pipeline_core.cameras import Cameras
from pipeline_core.config import Texture
from pipeline_core.engine.engine import values_of
from pipeline_core.engine.jobs import Judged
from pipeline_core.texturing.refine import TextureJob, sharp_enough
from pipeline_core.types import TexturedMesh

RATE = 0.2
"""Adam's, on the logit of the colours."""
FINENESS = 0.125, 2.0
"""Renders have 2 U times as many pixels a side as the picture that is compared, within these bounds; U is uniform."""
MARGIN = 1e-6
"""Colours are held so far from 0 and 1, where the logit ends."""


class FitJob(TextureJob):
    """Texture refinement by gradient descent as a job of the engine. The result is a TexturedMesh.

    The mean squared distance of a render to its denoised self, over all pixels, moves the logit of the colours by Adam;
    with a picture also that of the texels which it shows to its colours. Only texels looked up have a gradient.
    """

    even_over = "degrees"
    fineness = 1.0

    def __init__(self, textured: TexturedMesh, prompt: str, settings: Texture, **options: Any) -> None:
        super().__init__(textured, prompt, settings, **options)
        self.leaf = torch.nn.Parameter(self.colours.clamp(MARGIN, 1 - MARGIN).logit())

    def _levels(self, index: int) -> list[float]:
        """The published noise levels: of ``denoise_steps`` of DDIM, spaced from the first timestep on, the last few.

        At 50 steps and strength (0.2, 0.05): t = 0.181 and 10 steps in the first rounds, 0.041 and 3 in the last.
        """
        s, first = self.settings, 0.001
        strength = s.strength[0] + (s.strength[1] - s.strength[0]) * (index + 1) / s.steps
        count = max(math.ceil(strength * s.denoise_steps - 1e-9), 1)
        return [(count - i - 1) / s.denoise_steps + first for i in range(count)]

    def start(self, image_prior: Any, point_prior: Any, device: torch.device) -> None:
        super().start(image_prior, point_prior, device)
        self.leaf = torch.nn.Parameter(self.leaf.detach().to(device))
        self.optimizer = torch.optim.Adam([self.leaf], lr=RATE)
        self.rendered: Tensor | None = None

    def draw(self) -> Tensor | None:
        images = super().draw()
        if images is None:
            return None
        self.rendered = images
        return images.detach()

    def receive(self, image: Tensor | Judged | None, points: Tensor | None) -> Tensor | None:
        latents = super().receive(image, points)
        return None if latents is None else latents.chunk(2)[0]

    def loss(self, images: Tensor | None) -> Tensor | None:  # type: ignore[override]  # painting has no gradient
        if images is None:
            return None
        assert self.rendered is not None
        target = images.float()
        if target.shape[-1] != self.rendered.shape[-1]:
            size = self.rendered.shape[-2:]
            target = interpolate(target, size, mode="bilinear", antialias=target.shape[-1] > size[-1])
        error = (self.rendered - target).square().mean()
        if self._shown is not None:  # the row's image, at the texels that it shows
            wanted, weight = self._shown
            apart = (weight * (self.leaf.sigmoid() - wanted).square()).sum() / (3 * weight.sum()).clamp(min=1e-12)
            error = error + self.settings.reference_weight * apart
        self._numbers = values_of([error.detach()[None]])
        return error

    def update(self) -> None:
        if self.phase + 1 == len(self.rounds[self.round]):
            self.optimizer.step()
            self.optimizer.zero_grad(set_to_none=True)
            self.rendered = None
        super().update()

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors, values = super().state()
        tensors |= {"leaf": self.leaf.detach().to("cpu", copy=True)}
        moments = self.optimizer.state.get(self.leaf, {})
        tensors |= {f"adam.{name}": value.detach().to("cpu", copy=True) for name, value in moments.items()}
        return tensors, values | {"fineness": self.fineness}

    def restore(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        self.leaf = torch.nn.Parameter(tensors["leaf"].to(self.device, copy=True))
        self.optimizer = torch.optim.Adam([self.leaf], lr=RATE)
        moments = {k.removeprefix("adam."): v for k, v in tensors.items() if k.startswith("adam.")}
        if moments:
            self.optimizer.state[self.leaf] = {k: v.to(self.device, copy=True) for k, v in moments.items()}
        self.fineness, self.rendered = values["fineness"], None
        super().restore(tensors, values)
        if self.phase:
            self.rendered = self._render()

    def result(self) -> TexturedMesh:
        self.colours = self.leaf.detach().sigmoid()
        return self._finished()

    # -- parts ---------------------------------------------------------------------------------------------------

    def _draw_round(self, generator: torch.Generator) -> tuple[Cameras, float]:
        low, high = FINENESS
        fineness = min(max(2 * float(torch.rand(1, generator=generator)), low), high)
        return super()._draw_round(generator)[0], fineness

    def _samples(self, fineness: float) -> int:
        return max(round(self.settings.resolution * fineness / 8), 1) * 8

    def _render(self) -> Tensor:
        """Images [V, 3, H, W] on the prior's background, with a graph; the sigmoid comes after the look-up."""
        raw = sharp_enough(looked_up(self.leaf, self._nearest).permute(2, 0, 1)[None], self._spacing)
        raw = raw.expand(len(self.cameras), -1, -1, -1)
        colour = grid_sample(raw, self._uv * 2 - 1, align_corners=False, padding_mode="border").sigmoid()
        size, shown = self.settings.resolution, self._on_background(colour)
        return interpolate(shown, (size, size), mode="bilinear", antialias=shown.shape[-1] > size, align_corners=False)


def looked_up(values: Tensor, numbers: Tensor) -> Tensor:
    """Rows [..., C] of ``values`` [N, C] by their ``numbers`` [...] int64, with the same gradient every time: on a CPU
    that of an index is summed by all threads in whatever order they come."""
    return embedding(numbers, values) if values.device.type == "cpu" else values[numbers]
