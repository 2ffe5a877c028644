"""What an image prior takes of a row, told before anything is made: a picture or none, and how many views together.

    problem_of(spec)        # ("image", "", "needed: ...") or None

Nothing here loads torch: ``plan`` and ``submit`` ask too.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from pipeline_core.config import ModelRef, Named, Recipe
from pipeline_core.errors import RequestError
from pipeline_core.priors.checks import LIT, UNLIT
from pipeline_core.priors.families import Family, family_of, json_object
from pipeline_core.priors.resolve import resolve_model
from pipeline_core.spec import AssetSpec

PICTURED = "dreamgaussian-image"
"""A recipe whose image prior is shown a picture."""


CAMERAS = {"zero123": False, "stable-zero123": True}
"""What ``splatmill.json`` may say, and whether the last number is the picture's height."""


@dataclass(frozen=True)
class Takes:
    """``shown``: whether it is shown a picture in place of a prompt; ``views``: how many it looks at together;
    ``camera``: whether it is told where each is seen from; ``kinds`` of render that it can judge."""

    shown: bool
    views: int
    camera: bool
    kinds: tuple[str, ...]


@lru_cache(maxsize=64)
def takes(named: Named) -> Takes:
    """What an image prior takes, by its folder. Raises :class:`ModelNotFound` when it is not there."""
    folder = resolve_model(named, "image")
    shown = family_of(folder, "image").shown
    if shown:
        is_stable(ModelRef.of(named).ref, folder)
    multiview = json_object(folder / "unet" / "config.json").get("_class_name") == "MultiViewUNetModel"
    side = json_object(folder / "splatmill.json")
    told = side.get("camera", "none") != "none"
    return Takes(shown, 4 if multiview else 1, shown or multiview or told, tuple(side.get("kinds", ())) or LIT)


def is_stable(ref: str, folder: Path) -> bool:
    """Whether a Zero-1-to-3 takes the picture's height (zero123.py). Raises RequestError where none can tell."""
    told = json_object(folder / "splatmill.json").get("camera")
    if told is None:
        name = (ref if not Path(ref).expanduser().is_dir() else folder.resolve().name).lower()
        told = "stable-zero123" if "stable" in name else "zero123" if "zero123" in name or "zero1to3" in name else None
    if told not in CAMERAS:
        raise RequestError(
            f"{folder}: the name does not say whether this is Zero-1-to-3 or Stable Zero123, which read cameras "
            f'differently; write {{"camera": "zero123"}} or {{"camera": "stable-zero123"}} to its splatmill.json'
        )
    return CAMERAS[told]


Problem = tuple[str, Any, str]
"""A field of a row, its value, and what is needed instead."""


def problem_of(spec: AssetSpec) -> Problem | None:
    """The first field of a row that its models cannot use."""
    try:
        return misfit(spec) or _samples_only(spec)
    except RequestError as error:
        return "image_prior", str(spec.recipe.image_prior), str(error)


def _samples_only(spec: AssetSpec) -> Problem | None:
    """3D score distillation that is asked of a point prior that cannot guide."""
    ref = spec.recipe.init.point_prior
    for section in ("geometry", "appearance"):
        weight = getattr(spec.recipe, section).point_weight
        if weight and not (family := _points_family(ref)).guides:
            said = f"0, since init.point_prior {ref} ({family.name}) only samples"
            return f"{section}.point_weight", weight, f"{said}; or init.point_prior starter or point-e"
    return None


@lru_cache(maxsize=64)
def _points_family(ref: str) -> Family:
    return family_of(resolve_model(ref, "points"), "points")


def misfit(spec: AssetSpec) -> Problem | None:
    """The first field of a row that its image prior cannot use."""
    recipe, name = spec.recipe, str(spec.recipe.image_prior)
    wanted = takes(recipe.model_refs()["image"])
    if wanted.shown and spec.image is None:
        return "image", "", f"needed: image_prior {name} is shown a picture and reads no prompt"
    if spec.image is not None and not wanted.shown:
        said = f"none, since image_prior {name} reads prompts alone; or a prior that is shown one, as in {PICTURED}"
        return "image", spec.image.name, said
    if wanted.shown and spec.negative_prompt:
        return "negative_prompt", spec.negative_prompt, f"none: image_prior {name} reads no prompt"
    for section in ("geometry", "appearance", "texture"):
        settings = getattr(recipe, section)
        if settings.steps and settings.views % wanted.views:
            said = f"a multiple of {wanted.views}: image_prior {name} looks at {wanted.views} views together"
            return f"{section}.views", settings.views, said
        for field in ("perp_neg", "view_prompts"):  # the latter is on by default, and nothing where nobody asked
            asked = getattr(settings, field) and field in settings.model_fields_set
            if settings.steps and asked and wanted.camera:
                said = f"false: it needs view words, and image_prior {name} is told the camera itself"
                return f"{section}.{field}", True, said
        if settings.steps and settings.front_words and (wanted.camera or not settings.view_prompts):
            why = f"image_prior {name} is told the camera itself" if wanted.camera else f"{section}.view_prompts is off"
            return f"{section}.front_words", list(settings.front_words), f"none: they need view words, and {why}"
    return _not_shown(recipe, wanted.kinds)


def _not_shown(recipe: Recipe, kinds: tuple[str, ...]) -> Problem | None:
    """Renders that the prior cannot judge, or that cannot be made."""
    for section in ("geometry", "appearance"):
        settings = getattr(recipe, section)
        if settings.steps and settings.shown not in kinds:
            said = f"{' or '.join(kinds)}, which are all that image_prior {recipe.image_prior} can judge"
            return f"{section}.shown", settings.shown, said
        if settings.steps and settings.shown != UNLIT and recipe.init.sh_degree:
            return "init.sh_degree", recipe.init.sh_degree, f"0: {section}.shown is {settings.shown}"
    return None
