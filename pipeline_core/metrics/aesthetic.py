"""How good a picture looks to people, by an aesthetic predictor of LAION's kind: a head over CLIP's unit embeddings.

    predictor = load_predictor(folder_or_hub_id)
    rate = predictor(images)                        # [B]; LAION's are trained on ratings from 1 to 10

A folder of transformers' CLIPVisionModelWithProjection whose safetensors also hold the head: ``predictor.*``, one
linear layer, or ``layers.<n>.*``, several, with rectifiers between where ``architectures`` names a ReLU.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from pipeline_core.errors import ModelNotFound
from pipeline_core.metrics.judge import CPU, ClipEye
from pipeline_core.priors.resolve import HEADS, resolve_model, weight_files
from pipeline_core.priors.text import load_pretrained, read_json


class Predictor:
    """An aesthetic predictor, ready to rate. ``size``: pixels a side that it looks at."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        from transformers import CLIPVisionModelWithProjection

        model = load_pretrained(CLIPVisionModelWithProjection, folder, "model", torch.float32).eval()
        self.eye = ClipEye(model.to(device), folder)
        self.size = self.eye.size
        self.head = _head(folder, model.config.projection_dim)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Ratings [B] of images [B, 3, H, W] in [0, 1]."""
        return self.head(self.eye(images))[:, 0]


def _head(folder: Path, width: int) -> nn.Sequential:
    """The layers that rate; raises :class:`ModelNotFound` where they do not follow each other from ``width`` to 1."""
    found = {k: v.float() for file in weight_files(folder, "model") for k, v in load_file(file).items()}
    names = sorted(
        (name.removesuffix(".weight") for name in found if name.startswith(HEADS) and name.endswith(".weight")),
        key=lambda name: [int(number) for number in re.findall(r"\d+", name)],
    )
    rectified = any("ReLU" in each for each in read_json(folder / "config.json").get("architectures") or ())
    layers: list[nn.Module] = []
    for name in names:
        weight, bias = found[f"{name}.weight"], found.get(f"{name}.bias")
        if weight.shape[1] != width:
            raise ModelNotFound(f"{folder}: {name}.weight reads {weight.shape[1]} numbers where {width} come")
        layers += [nn.ReLU()] if layers and rectified else []
        linear = nn.Linear(width, len(weight), bias=bias is not None)
        linear.load_state_dict({"weight": weight} | ({} if bias is None else {"bias": bias}))
        layers.append(linear)
        width = len(weight)
    if width != 1:
        raise ModelNotFound(f"{folder}: {names[-1]} gives {width} numbers, and a rating is one")
    return nn.Sequential(*layers).eval()


@functools.lru_cache(maxsize=1)
def load_predictor(ref: str, device: torch.device = CPU) -> Predictor:
    """The aesthetic predictor behind ``ref``, a folder or a hub id. Cached."""
    return Predictor(resolve_model(ref, "aesthetic"), device)
