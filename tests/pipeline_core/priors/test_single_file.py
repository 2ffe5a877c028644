"""A checkpoint in one file guides as its folder does; what it needs, and what is no such file, is said by name."""

import json
import shutil
from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline_core.config import RECIPES, Lora, ModelRef
from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.priors.image import load_image_prior
from pipeline_core.priors.interface import Negative
from pipeline_core.priors.lora import _Index
from pipeline_core.priors.resolve import model_id
from pipeline_core.priors.single_file import network_shapes
from tests.pipeline_core.priors.one_file import configurations, write_one_file


@pytest.fixture(scope="module")
def one(checkpoint, tmp_path_factory):
    """``one(name)``: the checkpoint of that name in one file, and its configurations beside it. Do not change it."""
    root, made = tmp_path_factory.mktemp("one"), {}

    def get(name):
        if name not in made:
            made[name] = write_one_file(checkpoint(name), root / f"{name}.safetensors")
            configurations(checkpoint(name), root / name)
        return made[name]

    return get


@pytest.mark.parametrize("kind", ["sd", "sdxl", "ssd-1b"])
def test_the_same_predictions_as_the_folder(one, prior, kind):
    want, got = prior(kind), load_image_prior(str(one(kind)))
    x, t = torch.randn(2, 4, 8, 8), torch.tensor([0.2, 0.9])
    rows = want.encode_prompts(["a red mug", ""])
    same = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6)  # the last bit may be where weights lie in memory
    same(got.encode_prompts(["a red mug", ""]), rows)
    same(*(p.encode_prompts([Negative(""), Negative("a blue mug")]) for p in (got, want)))
    same(got.predict(x, t, rows), want.predict(x, t, rows))
    images = torch.rand(1, 3, want.size, want.size)
    same(got.encode(images), want.encode(images))
    same(got.decode(x[:1]), want.decode(x[:1]))
    for part, network in want.networks().items():
        for name, weight in network.state_dict().items():
            assert torch.equal(got.networks()[part].state_dict()[name], weight), (part, name)


def test_the_layout_is_the_one_that_diffusers_reads(one, prior):
    from diffusers import AutoencoderKL, UNet2DConditionModel

    for cls, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae")):
        path = one("sd")
        theirs = cls.from_single_file(
            str(path), config=str(path.with_suffix("")), subfolder=part, local_files_only=True
        )
        for name, weight in getattr(prior("sd"), part).state_dict().items():
            assert torch.equal(theirs.state_dict()[name], weight), (part, name)


def test_ids_follow_the_file_and_its_configurations_wherever_they_lie(one, checkpoint, tmp_path):
    path = one("sd")
    here = model_id(str(path), "image")
    assert here.startswith("sd.safetensors@") and load_image_prior(str(path)).model_id == here
    config = configurations(path.with_suffix(""), tmp_path / "config")
    away = shutil.copy(path, tmp_path / "sd.safetensors")
    assert model_id(ModelRef(str(away), config=str(config)), "image") == here
    assert model_id(ModelRef(str(path), config=str(checkpoint("sd"))), "image") == here  # its weights are not read
    settings = {"image_prior": str(away), "image_config": str(config)}
    assert model_id(RECIPES["draft"].override(settings).model_refs()["image"], "image") == here
    scheduler = config / "scheduler" / "scheduler_config.json"
    scheduler.write_text(scheduler.read_text().replace("epsilon", "v_prediction"))
    assert model_id(ModelRef(str(away), config=str(config)), "image") != here


