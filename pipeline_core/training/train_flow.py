"""The flow transformer: rectified flow in the very format of Stable Diffusion 3, and what it is trained on.

    splatmill train-starter --part flow --out runs/flow --minutes 60

It is an MMDiT (Esser et al. 2024) with two CLIP text encoders, trained along, and no T5. What diffusers' pipeline gives
in T5's place is 256 tokens of zeros. They are alike in every layer, so training carries one of them and counts it 256
times in every softmax: the same numbers at a quarter of the cost. A camera is told by its view word, in the wording of
guidance/prompts.py, because that is all that such a prior can be told of it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from torch import Tensor, nn
from transformers import CLIPTextModelWithProjection

from pipeline_core.guidance import prompts as guidance
from pipeline_core.training.pictures import (
    TIMESTEPS,
    PicturePart,
    PictureSettings,
    PictureSteps,
    Text,
    build_text_encoder,
)

T5_TOKENS = 256
"""Tokens of zeros that stand for T5 where there is none: ``max_sequence_length`` of diffusers' pipeline."""
TEXT_ENCODERS = ("text_encoder", "text_encoder_2")
EDGE = 1e-3
"""Shares of the schedule are drawn from EDGE to 1 - EDGE."""


@dataclass(frozen=True)
class FlowSettings(PictureSettings):
    """Architecture and data of the flow transformer. 64 px are 16 x 16 latents, 64 tokens of 2 x 2."""

    width: int = 192
    depth: int = 4
    heads: int = 3
    text_width: int = 96
    """Of each of the two text encoders."""
    size: int = 64
    shift: float = 3.0
    """Moves the schedule towards noise (Esser et al. 2024, eq. 23): SD3's own, and right for one object on grey."""
    mean: float = 0.0
    deviation: float = 1.0
    """Of the logit-normal that shares of the schedule are drawn from (eq. 19)."""
    drop_camera: float = 0.0
    """It takes none."""
    view_words: float = 0.85
    degraded: float = 0.25


class CountedZeros:
    """Joint attention whose last token counts :data:`T5_TOKENS` times: diffusers' processor, by plain products.

    For training: the tokens of zeros that it stands for are queries, keys and values alike.
    """

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        def heads(of_image: Tensor, of_text: Tensor) -> Tensor:
            return torch.cat([of_image, of_text], dim=1).unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query = heads(attn.to_q(hidden_states), attn.add_q_proj(encoder_hidden_states))
        key = heads(attn.to_k(hidden_states), attn.add_k_proj(encoder_hidden_states))
        value = heads(attn.to_v(hidden_states), attn.add_v_proj(encoder_hidden_states))
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        counts = torch.zeros(scores.shape[-1], dtype=scores.dtype, device=scores.device)
        counts[-1] = math.log(T5_TOKENS)
        mixed = ((scores + counts).softmax(-1).to(value.dtype) @ value).transpose(1, 2).flatten(2)
        image, text = mixed.split([hidden_states.shape[1], encoder_hidden_states.shape[1]], dim=1)
        return attn.to_out[0](image), text if attn.context_pre_only else attn.to_add_out(text)


def build_transformer(settings: FlowSettings) -> SD3Transformer2DModel:
    """The transformer, with modulations and the output at zero to begin with (AdaLN-Zero, Peebles and Xie 2023)."""
    s = settings
    side = s.size // s.patch
    transformer = SD3Transformer2DModel(
        sample_size=side,
        patch_size=2,
        in_channels=s.channels,
        out_channels=s.channels,
        num_layers=s.depth,
        attention_head_dim=s.width // s.heads,
        num_attention_heads=s.heads,
        joint_attention_dim=2 * s.text_width,
        caption_projection_dim=s.width,
        pooled_projection_dim=2 * s.text_width,
        pos_embed_max_size=side // 2,
    )
    for name, module in transformer.named_modules():
        if name.endswith(("norm1.linear", "norm1_context.linear", "norm_out.linear")):
            assert isinstance(module, nn.Linear)
            nn.init.zeros_(module.weight)
            nn.init.zeros_(module.bias)
    nn.init.zeros_(transformer.proj_out.weight)
    return transformer


