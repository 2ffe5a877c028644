"""Image priors of published sizes with random weights: as fast, and as large, as the real ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline_core.priors.image import DiffusersPrior, Parts
from pipeline_core.priors.process import Diffusion
from pipeline_core.priors.text import quiet_libraries

VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}


@dataclass(frozen=True)
class Size:
    """Published configuration of a latent text-to-image model: arguments of diffusers' and transformers' classes."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    text: dict[str, Any]
    pixels: int


SIZES = {
    "sd15": Size(
        {"cross_attention_dim": 768, "attention_head_dim": 8},
        VAE,
        {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12},
        512,
    ),
    "sd21": Size(
        {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
        VAE,
        {"hidden_size": 1024, "intermediate_size": 4096, "num_hidden_layers": 23, "num_attention_heads": 16},
        512,
    ),
    "tiny": Size(
        {
            "cross_attention_dim": 32,
            "block_out_channels": (32,) * 4,
            "attention_head_dim": 2,
            "layers_per_block": 1,
        },
        VAE | {"block_out_channels": (32,) * 4, "layers_per_block": 1},
        {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2},
        64,
    ),
}
"""Stable Diffusion 1.5, 2.1-base, and one to try the program with."""


class RandomText:
    """A text encoder of true size whose tokens are drawn from the prompt's letters: nobody reads its answer."""

    def __init__(self, model: Any) -> None:
        self.model = model

    @torch.no_grad()
    def __call__(self, prompt: str) -> tuple[Tensor, None]:
        """Hidden states [77, D]."""
        config, device = self.model.config, self.model.device
        seed = sum(ord(letter) * (i + 1) for i, letter in enumerate(prompt))
        tokens = torch.randint(config.vocab_size, (1, 77), generator=torch.Generator().manual_seed(seed))
        return self.model(tokens.to(device)).last_hidden_state[0].float(), None


def random_encoder(prior: DiffusersPrior, seed: int = 0) -> Any:
    """A distilled encoder of the published size (diffusers' AutoencoderTiny) with random weights, for ``prior``."""
    from diffusers import AutoencoderTiny

    with _drawing(prior.device, seed):
        encoder = AutoencoderTiny(latent_channels=prior.latent_channels)
    return encoder.to(prior.dtype)


@contextmanager
def _drawing(device: torch.device, seed: int) -> Iterator[None]:
    """Inside, networks are made on ``device``, their weights drawn from ``seed``."""
    with quiet_libraries(), torch.random.fork_rng([device] if device.type == "cuda" else []), torch.device(device):
        torch.manual_seed(seed)
        yield


def random_prior(name: str, device: torch.device, dtype: torch.dtype, seed: int = 0) -> DiffusersPrior:
    """A :class:`DiffusersPrior` of size ``name`` (:data:`SIZES`); epsilon-prediction on Stable Diffusion's schedule.

    Its networks are as diffusers makes them: :meth:`DiffusersPrior.speed_up` is the caller's.
    """
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel

    size = SIZES[name]
    config = CLIPTextConfig(vocab_size=49408, max_position_embeddings=77, **size.text)
    with _drawing(device, seed):
        networks = [
            UNet2DConditionModel(sample_size=size.pixels // 8, **size.unet),
            AutoencoderKL(sample_size=size.pixels, **size.vae),
            CLIPTextModel(config),
        ]
        unet, vae, text = (net.to(dtype).requires_grad_(False).eval() for net in networks)
    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    parts = Parts(
        unet=unet,
        encoders=[RandomText(text)],
        vae=vae,
        process=Diffusion(schedule.alphas_cumprod),
        camera="none",
        background=None,
        size=size.pixels,
        zero_empty_prompt=False,
    )
    return DiffusersPrior(parts, f"random {name}, seed {seed}", device, dtype)
