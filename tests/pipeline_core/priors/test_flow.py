"""What all rectified-flow transformers are held to; each family's numbers are in test_<family>.py."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_core.config import ModelRef
from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.priors.families import FAMILIES
from pipeline_core.priors.flow import load_flow
from pipeline_core.priors.image import load_image_prior
from pipeline_core.priors.interface import ImagePrior
from pipeline_core.priors.process import RectifiedFlow
from pipeline_core.priors.resolve import content_hash, model_id, select_files
from tests.pipeline_core.priors.qwen_checkpoints import qwen

KINDS = ["sd3", "sd3-without-t5", "sana", "flux2", "z-image"]
PROMPT = "a red mug"


def rows(prior, n=2, seed=0):
    """Random latents and shares of the schedule for one call."""
    g = torch.Generator().manual_seed(seed)
    latents = torch.randn(n, prior.latent_channels, prior.latent_size, prior.latent_size, generator=g)
    return latents, torch.rand(n, generator=g)


def change(path: Path, **values) -> None:
    """The JSON file ``path`` with other values; ``...`` removes one."""
    new = {**json.loads(path.read_text()), **values}
    path.write_text(json.dumps({key: value for key, value in new.items() if value is not ...}))


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


def test_latents_may_have_a_mean_and_a_deviation_a_channel(copy, prior):
    folder, plain, image = copy("sd3"), prior("sd3"), torch.rand(2, 3, 16, 16)
    mean, std = [0.1 * i for i in range(16)], [0.5 + 0.1 * i for i in range(16)]
    change(folder / "vae" / "config.json", latents_mean=mean, latents_std=std)
    p = load_image_prior(str(folder))
    z = plain.encode(image) / 1.5305 + 0.0609
    mean, std = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (mean, std))
    torch.testing.assert_close(p.encode(image), (z - mean) * 1.5305 / std)
    torch.testing.assert_close(p.decode(p.encode(image)), plain.decode(plain.encode(image)))


@pytest.mark.parametrize(
    ("kind", "of_vae"), [("sd3", torch.float16), *((kind, torch.bfloat16) for kind in ("sana", "flux2", "z-image"))]
)
def test_half_precision_has_the_range_that_flows_were_trained_in(checkpoint, prior, kind, of_vae):
    half, exact = load_image_prior(str(checkpoint(kind)), dtype=torch.float16), prior(kind)
    assert (half.dtype, half.transformer.dtype, half.vae.dtype) == (torch.bfloat16, torch.bfloat16, of_vae)
    x_t, t = rows(exact)
    embeddings = half.encode_prompts([PROMPT, ""])
    assert embeddings.dtype == torch.bfloat16
    want, got = exact.predict(x_t, t, exact.encode_prompts([PROMPT, ""])), half.predict(x_t, t, embeddings)
    assert got.dtype == torch.float32 and (got - want).norm() < 0.03 * want.norm()
    alike = []
    for seed in range(5):
        picture, gradients = torch.rand(1, 3, exact.size, exact.size, generator=torch.Generator().manual_seed(seed)), []
        for p in (exact, half):
            image = picture.clone().requires_grad_(True)
            (p.encode(image) * 1e5).sum().backward()  # as guidance at 100 does, beyond the range of float16
            gradients.append(image.grad)
        assert gradients[1].isfinite().all()
        alike.append(float(torch.cosine_similarity(*(gradient.flatten() for gradient in gradients), dim=0)))
    assert np.median(alike) > 0.95  # one picture may lie where a random network divides by next to nothing


# --------------------------------------------------------------------------------------------------- the noise


def test_the_case_that_was_refused_is_a_flow(tmp_path):
    """FlowMatchEuler with a shift and nothing else."""
    path = tmp_path / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}))
    process, steps = load_flow(path, math.nan)
    assert isinstance(process, RectifiedFlow) and process.shift == 3.0 and steps == 1000


@pytest.mark.parametrize("kind", ["exponential", "linear"])
def test_a_shift_by_size_is_that_of_the_pipeline(copy, kind):
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import calculate_shift

    folder = copy("sd3")
    dynamic = {"use_dynamic_shifting": True, "time_shift_type": kind, "base_shift": 0.5, "max_shift": 1.15}
    change(folder / "scheduler" / "scheduler_config.json", **dynamic, base_image_seq_len=4, max_image_seq_len=64)
    scheduler = FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(sigmas=[0.9, 0.5, 0.1], mu=calculate_shift(16, 4, 64, 0.5, 1.15))  # 8 x 8 latents, patch 2
    ours = load_image_prior(str(folder)).process.timestep(torch.tensor([0.9, 0.5, 0.1]))
    torch.testing.assert_close(ours, scheduler.sigmas[:-1])


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler is no scheduler of a rectified flow"),
        ({"_class_name": "SCMScheduler"}, "known are FlowMatchEulerDiscreteScheduler"),
        ({"_class_name": "DPMSolverMultistepScheduler"}, "use_flow_sigmas=False, prediction_type='epsilon'"),
        ({"num_train_timesteps": 0}, "num_train_timesteps=0"),
        ({"invert_sigmas": True}, "invert_sigmas=True"),
        ({"shift": 0}, "the shift 0.0 must be > 0"),
    ],
)
def test_a_scheduler_of_another_kind_is_named(copy, values, said):
    folder = copy("sd3")
    change(folder / "scheduler" / "scheduler_config.json", **values)
    with pytest.raises(RequestError, match=f"scheduler_config.json: .*{said}"):
        load_image_prior(str(folder))


# ------------------------------------------------------------------------------------------------- half folders


@pytest.mark.parametrize("kind", KINDS)
def test_every_missing_component_is_named(checkpoint, tmp_path, kind):
    row = next(row for row in FAMILIES if row.transformers and row.recognises(checkpoint(kind)))
    for part in row.components:
        folder = shutil.copytree(checkpoint(kind), tmp_path / part)
        shutil.rmtree(folder / part)
        with pytest.raises(ModelNotFound, match=f"{part}/.* is missing"):
            load_image_prior(str(folder))
        change(folder / "model_index.json", **{part: ...})
        named = "unet, and no transformer" if part == "transformer" else part
        with pytest.raises(ModelNotFound, match=f"model_index.json names no {named}"):
            load_image_prior(str(folder))


@pytest.mark.parametrize("kind", KINDS)
def test_every_file_that_is_read_is_asked_of_the_hub_and_hashed(checkpoint, tmp_path, kind):
    folder = shutil.copytree(checkpoint(kind), tmp_path / "folder")
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    assert select_files([*files, "sd3_medium.safetensors"], "image") == files
    before = content_hash(folder)
    for name in (name for name in files if name.endswith((".safetensors", "config.json", "tokenizer.json"))):
        with (folder / name).open("ab") as file:
            file.write(b" ")
        before, last = content_hash(folder), before
        assert before != last, name


@pytest.mark.parametrize("kind", KINDS)
def test_classes_of_another_kind_are_named(copy, kind):
    folder = copy(kind)
    for part, said in (("transformer", "DiTTransformer2DModel"), ("vae", "VQModel")):
        path = folder / part / "config.json"
        before = path.read_text()
        change(path, _class_name=said)
        with pytest.raises(RequestError, match=f"{part}: class '{said}' is not one that splatmill knows here"):
            load_image_prior(str(folder))
        path.write_text(before)
    change(folder / "text_encoder" / "config.json", architectures=["BertModel"])
    with pytest.raises(RequestError, match=r"text_encoder.*BertModel"):
        load_image_prior(str(folder))


@pytest.mark.parametrize(
    "stranger",
    ["PixArtTransformer2DModel", "AuraFlowTransformer2DModel", "FluxTransformer2DModel", "HunyuanDiT2DModel",
     "Lumina2Transformer2DModel", "QwenImageTransformer2DModel"],
)  # fmt: skip
def test_a_transformer_that_is_not_known_is_refused_by_name(copy, stranger):
    folder = copy("sd3")
    change(folder / "model_index.json", transformer=["diffusers", stranger])
    with pytest.raises(RequestError) as error:
        load_image_prior(str(folder))
    assert f"model_index.json: transformer '{stranger}' is not known" in str(error.value)
    assert "Stable Diffusion 3 (SD3Transformer2DModel)" in str(error.value) and "Sana (" in str(error.value)


def test_weights_of_other_shapes_are_named(copy):
    folder = copy("sana")
    change(folder / "transformer" / "config.json", num_layers=3)
    with pytest.raises(ModelNotFound, match=r"transformer: .*SanaTransformer2DModel are missing"):
        load_image_prior(str(folder))


@pytest.mark.parametrize(
    ("kind", "path", "values", "said"),
    [
        ("sd3", "splatmill.json", {"size": 15}, "splatmill.json: a size of 15 pixels .* multiples of 4 up to 48"),
        ("sd3", "splatmill.json", {"size": 64}, "splatmill.json: a size of 64 pixels .* multiples of 4 up to 48"),
        ("sana", "splatmill.json", {"size": 100}, "splatmill.json: a size of 100 pixels .* multiples of 32"),
        ("flux2", "splatmill.json", {"size": 18}, "splatmill.json: a size of 18 pixels .* multiples of 4"),
        (
            "z-image",
            "splatmill.json",
            {"size": 260},
            "splatmill.json: a size of 260 pixels .* multiples of 4 up to 256",
        ),
        ("sana", "transformer/config.json", {"guidance_embeds": True}, "guidance_embeds is true.*Sana-Sprint"),
        ("sd3", "tokenizer_2/tokenizer_config.json", {"model_max_length": 8}, "tokenizer_2/ read 16 and 8 tokens"),
        ("sd3", "model_index.json", {"tokenizer_3": [None, None]}, "it names text_encoder_3 alone"),
    ],
)
def test_what_does_not_fit_is_named(copy, kind, path, values, said):
    folder = copy(kind)
    if not (folder / path).exists():
        (folder / path).write_text("{}")
    change(folder / path, **values)
    with pytest.raises(RequestError, match=said):
        load_image_prior(str(folder))


@pytest.mark.parametrize(("kind", "layers"), [("flux2", 28), ("z-image", 3)])
def test_qwen_of_another_width_is_of_another_model(copy, kind, layers):
    folder = copy(kind)
    shutil.rmtree(folder / "text_encoder")
    qwen("Qwen3Model", layers, width=24)[1].save_pretrained(folder / "text_encoder")
    with pytest.raises(RequestError, match=r"text_encoder: .* does not fit the transformer, which wants"):
        load_image_prior(str(folder))


def test_a_recipes_size_is_taken_and_another_model(checkpoint):
    ref = str(checkpoint("sd3"))
    plain, small = load_image_prior(ref), load_image_prior(ModelRef(ref, size=8))
    assert (small.size, small.latent_size) == (8, 4) and small.model_id == f"{plain.model_id}+size:8"
    with pytest.raises(RequestError, match=r"image_size: a size of 6 pixels .* multiples of 4 up to 48"):
        load_image_prior(ModelRef(ref, size=6))
    unet = load_image_prior(ModelRef(str(checkpoint("sd")), size=24))
    assert (unet.size, unet.latent_size) == (24, 12)
    with pytest.raises(RequestError, match=r"image_size=10 does not fit .*: it must be a multiple of 4"):
        load_image_prior(ModelRef(str(checkpoint("sd")), size=10))


def test_another_size_is_taken(copy):
    folder = copy("sd3")
    (folder / "splatmill.json").write_text(json.dumps({"size": 24, "background": [1, 1, 1]}))
    p = load_image_prior(str(folder))
    assert (p.size, p.latent_size, p.background) == (24, 12, (1.0, 1.0, 1.0))
    x_t, t = rows(p)
    assert p.predict(x_t, t, p.encode_prompts([PROMPT, ""])).shape == (2, 16, 12, 12)


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ("vae", "transformer/config.json: the transformer takes 16 channels but latents have 8"),
        ("text_encoder_2", "a projection_dim of 32 does not fit the transformer, which wants 80"),
        ("text_encoder_3", "a d_model of 24 does not fit the transformer, which wants 64"),
    ],
)
def test_parts_of_different_models_are_named(copy, checkpoint, monkeypatch, part, said):
    from pipeline_core.priors.sd3 import SD3Prior

    monkeypatch.setattr(SD3Prior, "autoencoders", ("AutoencoderDC", "AutoencoderKL"))
    mixed = copy("sd3")
    source = {"vae": checkpoint("sana") / "vae", "text_encoder_2": checkpoint("sd3") / "text_encoder"}
    shutil.rmtree(mixed / part)
    shutil.copytree(source.get(part, checkpoint("pixel") / "text_encoder"), mixed / part)
    ask = (lambda ref: model_id(ref, "image")) if part == "vae" else load_image_prior  # a plan tells it already
    with pytest.raises(RequestError, match=said):
        ask(str(mixed))
