"""FLUX.2-klein: latents packed in squares of 2 x 2 and normalised, and three layers of Qwen3 side by side.

The base models guide. Those that were distilled for four steps have no unconditional answer, and FLUX.2-dev has another
text encoder: checks.py refuses both by name.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline_core.priors.checks import KLEIN_LAYERS
from pipeline_core.priors.flow import FlowPrior
from pipeline_core.priors.qwen import TOKENS, QwenEncoder
from pipeline_core.priors.text import Encoder

STEPS = 50
"""Steps of the sampler whose shift is distilled with: the pipeline's default."""


class Flux2Prior(FlowPrior):
    """Latents are [B, 128, h, w], 16 pixels a latent: what the transformer takes, token by token."""

    network = "Flux2Transformer2DModel"
    autoencoders = ("AutoencoderKLFlux2",)
    vae_half = torch.bfloat16
    packing = 4
    patch = 2

    def __init__(self, folder: Path, **parts: Any) -> None:
        super().__init__(folder, **parts)
        self.latent_size //= 2
        norm = self.vae.bn
        self._mean = norm.running_mean.float()[:, None, None]
        self._deviation = (norm.running_var.float() + self.vae.config.batch_norm_eps).sqrt()[:, None, None]
        side, one = torch.arange(self.latent_size, device=self.device), torch.zeros(1, device=self.device).long()
        self._image_ids = torch.cartesian_prod(one, side, side, one)  # [h w, 4]
        self._text_ids = torch.cartesian_prod(one, one, one, torch.arange(TOKENS, device=self.device))

    @classmethod
    def load_encoders(cls, folder: Path, device: torch.device | str, dtype: torch.dtype) -> list[Encoder]:
        return [QwenEncoder.load(folder, device, dtype, layers=KLEIN_LAYERS, thinking=False)]

    def check(self, folder: Path) -> None:
        config, qwen = self.transformer.config, self.encoders[0].model.config
        width = qwen.hidden_size * len(KLEIN_LAYERS)
        self.must_fit(folder / "text_encoder", f"{len(KLEIN_LAYERS)} layers", width, config.joint_attention_dim)

    def native_size(self) -> int:
        return int(self.vae.config.sample_size)

    def dynamic_shift(self, tokens: int, scheduler: dict[str, Any]) -> float:
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        mu = compute_empirical_mu(tokens, STEPS)
        return mu if scheduler.get("time_shift_type") == "linear" else math.exp(mu)

    def _encode_prompt(self, prompt: str) -> Tensor:
        return self.encoders[0](prompt)[0]  # the transformer sees padding too, as it was trained

    def _normalise(self, z: Tensor) -> Tensor:
        return (F.pixel_unshuffle(z, 2) - self._mean) / self._deviation

    def _denormalise(self, latents: Tensor) -> Tensor:
        return F.pixel_shuffle(latents * self._deviation + self._mean, 2)

    def velocity(self, x: Tensor, s: Tensor, embeddings: Tensor) -> Tensor:
        answer = self.transformer(
            x.flatten(2).transpose(1, 2), embeddings, s * (self.train_steps / 1000),
            img_ids=self._image_ids, txt_ids=self._text_ids, guidance=None, return_dict=False,
        )[0]  # fmt: skip
        return answer.transpose(1, 2).unflatten(2, x.shape[2:])
