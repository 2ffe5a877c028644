"""Qwen3 as a text encoder: a prompt is what a user says to it, and its hidden states condition a transformer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline_core.priors.image import load_text_encoder
from pipeline_core.priors.text import tokenize

TOKENS = 512
"""Tokens that it reads, those of the chat's frame included."""
NETWORKS = ("Qwen3ForCausalLM", "Qwen3Model")
"""What ``architectures`` of its configuration may say; the head that predicts words is not used."""


class QwenEncoder:
    """Hidden states [512, D] of a prompt, and in place of a pooled vector its mask [512]: 1 = a token, 0 = padding.

    Args:
        layers: whose hidden states are put side by side
        thinking: whether the chat leaves the assistant's thoughts open (Z-Image) or closes them (FLUX.2)
    """

    length = TOKENS

    def __init__(self, tokenizer: Any, model: Any, *, layers: Sequence[int], thinking: bool) -> None:
        self.tokenizer, self.model, self.layers, self.thinking = tokenizer, model.base_model, layers, thinking

    @classmethod
    def load(
        cls, folder: Path, device: torch.device | str, dtype: torch.dtype, *, layers: Sequence[int], thinking: bool
    ) -> QwenEncoder:
        """Out of ``text_encoder/`` and ``tokenizer/``."""
        tokenizer, model = load_text_encoder(folder, "", device, dtype, NETWORKS)
        return cls(tokenizer, model, layers=layers, thinking=thinking)

    @torch.no_grad()
    def __call__(self, prompt: str) -> tuple[Tensor, Tensor]:
        tokens = tokenize(self.tokenizer, [prompt], TOKENS, frame=self._chat).to(self.model.device)
        states = self.model(**tokens, output_hidden_states=True, use_cache=False).hidden_states
        return torch.cat([states[k][0] for k in self.layers], dim=-1).float(), tokens.attention_mask[0].float()

    def _chat(self, prompt: str) -> str:
        said: str = self.tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=self.thinking,
        )
        return said
