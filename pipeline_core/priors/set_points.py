"""A point network beside the starter's: diffusion over single points that read a set of latents, drawn from text by a
flow. It trains and loads as that does (``train_points.py``); what ships is ``independent_points.py``.

One vector for an object cannot say where each of seven spokes is; a few dozen tokens can (3DShape2VecSet, Zhang et
al. 2023). Given the tokens of one object its points are independent draws from one density, so any number of them is
drawn at once: the denoiser is an MLP on single points that attends to the tokens in every other block. In training the
tokens come from an encoder, whose queries each look about a place of their own; afterwards from a rectified flow (Liu
et al. 2023), a small transformer over tokens and the text's words. The diffusion of points is Point-E's (cosine
schedule, 1024 steps, noise prediction), so Point-E's sampler drives it.

    model = SetPointDiffusion.from_pretrained(folder)
    cond = model.condition(input_ids, generators)                 # [B, 1 + M, W]
    eps = model(x, t, cond)                                       # x [B, C, N]
"""

from __future__ import annotations

import math
from typing import cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn

from pipeline_core.priors.independent_points import (
    BIAS,
    SCALE,
    TIMESTEPS,
    FiLMBlock,
    text_network,
    time_waves,
    waves,
)

HEAD = 64
"""Width of an attention head."""
CONTEXT = 512
"""Points of an object that the encoder sees in training."""
FLOW_STEPS = 24
"""Steps in which the tokens are drawn (Heun's method)."""


class Attention(nn.Module):
    """Multi-head attention of queries [B, N, W] to keys [B, M, W]."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // HEAD)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, queries: Tensor, keys: Tensor, bias: Tensor | None = None) -> Tensor:
        """[B, N, W]; ``bias`` [B, 1, N, M] is added to what the softmax is taken of."""
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for part in (self.query(queries), *self.key_value(keys).chunk(2, dim=-1))
        )
        # Queries or keys are few: written out it is faster than the fused kernels, on a CPU four times.
        weights = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        weights = (weights if bias is None else weights + bias).softmax(dim=-1)
        mixed = weights.to(v.dtype) @ v
        return self.out(mixed.transpose(1, 2).flatten(-2))


class TokenBlock(nn.Module):
    """A transformer's block; with a condition, normalised features are scaled, shifted and gated by it (DiT)."""

    def __init__(self, width: int, conditioned: bool = False) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(width, elementwise_affine=not conditioned) for _ in range(2))
        self.attention = Attention(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))
        self.film = nn.Linear(width, 6 * width) if conditioned else None
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)
            nn.init.xavier_uniform_(self.attention.out.weight)  # the gate is zero already
        else:
            last = cast(nn.Linear, self.mlp[2])
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, h: Tensor, c: Tensor | None = None) -> Tensor:
        """h [B, M, W], c [B, W]."""
        if self.film is None or c is None:
            n = self.norms[0](h)
            h = h + self.attention(n, n)
            return h + self.mlp(self.norms[1](h))
        scale, shift, gate, scale2, shift2, gate2 = self.film(c)[:, None].chunk(6, dim=-1)
        n = self.norms[0](h) * (1 + scale) + shift
        h = h + gate * self.attention(n, n)
        return h + gate2 * self.mlp(self.norms[1](h) * (1 + scale2) + shift2)


class ReadBlock(nn.Module):
    """Tokens look at what they are given, then at each other."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.read = Attention(width)
        self.block = TokenBlock(width)

    def forward(self, tokens: Tensor, features: Tensor, bias: Tensor | None = None) -> Tensor:
        """tokens [B, M, W], features [B, N, W]."""
        return self.block(tokens + self.read(self.norm(tokens), features, bias))


class SetEncoder(nn.Module):
    """Clean points [B, N, C] to mean and log-variance [B, M, Z] of q(tokens | points).

    Each token's query has a place: it looks at points about it first, and may move and widen where it looks.
    """

    def __init__(self, width: int, channels: int, tokens: int, latent: int, frequencies: int) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.points = nn.Sequential(
            nn.Linear(channels * (1 + 2 * frequencies), width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(),
            nn.Linear(width, width), nn.LayerNorm(width),
        )  # fmt: skip
        self.places = nn.Parameter(_spread(tokens))
        self.reach = nn.Parameter(torch.full((tokens,), math.log(0.5)))
        self.queries = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.blocks = nn.ModuleList(ReadBlock(width) for _ in range(2))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * latent))
        # At first tokens must say much, or the network learns not to listen and the posterior collapses.
        nn.init.constant_(cast(nn.Linear, self.head[1]).bias[latent:], -4.0)

    def forward(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance."""
        features = self.points(waves(points, self.frequencies))
        gaps = (self.places[:, None] - points[:, None, :, :3]).square().sum(dim=-1)
        near = (-gaps / (2 * self.reach.exp().square()[:, None]))[:, None]
        tokens = self.queries.expand(len(points), -1, -1)
        for block, bias in zip(self.blocks, (near, None), strict=True):
            tokens = block(tokens, features, bias)
        mean, log_variance = self.head(tokens).chunk(2, dim=-1)
        return mean, log_variance.clamp(-8, 4)


