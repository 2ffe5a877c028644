"""LoRAs: W += scale * (alpha / r) * B A for layers of the denoiser and the text encoders, when a prior is loaded.

    merge(Path("clay.safetensors"), 0.8, {"unet": unet, "text_encoder": text_encoder})

Names of three layouts are read: diffusers' and PEFT's (``unet.<layer>.lora_A.weight``), what diffusers wrote before
(``unet.<layer>.lora.down.weight``, ``...processor.to_q_lora.down.weight``), and kohya's, in diffusers' names of layers
or in those of the original checkpoints (``lora_unet_<layer>.lora_down.weight``). A tensor that finds no layer, or a
layer of another shape, is an error: half a style is not that style. Nothing here loads torch before it merges.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline_core.errors import RequestError
from pipeline_core.priors.headers import Header, Shape, first, kind_of, read_header

DENOISERS = ("unet", "transformer")
NETWORKS = (*DENOISERS, "text_encoder", "text_encoder_2", "text_encoder_3")
_SIDE = re.compile(r"(?P<layer>.+?)[._]lora(?:_linear_layer)?[._](?P<side>A|B|down|up)(?:\.[^.]+)?\.weight")
_ALPHA = re.compile(r"(?P<layer>.+?)(?:[._]lora)?\.alpha")
_PREFIX = re.compile(
    r"(?:base_model\.model\.)?"
    r"(?:(?P<text>text_encoder(?:_[23])?)\.|lora_te(?P<number>[123]?)_|lora_(?:unet|transformer)_"
    r"|(?:unet|transformer|diffusion_model)\.)?"
)
_PEFT = re.compile(r"base_model\.model\.")
_SETTINGS = "lora_adapter_metadata"


@dataclass(frozen=True)
class Change:
    """What one pair of tensors adds to one weight. ``alpha``: a number, or the name of the tensor that holds it."""

    network: str
    weight: str
    down: str
    up: str
    rank: int
    alpha: float | str
    root: bool = False

    def factor(self, alpha: float) -> float:
        """alpha / r, or alpha / sqrt(r) where the file was trained so (rsLoRA)."""
        return alpha / (math.sqrt(self.rank) if self.root else self.rank)


def changes(file: Path, networks: Mapping[str, Mapping[str, Shape]]) -> list[Change]:
    """What ``file`` changes in ``networks``, given as shapes of weights by name; every tensor of the file is used.

    Raises :class:`RequestError` where it is no LoRA, or one of another model.
    """
    header = read_header(file)
    pairs: dict[str, dict[str, str]] = {}
    alphas: dict[str, str] = {}
    for name in header.shapes:
        if found := _SIDE.fullmatch(name):
            pairs.setdefault(found["layer"], {})["down" if found["side"] in ("A", "down") else "up"] = name
        elif found := _ALPHA.fullmatch(name):
            alphas[found["layer"]] = name
    _check_kind(file, header, pairs, alphas)
    index = {name: _Index(name, shapes) for name, shapes in networks.items()}
    lost = [layer for layer in pairs if _target(layer, index) is None]
    if lost:
        raise RequestError(
            f"image_lora: {file} was made for another model: {len(lost)} of the {len(pairs)} layers that it changes "
            f"are not in {' or '.join(networks)} (first: {first(lost)}){_made_for(header)}"
        )
    settings = {name: _settings(file, header, name, any(map(_PEFT.match, pairs))) for name in networks}
    return [_change(file, header, layer, pair, alphas.get(layer), index, settings) for layer, pair in pairs.items()]


def merge(file: Path, scale: float, networks: Mapping[str, Any]) -> None:
    """Add ``scale`` times the changes of ``file`` to modules by name (:data:`NETWORKS`); raises as :func:`changes`."""
    import torch
    from safetensors import safe_open

    weights = {name: dict(network.named_parameters()) for name, network in networks.items()}
    shapes = {name: {key: tuple(each.shape) for key, each in own.items()} for name, own in weights.items()}
    wanted = changes(file, shapes)
    with torch.no_grad(), safe_open(str(file), framework="pt") as tensors:
        for each in wanted:
            weight = weights[each.network][each.weight]
            alpha = float(tensors.get_tensor(each.alpha)) if isinstance(each.alpha, str) else each.alpha
            down, up = (tensors.get_tensor(name).to(weight.device, torch.float32) for name in (each.down, each.up))
            added = (up.flatten(1) @ down.flatten(1)).reshape(weight.shape)
            weight.copy_(weight.float() + scale * each.factor(alpha) * added)


def _check_kind(file: Path, header: Header, pairs: dict[str, dict[str, str]], alphas: dict[str, str]) -> None:
    """Refuse what is no LoRA, what is more than one, and pairs that are not whole."""
    names = header.shapes
    if not pairs:
        raise RequestError(
            f"image_lora: {file} is not a LoRA but {kind_of(names)} (first tensors: {first(names)}); a LoRA has names "
            "such as unet.<layer>.lora_A.weight and unet.<layer>.lora_B.weight"
        )
    used = {name for pair in pairs.values() for name in pair.values()} | set(alphas.values())
    if set(names) - used:
        raise RequestError(
            f"image_lora: {file} holds {len(set(names) - used)} tensors that are no part of a LoRA (first: "
            f"{first(set(names) - used)}); DoRA, LyCORIS and biases cannot be merged: export it as a plain LoRA"
        )
    half = [layer for layer, pair in pairs.items() if len(pair) < 2]
    if half:
        raise RequestError(
            f"image_lora: {file} holds one half of {len(half)} pairs (first: {first(half)}); copy it again"
        )


def _made_for(header: Header) -> str:
    said = header.metadata.get("ss_base_model_version") or header.metadata.get("modelspec.architecture")
    return f"; its own words: {said}" if said else "; give the model that it was trained on as image_prior"


# ------------------------------------------------------------------------------------------------------- layers


class _Index:
    """Weights of one network by what LoRAs may call their layers: every separator an underscore."""

    def __init__(self, name: str, shapes: Mapping[str, Shape]) -> None:
        self.network, self.shapes = name, shapes
        layers = [
            key.removesuffix(".weight") for key, shape in shapes.items() if key.endswith(".weight") and len(shape) > 1
        ]
        self.weights = {_flat(layer): f"{layer}.weight" for layer in layers}
        self.depth = _depth(layers)
        if name == "unet":
            self.weights = {_from_original(flat, self.depth): weight for flat, weight in self.weights.items()}

    def find(self, layer: str) -> str | None:
        flat = _flat(layer)
        if self.network == "unet":
            flat = _from_original(flat, self.depth)
        elif self.network != "transformer":
            flat = re.sub(r"_to_([qkv])$", r"_\1_proj", re.sub(r"_to_out$", "_out_proj", flat))
        return self.weights.get(flat) or self.weights.get(f"{flat}_0")


def _flat(layer: str) -> str:
    return layer.replace(".", "_").replace("_processor_", "_").removeprefix("text_model_")


_INNER = {"in_layers_2": "conv1", "out_layers_3": "conv2", "emb_layers_1": "time_emb_proj",
          "skip_connection": "conv_shortcut"}  # fmt: skip
_OUTSIDE = {"input_blocks_0_0": "conv_in", "out_2": "conv_out", "time_embed_0": "time_embedding_linear_1",
            "time_embed_2": "time_embedding_linear_2", "label_emb_0_0": "add_embedding_linear_1",
            "label_emb_0_2": "add_embedding_linear_2"}  # fmt: skip
_BLOCK = re.compile(r"(input|output)_blocks_(\d+)_(\d+)_(.+)|middle_block_(\d+)_(.+)")


def _depth(layers: list[str]) -> int:
    """Residual blocks a stage on the way down, by diffusers' names or the original ones."""
    ours = {layer.split(".")[3] for layer in layers if layer.startswith("down_blocks.0.resnets.")}
    theirs = [int(found[1]) for layer in layers if (found := re.fullmatch(r"input_blocks\.(\d+)\.0\.op", layer))]
    return len(ours) or min(theirs, default=1) - 1


