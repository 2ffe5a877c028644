"""A frozen diffusers network on a GPU: the same function, in channels_last throughout, with fewer passes over memory.

    network = speed_up(network)        # in place; same answers up to rounding

Exchanged are residual blocks, whose norm, SiLU and first bias go through :mod:`fused_norm`; every other group norm; the
way from images to tokens and back, which diffusers copies; attention with one wide head (the autoencoder's middle),
which no fused kernel of torch takes: plain matrix products are five times as fast as the fallback; and other attention,
whose projections of one input become one, and which asks for cuDNN's kernel first. Anything of another make stays as it
is.

Guidance asks for the same latents with several texts. A U-Net that :func:`shares_start` takes such rows as B latents
and times, and k B texts, run after run: up to the first cross-attention there is nothing to tell the runs apart.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from diffusers.models.unets.unet_2d_blocks import CrossAttnDownBlock2D
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

if find_spec("triton"):  # torch's CUDA builds bring it, but for Windows
    from pipeline_core.priors.fused_norm import norm_silu_beside
else:
    from pipeline_core.priors.plain_norm import norm_silu_beside

WIDEST_HEAD = 256
"""Widest head that torch's fused attention takes."""
FASTEST_FIRST = [
    SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH,
]  # fmt: skip
"""Torch's attentions in the order of their speed on Hopper (docs/LOG.md)."""


def speed_up(network: nn.Module) -> nn.Module:
    """Exchange what is known to be slow in ``network``, which must be frozen, and put it in channels_last."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, ResnetBlock2D) and _is_plain(child):
                setattr(parent, name, ResidualBlock(child))
            elif isinstance(child, Transformer2DModel) and child.is_input_continuous:
                setattr(parent, name, Tokens(child))
    for parent in list(network.modules()):
        last = getattr(parent, "conv_norm_out", None)
        if isinstance(last, nn.GroupNorm) and isinstance(parent.conv_act, nn.SiLU):
            parent.conv_norm_out, parent.conv_act = Norm(last, silu=True), nn.Identity()
        if isinstance(parent, Attention):
            if _is_plain_attention(parent):
                parent.set_processor(Heads(parent))
            if not _is_one_wide_head(parent):
                continue  # its own processor hands its norm tokens, not images
            parent.set_processor(OneHead())
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GroupNorm):
                setattr(parent, name, Norm(child))
    if shares_start(network):
        up_blocks: Any = network.up_blocks
        up_blocks[-1].register_forward_pre_hook(_with_whole_skips, with_kwargs=True)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def shares_start(network: nn.Module) -> bool:
    """Whether ``network``, sped up, takes fewer latents and times than texts: that is, all of it is known here, and the
    times are all that enters before the first cross-attention."""
    if not isinstance(network, UNet2DConditionModel) or not isinstance(network.down_blocks[0], CrossAttnDownBlock2D):
        return False
    odd = any(isinstance(module, ResnetBlock2D) for module in network.modules())
    entering = (network.class_embedding, network.time_embed_act, network.encoder_hid_proj)
    added, first = network.config.addition_embed_type, network.down_blocks[0].attentions[0]
    return not odd and added is None and not any(entering) and isinstance(first, Tokens) and first.shares_start


def _with_whole_skips(block: nn.Module, args: tuple[()], named: dict[str, Any]) -> tuple[tuple[()], dict[str, Any]]:
    """The last up block's input: what came from before the first cross-attention is repeated for each run."""
    rows = len(named["hidden_states"])
    skips = tuple(_repeated(each, rows) for each in named["res_hidden_states_tuple"])
    return args, named | {"res_hidden_states_tuple": skips}


