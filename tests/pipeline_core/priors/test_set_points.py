"""The point network with a set of tokens: who sees whom, where tokens come from, and folders that round-trip."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.testing import assert_close
from transformers import CLIPTokenizer

from pipeline_core.priors.independent_points import BIAS, SCALE
from pipeline_core.priors.points import load_point_prior
from pipeline_core.priors.set_points import CONTEXT, FLOW_STEPS, SetPointDiffusion
from pipeline_core.training.tokenizer import build_tokenizer

EOS = 1
IDS = torch.tensor([[0, 5, 6, 1, 1, 1], [0, 7, 1, 1, 1, 1]])
EMPTY = torch.tensor([[0, 1, 1, 1, 1, 1]])


def tiny(**changes) -> SetPointDiffusion:
    torch.manual_seed(0)
    settings = {
        "vocab_size": 20, "width": 64, "depth": 3, "set_size": 5, "latent": 4, "flow_width": 64, "flow_depth": 2,
        "text_width": 32, "text_layers": 1, "tokens": 6, "bos_token_id": 0, "eos_token_id": EOS,
    }  # fmt: skip
    net = SetPointDiffusion(**settings | changes)
    for name, p in net.named_parameters():  # much starts at zero, which would hide everything
        if p.ndim > 1 and name != "encoder.places":
            nn.init.normal_(p, std=0.1)
    return net.eval()


@pytest.fixture
def model() -> SetPointDiffusion:
    return tiny()


def cloud(rows: int, points: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 8, points, generator=torch.Generator().manual_seed(seed))


def draw(model: SetPointDiffusion, ids: torch.Tensor, *seeds: int) -> torch.Tensor:
    with torch.no_grad():
        return model.condition(ids, [torch.Generator().manual_seed(s) for s in seeds])


@torch.no_grad()
def test_points_are_independent_given_the_tokens(model):
    x, t, cond = cloud(2, 10), torch.tensor([3, 900]), draw(model, IDS, 1, 2)
    order = torch.randperm(10, generator=torch.Generator().manual_seed(1))
    assert_close(model(x[:, :, order], t, cond), model(x, t, cond)[:, :, order])
    assert_close(model(x[:, :, :1], t, cond), model(x, t, cond)[:, :, :1])


@torch.no_grad()
def test_every_token_timestep_and_text_matter(model):
    x, cond = cloud(1, 4), draw(model, IDS[:1], 1)
    a = model(x, torch.tensor([10]), cond)
    assert (a - model(x, torch.tensor([500]), cond)).abs().max() > 1e-4
    for row in range(cond.shape[1]):
        changed = cond.clone()
        changed[:, row] += torch.linspace(-1, 1, cond.shape[2])
        assert (a - model(x, torch.tensor([10]), changed)).abs().max() > 1e-5
    latent = torch.zeros(1, 5, 4)
    words = [model.encode_text(ids) for ids in (IDS[:1], IDS[1:])]
    assert (model.join(words[0], latent) - model.join(words[1], latent)).abs().max() > 1e-4


def test_tokens_come_from_the_generators(model):
    first, again, other = draw(model, IDS, 1, 2), draw(model, IDS, 1, 2), draw(model, IDS, 3, 2)
    assert first.shape == (2, 1 + 5, 64)
    assert_close(first, again, atol=0, rtol=0)
    assert (first[0] - other[0]).abs().max() > 1e-3
    assert_close(first[1], other[1], atol=1e-6, rtol=0)
    with torch.no_grad():
        assert_close(model.condition(IDS), model.condition(IDS), atol=0, rtol=0)


def test_the_flow_takes_noise_to_tokens(model):
    """Along a flow whose velocity is noise minus a token, the token is reached exactly, in any number of steps."""
    token, noise = torch.randn(2, 5, 4), torch.randn(2, 5, 4)
    model.flow.forward = lambda x, t, words: noise - token
    words = torch.zeros(2, 6, 32)
    for steps in (1, FLOW_STEPS):
        assert_close(model.flow.draw(noise, words, None, 1.0, steps), token)


def test_guidance_leads_away_from_no_text(model):
    strange = tiny(guidance=2.0)
    assert (draw(model, IDS, 1, 2) - draw(strange, IDS, 1, 2)).abs().max() > 1e-4
    assert_close(draw(model, EMPTY, 1), draw(strange, EMPTY, 1), atol=0, rtol=0)


def test_empty_prompt_has_no_tokens(model):
    with torch.no_grad():
        want = model.join(model.encode_text(EMPTY), torch.zeros(1, 5, 4))
    assert_close(draw(model, EMPTY, 0), want, atol=0, rtol=0)
    assert_close(draw(model, EMPTY, 7), want, atol=0, rtol=0)


@torch.no_grad()
def test_recognise_sees_as_many_points_as_the_encoder_was_trained_on(model):
    x = cloud(1, 4 * CONTEXT)
    words = model.encode_text(IDS[:1])
    parts = [model.encoder(x[:, :, i::4].transpose(1, 2))[0] for i in range(4)]
    assert_close(model.recognise(IDS[:1], x), model.join(words, torch.stack(parts).mean(0)))
    few = model.encoder(x[:, :, :7].transpose(1, 2))[0]
    assert_close(model.recognise(IDS[:1], x[:, :, :7]), model.join(words, few))
    assert_close(model.recognise(EMPTY, x), draw(model, EMPTY, 0))


@torch.no_grad()
def test_tokens_look_about_places_of_their_own():
    """With nothing else to go by, a token says what is near its place, and hardly notices what is far away."""
    encoder = tiny(set_size=8).encoder
    encoder.reach.fill_(-2.0)
    far = int((encoder.places - encoder.places[0]).norm(dim=-1).argmax())
    points = 0.1 * torch.randn(1, 40, 8, generator=torch.Generator().manual_seed(0))
    points[:, :20, :3] += encoder.places[0]
    points[:, 20:, :3] += encoder.places[far]
    changed = points.clone()
    changed[:, 20:, 3:] += 1
    read: list[torch.Tensor] = []
    encoder.blocks[0].read.register_forward_hook(lambda module, arguments, answer: read.append(answer))
    for given in (points, changed):
        encoder(given)
    change = (read[1] - read[0]).abs().amax(-1)[0]
    assert change[far] > 100 * change[0]


def test_a_folder_gives_clouds_with_a_finish(model, tmp_path):
    tokenizer = build_tokenizer(["red", "crate"], max_length=6)
    assert isinstance(tokenizer, CLIPTokenizer)
    net = tiny(vocab_size=len(tokenizer), bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    net.half().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    prior = load_point_prior(str(tmp_path))
    sampled = [
        prior.sample(["a red crate"], [torch.Generator().manual_seed(0)], guidance_scale=1.0, steps=3, num_points=n)[0]
        for n in (30, 30, 50)
    ]
    assert [len(c) for c in sampled] == [30, 30, 50]
    assert_close(sampled[0].xyz, sampled[1].xyz, atol=0, rtol=0)
    for c in sampled:
        assert c.finish.shape == (len(c), 2) and 0 <= c.finish.min() and c.finish.max() <= 1
    # Distillation shows it points without a finish: they are plain ones.
    x = prior.to_model(sampled[0].xyz, sampled[0].rgb)
    assert x.shape == (8, 30)
    assert_close(x[6:], torch.tensor([[-1.0], [0.4]]).expand(2, 30))
    rows = prior.encode_object("a red crate", sampled[0].xyz, sampled[0].rgb)
    assert prior.predict(x[None], torch.tensor([0.5]), rows[:1]).shape == (1, 8, 30)


def test_points_without_materials_have_six_channels():
    net = tiny(channels=6, scale=SCALE[:6], bias=BIAS[:6])
    with torch.no_grad():
        assert net(cloud(1, 4)[:, :6], torch.tensor([10]), draw(net, IDS[:1], 1)).shape == (1, 6, 4)