def _spread(count: int) -> Tensor:
    """Places [count, 3] spread over a ball that holds nearly all objects, in model coordinates."""
    i = torch.arange(count) + 0.5
    height, turn = 1 - 2 * i / count, math.pi * (1 + 5**0.5) * i
    shell = (1 - height.square()).sqrt()
    radius = 1.5 * (((torch.arange(count) * 7) % count + 0.5) / count) ** (1 / 3)
    return radius[:, None] * torch.stack([shell * turn.cos(), height, shell * turn.sin()], dim=-1)


class TokenFlow(nn.Module):
    """Velocity from tokens to noise, given the words of a text: a transformer over both (rectified flow)."""

    def __init__(self, width: int, depth: int, tokens: int, latent: int, text_width: int) -> None:
        super().__init__()
        self.tokens = tokens
        self.embed_token = nn.Linear(latent, width)
        self.embed_word = nn.Linear(text_width, width)
        self.embed_text = nn.Linear(text_width, width)
        self.embed_time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.which = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.mix = nn.SiLU()
        self.blocks = nn.ModuleList(TokenBlock(width, conditioned=True) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, latent)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor, t: Tensor, words: Tensor) -> Tensor:
        """Velocities [B, M, Z] of x [B, M, Z] at times t [B] in [0, 1], given the words' states [B, L, D]."""
        c = self.mix(self.embed_time(time_waves(1000 * t).to(x.dtype)) + self.embed_text(words[:, -1]))
        h = torch.cat([self.embed_token(x) + self.which, self.embed_word(words)], dim=1)
        for block in self.blocks:
            h = block(h, c)
        return self.out(self.norm(h[:, : self.tokens]))

    def draw(self, noise: Tensor, words: Tensor, empty: Tensor | None, guidance: float, steps: int) -> Tensor:
        """Tokens [B, M, Z] from ``noise``; ``empty`` are the words of the empty prompt, needed unless guidance is 1."""

        def velocity(x: Tensor, t: float) -> Tensor:
            at = torch.full((len(x),), t, device=x.device)
            told = self(x, at, words)
            if empty is None or guidance == 1:
                return told
            untold = self(x, at, empty)
            return untold + guidance * (told - untold)

        x = noise
        for i in range(steps):
            now, then = 1 - i / steps, 1 - (i + 1) / steps
            slope = velocity(x, now)
            ahead = x + (then - now) * slope
            if i + 1 < steps:
                slope = (slope + velocity(ahead, then)) / 2
            x = x + (then - now) * slope
        return x


class PointBlock(nn.Module):
    """A block of the denoiser: where it ``reads``, each point attends to the tokens before its MLP."""

    def __init__(self, width: int, reads: bool) -> None:
        super().__init__()
        self.read = Attention(width) if reads else None
        self.norm = nn.LayerNorm(width)
        self.film = FiLMBlock(width)

    def forward(self, h: Tensor, c: Tensor, tokens: Tensor) -> Tensor:
        """h [B, N, W], c [B, W], tokens [B, M, W]."""
        if self.read is not None:
            h = h + self.read(self.norm(h), tokens)
        return self.film(h, c)