def _repeated(x: Tensor, rows: int) -> Tensor:
    """``x`` again and again until it has so many ``rows``, in its own layout."""
    return x if len(x) == rows else torch.cat([x] * (rows // len(x)))


def _is_plain(block: ResnetBlock2D) -> bool:
    """Norm, SiLU, convolution, twice, with at most a shift by the time between: all of Stable Diffusion's."""
    return (
        block.time_embedding_norm in ("default", "group")  # the latter where there is no time: the decoder
        and isinstance(block.nonlinearity, nn.SiLU)
        and block.upsample is None
        and block.downsample is None
        and block.output_scale_factor == 1.0
        and not block.skip_time_act
    )


def _is_one_wide_head(attention: Attention) -> bool:
    return (
        attention.heads == 1
        and attention.to_q.out_features > WIDEST_HEAD
        and isinstance(attention.processor, AttnProcessor2_0)
        and attention.residual_connection
        and attention.rescale_output_factor == 1.0
        and attention.spatial_norm is None
        and attention.group_norm is not None
    )


def _is_plain_attention(attention: Attention) -> bool:
    """Of tokens, with nothing but its projections around it: all of Stable Diffusion's U-Nets."""
    norms = (attention.spatial_norm, attention.group_norm, attention.norm_q, attention.norm_k, attention.norm_cross)
    return (
        isinstance(attention.processor, AttnProcessor2_0)
        and not any(norms)
        and not attention.residual_connection
        and attention.rescale_output_factor == 1.0
    )


class Norm(nn.Module):
    """A group norm of channels_last tensors, with SiLU behind it or not."""

    def __init__(self, norm: nn.GroupNorm, *, silu: bool = False) -> None:
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.groups, self.eps, self.silu = norm.num_groups, norm.eps, silu
        self.nothing: Tensor
        self.register_buffer("nothing", torch.zeros_like(norm.weight)[None], persistent=False)

    def forward(self, x: Tensor, shift: Tensor | None = None) -> Tensor:
        """Of x + ``shift`` [B or 1, C], x [B, C, H, W]."""
        return self.beside(x, shift)[0]

    def beside(self, x: Tensor, shift: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The same, and ``x`` for a branch around it."""
        shift = self.nothing if shift is None else shift
        return norm_silu_beside(x, shift, self.weight, self.bias, self.groups, self.eps, self.silu)


class ResidualBlock(nn.Module):
    """diffusers' ``ResnetBlock2D``. The first convolution's bias and the time's shift go into the second norm."""

    def __init__(self, block: ResnetBlock2D) -> None:
        super().__init__()
        self.norm1, self.norm2 = Norm(block.norm1, silu=True), Norm(block.norm2, silu=True)
        self.conv1, self.conv2, self.conv_shortcut = block.conv1, block.conv2, block.conv_shortcut
        self.time_emb_proj = block.time_emb_proj

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        shift = self.conv1.bias[None]
        if self.time_emb_proj is not None and temb is not None:
            shift = _repeated(shift + self.time_emb_proj(F.silu(temb)), len(x))
        normed, x = self.norm1.beside(x)
        hidden = F.conv2d(normed, self.conv1.weight, padding=1)
        hidden = self.conv2(self.norm2(hidden, shift))
        return hidden + (x if self.conv_shortcut is None else self.conv_shortcut(x))


class Tokens(nn.Module):
    """diffusers' ``Transformer2DModel`` of images: in channels_last a picture is its tokens, and nothing is copied."""

    def __init__(self, model: Transformer2DModel) -> None:
        super().__init__()
        self.norm, self.proj_in, self.proj_out = model.norm, model.proj_in, model.proj_out
        self.transformer_blocks, self.linear = model.transformer_blocks, model.use_linear_projection
        self.shares_start = _is_plain_transformer(model.transformer_blocks[0])

    def forward(
        self, x: Tensor, encoder_hidden_states: Tensor, cross_attention_kwargs: None = None,
        attention_mask: None = None, encoder_attention_mask: None = None, return_dict: bool = False,
    ) -> tuple[Tensor]:  # fmt: skip
        height, width = x.shape[2:]
        hidden = self.norm(x)
        if not self.linear:
            hidden = self.proj_in(hidden)
        tokens = hidden.permute(0, 2, 3, 1).flatten(1, 2)
        if self.linear:
            tokens = self.proj_in(tokens)
        blocks = list(self.transformer_blocks)
        if len(encoder_hidden_states) > len(tokens):
            tokens = _begun(blocks.pop(0), tokens, encoder_hidden_states)
            x = _repeated(x, len(tokens))
        for block in blocks:
            tokens = block(tokens, encoder_hidden_states=encoder_hidden_states)
        if self.linear:
            tokens = self.proj_out(tokens)
        hidden = tokens.unflatten(1, (height, width)).permute(0, 3, 1, 2)
        return (x + (hidden if self.linear else self.proj_out(hidden)),)


def _is_plain_transformer(block: nn.Module) -> bool:
    """Attention to itself, to the words, and a layer for each token, each behind a norm."""
    return (
        isinstance(block, BasicTransformerBlock)
        and block.norm_type == "layer_norm"
        and block.pos_embed is None
        and not block.only_cross_attention
        and block.attn2 is not None
        and block.attn2.is_cross_attention
    )


def _begun(block: Any, tokens: Tensor, words: Tensor) -> Tensor:
    """What ``block`` (:func:`_is_plain_transformer`) answers to ``tokens`` of one run and ``words`` of several."""
    tokens = _repeated(block.attn1(block.norm1(tokens)) + tokens, len(words))
    tokens = block.attn2(block.norm2(tokens), encoder_hidden_states=words) + tokens
    answer: Tensor = block.ff(block.norm3(tokens)) + tokens
    return answer


class OneHead:
    """Self-attention of one head by plain matrix products, softmax between; a processor of diffusers' ``Attention``."""

    def __call__(
        self, attention: Attention, x: Tensor, encoder_hidden_states: None = None, attention_mask: None = None,
        temb: None = None,
    ) -> Tensor:  # fmt: skip
        batch, channels, height, width = x.shape
        tokens = attention.group_norm(x).permute(0, 2, 3, 1).reshape(batch, height * width, channels)
        q, k, v = attention.to_q(tokens), attention.to_k(tokens), attention.to_v(tokens)
        weights = ((q * channels**-0.5) @ k.transpose(1, 2)).softmax(dim=-1)
        answer = attention.to_out[0](weights @ v).reshape(batch, height, width, channels).permute(0, 3, 1, 2)
        return x + answer


class Heads:
    """Attention by torch's fused kernels; a processor of diffusers' ``Attention``, whose projections it makes one of.

    Queries, keys and values of self-attention are one product, keys and values of cross-attention.
    """

    def __init__(self, attention: Attention) -> None:
        several = ("to_k", "to_v") if attention.is_cross_attention else ("to_q", "to_k", "to_v")
        attention.to_several = _stacked([getattr(attention, name) for name in several])
        for name in several:
            delattr(attention, name)

    def __call__(
        self, attention: Attention, x: Tensor, encoder_hidden_states: Tensor | None = None,
        attention_mask: None = None, temb: None = None,
    ) -> Tensor:  # fmt: skip
        if encoder_hidden_states is None:
            q, k, v = attention.to_several(x).chunk(3, dim=-1)
        else:
            q, (k, v) = attention.to_q(x), attention.to_several(encoder_hidden_states).chunk(2, dim=-1)
        q, k, v = (each.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for each in (q, k, v))
        with sdpa_kernel(FASTEST_FIRST, set_priority=True):
            answer = F.scaled_dot_product_attention(q, k, v)
        return attention.to_out[0](answer.transpose(1, 2).flatten(2))


def _stacked(linears: list[nn.Linear]) -> nn.Linear:
    """One layer whose outputs are those of all, one after another."""
    bias = linears[0].bias is not None
    stacked = nn.Linear(
        linears[0].in_features, sum(each.out_features for each in linears), bias=bias, device="meta"  # draws nothing
    )  # fmt: skip
    for name in ("weight", "bias") if bias else ("weight",):
        together = torch.cat([getattr(each, name).detach() for each in linears])
        setattr(stacked, name, nn.Parameter(together, requires_grad=False))
    return stacked
