"""Sana: a Gemma text encoder, a linear-attention transformer, an autoencoder of 32 pixels a latent.

As diffusers' pipeline does by default, a prompt is put behind an instruction to enhance it ("complex human
instruction"), and the hidden states of its own tokens are kept; an empty or negative prompt stands alone.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline_core.priors.flow import FlowPrior
from pipeline_core.priors.image import load_text_encoder
from pipeline_core.priors.interface import Negative
from pipeline_core.priors.latents import pack_pooled, unpack_pooled
from pipeline_core.priors.text import Encoder, tokenize

TOKENS = 300
"""Tokens of a prompt that the transformer sees."""


@lru_cache(maxsize=1)
def instruction() -> str:
    """What the pipeline puts before a prompt."""
    from diffusers import SanaPipeline

    return "\n".join(inspect.signature(SanaPipeline.__call__).parameters["complex_human_instruction"].default)


class GemmaEncoder:
    """Hidden states [300, D] of a prompt, and in place of a pooled vector its mask [300]: 1 = a token, 0 = padding."""

    length = TOKENS

    def __init__(self, tokenizer: Any, model: Any) -> None:
        self.tokenizer, self.model = tokenizer, model
        tokenizer.padding_side = "right"

    @torch.no_grad()
    def __call__(self, prompt: str) -> tuple[Tensor, Tensor]:
        """The first token and the last 299, so that the instruction's drop out."""
        before = instruction() if prompt and not isinstance(prompt, Negative) else ""
        extra = len(self.tokenizer.encode(before)) - 2 if before else 0
        tokens = tokenize(
            self.tokenizer, [prompt.lower().strip()], TOKENS + extra, frame=lambda text: before + text
        ).to(self.model.device)
        hidden = self.model(tokens.input_ids, attention_mask=tokens.attention_mask).last_hidden_state[0]
        kept = [0, *range(-TOKENS + 1, 0)]
        return hidden[kept].float(), tokens.attention_mask[0, kept].float()


class SanaPrior(FlowPrior):
    """A row's last token(s) are its mask: the transformer looks at tokens only."""

    network = "SanaTransformer2DModel"
    autoencoders = ("AutoencoderDC",)
    vae_half = torch.bfloat16

    @classmethod
    def load_encoders(cls, folder: Path, device: torch.device | str, dtype: torch.dtype) -> Sequence[Encoder]:
        return [GemmaEncoder(*load_text_encoder(folder, "", device, dtype, ("Gemma2Model",)))]

    def check(self, folder: Path) -> None:
        said, wanted = self.encoders[0].model.config.hidden_size, self.transformer.config.caption_channels
        self.must_fit(folder / "text_encoder", "a hidden_size", said, wanted)

    def _encode_prompt(self, prompt: str) -> Tensor:
        return pack_pooled(*self.encoders[0](prompt))  # type: ignore[arg-type]

    def velocity(self, x: Tensor, s: Tensor, embeddings: Tensor) -> Tensor:
        hidden, mask = unpack_pooled(embeddings, TOKENS)
        return self.transformer(
            x,
            hidden,
            s * self.train_steps * self.transformer.config.timestep_scale,
            encoder_attention_mask=(mask > 0).to(x.dtype),  # mixtures of prompts (Perp-Neg) see the tokens of either
            return_dict=False,
        )[0]
