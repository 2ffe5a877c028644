"""What all rectified-flow transformers are held to; each family's numbers are in test_<family>.py."""

import pytest
import torch

from pipeline_core.priors.interface import ImagePrior

KINDS = ["sd3", "sd3-without-t5", "sana", "flux2", "z-image"]
PROMPT = "a red mug"


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


@pytest.mark.parametrize("kind", KINDS[:3])
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_is_the_same_in_any_company(prior, kind):
    p = prior(kind)
    x_t, t = rows(p, 8)
    embeddings = p.encode_prompts([PROMPT, "", "a mug", "a blue mug", "mushroom", "red", "a", "front view"])
    together = p.predict(x_t, t, embeddings)
    for i in range(8):
        alone = p.predict(x_t[i : i + 1], t[i : i + 1], embeddings[i : i + 1])
        torch.testing.assert_close(alone, together[i : i + 1], rtol=1e-5, atol=1e-5)
