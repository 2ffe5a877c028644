"""FLUX.2-klein as its own pipeline has it, and what is of another make refused by name."""

import json
import math
import shutil

import pytest
import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.priors.image import load_image_prior
from pipeline_core.priors.interface import ImagePrior
from tests.pipeline_core.priors.qwen_checkpoints import euler

LENGTHS = ["a red mug", "", "a blue mug with a long handle", "word " * 300]


@pytest.fixture(scope="module")
def flux2(prior):
    return prior("flux2")


@pytest.fixture(scope="module")
def pipe(pipeline):
    pipeline("flux2").set_progress_bar_config(disable=True)
    return pipeline("flux2")


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def test_prompts_are_those_of_the_pipeline(flux2, pipe):
    for prompt in LENGTHS:
        theirs, _ = pipe.encode_prompt(prompt, "cpu")
        torch.testing.assert_close(flux2.encode_prompts([prompt]), theirs, rtol=0, atol=1e-5)


def test_prompts_that_are_kept_are_bounded_by_their_bytes(checkpoint, monkeypatch):
    prior = load_image_prior(str(checkpoint("flux2")))
    monkeypatch.setattr("pipeline_core.priors.latents.PROMPT_BYTES", 3 * prior.encode_prompts(["a"]).nbytes)
    rows = prior.encode_prompts(["a mug", "a", "red", "blue", "a mug"])
    assert len(prior._prompts) == 3 and torch.equal(rows[0], rows[4]) and not torch.equal(rows[0], rows[1])


def test_guided_steps_and_their_picture_are_those_of_the_pipeline(flux2, pipe):
    noise = torch.randn(1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    given = {"prompt": "a red mug", "height": 16, "width": 16, "num_inference_steps": 4, "guidance_scale": 4.0}
    theirs = pipe(**given, latents=noise, output_type="latent").images
    x = euler(flux2, pipe.scheduler.sigmas, noise, "a red mug", 4.0)
    torch.testing.assert_close(flux2._denormalise(x), theirs, rtol=1e-5, atol=1e-5)
    picture = pipe(**given, latents=noise, output_type="pt").images
    torch.testing.assert_close(flux2.decode(x), picture, rtol=0, atol=1e-5)


def test_latents_are_packed_and_normalised_as_in_the_pipeline(flux2, pipe):
    assert isinstance(flux2, ImagePrior)
    assert (flux2.size, flux2.latent_channels, flux2.latent_size) == (16, 16, 4)
    images = torch.rand(2, 3, 16, 16)
    latents = flux2.encode(images)
    torch.testing.assert_close(latents, pipe._encode_vae_image(images * 2 - 1, None), rtol=1e-5, atol=1e-5)
    codes = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(flux2._denormalise(flux2._normalise(codes)), codes)


def test_the_shift_is_the_pipelines_for_the_size(flux2):
    assert flux2.process.shift == pytest.approx(math.exp(compute_empirical_mu(16, 50)))


def test_what_is_not_kleins_base_is_refused_by_name(copy):
    folder = copy("flux2")
    index, text, network = (folder / name for name in ("model_index.json", "text_encoder/config.json", "transformer"))
    change(index, is_distilled=True)
    with pytest.raises(RequestError, match=r"model_index.json.*is_distilled.*FLUX.2-klein-base-4B"):
        load_image_prior(str(folder))
    change(network / "config.json", guidance_embeds=True)
    with pytest.raises(RequestError, match=r"transformer.*guidance_embeds.*FLUX.2-klein-base-4B"):
        load_image_prior(str(folder))
    change(text, num_hidden_layers=20)
    change(network / "config.json", guidance_embeds=False)
    change(index, is_distilled=False)
    with pytest.raises(RequestError, match=r"text_encoder.*num_hidden_layers is 20.*layer 27"):
        load_image_prior(str(folder))
    change(text, architectures=["Mistral3ForConditionalGeneration"])
    with pytest.raises(RequestError, match=r"text_encoder.*Mistral3.*FLUX.2-dev.*FLUX.2-klein-base-4B"):
        load_image_prior(str(folder))


def test_parts_of_another_model_and_half_a_tokenizer_are_named(copy):
    folder = copy("flux2")
    change(folder / "text_encoder" / "config.json", hidden_size=20)
    with pytest.raises(ModelNotFound, match=r"text_encoder.*have another shape"):
        load_image_prior(str(folder))
    change(folder / "text_encoder" / "config.json", hidden_size=16)
    (folder / "tokenizer" / "chat_template.jinja").unlink()
    with pytest.raises(ModelNotFound, match=r"tokenizer.*chat_template.jinja is missing"):
        load_image_prior(str(folder))
    shutil.rmtree(folder / "vae")
    with pytest.raises(ModelNotFound, match=r"vae/ is missing"):
        load_image_prior(str(folder))
