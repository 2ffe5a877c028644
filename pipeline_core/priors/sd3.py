"""Stable Diffusion 3 and 3.5: three text encoders, of which T5 may be left out, and a joint transformer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline_core.errors import RequestError
from pipeline_core.priors.flow import FlowPrior
from pipeline_core.priors.image import load_text_encoder
from pipeline_core.priors.latents import pack_pooled, unpack_pooled, vae_factor
from pipeline_core.priors.text import Encoder, TextEncoder, read_json

T5_TOKENS = 256
"""Tokens that T5 reads, and zeros that stand in for it where a folder has none."""


class SD3Prior(FlowPrior):
    """The two CLIPs side by side, T5 behind them, their pooled vectors as the last token(s) of a row."""

    network = "SD3Transformer2DModel"

    @classmethod
    def load_encoders(cls, folder: Path, device: torch.device | str, dtype: torch.dtype) -> Sequence[Encoder]:
        index = read_json(folder / "model_index.json")
        encoders = [
            TextEncoder(
                *load_text_encoder(folder, suffix, device, dtype, ("CLIPTextModelWithProjection",)),
                output="penultimate",
            )
            for suffix in ("", "_2")
        ]
        if len({encoder.length for encoder in encoders}) > 1:
            raise RequestError(
                f"{folder}: tokenizer/ and tokenizer_2/ read {' and '.join(str(e.length) for e in encoders)} tokens; "
                "they must read the same number: download the folder again"
            )
        if (index.get("text_encoder_3") or [None])[0] is not None:
            loaded = load_text_encoder(folder, "_3", device, dtype, ("T5EncoderModel",))
            encoders.append(TextEncoder(*loaded, length=T5_TOKENS))
        return encoders

    def largest_size(self) -> float:
        return float(self.transformer.config.pos_embed_max_size * self.patch * vae_factor(self.vae))

    def check(self, folder: Path) -> None:
        config, (first, second, *rest) = self.transformer.config, [encoder.model.config for encoder in self.encoders]
        pooled = config.pooled_projection_dim - first.projection_dim
        self.must_fit(folder / "text_encoder_2", "a projection_dim", second.projection_dim, pooled)
        widest = config.joint_attention_dim
        self.must_fit(
            folder / "text_encoder_2",
            "a hidden_size",
            second.hidden_size,
            min(second.hidden_size, widest - first.hidden_size),
        )
        for t5 in rest:
            self.must_fit(folder / "text_encoder_3", "a d_model", t5.d_model, widest)

    def _encode_prompt(self, prompt: str) -> Tensor:
        outputs = [encoder(prompt) for encoder in self.encoders]
        width = self.transformer.config.joint_attention_dim
        hidden = torch.cat([states for states, _ in outputs[:2]], dim=-1)
        t5 = outputs[2][0] if len(outputs) > 2 else hidden.new_zeros(T5_TOKENS, width)
        joint = torch.cat([F.pad(hidden, (0, width - hidden.shape[-1])), t5])
        return pack_pooled(joint, torch.cat([pooled for _, pooled in outputs[:2] if pooled is not None]))

    def velocity(self, x: Tensor, s: Tensor, embeddings: Tensor) -> Tensor:
        joint, pooled = unpack_pooled(embeddings, self.transformer.config.pooled_projection_dim)
        return self.transformer(x, joint, pooled, s * self.train_steps, return_dict=False)[0]
