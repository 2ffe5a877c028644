"""Group norm, and SiLU behind it, in one pass over channels_last tensors; for frozen networks on a GPU.

torch's group norm knows no channels_last: it copies the tensor there and back, which costs more than the convolutions
gain by the layout. Three Triton kernels do the same here: sums over pixels, their combination, and the
answer. ``plain_norm.norm_silu`` is the readable twin that they are tested against, in Triton's interpreter too.

The network is frozen, so the backward gives the gradient of ``x`` alone.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

PROGRAMS = {"moments": 2048, "normalise": 16384, "gradient_sums": 2048, "gradient": 8192}
"""About so many programs share a tensor: enough to fill a GPU, and few enough that each has more than a few pixels.
These numbers, and those below, are the fastest of 100 for the sizes of Stable Diffusion at 16 assets on an H200."""
ROWS = {"moments": 16, "normalise": 32, "gradient_sums": 16, "gradient": 8}
"""Pixels that a program holds at once."""
WARPS = {"moments": 4, "normalise": 4, "gradient_sums": 4, "gradient": 4}
"""Warps of a program."""
MOST_PARTS = 1024
"""Most parts that the pixels of one sample are summed in: one program combines them."""


def norm_silu(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool = True
) -> Tensor:
    """``silu(group_norm(x + shift))``: x [B, C, H, W], ``shift`` [B, C] or [1, C], ``weight`` and ``bias`` [C].

    The answer is channels_last. Sums are float32, whatever the precision of ``x``.
    """
    return norm_silu_beside(x, shift, weight, bias, groups, eps, silu)[0]


def norm_silu_beside(
    x: Tensor, shift: Tensor, weight: Tensor, bias: Tensor, groups: int, eps: float, silu: bool = True
) -> tuple[Tensor, Tensor]:
    """The same, and ``x`` for a branch around it: their gradients are added in one pass, which autograd takes apart."""
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
        moments = tiling.combine(*tiling.sums("moments", _moments, x, shift), eps)
        y = torch.empty_like(x)
        tiling.run("normalise", _normalise, x, shift, weight, bias, moments, y, SILU=silu)
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
        means = tiling.combine(*tiling.sums("gradient_sums", _gradient_sums, *inputs, SILU=ctx.silu), None)
        dx = torch.empty_like(x)
        tiling.run("gradient", _gradient, *inputs, means, more, dx, SILU=ctx.silu, BESIDE=beside is not None)
        return dx, None, None, None, None, None, None


class _Tiling:
    """How ``x`` [B, C, H, W] is cut into programs: each has some pixels of a sample, and a block of channels."""

    def __init__(self, x: Tensor, groups: int) -> None:
        self.samples, self.channels = x.shape[:2]
        self.pixels, self.groups, self.device = x.shape[2] * x.shape[3], groups, x.device
        self.block = 128 if self.channels % 128 == 0 else 64
        self.blocks = triton.cdiv(self.channels, self.block)

    def part(self, name: str) -> int:
        """Pixels of a program of the kernel ``name``."""
        parts = min(max(PROGRAMS[name] // (self.blocks * self.samples), 1), MOST_PARTS)
        return triton.cdiv(triton.cdiv(self.pixels, parts), ROWS[name]) * ROWS[name]

    def run(self, name: str, kernel: Any, *tensors: Tensor, **constants: bool) -> int:
        """Launch ``kernel``; pixels of a program."""
        part = self.part(name)
        grid = (triton.cdiv(self.pixels, part), self.blocks, self.samples)
        kernel[grid](
            *tensors, self.pixels, self.channels, self.groups, part, ROWS=ROWS[name], BLOCK=self.block,
            num_warps=WARPS[name], **constants,
        )  # fmt: skip
        return part

    def sums(self, name: str, kernel: Any, *inputs: Tensor, **constants: bool) -> tuple[Tensor, int]:
        """Two sums [B, parts, 2, C] float32 over the pixels of each part, and how many pixels that are."""
        parts = triton.cdiv(self.pixels, self.part(name))
        out = torch.empty(self.samples, parts, 2, self.channels, device=self.device)
        return out, self.run(name, kernel, *inputs, out, **constants)

    def combine(self, sums: Tensor, part: int, eps: float | None) -> Tensor:
        """Of each group [B, 2, G]: mean and 1 / sqrt(variance + eps); with ``eps`` None the two means."""
        out = torch.empty(self.samples, 2, self.groups, device=self.device)
        width, parts = self.channels // self.groups, sums.shape[1]
        _combine[(self.groups, self.samples)](
            sums, out, self.pixels, part, parts, self.channels, self.groups, 0.0 if eps is None else eps,
            MOMENTS=eps is not None, PARTS=triton.next_power_of_2(parts), WIDTH=triton.next_power_of_2(width),
        )  # fmt: skip
        return out


@triton.jit
def _place(pixels, channels, groups, BLOCK: tl.constexpr):
    """Channels of a program, which of them exist, the group of each, and where the values of its sample begin."""
    sample = tl.program_id(2).to(tl.int64)
    channel = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    return sample, channel, channel < channels, channel // (channels // groups), sample * pixels * channels


@triton.jit
def _rows(start, end, channel, there, channels, ROWS: tl.constexpr):
    """Where the next ``ROWS`` pixels of a program lie within their sample, and which of them exist."""
    pixel = start + tl.arange(0, ROWS)
    return pixel[:, None] * channels + channel[None, :], (pixel < end)[:, None] & there[None, :]


@triton.jit
def _moments(
    x, shift, out, pixels, channels, groups, part, ROWS: tl.constexpr, BLOCK: tl.constexpr
):  # fmt: skip
    """Sums of x + shift and of its square over a part's pixels."""
    sample, channel, there, _, base = _place(pixels, channels, groups, BLOCK)
    added = tl.load(shift + sample * channels + channel, there, 0.0).to(tl.float32)
    first = tl.zeros([ROWS, BLOCK], tl.float32)
    second = tl.zeros([ROWS, BLOCK], tl.float32)
    begin = tl.program_id(0) * part
    end = tl.minimum(begin + part, pixels)
    for start in range(begin, end, ROWS):
        at, mask = _rows(start, end, channel, there, channels, ROWS)
        value = tl.where(mask, tl.load(x + base + at, mask, 0.0).to(tl.float32) + added[None, :], 0.0)
        first += value
        second += value * value
    to = out + ((sample * tl.num_programs(0) + tl.program_id(0)) * 2) * channels + channel
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
def _affine(shift, weight, bias, moments, sample, channel, there, group, channels, groups):
    """Of each channel: what makes x + shift of mean 0, the deviation's inverse, weight, and bias."""
    mean = tl.load(moments + sample * 2 * groups + group, there, 0.0)
    inverse = tl.load(moments + sample * 2 * groups + groups + group, there, 0.0)
    w = tl.load(weight + channel, there, 0.0).to(tl.float32)
    b = tl.load(bias + channel, there, 0.0).to(tl.float32)
    return tl.load(shift + sample * channels + channel, there, 0.0).to(tl.float32) - mean, inverse, w, b