class FlowSteps(PictureSteps):
    """Steps of the transformer: real timesteps 1000 s of x_s = (1 - s) x_0 + s noise."""

    settings: FlowSettings

    def times(self, u: Tensor) -> Tensor:
        s = self.settings
        normal = torch.special.ndtri(u.clamp(EDGE, 1 - EDGE))
        share = torch.sigmoid(s.mean + s.deviation * normal).clamp(EDGE, 1 - EDGE)
        return TIMESTEPS * s.shift * share / (1 + (s.shift - 1) * share)

    def noise_variance(self, t: Tensor) -> Tensor:
        return (t / TIMESTEPS).square()

    def view_word(self, azimuth: float, elevation: float) -> str:
        return guidance.view_word(azimuth, elevation)


class FlowPart(PicturePart):
    """The transformer with its two text encoders."""

    name = "flow"
    summary = "Text-conditioned rectified flow of 64 px game props on grey, in the folder format of Stable Diffusion 3."

    def __init__(
        self, settings: FlowSettings, data_dir: Path, *, seed: int, batch: int, start: Path | None = None
    ) -> None:
        steps = FlowSteps(settings, data_dir / "flow", seed=seed, batch=batch)
        self.scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=TIMESTEPS, shift=settings.shift)
        torch.manual_seed(seed)  # weight initialisation only; nothing else reads the global generator
        networks = {"transformer": build_transformer(settings)} | {
            name: build_text_encoder(
                steps.tokenizer, width=settings.text_width, layers=settings.text_layers, tokens=settings.tokens,
                kind=CLIPTextModelWithProjection,
            )
            for name in TEXT_ENCODERS
        }  # fmt: skip
        super().__init__(settings, steps, networks, start=start)
        cast(SD3Transformer2DModel, self.modules["transformer"]).set_attn_processor(CountedZeros())
        for name in TEXT_ENCODERS:  # plain products, which are faster at these sizes
            cast(CLIPTextModelWithProjection, self.modules[name]).set_attn_implementation("eager")

    @property
    def text_dim(self) -> int:
        return 2 * self.settings.text_width

    def encode(self, modules: nn.ModuleDict, ids: Tensor) -> Text:
        """Hidden states [B, L, D] before the last layer of both encoders, as SD3 takes them, and pooled [B, D]."""
        outputs = [modules[name](ids, output_hidden_states=True) for name in TEXT_ENCODERS]
        hidden = torch.cat([output.hidden_states[-2] for output in outputs], dim=-1)
        return hidden, torch.cat([output.text_embeds for output in outputs], dim=-1)

    def denoise(self, modules: nn.ModuleDict, x_t: Tensor, t: Tensor, text: Text, camera: Tensor) -> Tensor:
        hidden, pooled = text
        hidden = torch.cat([hidden, torch.zeros_like(hidden[:, :1])], dim=1)
        return modules["transformer"](x_t, hidden, pooled, t, return_dict=False)[0]

    def add_noise(self, latents: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        s = (t / TIMESTEPS).reshape(-1, 1, 1, 1)
        return (1 - s) * latents + s * noise

    def clean(self, x_t: Tensor, answer: Tensor, t: Tensor) -> Tensor:
        return x_t - (t / TIMESTEPS).reshape(-1, 1, 1, 1) * answer

    def asked(self, prompts: list[str], azimuth: Tensor, elevation: Tensor) -> list[str]:
        views = zip(prompts, azimuth.tolist(), elevation.tolist(), strict=True)
        return [guidance.view_prompt(prompt, guidance.view_word(*view)) for prompt, *view in views]

    def index(self) -> dict[str, Any]:
        return {
            "_class_name": "StableDiffusion3Pipeline",
            "transformer": ["diffusers", "SD3Transformer2DModel"],
            "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
            "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
            "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
            "text_encoder_3": [None, None],
            "tokenizer": ["transformers", "CLIPTokenizer"],
            "tokenizer_2": ["transformers", "CLIPTokenizer"],
            "tokenizer_3": [None, None],
        }
