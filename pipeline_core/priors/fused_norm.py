"""Group norm, and SiLU behind it, in one pass over channels_last tensors; for frozen networks on a GPU.

torch's group norm knows no channels_last: it copies the tensor there and back, which costs more than the convolutions
gain by the layout. Three Triton kernels do the same here: sums over pixels, their combination, and the
answer. :func:`norm_silu_reference` is the readable twin that they are tested against, in Triton's interpreter too.

The network is frozen, so the backward gives the gradient of ``x`` alone.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.nn import functional as F

CHUNKS = 256
"""Most parts that the pixels of one sample are summed in: enough programs to fill a GPU with a single image."""
LEAST_PIXELS = 64
"""Fewest pixels of a part, so that the sums are small beside what is summed."""
ROWS = 32
"""Pixels that a program holds at once."""
WARPS = 4
"""Warps of a program."""


def norm_silu_reference(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool = True
) -> Tensor:
    """``silu(group_norm(x + shift))``: x [B, C, H, W], ``shift`` [B, C] or [1, C], ``weight`` and ``bias`` [C]."""
    normed = F.group_norm(x + shift[:, :, None, None], groups, weight, bias, eps)
    return F.silu(normed) if silu else normed


def norm_silu(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool = True
) -> Tensor:
    """The same by the kernels; the answer is channels_last. Sums are float32, whatever the precision of ``x``."""
    return norm_silu_beside(x, shift, weight, bias, groups, eps, silu)[0]


def norm_silu_beside(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool = True
) -> tuple[Tensor, Tensor]:
    """The same, and ``x`` for a branch around it: gradients of both are added in one pass, which autograd takes apart."""
    return _NormSilu.apply(x, shift.expand(len(x), -1).contiguous(), weight, bias, groups, eps, silu)


class _NormSilu(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        beside = x.view_as(x)
        x = x.contiguous(memory_format=torch.channels_last)
        tiling = _Tiling(x, groups)
        moments = tiling.combine(tiling.sums(_moments, x, shift), eps)
        y = torch.empty_like(x)
        _normalise[tiling.tiles](
            x, shift, weight, bias, moments, y, tiling.pixels, tiling.channels, groups, SILU=silu,
            ROWS=ROWS, BLOCK=tiling.block, num_warps=WARPS,
        )  # fmt: skip
        ctx.save_for_backward(x, shift, weight, bias, moments)
        ctx.groups, ctx.silu = groups, silu
        return y, beside

    @staticmethod
    def backward(ctx: Any, gradient: Tensor | None, beside: Tensor | None) -> tuple[Tensor | None, ...]:
        if gradient is None:
            return beside, None, None, None, None, None, None
        x, shift, weight, bias, moments = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        more = gradient if beside is None else beside.contiguous(memory_format=torch.channels_last)
        tiling = _Tiling(x, ctx.groups)
        inputs = (x, gradient, shift, weight, bias, moments)
        means = tiling.combine(tiling.sums(_gradient_sums, *inputs, SILU=ctx.silu), None)
        dx = torch.empty_like(x)
        _gradient[tiling.tiles](
            *inputs, means, more, dx, tiling.pixels, tiling.channels, ctx.groups, SILU=ctx.silu,
            BESIDE=beside is not None, ROWS=ROWS, BLOCK=tiling.block, num_warps=WARPS,
        )  # fmt: skip
        return dx, None, None, None, None, None, None


class _Tiling:
    """How ``x`` [B, C, H, W] is cut into programs."""

    def __init__(self, x: Tensor, groups: int) -> None:
        self.samples, self.channels = x.shape[:2]
        self.pixels, self.groups, self.device = x.shape[2] * x.shape[3], groups, x.device
        self.block = 128 if self.channels % 128 == 0 else 64
        self.blocks = triton.cdiv(self.channels, self.block)
        self.part = max(triton.cdiv(self.pixels, CHUNKS), LEAST_PIXELS)
        self.parts = triton.cdiv(self.pixels, self.part)

    @property
    def tiles(self) -> tuple[int, int, int]:
        """Programs that hold ``ROWS`` pixels each."""
        return triton.cdiv(self.pixels, ROWS), self.blocks, self.samples

    def sums(self, kernel: Any, *inputs: Tensor, **constants: bool) -> Tensor:
        """Two sums [B, parts, 2, C] float32 over the pixels of each part."""
        out = torch.empty(self.samples, self.parts, 2, self.channels, device=self.device)
        grid = (self.parts, self.blocks, self.samples)
        kernel[grid](
            *inputs, out, self.pixels, self.channels, self.groups, PART=self.part, ROWS=ROWS, BLOCK=self.block,
            num_warps=WARPS, **constants,
        )  # fmt: skip
        return out

    def combine(self, sums: Tensor, eps: float | None) -> Tensor:
        """Of each group [B, 2, G]: mean and 1 / sqrt(variance + eps); with ``eps`` None the two means."""
        out = torch.empty(self.samples, 2, self.groups, device=self.device)
        width = self.channels // self.groups
        _combine[(self.groups, self.samples)](
            sums, out, self.pixels, self.part, self.parts, self.channels, self.groups, 0.0 if eps is None else eps,
            MOMENTS=eps is not None, PARTS=triton.next_power_of_2(self.parts), WIDTH=triton.next_power_of_2(width),
        )  # fmt: skip
        return out


@triton.jit
def _place(sample, part, block, channels, groups, BLOCK: tl.constexpr):
    """Channels of a program, which of them exist, and the group of each."""
    channel = block * BLOCK + tl.arange(0, BLOCK)
    there = channel < channels
    return channel, there, channel // (channels // groups)


@triton.jit
def _moments(
    x, shift, out, pixels, channels, groups, PART: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Sums of x + shift and of its square over a part's pixels."""
    part, block, sample = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    channel, there, _ = _place(sample, part, block, channels, groups, BLOCK)
    added = tl.load(shift + sample * channels + channel, there, 0.0).to(tl.float32)
    first = tl.zeros([ROWS, BLOCK], tl.float32)
    second = tl.zeros([ROWS, BLOCK], tl.float32)
    end = tl.minimum(part * PART + PART, pixels)
    for start in range(0, PART, ROWS):
        pixel = part * PART + start + tl.arange(0, ROWS)
        mask = (pixel < end)[:, None] & there[None, :]
        at = (sample * pixels + pixel)[:, None] * channels + channel[None, :]
        value = tl.where(mask, tl.load(x + at, mask, 0.0).to(tl.float32) + added[None, :], 0.0)
        first += value
        second += value * value
    to = out + ((sample * tl.num_programs(0) + part) * 2) * channels + channel
    tl.store(to, tl.sum(first, 0), there)
    tl.store(to + channels, tl.sum(second, 0), there)


