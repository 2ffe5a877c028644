"""Judges: image-text dual encoders that score renders against captions and never guide anything. Which of them scores
an asset, judges.py says.

    judge = load_judge("starter")
    similarity = judge.embed_images(images) @ judge.embed_texts(["a red mug", "a blue mug"]).T

``starter`` is a small network of this package, trained apart from the starter prior (`judge_train`): its own
architecture, words, seed, lights, textures and cameras. Any other reference is a CLIP model, as a folder or a hub id.
The starter judge also tells which side of an object a picture shows, which CLIP does not.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline_core.errors import ModelNotFound
from pipeline_core.metrics.judges import WEIGHTS, judge_id, starter_id
from pipeline_core.priors.resolve import folder_id, resolve_model
from pipeline_core.priors.text import load_pretrained, load_tokenizer, read_json, tokenize
from pipeline_core.props.captions import SYNONYMS

CPU = torch.device("cpu")
SIDES = ("front", "right", "back", "left")
"""Quarter turns about azimuth 0, 90, 180 and 270 degrees."""


class Judge(Protocol):
    """What a fidelity score needs of a dual encoder."""

    model_id: str
    size: int
    """Pixels a side that it looks at; other images are resized."""
    knows_any_text: bool
    """Whether prompts outside the grammar of the starter's captions mean something to it."""
    scale: float
    """What its similarities were multiplied by in training: softmax of so many times them is how sure it is."""

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit rows [B, D] of images [B, 3, H, W] in [0, 1]."""

    def embed_texts(self, texts: list[str]) -> Tensor:
        """Unit rows [B, D] of captions."""

    def sides(self, images: Tensor) -> Tensor | None:
        """Probabilities [B, 4] of :data:`SIDES`, or None where the model has no such head."""


@dataclass(frozen=True)
class JudgeShape:
    """Sizes of the network. ``words`` is the vocabulary: index 0 is padding, 1 an unknown word."""

    words: tuple[str, ...]
    categories: int
    colours: int
    size: int = 64
    widths: tuple[int, ...] = (24, 48, 96, 192)
    text_width: int = 128
    features: int = 256
    embedding: int = 128
    max_words: int = 16


class Residual(nn.Module):
    """Two 3x3 convolutions with batch normalisation, added to their input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        nn.init.zeros_(self.norm2.weight)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x))))))