@pytest.mark.parametrize(
    "metadata, more, prediction",
    [
        (None, {}, "epsilon"),
        (None, {"v_pred": torch.zeros(0)}, "v_prediction"),
        (None, {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, "v_prediction"),
        ({"modelspec.prediction_type": "v"}, {}, "v_prediction"),
        ({"modelspec.prediction_type": "epsilon"}, {}, "epsilon"),
    ],
)
def test_what_the_file_predicts_is_what_it_says(one, checkpoint, tmp_path, metadata, more, prediction):
    path = write_one_file(checkpoint("sd"), tmp_path / "x.safetensors", metadata, **more)
    process = load_image_prior(ModelRef(str(path), config=str(checkpoint("sd"))))._network_process
    assert process.prediction_type == prediction
    assert (process.alphas_cumprod[-1] < 1e-6) == ("ztsnr" in more)


def test_a_lora_is_merged_into_it(one, prior, tmp_path):
    layer = "down_blocks.1.attentions.0.transformer_blocks.0.attn1.to_q"
    a, b = torch.randn(2, 32), torch.randn(32, 2)
    file = tmp_path / "style.safetensors"
    save_file({f"unet.{layer}.lora_A.weight": a, f"unet.{layer}.lora_B.weight": b}, file)
    got = load_image_prior(ModelRef(str(one("sd")), loras=(Lora(path=str(file), scale=0.5),)))
    want = prior("sd").unet.get_submodule(layer).weight + 0.5 * b @ a
    torch.testing.assert_close(got.unet.get_submodule(layer).weight, want)


def test_a_plan_knows_the_layers_of_a_file_by_the_names_that_loras_use(one, prior, checkpoint):
    """Both layouts of text encoders, and the U-Net: the layers that are found are those that are loaded."""
    for kind in ("sd", "sdxl", "ssd-1b"):
        told = network_shapes(one(kind))
        for name, network in load_image_prior(str(checkpoint(kind))).networks().items():
            index = _Index(name, told[name])
            for layer, module in network.named_modules():
                if isinstance(module, (torch.nn.Linear, torch.nn.Conv2d)):
                    assert told[name][index.find(layer)] == tuple(module.weight.shape), (kind, name, layer)


def test_a_lora_of_another_model_is_refused_before_the_file_is_loaded(one, tmp_path):
    file = tmp_path / "style.safetensors"
    for layer in ("unet.conv_in", "unet.down_blocks.7.attentions.0.proj_in", "text_encoder_2.encoder.layers.0.mlp.fc1"):
        save_file({f"{layer}.lora_A.weight": torch.zeros(1, 5), f"{layer}.lora_B.weight": torch.zeros(16, 1)}, file)
        with pytest.raises(RequestError, match=f"was made for another model: .*{layer}"):
            model_id(ModelRef(str(one("sd")), loras=(Lora(path=str(file)),)), "image")


# ------------------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize("kind, like", [("sd", "stable-diffusion-v1-5"), ("sdxl", "stable-diffusion-xl-base-1.0")])
def test_a_file_that_stands_alone_says_what_it_needs(one, tmp_path, kind, like):
    path = shutil.copy(one(kind), tmp_path / "toon.safetensors")
    with pytest.raises(ModelNotFound) as error:
        model_id(str(path), "image")
    text = str(error.value)
    assert f"as image_config, or put them into {tmp_path / 'toon'}/" in text
    assert f"{like} --include '*.json' '*.txt' --local-dir {tmp_path / 'toon'}" in text


def test_a_folder_needs_no_other_configurations(checkpoint):
    with pytest.raises(RequestError, match=r"it is for an image_prior in one file, and .* is a folder"):
        model_id(ModelRef(str(checkpoint("sd")), config=str(checkpoint("sdxl"))), "image")


def test_configurations_of_another_architecture_are_refused(one, checkpoint, tmp_path):
    for kind, other, said in (
        ("sd", "sdxl", "Stable Diffusion 1, with 1 and 32"),
        ("sdxl", "sd", "Stable Diffusion XL"),
    ):
        with pytest.raises(RequestError, match=f"is not for {one(kind)}: .*the file is of {said}"):
            model_id(ModelRef(str(one(kind)), config=str(checkpoint(other))), "image")
    half = configurations(checkpoint("sd"), tmp_path / "half")
    (half / "vae" / "config.json").unlink()
    with pytest.raises(ModelNotFound, match=r"cannot be used as a config model; .*\n  - vae/config.json is missing"):
        model_id(ModelRef(str(one("sd")), config=str(half)), "image")
    wide = configurations(checkpoint("sd"), tmp_path / "wide")
    config = json.loads((wide / "unet" / "config.json").read_text())
    (wide / "unet" / "config.json").write_text(json.dumps({**config, "block_out_channels": [16, 64]}))
    with pytest.raises(ModelNotFound, match=r"does not fit .*unet/config.json: 0 tensors are missing and \d+ have"):
        load_image_prior(ModelRef(str(one("sd")), config=str(wide)))


FIRST = "model.diffusion_model.input_blocks.0.0.weight"


def without(*prefixes):
    def change(tensors):
        return {name: each for name, each in tensors.items() if not name.startswith(prefixes)}

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (without("cond_stage_model."), "has a U-Net but no text encoder; give the whole checkpoint"),
        (without("first_stage_model."), r"has a U-Net but no autoencoder \(first_stage_model\)"),
        (without("model."), "is an autoencoder"),
        (without("model.", "first_stage_model."), "is a text encoder"),
        (lambda t: {name.removeprefix("model.diffusion_model."): each for name, each in t.items()},
         "is a U-Net of a Stable Diffusion checkpoint alone"),
        (lambda t: {**t, FIRST: torch.zeros(16, 9, 3, 3)}, "is an inpainting model: its U-Net takes 9 channels"),
        (lambda t: {**t, FIRST: torch.zeros(16, 8, 3, 3)}, "is an InstructPix2Pix model"),
        (lambda t: {**t, FIRST: torch.zeros(16, 5, 3, 3)}, "is a depth model"),
        (lambda t: {**t, "edm_mean": torch.zeros(4)}, r"Karras' continuous noise \(edm_mean\)"),
        (lambda t: {f"control_model.{name}": each for name, each in t.items()}, "is a ControlNet; an image_prior"),
        (lambda t: {"lora_unet_x.lora_down.weight": torch.zeros(1)}, "is a LoRA; .* give a LoRA as image_lora"),
        (lambda t: {"double_blocks.0.img_attn.qkv.weight": torch.zeros(1)}, "is a FLUX transformer"),
        (lambda t: {**without("cond_stage_model.")(t), "conditioner.embedders.0.model.ln_final.bias": torch.zeros(1)},
         "no text encoder: SDXL's refiner"),
        (lambda t: {"a": torch.zeros(1)}, "is nothing that splatmill knows"),
    ],
)  # fmt: skip
def test_other_files_are_called_what_they_are(one, tmp_path, change, message):
    path = tmp_path / "x.safetensors"
    save_file(change(load_file(one("sd"))), path)
    with pytest.raises(RequestError, match=rf"model .*x.safetensors' .*{message}"):
        model_id(str(path), "image")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("x.ckpt", b"PK", "x.ckpt is pickled, and pickled weights are never loaded: convert it to .safetensors"),
        ("x.gguf", b"GGUF", "x.gguf is a GGUF file, quantised for other programs"),
        ("x.safetensors", b"", r"x.safetensors is not a safetensors file \(0 bytes\)"),
        ("x.safetensors", None, "x.safetensors is missing"),
        ("x.ckpt", None, "x.ckpt is missing"),
    ],
)
def test_files_that_are_never_loaded(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelNotFound, match=message):
        model_id(str(tmp_path / name), "image")


def test_configurations_alone_are_asked_of_the_hub(one, checkpoint, monkeypatch):
    from types import SimpleNamespace

    names = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors", "tokenizer/vocab.json"]
    names += [
        "vae/config.json",
        "scheduler/scheduler_config.json",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
    ]
    asked = {}

    def snapshot(repo, revision=None, local_files_only=False, allow_patterns=None):
        if local_files_only:
            raise FileNotFoundError(repo)
        asked.update(repo=repo, patterns=allow_patterns)
        return str(checkpoint("sd"))

    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in names])
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.HfApi", lambda: SimpleNamespace(model_info=lambda *a, **k: info))
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    model_id(ModelRef(str(one("sd")), config="someone/sd"), "image")
    assert asked["repo"] == "someone/sd" and not any(name.endswith(".safetensors") for name in asked["patterns"])
    assert {name for name in names if name.endswith(".json")} <= set(asked["patterns"])
