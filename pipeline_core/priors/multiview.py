"""The four-view U-Net of MVDream (Shi et al., arXiv 2308.16512), under the state-dict names of its diffusers format.

Published folders (``ashawkey/mvdream-sd2.1-diffusers`` and mirrors) name a class ``MultiViewUNetModel`` that lives in
the folder's own Python. It is the Stable Diffusion 2.1 U-Net in the naming of latent-diffusion, with two changes:
self-attention runs over the tokens of all views of an object together, and an embedding of the 4 x 4 camera matrix
is added to the time embedding. This module is our own implementation, so no remote code is run. Linear layers take
the place of 1 x 1 convolutions in the attention blocks, as in SD 2.1.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.priors.noise import time_embedding
from pipeline_core.priors.resolve import weight_files

CAMERA_AZIMUTH_OF_FRONT = 90.0
"""Where MVDream's training data has the front of an object, in its own azimuth (ours: 0)."""


def mvdream_cameras(azimuth: Tensor, elevation: Tensor) -> Tensor:
    """MVDream's camera vectors [B, 16] for our ``azimuth``, ``elevation`` [B] in degrees; NaN = zeros.

    The vector is a camera-to-world matrix, row by row. Camera axes are OpenGL's (right, up, backward), world axes
    Blender's: (x, y, z) of a y-up world become (x, -z, y). The camera stands at distance 1 (``normalize_camera``).
    Both worlds count azimuth from +z towards +x, but objects face azimuth 90 there and 0 here.
    """
    az, el = torch.deg2rad(azimuth.float() + CAMERA_AZIMUTH_OF_FRONT), torch.deg2rad(elevation.float())
    zero = torch.zeros_like(az)
    right = torch.stack([az.cos(), zero, -az.sin()], dim=-1)
    up = torch.stack([-el.sin() * az.sin(), el.cos(), -el.sin() * az.cos()], dim=-1)
    back = torch.stack([el.cos() * az.sin(), el.sin(), el.cos() * az.cos()], dim=-1)  # also the position, at radius 1
    c2w = torch.zeros(len(az), 4, 4, device=az.device)
    c2w[:, :3] = torch.stack([right, up, back, back], dim=-1)
    c2w[:, 3, 3] = 1
    blender = torch.stack([c2w[:, 0], -c2w[:, 2], c2w[:, 1], c2w[:, 3]], dim=1)
    return torch.where(torch.isnan(az + el)[:, None], 0.0, blender.flatten(1))


class Block(nn.Sequential):
    """A sequence whose members take what they need of (features, embedding, text, views)."""

    def forward(self, x: Tensor, emb: Tensor, text: Tensor, views: int) -> Tensor:  # type: ignore[override]
        for layer in self:
            if isinstance(layer, ResidualBlock):
                x = layer(x, emb)
            elif isinstance(layer, ViewTransformer):
                x = layer(x, text, views)
            else:
                x = layer(x)
        return x


class ResidualBlock(nn.Module):
    """GroupNorm, SiLU, convolution; plus embedding; GroupNorm, SiLU, convolution; plus a (projected) skip."""

    def __init__(self, channels: int, emb_channels: int, out_channels: int) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, out_channels, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(emb_channels, out_channels))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(32, out_channels),
            nn.SiLU(),
            nn.Identity(),
            nn.Conv2d(out_channels, out_channels, 3, padding=1),
        )  # the identity stands where training had dropout: layer 3 must be called 3
        same = channels == out_channels
        self.skip_connection = nn.Identity() if same else nn.Conv2d(channels, out_channels, 1)

    def forward(self, x: Tensor, emb: Tensor) -> Tensor:
        h = self.in_layers(x) + self.emb_layers(emb)[..., None, None]
        return self.skip_connection(x) + self.out_layers(h)


class Attention(nn.Module):
    """Multi-head attention of ``x`` [B, L, D] to ``context`` [B, M, C] (itself by default)."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(width, width, bias=False)
        self.to_k = nn.Linear(context, width, bias=False)
        self.to_v = nn.Linear(context, width, bias=False)
        self.to_out = nn.Sequential(nn.Linear(width, width))

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        context = x if context is None else context
        q, k, v = (
            layer(value).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, value in ((self.to_q, x), (self.to_k, context), (self.to_v, context))
        )
        return self.to_out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class GatedUnit(nn.Module):
    """Linear to twice the width, one half gated by the GELU of the other."""

    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.proj = nn.Linear(width, inner * 2)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj(x).chunk(2, dim=-1)
        return value * F.gelu(gate)


class FeedForward(nn.Module):
    """GatedUnit to four times the width, and back."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(GatedUnit(width, 4 * width), nn.Identity(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


class TransformerBlock(nn.Module):
    """Self-attention over all views' tokens, attention to the text, feed-forward; each with a norm and a skip."""

    def __init__(self, width: int, context: int, heads: int) -> None:
        super().__init__()
        self.attn1, self.attn2 = Attention(width, width, heads), Attention(width, context, heads)
        self.ff = FeedForward(width)
        self.norm1, self.norm2, self.norm3 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, text: Tensor, views: int) -> Tensor:
        rows, tokens, width = x.shape
        joint = x.reshape(rows // views, views * tokens, width)  # [B, V L, D]: this is what makes views consistent
        x = (joint + self.attn1(self.norm1(joint))).reshape(rows, tokens, width)
        x = x + self.attn2(self.norm2(x), text)
        return x + self.ff(self.norm3(x))


class ViewTransformer(nn.Module):
    """TransformerBlocks on the pixels of a feature map [B, C, h, w], with a skip around everything."""

    def __init__(self, channels: int, context: int, heads: int, depth: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, channels, eps=1e-6)
        self.proj_in = nn.Linear(channels, channels)
        self.transformer_blocks = nn.ModuleList(TransformerBlock(channels, context, heads) for _ in range(depth))
        self.proj_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, text: Tensor, views: int) -> Tensor:
        h = self.proj_in(self.norm(x).flatten(2).transpose(1, 2))
        for block in self.transformer_blocks:
            h = block(h, text, views)
        return x + self.proj_out(h).transpose(1, 2).reshape(x.shape)