@triton.jit
def _combine(
    sums, out, pixels, part_size, parts, channels, groups, eps,
    MOMENTS: tl.constexpr, PARTS: tl.constexpr, WIDTH: tl.constexpr,
):  # fmt: skip
    """Mean and 1 / sqrt(variance + eps) of one group from its parts; or two plain means.

    Deviations are taken within each part and channel and then between them, so large means cost no digits.
    """
    group, sample = tl.program_id(0), tl.program_id(1)
    width = channels // groups
    part, k = tl.arange(0, PARTS), tl.arange(0, WIDTH)
    mask = (part < parts)[:, None] & (k < width)[None, :]
    at = sums + ((sample * parts + part) * 2 * channels)[:, None] + (group * width + k)[None, :]
    first = tl.load(at, mask, 0.0)
    second = tl.load(at + channels, mask, 0.0)
    total = (pixels * width).to(tl.float32)
    a = tl.sum(tl.sum(first, 1), 0) / total
    b = tl.sum(tl.sum(second, 1), 0) / total
    if MOMENTS:
        count = tl.maximum(tl.minimum(part_size, pixels - part * part_size), 1).to(tl.float32)[:, None]
        mean = first / count
        deviation = second - mean * first + count * (mean - a) * (mean - a)
        variance = tl.sum(tl.sum(tl.where(mask, deviation, 0.0), 1), 0) / total
        b = 1.0 / tl.sqrt(tl.maximum(variance, 0.0) + eps)
    tl.store(out + sample * 2 * groups + group, a)
    tl.store(out + sample * 2 * groups + groups + group, b)


