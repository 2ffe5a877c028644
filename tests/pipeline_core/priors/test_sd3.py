"""Stable Diffusion 3: the same numbers as diffusers' own pipeline, with T5 and without."""

import pytest
import torch

from pipeline_core.priors.latents import unpack_pooled

PROMPT = "a red mug"


@pytest.mark.parametrize("kind", ["sd3", "sd3-without-t5"])
def test_sd3_answers_as_its_pipeline(prior, pipeline, kind):
    p, pipe = prior(kind), pipeline(kind)
    hidden, none, pooled, none_pooled = pipe.encode_prompt(PROMPT, None, None)
    hidden, pooled = torch.cat([hidden, none]), torch.cat([pooled, none_pooled])
    ours = p.encode_prompts([PROMPT, ""])
    torch.testing.assert_close(unpack_pooled(ours, 112), (hidden, pooled), rtol=1e-5, atol=1e-5)
    x_t, t = torch.randn(2, 16, 8, 8), torch.rand(2)
    s = 3 * t / (1 + 2 * t)
    theirs = pipe.transformer(x_t, hidden, pooled, s * 1000).sample
    torch.testing.assert_close(p.predict(x_t, t, ours), theirs, rtol=1e-5, atol=1e-5)


def test_latents_are_those_of_its_pipeline(prior, pipeline):
    p, vae, image = prior("sd3"), pipeline("sd3").vae, torch.rand(2, 3, 16, 16)
    latents = (vae.encode(image * 2 - 1).latent_dist.mean - 0.0609) * 1.5305
    torch.testing.assert_close(p.encode(image), latents)
    decoded = vae.decode(latents / 1.5305 + 0.0609).sample
    torch.testing.assert_close(p.decode(latents), (decoded / 2 + 0.5).clamp(0, 1))
