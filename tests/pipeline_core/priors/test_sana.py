"""Sana: the same numbers as diffusers' own pipeline."""

import inspect

import torch

from pipeline_core.priors.interface import Negative
from pipeline_core.priors.latents import unpack_pooled

PROMPT = "a red mug"


def test_sana_answers_as_its_pipeline(prior, pipeline):
    p, pipe = prior("sana"), pipeline("sana")
    default = inspect.signature(pipe.__call__).parameters["complex_human_instruction"].default
    hidden, mask, none, none_mask = pipe.encode_prompt(PROMPT, complex_human_instruction=default)
    hidden, mask = torch.cat([hidden, none]), torch.cat([mask, none_mask])
    assert hidden.shape == (2, 300, 32) and 1 < mask[0].sum() < 300
    ours = p.encode_prompts([PROMPT, ""])
    torch.testing.assert_close(unpack_pooled(ours, 300), (hidden, mask.float()), rtol=1e-5, atol=1e-5)
    x_t, t = torch.randn(2, 8, 4, 4), torch.rand(2)
    s = 3 * t / (1 + 2 * t)
    theirs = pipe.transformer(x_t, hidden, s * 1000, encoder_attention_mask=mask).sample
    torch.testing.assert_close(p.predict(x_t, t, ours), theirs, rtol=1e-5, atol=1e-5)


def test_a_negative_prompt_is_not_instructed(prior, pipeline):
    """The pipeline puts its instruction before prompts only."""
    _, _, hidden, mask = pipeline("sana").encode_prompt("a mug", negative_prompt=PROMPT)
    ours = prior("sana").encode_prompts([Negative(PROMPT), PROMPT])
    torch.testing.assert_close(unpack_pooled(ours[:1], 300), (hidden, mask.float()), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours[0], ours[1])


def test_latents_are_those_of_its_pipeline(prior, pipeline):
    p, vae, image = prior("sana"), pipeline("sana").vae, torch.rand(2, 3, 128, 128)
    latents = vae.encode(image * 2 - 1).latent * 0.41407
    torch.testing.assert_close(p.encode(image), latents)
    torch.testing.assert_close(p.decode(latents), (vae.decode(latents / 0.41407).sample / 2 + 0.5).clamp(0, 1))
