"""Rows of guidance that are the same latents with other texts: the engine has their common beginning computed once."""

import pytest
import torch

from pipeline_core.benchmark.random_priors import random_prior
from pipeline_core.engine.calls import ModelCalls
from pipeline_core.engine.clock import Clock
from pipeline_core.guidance.prompts import encode_text
from pipeline_core.priors import frozen
from pipeline_core.priors.plain_norm import norm_silu_beside

CPU = torch.device("cpu")


@pytest.fixture
def prior(monkeypatch):
    """As on a GPU; ``begun`` has the rows of each call's first convolution."""
    monkeypatch.setattr(frozen, "norm_silu_beside", norm_silu_beside)
    prior = random_prior("tiny", CPU, torch.float32)
    prior.speed_up()
    prior.begun = []
    prior.unet.conv_in.register_forward_pre_hook(lambda module, args: prior.begun.append(len(args[0])))
    return prior


def rows(prior, views, seed, scale=7.5, **options):
    draw, text = torch.Generator().manual_seed(seed), encode_text(prior, f"prop {seed}", **options)
    x, t = torch.randn(views, 4, 8, 8, generator=draw), torch.rand(views, generator=draw)
    return text.rows(x, t, 360 * torch.rand(views, generator=draw), torch.zeros(views), scale=scale)


@pytest.mark.parametrize(("perp_neg", "copies", "padded"), [(False, 2, 6), (True, 4, 6)])
@pytest.mark.parametrize("fixed_sizes", [False, True])
def test_answers_of_several_jobs_are_those_of_each_row_by_itself(prior, fixed_sizes, perp_neg, copies, padded):
    """Also with padding: 5 rows of latents in buffers of 6, which still hold an earlier call's."""
    calls = ModelCalls(prior, None, CPU, Clock(CPU), fixed_sizes)
    calls.predict_image([rows(prior, 6, 9, perp_neg=perp_neg)])
    prior.begun.clear()
    parts = [rows(prior, views, seed, perp_neg=perp_neg) for seed, views in enumerate((3, 1, 1))]
    assert [part.copies for part in parts] == [copies] * 3
    found = calls.predict_image(parts)
    assert prior.begun == [padded if fixed_sizes else 5]
    prior.shares_start = False
    wanted = ModelCalls(prior, None, CPU, Clock(CPU), False).predict_image(parts)
    assert prior.begun[1:] == [5 * copies] and found.shape == wanted.shape
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


def test_one_call_of_different_kinds_of_rows_is_as_it_was(prior):
    calls = ModelCalls(prior, None, CPU, Clock(CPU), False)
    parts = [rows(prior, 2, 0), rows(prior, 2, 1, scale=1.0)]
    assert [part.copies for part in parts] == [2, 1] and len(calls.predict_image(parts)) == 6
    calls.predict_image(parts[1:])
    assert prior.begun == [6, 2]
