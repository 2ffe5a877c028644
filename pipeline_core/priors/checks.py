"""What cannot guide, told from configurations alone: before weights are read, and before compute is spent.

A network that is misread does not fail: it guides with noise. So schedulers are taken from two lists, of diffusions
over a table of betas and of rectified flows, and their files must say what the two classes of ``process.py`` do.
Nothing here loads torch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_core.errors import RequestError
from pipeline_core.priors.families import Family, transformer_class

if TYPE_CHECKING:
    from pipeline_core.priors.interface import Camera

CAMERA_DIM = 8
"""Length of ``image.camera_embedding``."""
KINDS = ("unlit", "lit", "normals")
"""Kinds of render that a prior may tell apart: colour without light, lit from one side, normals as colours."""
UNLIT = KINDS[0]
LIT = KINDS[:2]
"""What a prior that is told no kind can judge: pictures of all lights."""
KLEIN_LAYERS = (9, 18, 27)
"""Hidden states of FLUX.2-klein's Qwen3 that are a prompt's, as its pipeline takes them."""
PREDICTIONS = ("epsilon", "v_prediction", "sample")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2", "laplace", "sigmoid")
"""What ``prediction_type`` and ``beta_schedule`` of a diffusion may be."""
DIFFUSIONS = tuple(
    f"{name}Scheduler"
    for name in (
        "DDIM", "DDIMInverse", "DDIMParallel", "DDPM", "DDPMParallel", "DEISMultistep", "DPMSolverMultistep",
        "DPMSolverMultistepInverse", "DPMSolverSDE", "DPMSolverSinglestep", "EulerAncestralDiscrete", "EulerDiscrete",
        "HeunDiscrete", "KDPM2AncestralDiscrete", "KDPM2Discrete", "LMSDiscrete", "PNDM", "SASolver", "UniPCMultistep",
    )
)  # fmt: skip
"""Samplers of one and the same diffusion: integer timesteps over a table of betas."""
FLOWS = ("FlowMatchEulerDiscreteScheduler", "FlowMatchHeunDiscreteScheduler")
SOLVERS = ("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "DEISMultistepScheduler",
           "UniPCMultistepScheduler")  # fmt: skip
"""Samplers of a rectified flow, and those that are with ``use_flow_sigmas``."""
OTHERS = {
    "EDM": "its networks are trained on Karras' continuous noise levels",
    "CMStochastic": "a consistency model answers x_0 in one step and has no unconditional answer",
    "Consistency": "a consistency model answers x_0 in one step and has no unconditional answer",
    "LCM": "a latent consistency model was distilled for a few steps; use its base model",
    "TCD": "a trajectory consistency model was distilled for a few steps; use its base model",
    "Wuerstchen": "Wuerstchen denoises codes of another network, on continuous times",
    "VQ": "VQ-Diffusion and its like predict classes of tokens",
    "ScoreSde": "its networks are trained on continuous times",
    "Flow": "it is of a flow-matching model, and a U-Net is guided by a diffusion",
}
"""Why the best known of the others cannot guide, by what their names hold."""


def check_guides(folder: Path, family: Family, noise: dict[str, Any] | None = None) -> None:
    """Raise :class:`RequestError` where a complete folder of ``family`` holds what cannot guide, and say why.

    ``noise`` says what is known better than by the scheduler's file.
    """
    if family.noise is None:
        return
    path = folder / "scheduler" / "scheduler_config.json"
    if problem := (flow_problem if family.noise == "flow" else diffusion_problem)(_read(path) | (noise or {})):
        raise RequestError(f"{path}: {problem}")
    if family.noise == "flow" and (problem := transformer_problem(folder)):
        raise RequestError(problem)
    if family.noise == "diffusion" and not family.shown:
        check_unet(folder)


# ------------------------------------------------------------------------------------------------- schedulers


def diffusion_problem(config: dict[str, Any]) -> str | None:
    """Why a scheduler's configuration is not that of a diffusion over a table of betas; None where it is."""
    name, prediction = config.get("_class_name"), config.get("prediction_type", "epsilon")
    if config.get("use_flow_sigmas") or prediction == "flow_prediction":
        return "use_flow_sigmas and flow_prediction are of a flow-matching model, and a U-Net is guided by a diffusion"
    if prediction not in PREDICTIONS:
        return f"prediction_type {prediction!r} is not one of {', '.join(PREDICTIONS)}"
    if name not in DIFFUSIONS and (name or not {"beta_schedule", "trained_betas"} & set(config)):
        why = next((f" ({why})" for part, why in OTHERS.items() if part in str(name)), "")
        return f"{name} is no scheduler of a diffusion that guides{why}; known are {', '.join(DIFFUSIONS)}"
    if config.get("timestep_type", "discrete") != "discrete":
        return f"timestep_type {config['timestep_type']!r} is of a network that is told continuous times"
    return _beta_problem(config) or _terminal_problem(config, prediction)


