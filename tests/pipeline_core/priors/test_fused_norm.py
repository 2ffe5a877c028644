"""The kernels against their readable twin, in Triton's interpreter: on the CPU, statement by statement.

Where Triton is not installed they are skipped: its wheel is 286 MB, a gigabyte on the disk, and torch's CPU builds do
without it."""

import pytest
import torch

pytest.importorskip("triton")

from pipeline_core.priors import fused_norm, plain_norm


@pytest.mark.parametrize("silu", [True, False])
@pytest.mark.parametrize("shape", [(2, 64, 5, 7), (1, 96, 9, 15)])
def test_answers_and_gradients_are_those_of_torch(shape, silu):
    """Pixels that fill no part, channels that fill no block, means far larger than deviations, a shift for each row."""
    draw = torch.Generator().manual_seed(0)
    channels = shape[1]
    x = 3 * torch.randn(shape, generator=draw) + 20
    shift, weight, bias = (torch.randn(n, generator=draw) for n in (shape[0] * channels, channels, channels))
    arriving = torch.randn(shape, generator=draw)
    found = []
    for call in (plain_norm.norm_silu, fused_norm.norm_silu):
        leaf = x.to(memory_format=torch.channels_last).requires_grad_()
        y = call(leaf, shift.reshape(shape[:2]), weight, bias, 32, 1e-6, silu)
        (gradient,) = torch.autograd.grad(y, leaf, arriving)
        found.append((y.detach(), gradient))
    for wanted, got in zip(*found, strict=True):
        assert (got - wanted).norm() < 2e-5 * wanted.norm()
        assert got.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("both", [True, False])
def test_a_branch_around_it_adds_its_gradient(both):
    """In one pass with the norm's own; and alone where nothing comes from the norm."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(2, 32, 5, 7, generator=draw).to(memory_format=torch.channels_last)
    shift, weight, bias = (torch.randn(n, generator=draw) for n in (64, 32, 32))
    found = []
    for call in (plain_norm.norm_silu_beside, fused_norm.norm_silu_beside):
        leaf = x.detach().requires_grad_()
        y, beside = call(leaf * 1.0, shift.reshape(2, 32), weight, bias, 8, 1e-6)
        (gradient,) = torch.autograd.grad((beside.square() + (y.sin() if both else 0)).sum(), leaf)
        found.append((y.detach(), beside.detach(), gradient))
    for wanted, got in zip(*found, strict=True):
        assert (got - wanted).norm() <= 2e-5 * wanted.norm()


def test_half_precision_is_summed_in_float32(monkeypatch):
    monkeypatch.setitem(fused_norm.ROWS, "moments", 16)
    x = (torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(0)) + 5).half()
    one, nothing = torch.ones(32, dtype=torch.float64), torch.zeros(1, 32, dtype=torch.float64)
    y = fused_norm.norm_silu(x, nothing.float(), one.float(), nothing[0].float(), 32, 1e-6, False)
    assert y.dtype == torch.float16
    wanted = plain_norm.norm_silu(x.double(), nothing, one, nothing[0], 32, 1e-6, False)
    assert (y.double() - wanted).norm() < 5e-4 * wanted.norm()
