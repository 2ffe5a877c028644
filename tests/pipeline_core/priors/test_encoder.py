"""A distilled encoder: the latents that diffusers would give the U-Net, with their gradient; never another family's."""

import shutil

import pytest
import torch

from pipeline_core.config import ModelRef
from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.priors.image import load_image_prior
from pipeline_core.priors.resolve import model_id


def test_a_distilled_encoder_encodes_and_the_full_autoencoder_decodes(checkpoint):
    from diffusers import AutoencoderTiny

    full, tiny = load_image_prior(str(checkpoint("sd"))), AutoencoderTiny.from_pretrained(checkpoint("taesd"))
    quick = load_image_prior(ModelRef(str(checkpoint("sd")), encoder=str(checkpoint("taesd"))))
    images = torch.rand(2, 3, full.size, full.size).requires_grad_()
    latents = quick.encode(images)
    with torch.no_grad():  # scaled already: what a pipeline with this vae gives its U-Net
        want = tiny.encode(images * 2 - 1).latents * tiny.config.scaling_factor
    torch.testing.assert_close(latents, want)
    latents.square().sum().backward()
    assert images.grad.abs().amin(dim=(1, 2, 3)).min() > 0
    assert torch.equal(quick.decode(want), full.decode(want))
    assert quick.model_id.startswith(full.model_id + "+encoder:taesd:")


def test_files_beside_an_encoder_do_not_change_its_id(checkpoint, tmp_path):
    """Its repository has the same weights in other layouts, which a whole clone brings along."""
    clone = shutil.copytree(checkpoint("taesd"), tmp_path / "taesd")
    (clone / "taesd_encoder.safetensors").write_bytes(b"another layout")
    models = (ModelRef(str(checkpoint("sd")), encoder=str(each)) for each in (checkpoint("taesd"), clone))
    assert len({model_id(each, "image") for each in models}) == 1


def test_an_encoder_of_another_family_is_refused(checkpoint, tmp_path):
    sd = str(checkpoint("sd"))
    for encoder, message in (
        (
            checkpoint("taesd3"),
            r"gives 16 channels for 2 x 2 .*trained on 4 channels for 2 x 2 .*use madebyollin/taesd$",
        ),
        (
            shutil.copytree(checkpoint("taesd"), tmp_path / "taesdxl"),
            r"scaling_factor 0.13025 does.*with 0.18215; use ",
        ),
        (checkpoint("sd") / "vae", r"of class 'AutoencoderKL'; a distilled encoder is an AutoencoderTiny"),
    ):
        for ask in (lambda model: model_id(model, "image"), load_image_prior):  # in a plan, and when it is loaded
            with pytest.raises(RequestError, match=message):
                ask(ModelRef(sd, encoder=str(encoder)))
    with pytest.raises(RequestError, match="works on pixels and needs no encoder"):
        load_image_prior(ModelRef(str(checkpoint("pixel")), encoder=str(checkpoint("taesd"))))
    with pytest.raises(ModelNotFound, match=r"cannot be used as an encoder model(.|\n)*config.json is missing"):
        load_image_prior(ModelRef(sd, encoder=str(tmp_path)))