class ImageTower(nn.Module):
    """Convolutions down to 4x4; the map is flattened as well as pooled, because *where* a colour sits matters."""

    def __init__(self, shape: JudgeShape) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        last = 3
        for i, width in enumerate(shape.widths):
            layers += [nn.Conv2d(last, width, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            layers += [Residual(width)] if i else []
            last = width
        self.trunk = nn.Sequential(*layers)
        cells = (shape.size >> len(shape.widths)) ** 2
        self.squeeze = nn.Conv2d(last, 64, 1)
        self.features = nn.Sequential(nn.Linear(64 * cells + 2 * last, shape.features), nn.GELU())

    def forward(self, images: Tensor) -> Tensor:
        """Features [B, F] of images [B, 3, size, size] in [0, 1]."""
        x = self.trunk((images * 2 - 1).contiguous(memory_format=torch.channels_last))
        pooled = torch.cat([x.mean((2, 3)), x.amax((2, 3)), self.squeeze(x).flatten(1)], dim=1)
        return self.features(pooled)


class TextTower(nn.Module):
    """Two convolutions over the words: a bag of words cannot tell whose colour is whose. Padding changes nothing."""

    def __init__(self, shape: JudgeShape) -> None:
        super().__init__()
        width = shape.text_width
        self.words = nn.Embedding(len(shape.words) + 2, width, padding_idx=0)
        self.near = nn.Conv1d(width, width, 5, padding=2)
        self.far = nn.Conv1d(width, width, 5, padding=2)
        self.out = nn.Linear(2 * width, shape.embedding)

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings [B, D], not normalised, of word ids [B, L] (0 = padding)."""
        there = (ids > 0)[:, None]  # [B, 1, L]
        x = self.words(ids).transpose(1, 2)
        x = (x + F.gelu(self.near(x))) * there
        x = (x + F.gelu(self.far(x))) * there
        mean = x.sum(2) / there.sum(2).clamp_min(1)
        return self.out(torch.cat([mean, x.masked_fill(~there, -1e4).amax(2)], dim=1))


class JudgeNetwork(nn.Module):
    """Both towers, the temperature, and the heads: side of the object; category and colours (training only)."""

    def __init__(self, shape: JudgeShape) -> None:
        super().__init__()
        self.shape = shape
        self.image = ImageTower(shape)
        self.project = nn.Linear(shape.features, shape.embedding)
        self.text = TextTower(shape)
        self.log_scale = nn.Parameter(torch.tensor(2.7))
        self.side = nn.Sequential(nn.Linear(shape.features, 64), nn.GELU(), nn.Linear(64, len(SIDES)))
        self.category = nn.Linear(shape.features, shape.categories)
        self.colour = nn.Linear(shape.features, shape.colours)
        self.colour2 = nn.Linear(shape.features, shape.colours + 1)

    def word_ids(self, texts: list[str]) -> Tensor:
        """Word ids [B, L] of captions, L the longest of them."""
        known = {word: i + 2 for i, word in enumerate(self.shape.words)}
        rows = []
        for text in texts:
            words = [SYNONYMS.get(w, w) for w in re.findall(r"[a-z0-9]+", text.lower())]
            rows.append([known.get(w, 1) for w in words][: self.shape.max_words] or [1])
        length = max(len(row) for row in rows)
        return torch.tensor([row + [0] * (length - len(row)) for row in rows])


class StarterJudge:
    """The judge of this package, ready to score. See :class:`Judge`."""

    knows_any_text = False

    def __init__(self, network: JudgeNetwork, model_id: str) -> None:
        self.network, self.model_id, self.size = network.eval(), model_id, network.shape.size
        self.scale = float(network.log_scale.detach().exp())

    def _features(self, images: Tensor) -> Tensor:
        return self.network.image(resize(images, self.size))

    @torch.no_grad()
    def embed_images(self, images: Tensor) -> Tensor:
        """Unit rows [B, D] of images [B, 3, H, W] in [0, 1]."""
        return F.normalize(self.network.project(self._features(images)), dim=-1)

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Unit rows [B, D] of captions."""
        return F.normalize(self.network.text(self.network.word_ids(texts)), dim=-1)

    @torch.no_grad()
    def sides(self, images: Tensor) -> Tensor:
        """Probabilities [B, 4] of :data:`SIDES`; they mean something only for things that have a front.

        Means of a picture's and of its mirror image's, whose left is the right.
        """
        here, mirrored = (self.network.side(self._features(x)).softmax(-1) for x in (images, images.flip(-1)))
        return (here + mirrored[:, [SIDES.index(name) for name in ("front", "left", "back", "right")]]) / 2


class ClipEye:
    """What a CLIP of transformers sees: pictures become unit rows, on the device of ``model``."""

    def __init__(self, model: Any, folder: Path) -> None:
        self.model = model
        self.size = getattr(model.config, "vision_config", model.config).image_size
        settings = folder / "preprocessor_config.json"
        facts = read_json(settings) if settings.is_file() else {}
        mean = facts.get("image_mean", (0.48145466, 0.4578275, 0.40821073))
        std = facts.get("image_std", (0.26862954, 0.26130258, 0.27577711))
        self.mean, self.std = torch.tensor(mean).view(3, 1, 1), torch.tensor(std).view(3, 1, 1)

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """Unit rows [B, D] of images [B, 3, H, W] in [0, 1]."""
        pixels = ((resize(images, self.size) - self.mean) / self.std).to(self.model.device)
        pooled = self.model.vision_model(pixel_values=pixels).pooler_output
        return F.normalize(self.model.visual_projection(pooled), dim=-1).cpu()


class ClipJudge:
    """A CLIP model of transformers. See :class:`Judge`."""

    knows_any_text = True

    def __init__(self, folder: Path, model_id: str, device: torch.device) -> None:
        from transformers import CLIPModel

        self.model_id = model_id
        self.model = load_pretrained(CLIPModel, folder, "model", torch.float32).eval().to(device)
        self.scale = float(self.model.logit_scale.detach().exp())
        self.tokenizer = load_tokenizer(folder)
        self.eye = ClipEye(self.model, folder)
        self.size = self.eye.size

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit rows [B, D] of images [B, 3, H, W] in [0, 1]."""
        return self.eye(images)

    @torch.no_grad()
    def embed_texts(self, texts: list[str]) -> Tensor:
        """Unit rows [B, D] of captions."""
        told = tokenize(self.tokenizer, texts, self.model.config.text_config.max_position_embeddings)
        ids, mask = (each.to(self.model.device) for each in (told.input_ids, told.attention_mask))
        pooled = self.model.text_model(input_ids=ids, attention_mask=mask).pooler_output
        return F.normalize(self.model.text_projection(pooled), dim=-1).cpu()

    def sides(self, images: Tensor) -> None:
        """CLIP has no such head."""
        return None


def resize(images: Tensor, size: int) -> Tensor:
    """Images [B, 3, H, W] at ``size`` pixels a side, antialiased."""
    if images.shape[-2:] == (size, size):
        return images.float()
    small = F.interpolate(images.float(), size=(size, size), mode="bilinear", antialias=True, align_corners=False)
    return small.clamp(0, 1)


def save_judge(network: JudgeNetwork, folder: Path) -> None:
    """Write config.json and model.safetensors (fp16)."""
    folder.mkdir(parents=True, exist_ok=True)
    config = asdict(network.shape) | {"format": "splatmill-judge", "version": 1}
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    state = {k: v.half() for k, v in network.state_dict().items() if v.is_floating_point()}
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors")


def load_network(folder: Path) -> JudgeNetwork:
    """Read what :func:`save_judge` wrote. Raises :class:`ModelNotFound` where the files do not fit together."""
    try:
        config = read_json(folder / "config.json")
        if (config.pop("format", None), config.pop("version", None)) != ("splatmill-judge", 1):
            raise ValueError("config.json is not that of a splatmill judge, version 1")
        shape: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in config.items()}
        network = JudgeNetwork(JudgeShape(**shape))
        state = {k: v.float() for k, v in load_file(folder / "model.safetensors").items()}
        missing, unexpected = network.load_state_dict(state, strict=False)
    except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
        raise ModelNotFound(f"the judge in {folder} cannot be read ({error}): install splatmill again") from error
    lost = [name for name in missing if not name.endswith("num_batches_tracked")]
    if lost or unexpected:
        raise ModelNotFound(
            f"the judge in {folder} lacks {lost} and has {unexpected} too many: install splatmill again"
        )
    return network


@functools.lru_cache(maxsize=2)
def load_judge(ref: str = "starter", device: torch.device = CPU) -> Judge:
    """The judge behind ``ref``: ``starter``, a folder that `save_judge` wrote, or a CLIP folder or hub id. Cached.

    A CLIP works on ``device``; splatmill's own are small, and always see the same on the processor.
    """
    if ref == "starter":
        return StarterJudge(load_network(WEIGHTS), starter_id())
    folder = Path(ref).expanduser()
    if _is_judge(folder):
        return StarterJudge(load_network(folder), judge_id(folder.name, folder))
    folder = resolve_model(ref, "judge")
    return ClipJudge(folder, folder_id(ref, folder), device)


def _is_judge(folder: Path) -> bool:
    config = folder / "config.json"
    return config.is_file() and read_json(config).get("format") == "splatmill-judge"
