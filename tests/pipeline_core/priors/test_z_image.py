"""Z-Image as its own pipeline has it, prompts of any length in one call."""

import json

import pytest
import torch

from pipeline_core.errors import RequestError
from pipeline_core.priors.image import load_image_prior
from pipeline_core.priors.interface import ImagePrior
from tests.pipeline_core.priors.qwen_checkpoints import euler

LENGTHS = ["a red mug", "", "a blue mug with a handle that is long", "word " * 300]
"""Of 28, 19, 56 and 512 tokens: one multiple of 32, two, and the whole window."""


@pytest.fixture(scope="module")
def z_image(prior):
    return prior("z-image")


@pytest.fixture(scope="module")
def pipe(pipeline):
    pipeline("z-image").set_progress_bar_config(disable=True)
    return pipeline("z-image")


def test_guided_steps_and_their_picture_are_those_of_the_pipeline(z_image, pipe):
    """The pipeline's guidance c + s (c - u) is a scale of s + 1 here."""
    noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    given = {"prompt": "a red mug", "height": 16, "width": 16, "num_inference_steps": 4, "guidance_scale": 3.0}
    theirs = pipe(**given, latents=noise, output_type="latent").images
    x = euler(z_image, pipe.scheduler.sigmas, noise, "a red mug", 4.0)
    torch.testing.assert_close(x, theirs, rtol=1e-5, atol=2e-5)
    picture = pipe(**given, latents=noise, output_type="pt").images
    torch.testing.assert_close(z_image.decode(x), picture, rtol=0, atol=1e-5)


def test_prompts_of_all_lengths_in_one_call_are_answered_as_the_pipeline_answers_each(z_image, pipe):
    captions, _ = pipe.encode_prompt(list(LENGTHS), "cpu", do_classifier_free_guidance=False)
    assert [len(caption) for caption in captions] == [28, 19, 56, 512]
    x, t = torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1)), torch.tensor([0.05, 0.3, 0.6, 0.95])
    together = z_image.predict(x, t, z_image.encode_prompts(LENGTHS))
    for i, caption in enumerate(captions):
        time = 1 - z_image.process.timestep(t[i : i + 1])
        theirs = -pipe.transformer([x[i][:, None]], time, [caption], return_dict=False)[0][0][:, 0]
        torch.testing.assert_close(together[i], theirs, rtol=1e-5, atol=1e-5)


def test_a_row_is_alone_what_it_is_among_eight(z_image):
    embeddings = z_image.encode_prompts([*LENGTHS, *LENGTHS])
    x, t = torch.randn(8, 4, 8, 8), torch.linspace(0.05, 0.95, 8)
    together = z_image.predict(x, t, embeddings)
    alone = torch.cat([z_image.predict(x[i : i + 1], t[i : i + 1], embeddings[i : i + 1]) for i in range(8)])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)
    assert z_image.predict(x[:1], t[:1], torch.zeros_like(embeddings[:1])).isfinite().all()  # a place that nobody fills


def test_latents_and_shift_are_those_of_the_folder(z_image, pipe):
    assert isinstance(z_image, ImagePrior)
    assert (z_image.size, z_image.latent_channels, z_image.latent_size, z_image.process.shift) == (16, 4, 8, 6.0)
    images = torch.rand(2, 3, 16, 16)
    codes = pipe.vae.encode(images * 2 - 1).latent_dist.mean
    torch.testing.assert_close(z_image.encode(images), (codes - 0.1159) * 0.3611, rtol=1e-5, atol=1e-5)


def test_networks_that_edit_pictures_are_refused_by_name(copy):
    folder = copy("z-image")
    path = folder / "transformer" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "siglip_feat_dim": 8}))
    with pytest.raises(RequestError, match=r"transformer.*siglip_feat_dim is 8.*use Z-Image"):
        load_image_prior(str(folder))
