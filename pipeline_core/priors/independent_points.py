"""The starter's point network: diffusion over single coloured points, tied together by a per-object latent.

Given the text and the latent z of one object, its points are independent draws from one density, so the denoiser is
an MLP on single points of C numbers (x y z r g b, then metallic and roughness where they are trained on) with the
timestep, text and z entering through FiLM (Perez et al. 2018): no attention, any number of points. z is a conditional
variational autoencoder's: a PointNet (Qi et al. 2017) encodes it from a clean cloud in training, and p(z | text),
learnt alongside, is sampled afterwards: a Gaussian seen through a flow, as in PointFlow (Yang et al. 2019), since
things of one caption come in kinds. The diffusion is Point-E's (cosine schedule, 1024 steps, noise prediction), so
Point-E's sampler drives it.

    model = IndependentPointDiffusion.from_pretrained(folder)
    cond = model.condition(input_ids, generators)                 # [B, D + Z]
    eps = model(x, t, cond)                                       # x [B, C, N]
"""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

TIMESTEPS = 1024
SCALE = (3.0, 3.0, 3.0, 2.0, 2.0, 2.0, 2.0, 2.0)
BIAS = (0.0, 0.0, 0.0, -1.0, -1.0, -1.0, -1.0, -1.0)
"""Model coordinates of x, y, z, r, g, b, metallic, roughness: see :class:`IndependentPointDiffusion`."""
CONTEXT = 256
"""Points of an object that the encoder sees in training, where a folder says nothing else."""
AT_ONCE = 8192
"""Points that go through the network together on a CPU: of more, features leave its caches. 24,576 take a fifth longer
at once, by 4096 a seventh (docs/LOG.md: More points)."""


def waves(points: Tensor, frequencies: int) -> Tensor:
    """``points`` [..., C] with their sines and cosines at ``frequencies`` octaves, [..., C (1 + 2 frequencies)]."""
    octaves = [2.0**k * points for k in range(frequencies)]
    return torch.cat([points, *(f(a) for a in octaves for f in (torch.sin, torch.cos))], dim=-1)


def time_waves(t: Tensor) -> Tensor:
    """[B] to [B, 64]: sines and cosines of t, which runs to about 1000."""
    half = torch.exp(-math.log(10_000) * torch.arange(32, device=t.device, dtype=torch.float32) / 32)
    angles = t.float()[:, None] * half
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def text_network(vocab_size: int, width: int, layers: int, tokens: int, bos: int, eos: int) -> CLIPTextModel:
    """The text encoder of a point network: ``layers`` of ``width`` over ``tokens`` places, filled up with ``eos``."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=layers,
            num_attention_heads=max(1, width // 32), max_position_embeddings=tokens, projection_dim=width,
            bos_token_id=bos, eos_token_id=eos, pad_token_id=eos,
        )
    )  # fmt: skip


class FiLMBlock(nn.Module):
    """Residual MLP block whose normalised hidden features are scaled and shifted by the condition."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.film = nn.Linear(width, 3 * width)
        self.inner = nn.Linear(width, width)
        self.outer = nn.Linear(width, width)
        nn.init.zeros_(self.film.weight)
        nn.init.zeros_(self.film.bias)

    def forward(self, h: Tensor, c: Tensor) -> Tensor:
        """h [B, N, W], c [B, W]."""
        scale, shift, gate = self.film(c)[:, None].chunk(3, dim=-1)
        return h + gate * self.outer(F.silu(self.inner(self.norm(h) * (1 + scale) + shift)))

    def add_to(self, h: Tensor, c: Tensor) -> None:
        """The same in place, without a graph, of one cloud: h [N, W], c [W]. The condition goes into the weights, which
        are few: three passes less over the points, which are what a CPU's time goes into."""
        scale, shift, gate = self.film(c).chunk(3)
        inside = F.linear(self.norm(h), self.inner.weight * (1 + scale), self.inner(shift))
        h += F.linear(F.silu(inside, inplace=True), gate[:, None] * self.outer.weight, gate * self.outer.bias)