def flow_problem(config: dict[str, Any]) -> str | None:
    """Why a scheduler's configuration is not that of a rectified flow; None where it is."""
    name = config.get("_class_name")
    if name not in (*FLOWS, *SOLVERS):
        return f"{name} is no scheduler of a rectified flow that guides; known are {', '.join((*FLOWS, *SOLVERS))}"
    if name in SOLVERS and (not config.get("use_flow_sigmas") or config.get("prediction_type") != "flow_prediction"):
        return (
            f"use_flow_sigmas={config.get('use_flow_sigmas', False)}, prediction_type="
            f"{config.get('prediction_type', 'epsilon')!r}; a rectified flow has True and 'flow_prediction' there"
        )
    if config.get("invert_sigmas"):
        return f"invert_sigmas={config['invert_sigmas']}; a prior that guides counts noise from 0 to 1"
    shift = config.get("flow_shift" if name in SOLVERS else "shift", 1.0)
    shift = float(shift) if _is_number(shift) else shift
    if not config.get("use_dynamic_shifting") and not (isinstance(shift, float) and shift > 0):
        return f"the shift {shift!r} must be > 0"
    return _steps_problem(config, 1)


def _beta_problem(config: dict[str, Any]) -> str | None:
    if problem := _steps_problem(config, 2):
        return problem
    betas = config.get("trained_betas")
    if betas is not None:
        if not isinstance(betas, list) or len(betas) < 2 or not all(_is_number(b) and 0 < b <= 1 for b in betas):
            return "trained_betas must be a list of at least two numbers above 0 and at most 1"
        return None
    if (schedule := config.get("beta_schedule", "linear")) not in BETA_SCHEDULES:
        return f"beta_schedule {schedule!r} is not one of {', '.join(BETA_SCHEDULES)}"
    start, end = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    if not (_is_number(start) and _is_number(end) and 0 < start <= end < 1):
        return f"beta_start={start!r}, beta_end={end!r}; they must be numbers with 0 < beta_start <= beta_end < 1"
    return None


def _steps_problem(config: dict[str, Any], least: int) -> str | None:
    steps = config.get("num_train_timesteps", 1000)
    whole = isinstance(steps, int) and not isinstance(steps, bool)
    return None if whole and steps >= least else f"num_train_timesteps={steps!r} must be an integer of at least {least}"


def _terminal_problem(config: dict[str, Any], prediction: str) -> str | None:
    """Where the last step is noise alone, its noise is known and says nothing of the picture."""
    ends_at_zero = config.get("rescale_betas_zero_snr") or 1 in (config.get("trained_betas") or ())
    if ends_at_zero and prediction == "epsilon":
        return (
            "the schedule ends at zero signal (rescale_betas_zero_snr, or a beta of 1) with prediction_type 'epsilon', "
            "which says nothing there: such networks predict v; set prediction_type to what it was trained with"
        )
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


# ----------------------------------------------------------------------------------------------------- networks


