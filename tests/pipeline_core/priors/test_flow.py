"""Rectified-flow transformers: the same numbers as diffusers' own pipelines, and what does not fit is named."""

import json
import shutil

import pytest
import torch

from pipeline_core.priors.image import load_image_prior
from pipeline_core.priors.interface import ImagePrior
from pipeline_core.priors.latents import unpack_pooled

KINDS = ["sd3", "sd3-without-t5", "sana"]
PROMPT = "a red mug"


@pytest.fixture(scope="module")
def prior(checkpoint):
    """``prior(name)``: the tiny checkpoint of that name, loaded once."""
    loaded = {}

    def get(name):
        if name not in loaded:
            loaded[name] = load_image_prior(str(checkpoint(name)))
        return loaded[name]

    return get


@pytest.fixture(scope="module")
def pipeline(checkpoint):
    """``pipeline(name)``: the same checkpoint in diffusers' own pipeline."""
    from diffusers import DiffusionPipeline

    loaded = {}

    def get(name):
        if name not in loaded:
            absent = {"text_encoder_3": None, "tokenizer_3": None} if name == "sd3-without-t5" else {}
            loaded[name] = DiffusionPipeline.from_pretrained(str(checkpoint(name)), local_files_only=True, **absent)
        return loaded[name]

    return get


@pytest.fixture
def copy(checkpoint, tmp_path):
    """``copy(name)``: a copy of a tiny checkpoint, to be damaged."""
    return lambda name: shutil.copytree(checkpoint(name), tmp_path / name)


def change(path, **values):
    """The JSON file ``path`` with other values; ``...`` removes one."""
    old = json.loads(path.read_text())
    path.write_text(json.dumps({k: v for k, v in {**old, **values}.items() if v is not ...}))


def rows(prior, n=2, seed=0):
    """Random latents and shares of the schedule for one call."""
    g = torch.Generator().manual_seed(seed)
    latents = torch.randn(n, prior.latent_channels, prior.latent_size, prior.latent_size, generator=g)
    return latents, torch.rand(n, generator=g)


# ------------------------------------------------------------------------------------------ against diffusers


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_goes_through_the_same_calls(prior, kind):
    p = prior(kind)
    x_t, t = rows(p, 4)
    velocity = p.predict(x_t, t, p.encode_prompts([PROMPT, "a blue mug", "a mug", ""]))
    images = p.decode(p.encode(torch.rand(4, 3, p.size, p.size)))
    assert isinstance(p, ImagePrior) and p.camera == "none" and p.num_views == 1
    assert velocity.shape == x_t.shape and velocity.dtype == torch.float32 and velocity.std() > 0.01
    assert images.shape == (4, 3, p.size, p.size) and images.min() >= 0 and images.max() <= 1
    networks = (p.transformer, p.vae, *(encoder.model for encoder in p.encoders))
    assert not any(q.requires_grad for network in networks for q in network.parameters())


@pytest.mark.parametrize("kind", ["sd3", "sd3-without-t5"])
def test_sd3_answers_as_its_pipeline(prior, pipeline, kind):
    p, pipe = prior(kind), pipeline(kind)
    hidden, none, pooled, none_pooled = pipe.encode_prompt(PROMPT, None, None)
    hidden, pooled = torch.cat([hidden, none]), torch.cat([pooled, none_pooled])
    ours = p.encode_prompts([PROMPT, ""])
    torch.testing.assert_close(unpack_pooled(ours, 112), (hidden, pooled), rtol=1e-5, atol=1e-5)
    x_t, t = rows(p)
    s = 3 * t / (1 + 2 * t)
    theirs = pipe.transformer(x_t, hidden, pooled, s * 1000).sample
    torch.testing.assert_close(p.predict(x_t, t, ours), theirs, rtol=1e-5, atol=1e-5)


def test_sana_answers_as_its_pipeline(prior, pipeline):
    import inspect

    p, pipe = prior("sana"), pipeline("sana")
    default = inspect.signature(pipe.__call__).parameters["complex_human_instruction"].default
    hidden, mask, none, none_mask = pipe.encode_prompt(PROMPT, complex_human_instruction=default)
    hidden, mask = torch.cat([hidden, none]), torch.cat([mask, none_mask])
    assert hidden.shape == (2, 300, 32) and 1 < mask[0].sum() < 300
    ours = p.encode_prompts([PROMPT, ""])
    torch.testing.assert_close(unpack_pooled(ours, 300), (hidden, mask.float()), rtol=1e-5, atol=1e-5)
    x_t, t = rows(p)
    s = 3 * t / (1 + 2 * t)
    theirs = pipe.transformer(x_t, hidden, s * 1000, encoder_attention_mask=mask).sample
    torch.testing.assert_close(p.predict(x_t, t, ours), theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_those_of_the_pipelines_scheduler(prior, pipeline, kind):
    """Its levels, as shares of our schedule: the same timesteps, and Euler's steps between them."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    p, pipe = prior(kind), pipeline(kind)
    pipe.scheduler.set_timesteps(4)
    sigmas = pipe.scheduler.sigmas
    t = sigmas / (3 - 2 * sigmas)  # the shares that a shift of 3 moves there
    torch.testing.assert_close(p.process.timestep(t)[:-1] * 1000, pipe.scheduler.timesteps.float(), rtol=0, atol=1)
    euler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    euler.set_timesteps(4)
    t = (euler.sigmas / (3 - 2 * euler.sigmas))[:, None].expand(-1, 2)
    (theirs, _), embeddings = rows(p), p.encode_prompts([PROMPT, PROMPT])
    ours = theirs
    for i, timestep in enumerate(euler.timesteps):
        ours = p.step(ours, p.predict(ours, t[i], embeddings), t[i], t[i + 1])
        theirs = euler.step(p.predict(theirs, t[i], embeddings), timestep, theirs).prev_sample
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
    assert (p.size, p.latent_size) == ((128, 4) if kind == "sana" else (16, 8))


def test_latents_are_those_of_the_pipelines(prior, pipeline):
    image = torch.rand(2, 3, 16, 16)
    vae = pipeline("sd3").vae
    theirs = (vae.encode(image * 2 - 1).latent_dist.mean - 0.0609) * 1.5305
    torch.testing.assert_close(prior("sd3").encode(image), theirs)
    torch.testing.assert_close(
        prior("sd3").decode(theirs), (vae.decode(theirs / 1.5305 + 0.0609).sample / 2 + 0.5).clamp(0, 1)
    )
    image = torch.rand(2, 3, 128, 128)
    theirs = pipeline("sana").vae.encode(image * 2 - 1).latent * 0.41407
    torch.testing.assert_close(prior("sana").encode(image), theirs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_in_any_company(prior, kind):
    p = prior(kind)
    x_t, t = rows(p, 8)
    embeddings = p.encode_prompts([PROMPT, "", "a mug", "a blue mug", "mushroom", "red", "a", "front view"])
    together = p.predict(x_t, t, embeddings)
    for i in range(8):
        alone = p.predict(x_t[i : i + 1], t[i : i + 1], embeddings[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-5, atol=1e-5)
