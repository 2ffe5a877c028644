"""What a safetensors file holds, by its header alone: names, shapes, and the kind of thing that has such names.

Nothing here loads torch: a plan looks into files by this.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Header:
    """Shapes of the tensors by name, and the texts that the writer left beside them."""

    shapes: dict[str, Shape]
    metadata: dict[str, str]


def read_header(path: Path) -> Header:
    """The header of a whole safetensors file (``resolve.safetensors_problem`` says whether it is one)."""
    with path.open("rb") as file:
        told = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
    metadata = told.pop("__metadata__", {})
    return Header({name: tuple(each["shape"]) for name, each in told.items()}, metadata)


# fmt: off
KINDS: tuple[tuple[str, str], ...] = (
    ("a LoRA", r"[._]lora[._](A|B|down|up)\b|[._]lora_linear_layer\."),
    ("a LyCORIS file (LoHa, LoKr, OFT)", r"\.(hada_w1|lokr_w|oft_)"),
    ("a ControlNet", r"^(control_model\.|controlnet_|control_)"),
    ("an IP-Adapter", r"^(image_proj|ip_adapter)\."),
    ("a textual inversion embedding", r"^(emb_params|clip_[lg])$"),
    ("a FLUX transformer", r"(^|\.)(double_blocks|double_stream_modulation_img|single_transformer_blocks)\."),
    ("a Stable Diffusion 3 transformer", r"(^|\.)joint_blocks\.|^transformer_blocks\.\d+\.attn\.add_q_proj"),
    ("a Stable Diffusion checkpoint in one file", r"^model\.diffusion_model\.input_blocks\."),
    ("a U-Net of a Stable Diffusion checkpoint alone", r"^input_blocks\.0\.0\."),
    ("a U-Net", r"^down_blocks\.|^conv_in\.weight$"),
    ("an autoencoder (VAE)", r"^(first_stage_model\.|vae\.)?(encoder|decoder)\.(down|up|conv_in|mid|layers)"),
    ("a text encoder", r"^(\w+\.)*(text_model|shared|token_embedding|embed_tokens)\b|^encoder\.block\."),
    ("a transformer", r"^(model\.diffusion_model\.)?(transformer_)?blocks\.|^layers\.\d"),
)
# fmt: on
"""What a file is, and the pattern that a name of such a file matches; the first row that matches any name has it."""


def kind_of(names: Iterable[str]) -> str:
    """What a file with tensors of these names is, in words."""
    names = list(names)
    for kind, pattern in KINDS:
        if any(re.search(pattern, name) for name in names):
            return kind
    return "nothing that splatmill knows"


def first(names: Iterable[str], count: int = 3) -> str:
    """The first few names, as messages show them."""
    names = sorted(names)
    return ", ".join(names[:count]) + (" ..." if len(names) > count else "")
