"""What cannot guide is refused by name and before torch is asked for; what guides under another file name is loaded."""

import json
import shutil
from pathlib import Path
from typing import get_args

import diffusers
import pytest
import torch
from safetensors.torch import load_file, save_file

from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.priors import checks
from pipeline_core.priors.checks import DIFFUSIONS, FLOWS, SOLVERS, diffusion_problem, flow_problem
from pipeline_core.priors.image import load_image_prior, load_process
from pipeline_core.priors.process import PREDICTION_TYPES, PredictionType
from pipeline_core.priors.resolve import model_id, resolve_model, select_files

FLOW = {"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}
DDIM = {"_class_name": "DDIMScheduler", "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
EDM = {  # as Playground 2.5 and its like are published
    "_class_name": "EDMDPMSolverMultistepScheduler",
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "sigma_data": 0.5,
    "sigma_max": 80.0,
    "sigma_min": 0.002,
}


def change(folder, file, **values):
    path = folder / file
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# ------------------------------------------------------------------------------------------------- schedulers


def test_every_class_of_diffusers_is_known_or_refused_by_name(tmp_path):
    classes = {name for name in dir(diffusers) if name.endswith("Scheduler")}
    assert classes.issuperset({*DIFFUSIONS, *FLOWS, *SOLVERS}) and len(classes) > 40
    assert tuple(checks.PREDICTIONS) == PREDICTION_TYPES == get_args(PredictionType)
    for name in classes:
        problem = diffusion_problem({**DDIM, "_class_name": name})
        assert (problem is None) == (name in DIFFUSIONS), name
        assert problem is None or problem.startswith(f"{name} is no scheduler of a diffusion that guides"), name


@pytest.mark.parametrize("name", DIFFUSIONS)
def test_a_diffusion_has_the_betas_of_its_own_class(name, tmp_path):
    """Left out of the file, betas are those that the class begins with, and not those of another one."""
    (tmp_path / "scheduler_config.json").write_text(json.dumps({"_class_name": name, "prediction_type": "epsilon"}))
    if name == "DPMSolverSDEScheduler":
        pytest.importorskip("torchsde")
    theirs = getattr(diffusers, name)()
    torch.testing.assert_close(load_process(tmp_path).alphas_cumprod, theirs.alphas_cumprod, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    "config, message",
    [
        (EDM, "EDMDPMSolverMultistepScheduler is no .* Karras' continuous noise levels"),
        ({"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler is no .*Karras"),
        ({**DDIM, "_class_name": "LCMScheduler"}, "LCMScheduler is no .* use its base model"),
        ({"_class_name": "CMStochasticIterativeScheduler"}, "CMStochasticIterativeScheduler is no .*consistency"),
        ({"_class_name": "DDPMWuerstchenScheduler"}, "DDPMWuerstchenScheduler is no .*Wuerstchen denoises"),
        ({"_class_name": "VQDiffusionScheduler", "num_train_timesteps": 100}, "VQDiffusionScheduler is no .*tokens"),
        (
            {"_class_name": "HomemadeScheduler", **{k: DDIM[k] for k in DDIM if k != "_class_name"}},
            "HomemadeSch.*known are",
        ),
        ({}, "None is no scheduler"),
        ({**EDM, "_class_name": None}, "None is no scheduler"),
        (
            {**DDIM, "_class_name": "DPMSolverMultistepScheduler", "use_flow_sigmas": True},
            "use_flow_sigmas .*flow-matching",
        ),
        ({**DDIM, "prediction_type": "flow_prediction"}, "flow-matching"),
        ({**DDIM, "prediction_type": "noise"}, "prediction_type 'noise' is not one of epsilon, v_prediction, sample"),
        ({**DDIM, "_class_name": "EulerDiscreteScheduler", "timestep_type": "continuous"}, "told continuous times"),
        ({**DDIM, "rescale_betas_zero_snr": True}, "zero signal .* prediction_type 'epsilon'"),
        ({**DDIM, "trained_betas": [0.1, 0.5, 1.0]}, "zero signal"),
        ({**DDIM, "num_train_timesteps": 0}, "num_train_timesteps=0 must be an integer of at least 2"),
        ({**DDIM, "num_train_timesteps": -5}, "num_train_timesteps=-5"),
        ({**DDIM, "num_train_timesteps": "1000"}, "num_train_timesteps='1000'"),
        ({**DDIM, "beta_start": "small"}, "beta_start='small', beta_end=0.012; they must be numbers"),
        ({**DDIM, "beta_end": None}, "beta_end=None"),
        ({**DDIM, "beta_start": 0.5, "beta_end": 0.1}, "0 < beta_start <= beta_end < 1"),
        ({**DDIM, "trained_betas": [0.1, "x"]}, "trained_betas must be a list of at least two numbers"),
        ({**DDIM, "beta_schedule": "cosine"}, "beta_schedule 'cosine' is not one of linear"),
    ],
)
def test_what_is_no_diffusion_over_betas_is_refused_before_anything_is_loaded(copy, config, message):
    folder = copy("sd")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(config))
    for ask in (lambda: model_id(str(folder), "image"), lambda: load_process(folder / "scheduler")):
        with pytest.raises(RequestError, match=rf"{path}: .*{message}"):
            ask()


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_zero_signal_at_the_end_is_right_where_the_picture_is_predicted(prediction):
    assert diffusion_problem({**DDIM, "rescale_betas_zero_snr": True, "prediction_type": prediction}) is None


@pytest.mark.parametrize(
    "config, message",
    [
        (DDIM, "DDIMScheduler is no scheduler of a rectified flow that guides"),
        ({"_class_name": "UniPCMultistepScheduler", "prediction_type": "flow_prediction"}, "use_flow_sigmas=False"),
        ({**FLOW, "_class_name": "FlowMatchLCMScheduler"}, "FlowMatchLCMScheduler is no scheduler"),
        ({**FLOW, "invert_sigmas": True}, "invert_sigmas=True"),
        ({**FLOW, "shift": 0}, "the shift 0.0 must be > 0"),
        ({**FLOW, "shift": "3"}, "the shift '3' must be"),
        ({**FLOW, "num_train_timesteps": 0}, "num_train_timesteps=0 must be an integer of at least 1"),
    ],
)
def test_what_is_no_rectified_flow_is_refused_before_anything_is_loaded(copy, config, message):
    assert flow_problem(FLOW) is None
    folder = copy("sd3")
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(config))
    with pytest.raises(RequestError, match=rf"{path}: {message}"):
        model_id(str(folder), "image")


# ---------------------------------------------------------------------------------------------------- networks


@pytest.mark.parametrize(
    "values, message",
    [
        ({"in_channels": 9}, "takes 9 channels but latents have 4; inpainting"),
        ({"in_channels": 5}, "takes 5 channels but latents have 4; inpainting, depth"),
        ({"num_class_embeds": 1000}, r"wants class labels \(1000\)"),
        ({"addition_embed_type": "text_time"}, r"addition_embed_type 'text_time' with 1 text encoder\(s\)"),
        ({"addition_embed_type": "image"}, "addition_embed_type 'image'"),
        ({"time_cond_proj_dim": 256}, "latent consistency model"),
    ],
)
def test_relatives_of_a_unet_are_refused_before_anything_is_loaded(copy, values, message):
    folder = copy("sd")
    change(folder, "unet/config.json", **values)
    with pytest.raises(RequestError, match=message):
        model_id(str(folder), "image")


# --------------------------------------------------------------------------------------- other kinds of folders


def lora_folder(folder):
    folder.mkdir()
    save_file({"unet.x.lora_A.weight": torch.zeros(1, 2)}, folder / "pytorch_lora_weights.safetensors")


def comfy_folder(folder):
    for name in ("checkpoints", "loras", "vae"):
        (folder / "models" / name).mkdir(parents=True)
    (folder / "models" / "checkpoints" / "toon.safetensors").write_bytes(b"")


def file_in(name):
    def write(folder):
        folder.mkdir()
        (folder / name).write_bytes(b"GGUF")

    return write


def config_of(name, key="_class_name"):
    def write(folder):
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps({key: name if key == "_class_name" else [name]}))

    return write