@triton.jit
def _sigmoid(z):
    """1 / (1 + exp(-z)). A reciprocal root squared: on a GPU that is two instructions, a quotient seven."""
    root = tl.rsqrt(1.0 + tl.exp(-z))
    return root * root


@triton.jit
def _normalise(
    x, shift, weight, bias, moments, y, pixels, channels, groups, part,
    SILU: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """y = silu(normalised * weight + bias)."""
    sample, channel, there, group, base = _place(pixels, channels, groups, BLOCK)
    added, inverse, w, b = _affine(shift, weight, bias, moments, sample, channel, there, group, channels, groups)
    scale = inverse * w
    offset = b + added * scale
    begin = tl.program_id(0) * part
    end = tl.minimum(begin + part, pixels)
    for start in range(begin, end, ROWS):
        at, mask = _rows(start, end, channel, there, channels, ROWS)
        z = tl.load(x + base + at, mask, 0.0).to(tl.float32) * scale[None, :] + offset[None, :]
        if SILU:
            z = z * _sigmoid(z)
        tl.store(y + base + at, z, mask)


@triton.jit
def _centred_and_gradient(
    x, gradient, at, mask, added, scale, bias, SILU: tl.constexpr
):  # fmt: skip
    """x + shift less its mean, and the gradient that arrives at ``scale`` times that + ``bias``."""
    centred = tl.load(x + at, mask, 0.0).to(tl.float32) + added[None, :]
    arriving = tl.load(gradient + at, mask, 0.0).to(tl.float32)
    if SILU:
        z = centred * scale[None, :] + bias[None, :]
        share = _sigmoid(z)
        arriving *= share + z * share * (1.0 - share)
    return centred, arriving


@triton.jit
def _gradient_sums(
    x, gradient, shift, weight, bias, moments, out, pixels, channels, groups, part,
    SILU: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Sums of the gradient at the normalised value, and of its product with that value, over a part's pixels."""
    sample, channel, there, group, base = _place(pixels, channels, groups, BLOCK)
    added, inverse, w, b = _affine(shift, weight, bias, moments, sample, channel, there, group, channels, groups)
    scale = inverse * w
    first = tl.zeros([ROWS, BLOCK], tl.float32)
    second = tl.zeros([ROWS, BLOCK], tl.float32)
    begin = tl.program_id(0) * part
    end = tl.minimum(begin + part, pixels)
    for start in range(begin, end, ROWS):
        at, mask = _rows(start, end, channel, there, channels, ROWS)
        centred, arriving = _centred_and_gradient(x + base, gradient + base, at, mask, added, scale, b, SILU)
        first += arriving
        second += arriving * centred
    to = out + ((sample * tl.num_programs(0) + tl.program_id(0)) * 2) * channels + channel
    tl.store(to, tl.sum(first, 0) * w, there)
    tl.store(to + channels, tl.sum(second, 0) * scale, there)


@triton.jit
def _gradient(
    x, gradient, shift, weight, bias, moments, means, beside, dx, pixels, channels, groups, part,
    SILU: tl.constexpr, BESIDE: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dx = (g - mean(g) - normed * mean(g * normed)) / sqrt(variance + eps), g the gradient at the normalised value;
    and the gradient of who took x ``BESIDE`` it."""
    sample, channel, there, group, base = _place(pixels, channels, groups, BLOCK)
    added, inverse, w, b = _affine(shift, weight, bias, moments, sample, channel, there, group, channels, groups)
    scale = inverse * w
    level = tl.load(means + sample * 2 * groups + group, there, 0.0) * inverse
    slope = tl.load(means + sample * 2 * groups + groups + group, there, 0.0) * inverse * inverse
    begin = tl.program_id(0) * part
    end = tl.minimum(begin + part, pixels)
    for start in range(begin, end, ROWS):
        at, mask = _rows(start, end, channel, there, channels, ROWS)
        centred, arriving = _centred_and_gradient(x + base, gradient + base, at, mask, added, scale, b, SILU)
        answer = arriving * scale[None, :] - level[None, :] - centred * slope[None, :]
        if BESIDE:
            answer += tl.load(beside + base + at, mask, 0.0).to(tl.float32)
        tl.store(dx + base + at, answer, mask)
