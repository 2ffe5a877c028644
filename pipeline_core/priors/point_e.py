"""The networks of Point-E (Nichol et al., arXiv 2212.08751): base40M-textvec and upsample, key for key.

Both are plain transformers over a set of tokens: condition tokens first, then one token a point (no positions: a set
has no order). Names and shapes of the parameters are those of the published checkpoints. What a checkpoint's tensors
say (width, depth, condition) is read from the tensors; a head is 64 wide in every published size.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import cast

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline_core.errors import ModelNotFound
from pipeline_core.priors.noise import time_embedding

HEAD_WIDTH = 64
POINTS_BASE, POINTS_UPSAMPLED = 1024, 4096
GRID_TOKENS = 256
"""Tokens of the CLIP image grid (16 x 16) that the upsampler expects; text-to-3D leaves them zero."""


class Mlp(nn.Module):
    """Linear to four times the width, GELU, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.c_fc, self.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(F.gelu(self.c_fc(x)))


class Attention(nn.Module):
    """Multi-head self-attention of [B, L, D]; one projection holds q, k, v *head by head*: [heads, 3, 64]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.c_qkv, self.c_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.c_qkv(x).unflatten(-1, (self.heads, -1)).transpose(1, 2).chunk(3, dim=-1)
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class ResidualBlock(nn.Module):
    """x + attention(norm x), then x + mlp(norm x)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attn, self.ln_1 = Attention(width, heads), nn.LayerNorm(width)
        self.mlp, self.ln_2 = Mlp(width), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(self.ln_1(x))
        return x + self.mlp(self.ln_2(x))


class PointTransformer(nn.Module):
    """What the two networks share: tokens in, [B, 12, N] out (first 6 channels: noise; last 6: variance fraction)."""

    def __init__(self, width: int, layers: int, channels: int = 6) -> None:
        super().__init__()
        heads = max(1, width // HEAD_WIDTH)
        self.width = width
        self.time_embed = Mlp(width)
        self.ln_pre = nn.LayerNorm(width)
        blocks = nn.ModuleList(ResidualBlock(width, heads) for _ in range(layers))
        self.backbone = nn.ModuleDict({"resblocks": blocks})  # the checkpoints' name
        self.ln_post = nn.LayerNorm(width)
        self.input_proj, self.output_proj = nn.Linear(channels, width), nn.Linear(width, 2 * channels)

    def run(self, x: Tensor, condition: list[Tensor]) -> Tensor:
        """x [B, 6, N] after the tokens ``condition`` (each [B, L_i, D]) to [B, 12, N]."""
        h = torch.cat([*condition, self.input_proj(x.transpose(1, 2))], dim=1)
        h = self.ln_pre(h)
        for block in cast(nn.ModuleList, self.backbone["resblocks"]):
            h = block(h)
        h = self.output_proj(self.ln_post(h)[:, -x.shape[-1] :])
        return h.transpose(1, 2)

    def time_token(self, t: Tensor) -> Tensor:
        """[B, 1, D] token of the timesteps ``t`` [B] of 1024."""
        embedding = time_embedding(t, self.width).to(self.input_proj.weight.dtype)
        return self.time_embed(embedding)[:, None]


class PointEBase(PointTransformer):
    """base40M-textvec: 1024 points from one CLIP vector. Tokens: CLIP (1), time (1), points."""

    def __init__(self, width: int = 512, layers: int = 12, clip_width: int = 768) -> None:
        super().__init__(width, layers)
        self.clip_embed = nn.Linear(clip_width, width)

    def forward(self, x: Tensor, t: Tensor, clip: Tensor) -> Tensor:
        """x [B, 6, N], t [B], clip [B, 768] unit vectors (zeros = no condition) to [B, 12, N]."""
        clip = self.clip_embed(clip * math.sqrt(clip.shape[-1]))  # unit variance, as in training
        return self.run(x, [clip[:, None], self.time_token(t)])


class PointEUpsampler(PointTransformer):
    """upsample: 3072 more points given 1024. Tokens: time (1), CLIP grid (256, zeros here), coarse points, points."""

    channel_scales: Tensor
    channel_biases: Tensor

    def __init__(self, width: int = 512, layers: int = 12, clip_width: int = 1024) -> None:
        super().__init__(width, layers)
        self.clip_width = clip_width
        self.clip_embed = nn.Sequential(nn.LayerNorm(clip_width), nn.Linear(clip_width, width))
        self.cond_point_proj = nn.Linear(6, width)
        self.register_buffer("channel_scales", torch.tensor([2.0, 2.0, 2.0, *[0.007843137255] * 3]))
        self.register_buffer("channel_biases", torch.tensor([0.0, 0.0, 0.0, -1.0, -1.0, -1.0]))

    def forward(self, x: Tensor, t: Tensor, low_res: Tensor) -> Tensor:
        """x [B, 6, N], t [B], low_res [B, 6, 1024] *unscaled* (xyz about +-0.5, rgb 0 to 255) to [B, 12, N]."""
        scaled = low_res * self.channel_scales[:, None] + self.channel_biases[:, None]
        grid = x.new_zeros(len(x), GRID_TOKENS, self.clip_width)
        return self.run(x, [self.time_token(t), self.clip_embed(grid), self.cond_point_proj(scaled.transpose(1, 2))])


def load_network(path: Path) -> PointEBase | PointEUpsampler:
    """A network from ``path`` (.safetensors, or the published .pt read with ``weights_only=True``), every key used."""
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        width, _ = tensors["input_proj.weight"].shape
        layers = 1 + max(int(key.split(".")[2]) for key in tensors if key.startswith("backbone.resblocks."))
        upsampler = "cond_point_proj.weight" in tensors
        clip_width = tensors["clip_embed.1.weight" if upsampler else "clip_embed.weight"].shape[1]
        with torch.device("meta"):
            network = (PointEUpsampler if upsampler else PointEBase)(width, layers, clip_width)
        network.load_state_dict({k: v.float() for k, v in tensors.items()}, assign=True)
    except Exception as error:  # torch.load raises UnpicklingError, EOFError, RuntimeError ... for a damaged file
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelNotFound(
            f"{path}: not a Point-E base40M-textvec or upsample checkpoint ({first_line}); download it again"
        ) from error
    return network.requires_grad_(False).eval()