class Downsample(nn.Module):
    """Half the resolution by a strided convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(channels, channels, 3, stride=2, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.op(x)


class Upsample(nn.Module):
    """Twice the resolution: nearest neighbour, then a convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class MultiViewUNet(nn.Module):
    """See the module's docstring. ``config`` is the folder's ``config.json``; what only training needs is ignored."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = SimpleNamespace(**config)
        width, context = config["model_channels"], config["context_dim"]
        context = context[0] if isinstance(context, list) else context
        levels, depth = list(config["channel_mult"]), config.get("transformer_depth", 1)
        repeats = config["num_res_blocks"]
        repeats = [repeats] * len(levels) if isinstance(repeats, int) else list(repeats)
        emb = 4 * width

        def heads(channels: int) -> int:
            size = config.get("num_head_channels", -1)
            return channels // size if size != -1 else config["num_heads"]

        def stage(channels: int, out: int, level: int) -> list[nn.Module]:
            layers: list[nn.Module] = [ResidualBlock(channels, emb, out)]
            if 2**level in config["attention_resolutions"]:
                layers.append(ViewTransformer(out, context, heads(out), depth))
            return layers

        self.time_embed = nn.Sequential(nn.Linear(width, emb), nn.SiLU(), nn.Linear(emb, emb))
        self.camera_embed = nn.Sequential(nn.Linear(config["camera_dim"], emb), nn.SiLU(), nn.Linear(emb, emb))
        self.input_blocks = nn.ModuleList([Block(nn.Conv2d(config["in_channels"], width, 3, padding=1))])
        channels, skips = width, [width]
        for level, multiplier in enumerate(levels):
            for _ in range(repeats[level]):
                self.input_blocks.append(Block(*stage(channels, multiplier * width, level)))
                channels = multiplier * width
                skips.append(channels)
            if level < len(levels) - 1:
                self.input_blocks.append(Block(Downsample(channels)))
                skips.append(channels)
        self.middle_block = Block(
            ResidualBlock(channels, emb, channels),
            ViewTransformer(channels, context, heads(channels), depth),
            ResidualBlock(channels, emb, channels),
        )
        self.output_blocks = nn.ModuleList()
        for level in reversed(range(len(levels))):
            for i in range(repeats[level] + 1):
                layers = stage(channels + skips.pop(), levels[level] * width, level)
                channels = levels[level] * width
                if level and i == repeats[level]:
                    layers.append(Upsample(channels))
                self.output_blocks.append(Block(*layers))
        self.out = nn.Sequential(
            nn.GroupNorm(32, channels), nn.SiLU(), nn.Conv2d(channels, config["out_channels"], 3, padding=1)
        )

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.out.parameters()).dtype

    def forward(self, x: Tensor, t: Tensor, text: Tensor, cameras: Tensor, *, num_frames: int = 4) -> Tensor:
        """Predicted noise [B, C, h, w] for ``x`` [B, C, h, w], ``t`` [B], ``text`` [B, L, D], ``cameras`` [B, 16].

        Rows are (object, view): each run of ``num_frames`` rows is one object.
        """
        emb = self.time_embed(time_embedding(t, self.config.model_channels).to(x.dtype)) + self.camera_embed(cameras)
        skips = []
        for block in self.input_blocks:
            x = block(x, emb, text, num_frames)
            skips.append(x)
        x = self.middle_block(x, emb, text, num_frames)
        for block in self.output_blocks:
            x = block(torch.cat([x, skips.pop()], dim=1), emb, text, num_frames)
        return self.out(x)

    @classmethod
    def from_folder(cls, folder: Path, dtype: torch.dtype) -> MultiViewUNet:
        """Load ``config.json`` and safetensors, every key accounted for."""
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        unsupported = {
            "ip_dim": (0, None),
            "use_scale_shift_norm": (False, None),
            "resblock_updown": (False, None),
            "num_classes": (None,),
        }
        for name, allowed in unsupported.items():
            if config.get(name) not in allowed:
                raise RequestError(
                    f"{folder}: {name}={config[name]!r} is not supported; ImageDream and other "
                    "variants of MVDream cannot guide from text"
                )
        try:
            with torch.device("meta"):
                model = cls(config)
            tensors = {
                k: v for path in weight_files(folder, "diffusion_pytorch_model") for k, v in load_file(path).items()
            }
            model.load_state_dict({k: v.to(dtype) for k, v in tensors.items()}, assign=True)
        except KeyError as error:
            raise ModelNotFound(f"{folder}: config.json has no {error}, which a MultiViewUNetModel needs") from error
        except RuntimeError as error:
            raise ModelNotFound(f"{folder}: config.json and weights do not belong together: {error}") from error
        return model
