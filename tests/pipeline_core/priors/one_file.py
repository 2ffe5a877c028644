"""Tiny checkpoints in one file: the weights of a diffusers folder under the names of the original repositories."""

import json
import re
import shutil

import torch
from safetensors.torch import load_file, save_file

INNER = {"norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
         "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection"}  # fmt: skip
OUTSIDE = {"time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
           "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2",
           "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2"}  # fmt: skip
ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}
OPEN_CLIP = {"layer_norm1": "ln_1", "layer_norm2": "ln_2", "mlp.fc1": "mlp.c_fc", "mlp.fc2": "mlp.c_proj",
             "self_attn.out_proj": "attn.out_proj"}  # fmt: skip


def unet_name(name, depth, attends):
    """The original name of a U-Net's tensor: ``depth`` residual blocks a stage, stages ``attends`` with attention."""
    for ours, theirs in OUTSIDE.items():
        if name.startswith(f"{ours}."):
            return name.replace(ours, theirs, 1)
    way, stage, kind, layer, rest = re.fullmatch(r"(down|mid|up)_block(?:s\.(\d+))?\.(\w+)\.(\d+)\.(.*)", name).groups()
    stage, layer = int(stage or 0), int(layer)
    if kind == "resnets":
        for ours, theirs in INNER.items():
            rest = re.sub(rf"^{ours}\.", f"{theirs}.", rest)
    if way == "mid":
        return f"middle_block.{2 * layer if kind == 'resnets' else 1}.{rest}"
    block, part = stage * (depth + 1) + layer, 0 if kind == "resnets" else 1
    if kind == "downsamplers":
        return f"input_blocks.{(stage + 1) * (depth + 1)}.0.{rest.replace('conv', 'op', 1)}"
    if kind == "upsamplers":
        return f"output_blocks.{(stage + 1) * (depth + 1) - 1}.{2 if attends[stage] else 1}.{rest}"
    return f"input_blocks.{block + 1}.{part}.{rest}" if way == "down" else f"output_blocks.{block}.{part}.{rest}"


def vae_name(name, stages):
    name = name.replace("conv_norm_out", "norm_out")
    for ours, theirs in (
        ("conv_shortcut", "nin_shortcut"),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
    ):
        name = name.replace(ours, theirs)
    name = re.sub(r"down_blocks\.(\d+)", r"down.\1", name)
    name = re.sub(r"up_blocks\.(\d+)", lambda found: f"up.{stages - 1 - int(found[1])}", name)
    name = re.sub(r"(down|up)\.(\d+)\.resnets", r"\1.\2.block", name)
    name = re.sub(r"mid_block\.resnets\.(\d)", lambda found: f"mid.block_{int(found[1]) + 1}", name)
    if "mid_block.attentions.0" in name:
        name = name.replace("mid_block.attentions.0", "mid.attn_1")
        for ours, theirs in ATTENTION.items():
            name = name.replace(f".{ours}.", f".{theirs}.")
    return name


def open_clip(state):
    """A CLIP text encoder as OpenCLIP stores it."""
    made, rows = {}, {}
    for name, value in state.items():
        name = name.removeprefix("text_model.")
        if found := re.fullmatch(r"encoder\.layers\.(\d+)\.(.*)\.(weight|bias)", name):
            layer, part, kind = found.groups()
            if part.startswith("self_attn.") and "out_proj" not in part:
                rows.setdefault((layer, kind), {})[part[-6]] = value
            else:
                made[f"transformer.resblocks.{layer}.{OPEN_CLIP[part]}.{kind}"] = value
        elif name == "text_projection.weight":
            made["text_projection"] = value.T.contiguous()
        elif "position_ids" not in name:
            name = name.replace("embeddings.position_embedding.weight", "positional_embedding")
            made[name.replace("embeddings.", "").replace("final_layer_norm", "ln_final")] = value
    for (layer, kind), parts in rows.items():
        made[f"transformer.resblocks.{layer}.attn.in_proj_{kind}"] = torch.cat([parts[each] for each in "qkv"])
    return made


def write_one_file(folder, path, metadata=None, **more):
    """The checkpoint of a tiny folder of Stable Diffusion 1 or XL, ``more`` tensors beside it; returns ``path``."""
    unet = json.loads((folder / "unet" / "config.json").read_text())
    vae = json.loads((folder / "vae" / "config.json").read_text())
    attends = ["CrossAttn" in name for name in unet["up_block_types"]]
    read = lambda name: load_file(next((folder / name).glob("*.safetensors")))  # noqa: E731
    tensors = {
        f"model.diffusion_model.{unet_name(name, unet['layers_per_block'], attends)}": each
        for name, each in read("unet").items()
    }
    for name, each in read("vae").items():
        attention = "attentions" in name and name.endswith("weight") and "norm" not in name
        theirs = f"first_stage_model.{vae_name(name, len(vae['block_out_channels']))}"
        tensors[theirs] = each[:, :, None, None] if attention else each
    first = (
        "conditioner.embedders.0.transformer."
        if (folder / "text_encoder_2").is_dir()
        else "cond_stage_model.transformer."
    )
    for name, each in read("text_encoder").items():
        tensors[f"{first}text_model.{name.removeprefix('text_model.')}"] = each
    if (folder / "text_encoder_2").is_dir():
        tensors |= {
            f"conditioner.embedders.1.model.{name}": each for name, each in open_clip(read("text_encoder_2")).items()
        }
    save_file({name: each.contiguous() for name, each in (tensors | more).items()}, path, metadata=metadata)
    return path


def configurations(folder, target):
    """The same folder without its weights."""
    return shutil.copytree(folder, target, ignore=shutil.ignore_patterns("*.safetensors"))
