"""Rows of a denoiser call: what guidance makes, the engine stacks, and the priors answer."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Rows:
    """R rows of one U-Net call, classifier-free guidance rows included: who makes them also takes them apart.

    ``latents`` [R, C, h, w] noisy; ``t`` [R] shares of the noise schedule; ``embeddings`` [R, L, D] from
    ``ImagePrior.encode_prompts``; ``azimuth``, ``elevation`` [R] degrees, NaN for rows without a camera. ``kind`` is
    the place in ``KindPrior.kinds`` of what all of them show, which other priors are not told, and ``scale`` the
    guidance that a ``DistilledPrior`` is told. Latents and ``t`` are ``copies`` times the same, run after run.
    """

    latents: Tensor
    t: Tensor
    embeddings: Tensor
    azimuth: Tensor
    elevation: Tensor
    kind: int = 0
    copies: int = 1
    scale: float = 1.0

    def __post_init__(self) -> None:
        rows = self.latents.shape[0]
        for name in ("t", "embeddings", "azimuth", "elevation"):
            assert getattr(self, name).shape[0] == rows, f"{name} has {getattr(self, name).shape[0]} rows, not {rows}"

    def __len__(self) -> int:
        return self.latents.shape[0]


@dataclass(frozen=True)
class PointRows:
    """R rows of one call of the point prior: ``x`` [R, C, N] noisy, ``t`` [R], ``condition`` [R, ...]."""

    x: Tensor
    t: Tensor
    condition: Tensor

    def __len__(self) -> int:
        return self.x.shape[0]