class PointEncoder(nn.Module):
    """PointNet: clean points [B, N, C] and text [B, D] to mean and log-variance [B, Z] of q(z | points, text).

    Without ``frequencies`` a small network of plain coordinates is too smooth to tell where a spoke or a picket is.
    """

    def __init__(
        self, width: int, text_width: int, latent: int, frequencies: int = 0, channels: int = 6, hidden: int = 64
    ) -> None:
        super().__init__()
        self.frequencies = frequencies
        self.points = nn.Sequential(
            nn.Linear(channels * (1 + 2 * frequencies), hidden), nn.SiLU(), nn.Linear(hidden, 2 * hidden), nn.SiLU(),
            nn.Linear(2 * hidden, width),
        )  # fmt: skip
        self.head = nn.Sequential(nn.Linear(2 * width + text_width, width), nn.SiLU(), nn.Linear(width, 2 * latent))

    def forward(self, points: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance."""
        h = self.points(waves(points, self.frequencies))
        pooled = torch.cat([h.amax(dim=1), h.mean(dim=1), text], dim=-1)
        mean, log_variance = self.head(pooled).chunk(2, dim=-1)
        return mean, log_variance.clamp(-8, 4)


class LatentFlow(nn.Module):
    """Affine couplings (Dinh et al. 2017, RealNVP) of z [B, Z] given text [B, D]; the identity at first."""

    def __init__(self, latent: int, text_width: int, layers: int, width: int = 128) -> None:
        super().__init__()
        half = latent // 2
        self.couplings = nn.ModuleList(
            nn.Sequential(nn.Linear(half + text_width, width), nn.SiLU(), nn.Linear(width, 2 * half))
            for _ in range(layers)
        )
        for coupling in self.couplings:
            last = cast(Any, coupling)[-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, z: Tensor, text: Tensor) -> tuple[Tensor, Tensor]:
        """z to what is Gaussian, [B, Z], and the logarithm of the volume's change [B]."""
        volume = torch.zeros_like(z[:, 0])
        for coupling in self.couplings:
            kept, moved = z.chunk(2, dim=-1)
            shift, scale = coupling(torch.cat([kept, text], dim=-1)).chunk(2, dim=-1)
            z = torch.cat([moved * scale.tanh().exp() + shift, kept], dim=-1)  # the other half's turn next
            volume = volume + scale.tanh().sum(dim=-1)
        return z, volume

    def inverse(self, u: Tensor, text: Tensor) -> Tensor:
        """The z that :meth:`forward` takes to ``u``."""
        for coupling in reversed(self.couplings):
            moved, kept = u.chunk(2, dim=-1)
            shift, scale = coupling(torch.cat([kept, text], dim=-1)).chunk(2, dim=-1)
            u = torch.cat([kept, (moved - shift) * (-scale.tanh()).exp()], dim=-1)
        return u


class IndependentPointDiffusion(ModelMixin, ConfigMixin):
    """Text to coloured points, one point at a time.

    Model coordinates are ``x = scale * [xyz, rgb] + bias`` of object units and [0, 1] colours.

    Args:
        width, depth: of the per-point MLP
        latent: size of the per-object latent, even
        couplings: of the flow between a Gaussian and p(z | text); 0: that is the Gaussian
        frequencies: octaves of sin/cos features of the noisy point
        encoder_frequencies: the same, of the clean points that the encoder sees
        encoder_width: of its first layer; the second is twice as wide
        vocab_size, text_width, text_layers, tokens, bos_token_id, eos_token_id: the text encoder
        num_points: points per cloud it is meant for (it was trained on subsets; any number works)
        scale, bias: a number a channel
        channels: numbers of a point: 6, or 8 with metallic and roughness
        context: points of an object that the encoder saw in training
    """

    @register_to_config
    def __init__(
        self,
        vocab_size: int = 512,
        width: int = 192,
        depth: int = 5,
        latent: int = 16,
        couplings: int = 0,
        frequencies: int = 3,
        encoder_frequencies: int = 0,
        encoder_width: int = 64,
        text_width: int = 128,
        text_layers: int = 2,
        tokens: int = 24,
        bos_token_id: int = 0,
        eos_token_id: int = 1,
        num_points: int = 1024,
        num_train_timesteps: int = TIMESTEPS,
        beta_schedule: str = "squaredcos_cap_v2",
        prediction_type: str = "epsilon",
        scale: tuple[float, ...] = SCALE[:6],
        bias: tuple[float, ...] = BIAS[:6],
        channels: int = 6,
        context: int = CONTEXT,
    ) -> None:
        super().__init__()
        self.text_encoder = text_network(vocab_size, text_width, text_layers, tokens, bos_token_id, eos_token_id)
        self.prior = nn.Linear(text_width, 2 * latent)
        self.flow = LatentFlow(latent, text_width, couplings)
        self.encoder = PointEncoder(width, text_width, latent, encoder_frequencies, channels, encoder_width)
        self.embed_time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.embed_cond = nn.Linear(text_width + latent, width)
        self.mix = nn.Sequential(nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.embed_point = nn.Linear(channels * (1 + 2 * frequencies), width)
        self.blocks = nn.ModuleList(FiLMBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, channels)
        # At first z must say much, or the network learns not to listen and the posterior collapses onto the prior.
        nn.init.constant_(cast(Any, self.encoder.head[-1]).bias[latent:], -4.0)
        nn.init.zeros_(self.prior.weight)
        nn.init.zeros_(self.prior.bias)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def encode_text(self, input_ids: Tensor) -> Tensor:
        """Token ids [B, L], padded to ``tokens``, to [B, D]: the causal transformer's state at the last position."""
        return self.text_encoder(input_ids).last_hidden_state[:, -1]

    def is_empty(self, input_ids: Tensor) -> Tensor:
        """[B] bool: rows that hold the empty prompt, which stands for "unconditional"."""
        return input_ids[:, 1] == self.config.eos_token_id

    def _gaussian(self, text: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log-variance [B, Z] of what the flow makes p(z | text) of."""
        mean, log_variance = self.prior(text).chunk(2, dim=-1)
        return mean, log_variance.clamp(-8, 4)

    def log_prior(self, latent: Tensor, text: Tensor) -> Tensor:
        """log p(z | text) [B] of ``latent`` [B, Z], without the constant of the normal density."""
        mean, log_variance = self._gaussian(text)
        u, volume = self.flow(latent, text)
        return volume - 0.5 * (log_variance + (u - mean).square() / log_variance.exp()).sum(dim=-1)

    def condition(self, input_ids: Tensor, generators: list[torch.Generator] | None = None) -> Tensor:
        """Token ids [B, L] to conditions [B, D + Z], with z drawn from p(z | text), or its middle without generators.

        Rows of the empty prompt get z = 0, as in training.
        """
        text = self.encode_text(input_ids)
        u, log_variance = self._gaussian(text)
        if generators is not None:
            size = u.shape[1]
            draws = [torch.randn(size, generator=g, device=g.device).to(u) for g in generators]
            u = u + (0.5 * log_variance).exp() * torch.stack(draws)
        return self._join(input_ids, text, self.flow.inverse(u, text))

    def _join(self, input_ids: Tensor, text: Tensor, latent: Tensor) -> Tensor:
        """Conditions [B, D + Z]; z = 0 in rows of the empty prompt, as in training."""
        return torch.cat([text, torch.where(self.is_empty(input_ids)[:, None], 0.0, latent)], dim=-1)

    def recognise(self, input_ids: Tensor, x: Tensor) -> Tensor:
        """Token ids [B, L] and clean clouds ``x`` [B, C, N] in model coordinates to conditions [B, D + Z].

        Their z is the mean of q(z | cloud, text), or 0 for the empty prompt. The encoder's maximum over the points
        depends on how many there are, so it sees about ``context`` at a time, as in training; groups are averaged.
        """
        text = self.encode_text(input_ids)
        points = x.transpose(1, 2)
        groups = max(points.shape[1] // self.config.context, 1)
        split = [points[:, i::groups] for i in range(groups)]
        latent = torch.stack([self.encoder(part, text)[0] for part in split]).mean(dim=0)
        return self._join(input_ids, text, latent)

    def forward(self, x: Tensor, t: Tensor, cond: Tensor) -> Tensor:
        """Predicted noise [B, C, N] of noisy ``x`` [B, C, N] at timesteps ``t`` [B] given ``cond`` [B, D + Z]."""
        slim = x.device.type == "cpu" and not torch.is_grad_enabled()
        if slim and x.shape[2] > AT_ONCE:
            return torch.cat([self(some, t, cond) for some in x.split(AT_ONCE, dim=2)], dim=2)
        points = x.transpose(1, 2)
        time = self.embed_time(time_waves(t).to(x.dtype))
        c = self.mix(time + self.embed_cond(cond))
        h = self.embed_point(waves(points, self.config.frequencies))
        for block in cast(Any, self.blocks):
            if slim:
                for row, its in zip(h, c, strict=True):
                    block.add_to(row, its)
            else:
                h = block(h, c)
        return self.out(self.norm(h)).transpose(1, 2)