@triton.jit
def _normalise(
    x, shift, weight, bias, moments, y, pixels, channels, groups,
    SILU: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y = silu(normalised * weight + bias)."""
    part, block, sample = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    channel, there, group = _place(sample, part, block, channels, groups, BLOCK)
    mean = tl.load(moments + sample * 2 * groups + group, there, 0.0)
    scale = tl.load(moments + sample * 2 * groups + groups + group, there, 0.0)
    scale = scale * tl.load(weight + channel, there, 0.0).to(tl.float32)
    added = tl.load(shift + sample * channels + channel, there, 0.0).to(tl.float32)
    offset = tl.load(bias + channel, there, 0.0).to(tl.float32) + (added - mean) * scale
    pixel = part * ROWS + tl.arange(0, ROWS)
    mask = (pixel < pixels)[:, None] & there[None, :]
    at = (sample * pixels + pixel)[:, None] * channels + channel[None, :]
    z = tl.load(x + at, mask, 0.0).to(tl.float32) * scale[None, :] + offset[None, :]
    if SILU:
        z = z / (1.0 + tl.exp(-z))
    tl.store(y + at, z, mask)


@triton.jit
def _normed_and_gradient(
    x, gradient, at, mask, mean, inverse, weight, bias, added, SILU: tl.constexpr
):  # fmt: skip
    """The normalised value, and the gradient that arrives at it."""
    normed = (tl.load(x + at, mask, 0.0).to(tl.float32) + (added - mean)[None, :]) * inverse[None, :]
    arriving = tl.load(gradient + at, mask, 0.0).to(tl.float32)
    if SILU:
        z = normed * weight[None, :] + bias[None, :]
        share = 1.0 / (1.0 + tl.exp(-z))
        arriving = arriving * share * (1.0 + z * (1.0 - share))
    return normed, arriving * weight[None, :]


@triton.jit
def _gradient_sums(
    x, gradient, shift, weight, bias, moments, out, pixels, channels, groups,
    SILU: tl.constexpr, PART: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums of the gradient at the normalised value, and of its product with that value, over a part's pixels."""
    part, block, sample = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    channel, there, group = _place(sample, part, block, channels, groups, BLOCK)
    mean = tl.load(moments + sample * 2 * groups + group, there, 0.0)
    inverse = tl.load(moments + sample * 2 * groups + groups + group, there, 0.0)
    w = tl.load(weight + channel, there, 0.0).to(tl.float32)
    b = tl.load(bias + channel, there, 0.0).to(tl.float32)
    added = tl.load(shift + sample * channels + channel, there, 0.0).to(tl.float32)
    first = tl.zeros([ROWS, BLOCK], tl.float32)
    second = tl.zeros([ROWS, BLOCK], tl.float32)
    end = tl.minimum(part * PART + PART, pixels)
    for start in range(0, PART, ROWS):
        pixel = part * PART + start + tl.arange(0, ROWS)
        mask = (pixel < end)[:, None] & there[None, :]
        at = (sample * pixels + pixel)[:, None] * channels + channel[None, :]
        normed, arriving = _normed_and_gradient(x, gradient, at, mask, mean, inverse, w, b, added, SILU)
        first += arriving
        second += arriving * normed
    to = out + ((sample * tl.num_programs(0) + part) * 2) * channels + channel
    tl.store(to, tl.sum(first, 0), there)
    tl.store(to + channels, tl.sum(second, 0), there)


@triton.jit
def _gradient(
    x, gradient, shift, weight, bias, moments, means, beside, dx, pixels, channels, groups,
    SILU: tl.constexpr, BESIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dx = (g - mean(g) - normed * mean(g * normed)) / sqrt(variance + eps), g the gradient at the normalised value;
    and the gradient of who took x ``BESIDE`` it."""
    part, block, sample = tl.program_id(0), tl.program_id(1), tl.program_id(2).to(tl.int64)
    channel, there, group = _place(sample, part, block, channels, groups, BLOCK)
    mean = tl.load(moments + sample * 2 * groups + group, there, 0.0)
    inverse = tl.load(moments + sample * 2 * groups + groups + group, there, 0.0)
    w = tl.load(weight + channel, there, 0.0).to(tl.float32)
    b = tl.load(bias + channel, there, 0.0).to(tl.float32)
    added = tl.load(shift + sample * channels + channel, there, 0.0).to(tl.float32)
    level = tl.load(means + sample * 2 * groups + group, there, 0.0)
    slope = tl.load(means + sample * 2 * groups + groups + group, there, 0.0)
    pixel = part * ROWS + tl.arange(0, ROWS)
    mask = (pixel < pixels)[:, None] & there[None, :]
    at = (sample * pixels + pixel)[:, None] * channels + channel[None, :]
    normed, arriving = _normed_and_gradient(x, gradient, at, mask, mean, inverse, w, b, added, SILU)
    answer = (arriving - level[None, :] - normed * slope[None, :]) * inverse[None, :]
    if BESIDE:
        answer += tl.load(beside + at, mask, 0.0).to(tl.float32)
    tl.store(dx + at, answer, mask)