def check_unet(folder: Path) -> Camera:
    """How a folder's U-Net is told of cameras; raises :class:`RequestError` where it wants what a prompt does not give:
    inpainting, depth and upscaling networks, those told of classes, and those distilled with their guidance."""
    index, unet = _read(folder / "model_index.json"), _read(folder / "unet" / "config.json")
    path = folder / "unet" / "config.json"
    has_vae = (index.get("vae") or [None])[0] is not None
    expected = _read(folder / "vae" / "config.json").get("latent_channels", 4) if has_vae else 3
    if (channels := unet.get("in_channels", 4)) != expected:
        raise RequestError(
            f"{path}: the U-Net takes {channels} channels but latents have {expected}; inpainting, depth "
            "and upscaling models cannot guide: use the base text-to-image model"
        )
    added = unet.get("addition_embed_type")
    encoders = sum((index.get(name) or [None])[0] is not None for name in ("text_encoder", "text_encoder_2"))
    if added not in (None, "text", "text_time") or (added == "text_time" and encoders != 2):
        raise RequestError(
            f"{path}: addition_embed_type {added!r} with {encoders} text encoder(s) is not supported: SDXL's "
            "'text_time' has two, other U-Nets None or 'text'; give a text-to-image model with parts of its own"
        )
    if taught_scales(folder) is None and unet.get("time_cond_proj_dim"):
        raise RequestError(
            f"{path}: time_cond_proj_dim is {unet['time_cond_proj_dim']}: a latent consistency model was distilled "
            "with its guidance and has no unconditional answer; use its base model, or where guidance alone was "
            'distilled into it say so in splatmill.json ("guidance_scales": [1, 10])'
        )
    return "mvdream" if unet.get("_class_name") == "MultiViewUNetModel" else _camera(folder, unet)


def taught_scales(folder: Path) -> tuple[float, float] | None:
    """The lowest and highest guidance scale that were distilled into a folder's U-Net, by its ``splatmill.json``; None
    where that names none. Raises :class:`RequestError` where the U-Net is told no scale, or these are no range."""
    side = folder / "splatmill.json"
    said = _read(side).get("guidance_scales") if side.exists() else None
    if said is None:
        return None
    if not (isinstance(said, list) and len(said) == 2 and all(map(_is_number, said)) and 1 <= said[0] <= said[1]):
        raise RequestError(f"{side}: guidance_scales {said!r} must be the lowest and the highest, from 1 on")
    width = _read(folder / "unet" / "config.json").get("time_cond_proj_dim")
    if not isinstance(width, int) or width < 4 or width % 2:
        why = f"the U-Net's time_cond_proj_dim is {width}: it is told none"
        raise RequestError(f"{side}: guidance_scales {said!r}, but {why}")
    return float(said[0]), float(said[1])


def _camera(folder: Path, unet: dict[str, Any]) -> Camera:
    side = folder / "splatmill.json"
    said = _read(side) if side.exists() else {}
    camera: Camera = said.get("camera", "none")
    if camera not in ("none", "angles"):
        raise RequestError(f"{side}: camera {camera!r} is not known; use none or angles")
    kinds = said.get("kinds", [])
    if kinds and (camera != "angles" or kinds[0] != KINDS[0] or not set(kinds) <= set(KINDS)):
        raise RequestError(
            f"{side}: kinds {kinds!r} are not understood; they go with camera angles, begin with {KINDS[0]!r} and are "
            f"among {', '.join(KINDS)}"
        )
    labels = unet.get("class_embed_type") or unet.get("num_class_embeds")
    width, expected = unet.get("projection_class_embeddings_input_dim"), CAMERA_DIM + len(kinds)
    if camera == "angles" and (labels != "projection" or width != expected):
        raise RequestError(
            f"{folder}: splatmill.json says camera angles, but the U-Net has class_embed_type={labels!r} "
            f"of width {width}; it must be 'projection' of width {expected}"
        )
    if camera == "none" and labels:
        raise RequestError(
            f"{folder}: the U-Net wants class labels ({labels}), which a prompt does not give; it cannot guide"
        )
    return camera