def _from_original(flat: str, depth: int) -> str:
    """diffusers' name for a U-Net layer under its original name; ``depth`` residual blocks a stage on the way down."""
    found = _BLOCK.fullmatch(flat)
    if flat in _OUTSIDE or found is None:
        return _OUTSIDE.get(flat, flat)
    way, number, part, rest, middle, middle_rest = found.groups()
    if middle:
        place = {"0": "resnets_0", "1": "attentions_0", "2": "resnets_1"}.get(middle, middle)
        return f"mid_block_{place}_{_INNER.get(middle_rest, middle_rest)}"
    if way == "input":
        block, layer = divmod(int(number) - 1, depth + 1)
        if rest == "op":
            return f"down_blocks_{block}_downsamplers_0_conv"
    else:
        block, layer = divmod(int(number), depth + 1)
        if rest == "conv":
            return f"up_blocks_{block}_upsamplers_0_conv"
    kind = "resnets" if part == "0" else "attentions"
    return f"{'down' if way == 'input' else 'up'}_blocks_{block}_{kind}_{layer}_{_INNER.get(rest, rest)}"


def _target(layer: str, index: Mapping[str, _Index]) -> tuple[_Index, str] | None:
    """The network that a layer of the file belongs to, and its weight."""
    prefix = _PREFIX.match(layer)
    assert prefix  # it may be empty
    name = prefix["text"]
    if prefix["number"] is not None:
        name = "text_encoder" if prefix["number"] in ("", "1") else f"text_encoder_{prefix['number']}"
    network = index.get(name) if name else next((index[each] for each in DENOISERS if each in index), None)
    weight = network.find(layer[prefix.end() :]) if network else None
    return (network, weight) if network and weight else None


