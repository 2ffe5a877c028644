"""The table of families of priors: one row a family, by which a folder is recognised, checked and loaded.

    family_of(folder, "image").load(ref, folder, device="cuda", dtype=torch.float16, allow_remote_code=False)

To add a family: ``priors/<module>.py`` with a function that loads it (:class:`Loader`), its row here, its test.
Nothing here loads torch: a plan checks folders by this table.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any, Literal, Protocol, cast

from pipeline_core.config import Named
from pipeline_core.errors import RequestError


class Loader(Protocol):
    """What a row's ``loader`` names: a function that loads a checked folder."""

    def __call__(self, ref: Named, folder: Path, *, device: Any, dtype: Any, allow_remote_code: bool) -> Any:
        """An ``interface.ImagePrior`` or ``interface.PointPrior``, frozen, on ``device``."""


@dataclass(frozen=True)
class Family:
    """One row.

    Args:
        kind: what its priors are used as.
        name: what messages call it.
        loader: ``module.function`` or ``module.Class.method`` in ``priors/``, a :class:`Loader`.
        marker: the file by which a folder is recognised, a pattern where ``classes`` is empty; with a ``*`` in front,
            of a checkpoint in one file.
        classes: what ``_class_name`` in that JSON file may say; empty = anything, or the file is no JSON.
        components: sub-folders that must be there, each with its weights, tokenizer or configuration.
        transformers: of diffusers' folders, the classes of ``transformer/``; empty = the folder has none.
        shown: whether its priors are shown a picture in place of a prompt.
        noise: by which rules ``scheduler/`` is read, and checked (checks.py); None = by its own.
        guides: whether its priors answer for score distillation; those that do not only sample.
        tokens: by a tokenizer's folder, how many are read of a prompt, where tokenizer and network allow others.
    """

    kind: Literal["image", "points"]
    name: str
    loader: str
    marker: str
    classes: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    transformers: tuple[str, ...] | None = None
    shown: bool = False
    noise: Literal["diffusion", "flow"] | None = None
    guides: bool = True
    tokens: Mapping[str, int] = field(default_factory=dict)

    def recognises(self, folder: Path) -> bool:
        """Whether ``folder`` is of this family."""
        if folder.is_file() or self.marker.startswith("*"):
            return folder.is_file() and folder.match(self.marker)
        if self.classes:
            return _class_name(folder / self.marker) in self.classes
        if self.transformers is not None and (named := transformer_class(folder)):
            return named in self.transformers
        return any(folder.glob(self.marker)) and not self.transformers

    @property
    def load(self) -> Loader:
        """The function that loads a folder of this family; its module is imported only now."""
        module, _, function = self.loader.partition(".")
        return cast(Loader, attrgetter(function)(import_module(f"pipeline_core.priors.{module}")))


_SHOWN = ("unet", "vae", "image_encoder", "feature_extractor", "scheduler")

# fmt: off
FAMILIES: tuple[Family, ...] = (
    Family("image", "Zero-1-to-3", "zero123.load_zero123", "model_index.json", classes=("Zero123Pipeline",),
           components=(*_SHOWN, "clip_camera_projection"), shown=True, noise="diffusion"),
    Family("image", "Zero-1-to-3 of diffusers' community", "zero123.load_zero123", "model_index.json",
           classes=("Zero1to3StableDiffusionPipeline",), components=(*_SHOWN, "cc_projection"), shown=True,
           noise="diffusion"),
    Family("image", "diffusers' U-Nets", "image.load_diffusers", "model_index.json",
           components=("unet", "scheduler", "text_encoder", "tokenizer"), transformers=(), noise="diffusion"),
    Family("image", "Stable Diffusion 3", "sd3.SD3Prior.load", "model_index.json",
           components=("transformer", "vae", "scheduler", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"),
           transformers=("SD3Transformer2DModel",), noise="flow", tokens={"tokenizer_3": 256}),
    Family("image", "Sana", "sana.SanaPrior.load", "model_index.json",
           components=("transformer", "vae", "scheduler", "text_encoder", "tokenizer"),
           transformers=("SanaTransformer2DModel",), noise="flow", tokens={"tokenizer": 299}),
    Family("image", "FLUX.2-klein", "flux2.Flux2Prior.load", "model_index.json",
           components=("transformer", "vae", "scheduler", "text_encoder", "tokenizer"),
           transformers=("Flux2Transformer2DModel",), noise="flow", tokens={"tokenizer": 500}),
    Family("image", "Z-Image", "z_image.ZImagePrior.load", "model_index.json",
           components=("transformer", "vae", "scheduler", "text_encoder", "tokenizer"),
           transformers=("ZImageTransformer2DModel",), noise="flow", tokens={"tokenizer": 504}),
    Family("image", "single files of Stable Diffusion", "single_file.load_single_file", "*.safetensors"),
    Family("points", "IndependentPointDiffusion", "points.load_single_points", "config.json",
           classes=("IndependentPointDiffusion",)),
    Family("points", "SetPointDiffusion", "points.load_single_points", "config.json", classes=("SetPointDiffusion",)),
    Family("points", "Shap-E", "shap_e.load_shap_e", "model_index.json", classes=("ShapEPipeline",),
           components=("prior", "shap_e_renderer", "scheduler", "text_encoder", "tokenizer"), guides=False),
    Family("points", "Point-E's published checkpoints", "points.load_point_e", "base_40m_textvec.*"),
)
# fmt: on
"""The first row that recognises a folder has it."""


def family_of(folder: Path, kind: str) -> Family:
    """The family of a folder that is used as ``kind``; raises :class:`RequestError` when no row recognises it."""
    rows = [row for row in FAMILIES if row.kind == kind]
    for row in rows:
        if row.recognises(folder):
            return row
    by_name = sorted(rows, key=lambda row: bool(row.classes))
    known = " and ".join(
        f"{row.name} ({', '.join(row.transformers)})" if row.transformers else row.name for row in by_name
    )
    if kind == "image" and (said := transformer_class(folder)):
        raise RequestError(f"{folder / 'model_index.json'}: transformer {said!r} is not known; splatmill knows {known}")
    named = ((folder / row.marker, _class_name(folder / row.marker)) for row in rows if row.classes)
    where, said = next((each for each in named if each[1]), (folder, None))
    raise RequestError(f"{where}: network {said!r} is not known; splatmill knows {known}")


def transformer_class(folder: Path) -> str | None:
    """The class that a diffusers folder's ``model_index.json`` names for its transformer, or else the transformer."""
    index = json_object(folder / "model_index.json")
    named = index.get("transformer")
    if named is None and "unet" in index:
        return None
    if isinstance(named, list) and len(named) == 2 and named[1]:
        return str(named[1])
    return _class_name(folder / "transformer" / "config.json")


def json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file; one that is missing or damaged says nothing here, and is reported by resolve.py."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _class_name(path: Path) -> str | None:
    name = json_object(path).get("_class_name")
    return str(name) if name else None
