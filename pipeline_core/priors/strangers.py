"""What a folder is that is no image prior, and what its user may have meant: for messages only."""

from __future__ import annotations

import json
from pathlib import Path

from pipeline_core.priors.headers import kind_of, read_header

CLASSES = (
    ("ControlNet", "a ControlNet", "give the base model that it controls"),
    ("T2IAdapter", "a T2I-Adapter", "give the base model that it controls"),
    ("IPAdapter", "an IP-Adapter", "give the base model that it was made for"),
    ("AutoencoderTiny", "a distilled encoder", "give it as image_encoder, and the whole model as image_prior"),
    ("Autoencoder", "an autoencoder (VAE)", "give the whole model"),
    ("VQModel", "an autoencoder (VAE)", "give the whole model"),
    ("UNet", "a U-Net", "give the whole model: its network alone knows no prompts"),
    ("Transformer", "a transformer", "give the whole model: its network alone knows no prompts"),
    ("Prior", "a prior that makes image embeddings", "give a text-to-image model"),
    ("CLIP", "a CLIP model", "give the whole text-to-image model"),
    ("Encoder", "a text encoder", "give the whole text-to-image model"),
    ("", "another model", "give a text-to-image model in diffusers' layout"),
)
"""What config.json's class tells by a part of its name; the first row that fits has it."""
COMFY = ("checkpoints", "diffusion_models", "loras", "clip", "vae")


def folder_is(folder: Path) -> str:
    """``, but a LoRA: ...``, as the end of a sentence; empty where nothing is recognised."""
    if (folder.parent / "model_index.json").is_file():
        return f", but the {folder.name}/ of one: give {folder.parent}"
    if (folder / "adapter_config.json").is_file() or (folder / "pytorch_lora_weights.safetensors").is_file():
        return ", but a LoRA: give it as image_lora, and the model that it was trained on as image_prior"
    if (folder / "config.json").is_file():
        name = _class_name(folder / "config.json")
        what, way_out = next((what, way) for part, what, way in CLASSES if part in name)
        return f", but {what} (config.json: {name}): {way_out}"
    models = folder / "models" if (folder / "models").is_dir() else folder
    if sum((models / name).is_dir() for name in COMFY) > 1:
        found = sorted((models / "checkpoints").glob("*.safetensors"))
        return f", but a folder of ComfyUI: give one file of it, {found[0] if found else models / 'checkpoints/<name>'}"
    parts = [name for name in ("unet", "transformer", "vae", "text_encoder") if (folder / name).is_dir()]
    if parts:
        return f", though it has {', '.join(parts)}: half of one; download it again"
    return _files(folder)


def _class_name(path: Path) -> str:
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return str(told.get("_class_name") or (told.get("architectures") or ["nothing"])[0])
    except (ValueError, AttributeError, LookupError):
        return "nothing"


def _files(folder: Path) -> str:
    if found := sorted(folder.glob("*.safetensors")):
        from pipeline_core.priors.resolve import safetensors_problem

        what = "a damaged file" if safetensors_problem(found[0]) else kind_of(read_header(found[0]).shapes)
        return f"; it holds {found[0].name}, {what}: a checkpoint in one file is given by its own name"
    if found := sorted(folder.glob("*.gguf")):
        return f"; it holds {found[0].name}: GGUF files are quantised for other programs, give safetensors"
    if found := sorted(path for ending in ("*.ckpt", "*.pt", "*.pth", "*.bin") for path in folder.glob(ending)):
        return f"; it holds {found[0].name}: pickled weights are never loaded, convert them to safetensors"
    return "; download it again" if any(folder.iterdir()) else ": it is empty"