def unet_file(folder):
    folder.mkdir()
    save_file({"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(2, 4, 1, 1)}, folder / "sd.safetensors")


STRANGERS = [
    (config_of("ControlNetModel"), r"a ControlNet \(config.json: ControlNetModel\): give the base model"),
    (config_of("AutoencoderKL"), r"an autoencoder \(VAE\) \(config.json: AutoencoderKL\)"),
    (config_of("AutoencoderTiny"), "a distilled encoder .*give it as image_encoder"),
    (config_of("UNet2DConditionModel"), "a U-Net .*knows no prompts"),
    (config_of("CLIPTextModel", "architectures"), "a CLIP model"),
    (config_of("T5EncoderModel", "architectures"), "a text encoder"),
    (lora_folder, "a LoRA: give it as image_lora"),
    (comfy_folder, "a folder of ComfyUI: give one file of it, .*toon.safetensors"),
    (file_in("flux-q4.gguf"), "it holds flux-q4.gguf: GGUF files are quantised"),
    (file_in("sd.ckpt"), "it holds sd.ckpt: pickled weights are never loaded"),
    (unet_file, "it holds sd.safetensors, a Stable Diffusion checkpoint in one file: .* given by its own name"),
    (lambda folder: (folder / "unet").mkdir(parents=True), "though it has unet: half of one"),
    (lambda folder: folder.mkdir(), "it is empty"),
]


@pytest.mark.parametrize("write, message", STRANGERS)
def test_a_folder_that_is_no_prior_is_called_what_it_is(tmp_path, write, message):
    write(tmp_path / "x")
    with pytest.raises(ModelNotFound, match=f"model_index.json is missing: not a diffusers folder.*{message}"):
        resolve_model(str(tmp_path / "x"), "image")


def test_a_part_of_a_folder_leads_to_the_whole(checkpoint):
    sd = checkpoint("sd")
    with pytest.raises(ModelNotFound, match=f"but the vae/ of one: give {sd}"):
        resolve_model(str(sd / "vae"), "image")


# --------------------------------------------------------------------------------------------- files of a folder


def test_a_folder_of_bfloat16_files_alone_is_loaded(copy, prior):
    folder = copy("sd")
    for path in folder.rglob("*.safetensors"):
        save_file({k: v.bfloat16() if v.is_floating_point() else v for k, v in load_file(path).items()}, path)
        path.rename(path.with_name(path.stem + ".bf16.safetensors"))
    got, want = load_image_prior(str(folder)), prior("sd")
    for name, weight in want.unet.state_dict().items():
        assert torch.equal(got.unet.state_dict()[name], weight.bfloat16().float()), name
    (folder / "unet" / "diffusion_pytorch_model.bf16.safetensors").unlink()
    with pytest.raises(ModelNotFound, match=r"unet/diffusion_pytorch_model.safetensors is missing"):
        resolve_model(str(folder), "image")


def test_one_precision_is_downloaded():
    names = [f"unet/diffusion_pytorch_model{part}.safetensors" for part in ("", ".bf16")]
    assert select_files(["model_index.json", *names], "image") == ["model_index.json", names[1]]
    names += ["unet/diffusion_pytorch_model.fp16.safetensors"]
    assert select_files(names, "image") == names[2:]
    shards = [f"text_encoder/model.bf16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    index = "text_encoder/model.safetensors.index.bf16.json"
    others = ["text_encoder/model.safetensors", "text_encoder/model.safetensors.index.json"]
    assert select_files([*shards, index, *others], "image") == sorted([*shards, index])


def test_a_header_that_is_no_list_of_tensors_is_damage(copy):
    folder = copy("sd")
    for header in (b"[]", b'{"a": 3}', b'{"a": {}}'):
        path = folder / "unet" / "diffusion_pytorch_model.safetensors"
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        with pytest.raises(ModelNotFound, match="is not a safetensors file"):
            resolve_model(str(folder), "image")


def test_the_case_that_guided_with_noise(copy):
    """Each of these was read as linear betas once."""
    folder = copy("sdxl")
    shutil.rmtree(folder / "scheduler")
    (folder / "scheduler").mkdir()
    Path(folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(EDM))
    with pytest.raises(RequestError, match="EDMDPMSolverMultistepScheduler is no scheduler of a diffusion"):
        load_image_prior(str(folder))
