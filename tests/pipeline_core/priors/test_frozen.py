"""Networks sped up for a GPU answer what diffusers' own answer; here with the kernels' readable twin."""

import copy
import dataclasses

import pytest
import torch
from diffusers.models.attention_processor import Attention

from pipeline_core.benchmark import random_priors
from pipeline_core.benchmark.random_priors import random_prior
from pipeline_core.priors import frozen
from pipeline_core.priors.latents import form_of
from pipeline_core.priors.plain_norm import norm_silu_beside


@pytest.fixture
def pair(monkeypatch):
    """A prior as it comes, and the same sped up."""
    monkeypatch.setattr(frozen, "norm_silu_beside", norm_silu_beside)
    monkeypatch.setattr(frozen, "WIDEST_HEAD", 16)
    plain = random_prior("tiny", torch.device("cpu"), torch.float32)
    fast = copy.copy(plain)
    fast.unet, fast.vae = copy.deepcopy(plain.unet), copy.deepcopy(plain.vae)
    fast.speed_up()
    return plain, fast


def close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-5)


def test_encoding_its_gradient_and_decoding_are_the_same(pair):
    images, found = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)), []
    for prior in pair:
        leaf = images.clone().requires_grad_()
        latents = prior.encode(leaf)
        latents.square().sum().backward()
        found.append((latents.detach(), leaf.grad, prior.decode(latents.detach())))
    for wanted, got in zip(*found, strict=True):
        close(got, wanted)


@pytest.mark.parametrize("linear", [True, False])
def test_the_denoiser_is_the_same(pair, linear, monkeypatch):
    plain, fast = pair
    if linear:
        size = random_priors.SIZES["tiny"]
        wide = copy.copy(size.unet) | {"use_linear_projection": True}
        monkeypatch.setitem(random_priors.SIZES, "tiny", random_priors.Size(wide, size.vae, size.text, size.pixels))
        plain, fast = (random_prior("tiny", torch.device("cpu"), torch.float32) for _ in range(2))
        fast.speed_up()
    x = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    rows = x, torch.tensor([0.1, 0.5, 0.9]), plain.encode_prompts(["a", "b", "c"])
    close(fast.predict(*rows), plain.predict(*rows))


@pytest.mark.parametrize("runs", [2, 4])
@pytest.mark.parametrize("linear", [True, False])
def test_runs_of_the_same_latents_share_what_comes_before_the_text(pair, linear, runs, monkeypatch):
    _, fast = pair
    if linear:
        size = random_priors.SIZES["tiny"]
        wide = size.unet | {"use_linear_projection": True}
        monkeypatch.setitem(random_priors.SIZES, "tiny", dataclasses.replace(size, unet=wide))
        fast = random_prior("tiny", torch.device("cpu"), torch.float32)
        fast.speed_up()
    assert fast.shares_start
    x, t = torch.randn(3, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([0.1, 0.5, 0.9])
    texts = fast.encode_prompts([str(i) for i in range(3 * runs)])
    begun = []
    for first in (fast.unet.conv_in, fast.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn1):
        first.register_forward_pre_hook(lambda module, args: begun.append(len(args[0])))
    found = fast.predict(x, t, texts)
    assert begun == [3, 3]
    wanted = fast.predict(x.repeat(runs, 1, 1, 1), t.repeat(runs), texts)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)
    assert begun == [3, 3, 3 * runs, 3 * runs]
    for i in range(3):  # each row is its own
        alone = fast.predict(x[i : i + 1], t[i : i + 1], texts[i::3])
        torch.testing.assert_close(alone, found[i::3], rtol=1e-4, atol=2e-5)


def test_what_is_told_more_than_the_time_shares_nothing(pair):
    """Class labels, a pooled text, another make of blocks, a camera; and a network that is not sped up."""
    from diffusers import UNet2DConditionModel
    from diffusers.models.resnet import ResnetBlock2D

    plain, fast = pair
    assert frozen.shares_start(fast.unet) and not frozen.shares_start(plain.unet) and not plain.shares_start
    wanted = random_priors.SIZES["tiny"].unet
    pooled = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8}
    pooled |= {"projection_class_embeddings_input_dim": 80}
    for odd in (
        {"num_class_embeds": 3}, pooled, {"resnet_time_scale_shift": "scale_shift"},
        {"down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 3)},
        {"only_cross_attention": True},
    ):  # fmt: skip
        network = frozen.speed_up(UNet2DConditionModel(sample_size=8, **wanted | odd))
        assert not frozen.shares_start(network), odd
    assert any(isinstance(module, ResnetBlock2D) for module in plain.unet.modules())
    told = copy.copy(plain)
    told.unet, told.camera = copy.deepcopy(plain.unet), "angles"
    told.speed_up()
    assert not told.shares_start


def test_what_is_slow_is_gone_and_the_layout_is_the_weights(pair):
    plain, fast = pair
    kinds = {type(module).__name__ for network in (fast.unet, fast.vae) for module in network.modules()}
    assert {"ResidualBlock", "Norm", "Tokens"} <= kinds
    assert not {"ResnetBlock2D", "GroupNorm", "Transformer2DModel"} & kinds
    heads = [module for module in fast.vae.modules() if isinstance(module, Attention)]
    assert heads and all(isinstance(head.processor, frozen.OneHead) for head in heads)
    heads = [module for module in fast.unet.modules() if isinstance(module, Attention)]
    assert heads and all(isinstance(head.processor, frozen.Heads) for head in heads)
    assert {hasattr(head, "to_q") for head in heads} == {True, False}  # of words, and of the picture itself
    assert form_of(fast.unet) == form_of(fast.vae) == (fast.unet.dtype, torch.channels_last)
    assert form_of(plain.unet) == form_of(plain.vae) == (plain.unet.dtype, torch.contiguous_format)


def test_another_make_stays_as_it_is(monkeypatch):
    """Attention of several heads, and blocks that scale by the time, keep diffusers' code."""
    from diffusers.models.resnet import ResnetBlock2D

    odd = ResnetBlock2D(in_channels=32, temb_channels=8, time_embedding_norm="scale_shift")
    many = Attention(64, heads=2, dim_head=32, residual_connection=True, norm_num_groups=32)
    network = frozen.speed_up(torch.nn.ModuleList([odd, many]))
    assert network[0] is odd and not isinstance(network[1].processor, frozen.OneHead)
    assert isinstance(many.group_norm, torch.nn.GroupNorm)