def _change(
    file: Path, header: Header, layer: str, pair: dict[str, str], alpha: str | None, index: Mapping[str, _Index],
    settings: Mapping[str, dict[str, Any]],
) -> Change:  # fmt: skip
    found = _target(layer, index)
    assert found
    network, weight = found
    down, up, whole = header.shapes[pair["down"]], header.shapes[pair["up"]], network.shapes[weight]
    fits = (up[0], math.prod(down[1:])) == (whole[0], math.prod(whole[1:])) and math.prod(up[1:]) == down[0]
    if not fits:
        raise RequestError(
            f"image_lora: {file} was made for another model: {layer} changes {up[0]} x {math.prod(down[1:])} numbers "
            f"(rank {down[0]}), but {network.network} has {whole[0]} x {math.prod(whole[1:])} there{_made_for(header)}"
        )
    own = settings[network.network]
    told = alpha if alpha is not None else _told_alpha(own, layer, down[0])
    return Change(network.network, weight, pair["down"], pair["up"], down[0], told, bool(own.get("use_rslora")))


def _settings(file: Path, header: Header, network: str, peft: bool) -> dict[str, Any]:
    """What PEFT was told of the LoRA: in the file's own header (diffusers), or beside it (PEFT)."""
    if peft:
        beside = file.with_name("adapter_config.json")
        if not beside.is_file():
            raise RequestError(
                f"image_lora: {file} needs adapter_config.json beside it, as PEFT writes both: it has alpha"
            )
        return dict(json.loads(beside.read_text(encoding="utf-8")))
    told = json.loads(header.metadata.get(_SETTINGS, "{}"))
    return {key.removeprefix(f"{network}."): value for key, value in told.items() if key.startswith(f"{network}.")}


def _told_alpha(settings: dict[str, Any], layer: str, rank: int) -> float:
    """alpha by PEFT's settings; they name exceptions by the end of a layer's name. As large as the rank if untold."""
    exceptions = settings.get("alpha_pattern") or {}
    named = next((value for end, value in exceptions.items() if re.match(rf"(.*\.)?({end})$", layer)), None)
    return float(named if named is not None else settings.get("lora_alpha", rank))
