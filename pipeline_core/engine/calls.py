"""One call of each model for all jobs of a step: their rows are stacked, resized, answered together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from pipeline_core.device import upload
from pipeline_core.engine.clock import Clock
from pipeline_core.engine.fixed_sizes import LARGEST_GRAPH, FixedSizes
from pipeline_core.engine.jobs import PointRows, Rows
from pipeline_core.errors import StageError
from pipeline_core.priors.interface import ImagePrior, PointPrior, guidance_scales_of, kinds_of

DECODE_ROWS = 8
"""Latents decoded at a time: enough to fill a GPU at 512 pixels, and few enough to bound the memory."""


class ModelCalls:
    """The shared models behind an engine.

    ``point_prior`` is a prior or a function that loads one at first use. ``fixed_sizes`` pads the U-Net's rows to a
    few batch sizes, recorded as CUDA graphs on a GPU; None = on a GPU only, since a CPU would compute the padding.
    """

    def __init__(
        self,
        image_prior: ImagePrior,
        point_prior: PointPrior | Callable[[], PointPrior] | None,
        device: torch.device,
        clock: Clock,
        fixed_sizes: bool | None = None,
    ) -> None:
        self.image_prior, self.device, self.clock = image_prior, device, clock
        self.frugal = False
        known = {"kind": kinds_of(image_prior), "scale": guidance_scales_of(image_prior)}
        self._told = [name for name, values in known.items() if values]  # what else of Rows the image prior is told
        self._point_prior = point_prior
        on_cuda = device.type == "cuda"
        self._denoise: Callable[..., Tensor] = self._predict
        self._denoise_runs: Callable[..., Tensor] = self._predict_runs
        self._fixed: list[FixedSizes] = []
        if on_cuda if fixed_sizes is None else fixed_sizes:
            self._denoise = FixedSizes(self._predict, device, group=image_prior.num_views, graphs=on_cuda)
            self._denoise_runs = FixedSizes(self._predict_runs, device, graphs=on_cuda, largest=LARGEST_GRAPH // 2)
            self._fixed = [self._denoise, self._denoise_runs]

    def point_prior(self) -> PointPrior:
        """The point prior, loaded at first use."""
        if self._point_prior is None:
            raise StageError("this engine has no point prior: set point_weight = 0 or name a point prior")
        if not hasattr(self._point_prior, "predict"):  # a prior may be callable too
            self._point_prior = self._point_prior()
        return cast(PointPrior, self._point_prior)

    def save_memory(self) -> None:
        """From now on the encoder's activations are computed again in the backward instead of being kept.

        They are the largest thing of a step (about 1.5 GB a view at 512 pixels in half precision).
        """
        self.frugal = True

    def release(self) -> None:
        """Give cached memory back to the device."""
        for each in self._fixed:
            each.forget()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def encode(self, images: list[Tensor], seeds: Sequence[int | None] = ()) -> Tensor:
        """Latents of all images, with their graph; jobs render at their own size, so each is resized first.

        ``seeds``: of each row, to sample the encoder's posterior; None (as for all where there are none) its mean.
        """
        alike = [list(parts) for _, parts in groupby(images, key=lambda part: part.shape[1:])]
        pieces = [resize(torch.cat(parts), self.image_prior.size) for parts in alike]
        stacked = torch.cat(pieces) if len(pieces) > 1 else pieces[0]
        if stacked.requires_grad:
            stacked.register_hook(lambda gradient: self.clock.mark("backward_encode"))
            if self.frugal:
                rows = zip(stacked.split(1), seeds or [None] * len(stacked), strict=True)
                return torch.cat([checkpoint(self._encode, row, [seed], use_reentrant=False) for row, seed in rows])
        return self._encode(stacked, seeds)

    def _encode(self, images: Tensor, seeds: Sequence[int | None]) -> Tensor:
        if all(seed is None for seed in seeds):
            return self.image_prior.encode(images)
        return self.image_prior.encode(images, [None if s is None else torch.Generator().manual_seed(s) for s in seeds])

    @torch.no_grad()
    def predict_image(self, parts: list[Rows]) -> Tensor:
        """The image prior's predictions of all rows, in order; rows of longer prompts are a call of their own."""
        names = ("latents", "t", "embeddings", "azimuth", "elevation")
        alike: dict[torch.Size, list[int]] = {}
        for at, part in enumerate(parts):
            alike.setdefault(part.embeddings.shape[1:], []).append(at)
        answers: dict[int, Tensor] = {}
        for places in alike.values():
            rows = [parts[at] for at in places]
            if self._share_start(rows):
                answers |= zip(places, self._answer_runs(rows))
                continue
            inputs = [torch.cat([getattr(part, name) for part in rows]) for name in names]
            for name in self._told:
                inputs.append(torch.cat([torch.full((len(part),), getattr(part, name)) for part in rows]))
            answer = self._denoise(*inputs)
            answers |= zip(places, answer.split([len(part) for part in rows]))
        return torch.cat([answers[at] for at in range(len(parts))])

    def _share_start(self, parts: list[Rows]) -> bool:
        """Whether all are k runs of the same latents, and the prior takes k texts for a row of them."""
        copies = {part.copies for part in parts}
        return len(copies) == 1 and max(copies) > 1 and bool(getattr(self.image_prior, "shares_start", False))

    def _answer_runs(self, parts: list[Rows]) -> list[Tensor]:
        """The predictions of such parts."""
        copies, counts = parts[0].copies, [len(part) // part.copies for part in parts]
        latents, t = (
            torch.cat([getattr(part, name)[:count] for part, count in zip(parts, counts)]) for name in ("latents", "t")
        )
        texts = torch.cat([part.embeddings.unflatten(0, (copies, -1)) for part in parts], 1).transpose(0, 1)
        answer = self._denoise_runs(latents, t, texts)
        return [part.transpose(0, 1).flatten(0, 1) for part in answer.split(counts)]

    def _predict(
        self, latents: Tensor, t: Tensor, embeddings: Tensor, azimuth: Tensor, elevation: Tensor, *told: Tensor
    ) -> Tensor:
        """``told``: what ``_told`` names, of each row."""
        cameras = None
        if self.image_prior.camera != "none":
            cameras = upload(azimuth, self.device), upload(elevation, self.device)
        more = {f"{name}s": upload(each, self.device) for name, each in zip(self._told, told, strict=True)}
        prior: Any = self.image_prior
        answer: Tensor = prior.predict(latents, t, embeddings, cameras, **more)
        return answer

    def _predict_runs(self, latents: Tensor, t: Tensor, texts: Tensor) -> Tensor:
        """Predictions [B, k, C, h, w] for ``texts`` [B, k, L, D]."""
        runs = self.image_prior.predict(latents, t, texts.transpose(0, 1).flatten(0, 1))
        answers: Tensor = runs.unflatten(0, (-1, len(latents))).transpose(0, 1)
        return answers

    @torch.no_grad()
    def predict_points(self, parts: list[PointRows]) -> Tensor:
        """The same of the point prior."""
        rows = (torch.cat([getattr(part, name) for part in parts]) for name in ("x", "t", "condition"))
        return self.point_prior().predict(*rows)

    @torch.no_grad()
    def decode(self, latents: list[Tensor]) -> Tensor:
        """Images of all latents."""
        rows = 1 if self.frugal else DECODE_ROWS
        return torch.cat([self.image_prior.decode(part) for part in torch.cat(latents).split(rows)])


def resize(images: Tensor, size: int) -> Tensor:
    """Images [B, 3, H, W] at ``size`` x ``size``: bilinear, antialiased where they shrink."""
    if images.shape[-2:] == (size, size):
        return images
    shrinks = images.shape[-1] > size
    return torch.nn.functional.interpolate(
        images, (size, size), mode="bilinear", antialias=shrinks, align_corners=False
    )
