"""The models of the benchmark are those that were published, down to the number of parameters and operations."""

import pytest
import torch

from pipeline_core.benchmark.counters import model_flops
from pipeline_core.benchmark.random_priors import random_prior

META = torch.device("meta")

PUBLISHED = {  # parameters of the U-Net and of the text encoder
    "sd15": (859_520_964, 123_060_480),
    "sd21": (865_910_724, 340_387_840),
}


def parameters(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("name", PUBLISHED)
def test_true_sizes(name):
    prior = random_prior(name, META, torch.float16)
    unet, text = PUBLISHED[name]
    assert parameters(prior.unet) == unet and parameters(prior.encoders[0].model) == text
    assert parameters(prior.vae) == 83_653_863
    assert prior.size == 512 and prior.latent_size == 64 and prior.latent_channels == 4
    assert prior.encode_prompts(["a red mug"]).shape == (1, 77, prior.unet.config.cross_attention_dim)


def test_attention_is_fused_in_every_block():
    prior = random_prior("sd15", META, torch.float16)
    kinds = {type(p).__name__ for p in [*prior.unet.attn_processors.values(), *prior.vae.attn_processors.values()]}
    assert kinds == {"AttnProcessor2_0"}


def test_operations_are_those_of_the_literature():
    """Stable Diffusion's U-Net takes about 0.8 Tflop a row at 512 pixels; the encoder about 1.1 forward."""
    prior = random_prior("sd15", META, torch.float16)
    one, two, both = (model_flops(prior, views, rows) for views, rows in ((1, 1), (1, 2), (2, 2)))
    row, encoder = two - one, both - two
    assert both == 2 * one and 0.75e12 < row < 0.85e12 and 2.1e12 < encoder < 2.4e12  # forward, and as much back


def test_weights_and_texts_follow_the_seed():
    a, b, c = (random_prior("tiny", torch.device("cpu"), torch.float32, seed) for seed in (0, 0, 1))
    assert torch.equal(a.unet.conv_in.weight, b.unet.conv_in.weight)
    assert not torch.equal(a.unet.conv_in.weight, c.unet.conv_in.weight)
    texts = a.encode_prompts(["a red mug", "a mug red", "a red mug"])
    assert torch.equal(texts[0], texts[2]) and not torch.equal(texts[0], texts[1])
    state = torch.get_rng_state()
    random_prior("tiny", torch.device("cpu"), torch.float32)
    assert torch.equal(torch.get_rng_state(), state)