class SetPointDiffusion(ModelMixin, ConfigMixin):
    """Text to coloured points with materials, one point at a time, by a set of tokens of the object.

    Model coordinates are ``x = scale * [xyz, rgb, metallic, roughness] + bias`` of object units and values in [0, 1].

    Args:
        channels: numbers of a point: 6, or 8 with metallic and roughness
        width, depth: of the denoiser of points, which reads the tokens in every other block
        set_size, latent: tokens of an object and numbers of each
        flow_width, flow_depth: of the transformer that draws the tokens
        guidance: how far tokens are drawn away from what they are without the text; 1 is not at all
        frequencies, encoder_frequencies: octaves of sin/cos features of noisy and of clean points
        vocab_size, text_width, text_layers, tokens, bos_token_id, eos_token_id: the text encoder
        num_points: points per cloud it is meant for (it was trained on subsets; any number works)
        scale, bias: a number a channel
    """

    @register_to_config
    def __init__(
        self,
        vocab_size: int = 512,
        channels: int = 8,
        width: int = 256,
        depth: int = 8,
        set_size: int = 32,
        latent: int = 8,
        flow_width: int = 256,
        flow_depth: int = 6,
        guidance: float = 1.0,
        frequencies: int = 6,
        encoder_frequencies: int = 5,
        text_width: int = 128,
        text_layers: int = 2,
        tokens: int = 24,
        bos_token_id: int = 0,
        eos_token_id: int = 1,
        num_points: int = 1024,
        num_train_timesteps: int = TIMESTEPS,
        beta_schedule: str = "squaredcos_cap_v2",
        prediction_type: str = "epsilon",
        scale: tuple[float, ...] = SCALE,
        bias: tuple[float, ...] = BIAS,
    ) -> None:
        super().__init__()
        self.text_encoder = text_network(vocab_size, text_width, text_layers, tokens, bos_token_id, eos_token_id)
        self.encoder = SetEncoder(width, channels, set_size, latent, encoder_frequencies)
        self.flow = TokenFlow(flow_width, flow_depth, set_size, latent, text_width)
        self.embed_latent = nn.Linear(latent, width)
        self.which = nn.Parameter(0.02 * torch.randn(set_size, width))
        self.unpack = nn.ModuleList(TokenBlock(width) for _ in range(2))
        self.pool = nn.LayerNorm(width)
        self.embed_text = nn.Linear(text_width, width)
        self.embed_time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.embed_point = nn.Linear(channels * (1 + 2 * frequencies), width)
        self.blocks = nn.ModuleList(PointBlock(width, reads=i % 2 == 0) for i in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, channels)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """Token ids [B, L], padded to ``tokens``, to states [B, L, D]; the last one has seen all words."""
        return self.text_encoder(input_ids).last_hidden_state

    def is_empty(self, input_ids: Tensor) -> Tensor:
        """[B] bool: rows that hold the empty prompt, which stands for "unconditional"."""
        return input_ids[:, 1] == self.config.eos_token_id

    def join(self, words: Tensor, latent: Tensor) -> Tensor:
        """Conditions [B, 1 + M, W] of the words' states [B, L, D] and tokens [B, M, Z]: the text's row, the tokens'."""
        tokens = self.embed_latent(latent) + self.which
        for block in self.unpack:
            tokens = block(tokens)
        tokens = self.pool(tokens)
        return torch.cat([self.embed_text(words[:, -1:]) + tokens.mean(dim=1, keepdim=True), tokens], dim=1)

    def condition(self, input_ids: Tensor, generators: list[torch.Generator] | None = None) -> Tensor:
        """Token ids [B, L] to conditions [B, 1 + M, W], with tokens drawn from p(tokens | text).

        Without generators they are what the flow makes of no noise, one thing of the text. Rows of the empty prompt get
        tokens of zero, as in training.
        """
        words = self.encode_text(input_ids)
        shape = (self.config.set_size, self.config.latent)
        noise = torch.zeros(len(input_ids), *shape, device=words.device)
        if generators is not None:
            noise = torch.stack([torch.randn(shape, generator=g, device=g.device).to(noise) for g in generators])
        empty = None
        if self.config.guidance != 1:
            ids = torch.full_like(input_ids, self.config.eos_token_id)
            ids[:, 0] = self.config.bos_token_id
            empty = self.encode_text(ids)
        latent = self.flow.draw(noise.to(words.dtype), words, empty, self.config.guidance, FLOW_STEPS)
        return self.join(words, torch.where(self.is_empty(input_ids)[:, None, None], 0.0, latent))

    def recognise(self, input_ids: Tensor, x: Tensor) -> Tensor:
        """Token ids [B, L] and clean clouds ``x`` [B, C, N] in model coordinates to conditions [B, 1 + M, W].

        Their tokens are the means of q(tokens | cloud), or 0 for the empty prompt. The encoder sees about
        :data:`CONTEXT` points at a time, as in training; groups are averaged.
        """
        points = x.transpose(1, 2)
        groups = max(points.shape[1] // CONTEXT, 1)
        latent = torch.stack([self.encoder(points[:, i::groups])[0] for i in range(groups)]).mean(dim=0)
        latent = torch.where(self.is_empty(input_ids)[:, None, None], 0.0, latent)
        return self.join(self.encode_text(input_ids), latent)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Predicted noise [B, C, N] of noisy ``x`` [B, C, N] at timesteps ``t`` [B] given ``cond`` [B, 1 + M, W]."""
        c = self.mix(self.embed_time(time_waves(t).to(x.dtype)) + cond[:, 0])
        h = self.embed_point(waves(x.transpose(1, 2), self.config.frequencies))
        tokens = cond[:, 1:]
        for block in self.blocks:
            h = block(h, c, tokens)
        return self.out(self.norm(h)).transpose(1, 2)