def transformer_problem(folder: Path) -> str | None:
    """Why a flow's folder is that of a relative that cannot guide, and of which file that is told; None where it can:
    what guidance or few steps were distilled into, what is shown pictures, FLUX.2-dev, half of T5, another's vae."""
    index, network = folder / "model_index.json", folder / "transformer" / "config.json"
    for path, name in ((network, "guidance_embeds"), (index, "is_distilled")):
        if _read(path).get(name):
            return (
                f"{path}: {name} is true: a distilled network (Sana-Sprint, FLUX.2-dev, FLUX.2-klein-4B) has no "
                "unconditional answer and cannot guide; use what it was distilled from (Sana, FLUX.2-klein-base-4B)"
            )
    if (width := _read(network).get("siglip_feat_dim")) is not None:
        return (
            f"{network}: siglip_feat_dim is {width}: a network that edits pictures (Z-Image-Omni, Z-Image-Edit) cannot "
            "guide; use Z-Image"
        )
    halves = [name for name in ("text_encoder_3", "tokenizer_3") if (_read(index).get(name) or [None])[0] is not None]
    if len(halves) == 1:
        return (
            f"{index}: it names {halves[0]} alone; T5 needs text_encoder_3 and tokenizer_3, and without T5 both are "
            "left out"
        )
    klein = transformer_class(folder) == "Flux2Transformer2DModel"
    channels, codes = _read(network).get("in_channels"), _read(folder / "vae" / "config.json").get("latent_channels")
    latents = codes * (4 if klein else 1) if codes else channels
    if channels and channels != latents:
        return (
            f"{network}: the transformer takes {channels} channels but latents have {latents}; inpainting and control "
            "models cannot guide: use the base text-to-image model with its own vae"
        )
    return _klein_problem(folder / "text_encoder" / "config.json") if klein else None


def _klein_problem(path: Path) -> str | None:
    text = _read(path)
    said, layers = (text.get("architectures") or ["nothing"])[0], text.get("num_hidden_layers", 0)
    if not said.startswith("Qwen3"):
        return f"{path}: FLUX.2 with {said} (FLUX.2-dev) is not supported, klein has Qwen3; use FLUX.2-klein-base-4B"
    if layers < max(KLEIN_LAYERS):
        return (
            f"{path}: num_hidden_layers is {layers}, but prompts are read at layer {max(KLEIN_LAYERS)}: download the "
            "folder again"
        )
    return None


# ---------------------------------------------------------------------------------------------------- encoders

DISTILLED_FROM = {"taesd": 0.18215, "taesdxl": 0.13025, "taesd3": 1.5305, "taef1": 0.3611}
"""``scaling_factor`` of the full autoencoder that each of madebyollin's published encoders was distilled from."""


def check_encoder(ref: str, encoder: Mapping[str, Any], vae: Mapping[str, Any] | None, model: str) -> None:
    """Raise :class:`RequestError` where an encoder's configuration is not of a distilled encoder for the latents of
    the autoencoder ``vae`` (None: there is none) of ``model``."""
    if (said := encoder.get("_class_name")) != "AutoencoderTiny":
        raise RequestError(
            f"image_encoder {ref!r}: its config.json is of class {said!r}; a distilled encoder is an AutoencoderTiny, "
            "such as madebyollin/taesd"
        )
    if vae is None:
        raise RequestError(f"image_encoder {ref!r}: {model} works on pixels and needs no encoder")
    full = float(vae.get("scaling_factor") or 1.0)
    source = DISTILLED_FROM.get(Path(ref).name.lower().partition("@")[0], full)
    given, wanted = _latents(encoder), _latents(vae)
    if given != wanted or not math.isclose(source, full, rel_tol=1e-3):
        fits = [name for name, factor in DISTILLED_FROM.items() if math.isclose(factor, full, rel_tol=1e-3)]
        raise RequestError(
            f"image_encoder {ref!r}: it gives {given[0]} channels for {given[1]} x {given[1]} pixels as the "
            f"autoencoder with scaling_factor {source:g} does, but {model} was trained on {wanted[0]} channels for "
            f"{wanted[1]} x {wanted[1]} of the one with {full:g}"
            + "".join(f"; use madebyollin/{name}" for name in fits)
        )


def _latents(config: Mapping[str, Any]) -> tuple[int, int]:
    """Channels of an autoencoder's latents, and pixels a side of one."""
    widths = config.get("encoder_block_out_channels") or config.get("block_out_channels")
    return int(config.get("latent_channels", 4)), 2 ** (len(widths) - 1) if widths else int(config.get("patch_size", 8))


def _read(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text(encoding="utf-8")))
