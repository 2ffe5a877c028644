"""Z-Image: one stream of image and prompt tokens, time that runs from noise to picture, and Qwen3's last layer but one.

diffusers' network takes lists, because prompts differ in length, and so its shapes follow from what is said. Here the
same modules are called on prompts of one length, the tokens beyond a prompt's own hidden from attention: the answer is
the same, and a GPU need not wait to learn how long prompts are.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline_core.errors import RequestError
from pipeline_core.priors.flow import FlowPrior
from pipeline_core.priors.latents import pack_pooled, unpack_pooled, vae_factor
from pipeline_core.priors.qwen import TOKENS, QwenEncoder
from pipeline_core.priors.text import Encoder

MULTIPLE = 32
"""Both streams are filled up to a multiple of it with tokens that attention sees."""


class ZImagePrior(FlowPrior):
    """A row's last token(s) are its mask: 1 = a token, 0 = beyond the prompt."""

    network = "ZImageTransformer2DModel"
    vae_half = torch.bfloat16
    patch = 2

    @classmethod
    def load_encoders(cls, folder: Path, device: torch.device | str, dtype: torch.dtype) -> list[Encoder]:
        return [QwenEncoder.load(folder, device, dtype, layers=(-2,), thinking=True)]

    def check(self, folder: Path) -> None:
        config, qwen = self.transformer.config, self.encoders[0].model.config
        if (2, 1) not in zip(config.all_patch_size, config.all_f_patch_size, strict=True):
            raise RequestError(f"{folder / 'transformer'}: all_patch_size {config.all_patch_size} does not have 2")
        self.must_fit(folder / "text_encoder", "a hidden_size", qwen.hidden_size, config.cap_feat_dim)

    def native_size(self) -> int:
        return int(self.vae.config.sample_size)

    def largest_size(self) -> float:
        return float(min(self.transformer.config.axes_lens[1:]) * self.patch * vae_factor(self.vae))

    def _encode_prompt(self, prompt: str) -> Tensor:
        hidden, mask = self.encoders[0](prompt)
        assert mask is not None
        own = hidden[mask > 0]
        return pack_pooled(F.pad(own, (0, 0, 0, TOKENS - len(own))), mask.sort(descending=True).values)

    def velocity(self, x: Tensor, s: Tensor, embeddings: Tensor) -> Tensor:
        """The network's answer is x_0 - noise, and its time 1 - s."""
        network = self.transformer
        time = network.t_embedder((1 - s) * network.t_scale).type_as(x)
        hidden, mask = unpack_pooled(embeddings, TOKENS)
        own = (mask > 0).sum(1, keepdim=True).clamp(min=1)  # [B, 1] tokens of each prompt
        seen = -(-own // MULTIPLE) * MULTIPLE  # and those that fill up
        place = torch.arange(TOKENS, device=x.device)
        words = torch.where((place < own)[..., None], network.cap_embedder(hidden), network.cap_pad_token)
        words_seen, words_turn = place < seen, self._turn((place + 1).expand(len(x), -1))
        for layer in network.context_refiner:
            words = layer(words, words_seen, words_turn)

        side = x.shape[-1] // self.patch
        count, fill = side**2, -(side**2) % MULTIPLE
        patches = F.pixel_unshuffle(x, 2).unflatten(1, (-1, 4)).permute(0, 3, 4, 2, 1).flatten(3).flatten(1, 2)
        image = network.all_x_embedder["2-1"](patches)  # a patch is its four pixels, one after another
        image = torch.cat([image, network.x_pad_token.expand(len(x), fill, -1)], dim=1)
        pixel = torch.arange(count, device=x.device)
        axes = ((seen + 1).expand(-1, count), (pixel // side).expand(len(x), -1), (pixel % side).expand(len(x), -1))
        image_turn = self._turn(*(F.pad(axis, (0, fill)) for axis in axes))
        for layer in network.noise_refiner:
            image = layer(image, None, image_turn, time)

        both, turn = torch.cat([image, words], dim=1), torch.cat([image_turn, words_turn], dim=1)
        visible = torch.cat([words_seen.new_ones(len(x), image.shape[1]), words_seen], dim=1)
        for layer in network.layers:
            both = layer(both, visible, turn, time)
        answer = network.all_final_layer["2-1"](both, c=time)[:, :count]
        answer = answer.unflatten(1, (side, side)).unflatten(3, (4, -1)).permute(0, 4, 3, 1, 2).flatten(1, 2)
        return -F.pixel_shuffle(answer, 2)

    def _turn(self, first: Tensor, *others: Tensor) -> Tensor:
        """Rotations [B, S, ...] of tokens at the places (``first``, ``others``), each [B, S]; no others: zeros."""
        places = torch.stack([first, *(others or [torch.zeros_like(first)] * 2)], dim=-1)
        return self.transformer.rope_embedder(places.flatten(0, 1)).unflatten(0, first.shape)
