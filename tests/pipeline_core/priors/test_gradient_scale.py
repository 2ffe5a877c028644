"""Gradients of any size come through a half-precision network whole."""

import pytest
import torch

from pipeline_core.priors.gradient_scale import GradientScale


def half(x):
    """A network in float16 with a gain of 3."""
    return (x.half() * 3).float()


@pytest.mark.parametrize("strength", [1e-10, 1.0, 1e8])
def test_the_gradient_is_that_of_full_precision(strength):
    x = torch.rand(2, 3, 4, 4, requires_grad=True)
    arriving = strength * torch.rand(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    scale = GradientScale()
    y = scale.into(half(scale.out(x)))
    assert torch.equal(y, half(x))
    y.backward(arriving)
    torch.testing.assert_close(x.grad, 3 * arriving, rtol=2e-3, atol=1e-4 * strength)


def test_without_it_large_ones_are_infinite_and_small_ones_nothing():
    x = torch.ones(2, 1, requires_grad=True)
    half(x).backward(torch.tensor([[1e8], [1e-10]]))
    assert x.grad[0].isinf() and x.grad[1] == 0


def test_rows_have_scales_of_their_own_and_no_gradient_is_none():
    x = torch.ones(3, 2, requires_grad=True)
    scale = GradientScale()
    scale.into(half(scale.out(x))).backward(torch.tensor([[1e8, 0.0], [1e-10, 1e-10], [0.0, 0.0]]))
    torch.testing.assert_close(x.grad, torch.tensor([[3e8, 0.0], [3e-10, 3e-10], [0.0, 0.0]]), rtol=2e-3, atol=1e-14)
