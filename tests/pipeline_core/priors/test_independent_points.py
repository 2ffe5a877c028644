"""The point network: points do not see each other, the empty prompt is the null condition, folders round-trip."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from pipeline_core.priors import independent_points
from pipeline_core.priors.independent_points import CONTEXT, IndependentPointDiffusion, LatentFlow

EOS = 1


@pytest.fixture
def model() -> IndependentPointDiffusion:
    torch.manual_seed(0)
    net = IndependentPointDiffusion(
        vocab_size=20, width=24, depth=2, latent=4, couplings=2, text_width=32, text_layers=1, tokens=6, bos_token_id=0,
        eos_token_id=EOS,
    )  # fmt: skip
    for p in net.parameters():  # the output layer starts at zero, which would hide everything
        if p.ndim > 1:
            nn.init.normal_(p, std=0.1)
    return net.eval()


IDS = torch.tensor([[0, 5, 6, 1, 1, 1], [0, 7, 1, 1, 1, 1]])
EMPTY = torch.tensor([[0, 1, 1, 1, 1, 1]])


def test_points_are_independent_given_the_condition(model):
    x = torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(0))
    t = torch.tensor([3, 900])
    cond = model.condition(IDS)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    assert_close(model(x[:, :, order], t, cond), model(x, t, cond)[:, :, order])
    assert_close(model(x[:, :, :1], t, cond), model(x, t, cond)[:, :, :1])


def test_without_a_graph_the_same_comes_out_however_many_points_there_are(model, monkeypatch):
    x = torch.randn(2, 6, 10, generator=torch.Generator().manual_seed(0))
    t, cond = torch.tensor([3, 900]), model.condition(IDS).detach()
    expected = model(x, t, cond)
    assert expected.requires_grad
    with torch.no_grad():
        assert_close(model(x, t, cond), expected.detach())
        monkeypatch.setattr(independent_points, "AT_ONCE", 4)
        assert_close(model(x, t, cond), expected.detach())


def test_timestep_and_condition_matter(model):
    x = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    a = model(x, torch.tensor([10]), model.condition(IDS[:1]))
    assert (a - model(x, torch.tensor([500]), model.condition(IDS[:1]))).abs().max() > 1e-4
    assert (a - model(x, torch.tensor([10]), model.condition(IDS[1:]))).abs().max() > 1e-4


def test_latent_comes_from_the_generator(model):
    first = model.condition(IDS, [torch.Generator().manual_seed(s) for s in (1, 2)])
    again = model.condition(IDS, [torch.Generator().manual_seed(s) for s in (1, 2)])
    other = model.condition(IDS, [torch.Generator().manual_seed(s) for s in (3, 2)])
    assert_close(first, again, atol=0, rtol=0)
    assert (first[0] - other[0]).abs().max() > 1e-3
    assert_close(first[1], other[1], atol=0, rtol=0)


def test_the_flow_has_an_inverse_and_the_right_volume():
    torch.manual_seed(0)
    flow = LatentFlow(4, 8, layers=3).double()
    z, text = torch.randn(2, 5, 4, dtype=torch.float64)[0], torch.randn(5, 8, dtype=torch.float64)
    u, volume = flow(z, text)
    assert not volume.any()
    assert_close(u.abs().sum(1), z.abs().sum(1))  # the identity at first, up to order
    for p in flow.parameters():
        nn.init.normal_(p, std=0.3)
    u, volume = flow(z, text)
    assert_close(flow.inverse(u, text), z)
    jacobian = torch.autograd.functional.jacobian(lambda row: flow(row[None], text[:1])[0][0], z[0])
    assert_close(volume[0], torch.linalg.slogdet(jacobian).logabsdet)


def test_draws_follow_the_density_that_is_trained(model):
    """E[p / p] over draws of a slightly wider Gaussian is 1: sampling and log_prior are of one distribution."""
    text = torch.randn(1, 32, generator=torch.Generator().manual_seed(1)).expand(40_000, 32)
    with torch.no_grad():
        mean, log_variance = model._gaussian(text[:1])
        noise = torch.randn(40_000, 4, generator=torch.Generator().manual_seed(2))
        u = mean + 1.2 * (0.5 * log_variance).exp() * noise
        latent = model.flow.inverse(u, text)
        wide = -0.5 * (log_variance + noise.square()).sum(1) - 4 * math.log(1.2) + model.flow(latent, text)[1]
        ratio = (model.log_prior(latent, text) - wide).exp()
    assert abs(float(ratio.mean()) - 1) < 0.03


def test_empty_prompt_has_no_latent(model):
    drawn = model.condition(EMPTY, [torch.Generator().manual_seed(0)])
    assert_close(drawn, model.condition(EMPTY), atol=0, rtol=0)
    assert_close(drawn[:, 32:], torch.zeros(1, 4), atol=0, rtol=0)


def test_folder_round_trip_in_half(model, tmp_path):
    x = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    cond = model.condition(IDS[:1])
    want = model(x, torch.tensor([10]), cond)
    model.half().save_pretrained(tmp_path)
    twin = IndependentPointDiffusion.from_pretrained(tmp_path).float()
    assert list(tmp_path.glob("*.safetensors")) and not list(tmp_path.glob("*.bin"))
    assert_close(twin(x, torch.tensor([10]), twin.condition(IDS[:1])), want, atol=1e-2, rtol=0)


def test_recognise_sees_as_many_points_as_the_encoder_was_trained_on(model):
    x = torch.randn(1, 6, 4 * CONTEXT, generator=torch.Generator().manual_seed(0))
    text = model.encode_text(IDS[:1])
    parts = [model.encoder(x[:, :, i::4].transpose(1, 2), text)[0] for i in range(4)]
    got = model.recognise(IDS[:1], x)
    assert_close(got[:, :32], text)
    assert_close(got[:, 32:], torch.stack(parts).mean(0))
    assert_close(model.recognise(IDS[:1], x[:, :, :7])[:, 32:], model.encoder(x[:, :, :7].transpose(1, 2), text)[0])
    assert not model.recognise(EMPTY, x)[:, 32:].any()
    model.register_to_config(context=4 * CONTEXT)
    assert_close(model.recognise(IDS[:1], x)[:, 32:], model.encoder(x.transpose(1, 2), text)[0])
