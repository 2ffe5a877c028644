"""One asset's journey before it begins: the key of every stage follows from the spec and the models' ids alone.

So a plan needs no model in memory, a finished asset is recognised without starting anything, and two assets that share
a beginning (same prompt and seed, another texture recipe) share its stages. Nothing here loads torch or Prefect.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipeline_core.priors.resolve import model_id
from pipeline_core.spec import AssetSpec
from pipeline_core.storage import STAGES, Library, stage_key

VERSIONS = {
    "init_points": 1,
    "optimize_gaussians": 2,
    "densify_prune": 2,
    "extract_mesh": 3,
    "refine_texture": 1,
    "evaluate": 3,
    "record": 1,
}
"""Raise a stage's number when its code comes to make something else: outputs made before are then made again."""


@dataclass(frozen=True)
class Journey:
    """What every task of one asset is given: plain data, no tensors.

    ``keys`` and ``configs`` by stage: the output's name, and the fingerprint of the settings that the stage reads.
    ``models``: ids by kind, image and points.
    """

    library: str
    run_id: str
    spec: AssetSpec
    models: dict[str, str]
    keys: dict[str, str]
    configs: dict[str, str]

    @property
    def asset_id(self) -> str:
        """The asset's id."""
        return self.spec.asset_id


def plan_journey(library: str, run_id: str, spec: AssetSpec, resolve: Callable[[str, Any], str] = model_id) -> Journey:
    """Keys of all stages of ``spec``. Raises :class:`ModelNotFound` when a model is not there.

    ``resolve(ref, kind)`` gives a model's id; a batch passes a cached one.
    """
    recipe, prompt, seed = spec.recipe, {"prompt": spec.prompt, "negative": spec.negative_prompt}, spec.seed
    points, image = resolve(recipe.init.point_prior, "points"), resolve(recipe.image_prior, "image")
    configs = {
        "init_points": recipe.init.fingerprint(),
        "optimize_gaussians": recipe.geometry.fingerprint(),
        "densify_prune": recipe.appearance.fingerprint(),
        "extract_mesh": recipe.mesh.fingerprint(),
        "refine_texture": recipe.texture.fingerprint(),
        "evaluate": recipe.evaluate.fingerprint(),
        "record": recipe.fingerprint(),
    }
    keys: dict[str, str] = {}

    def key(stage: str, *upstream: str, **parts: Any) -> None:
        above = [keys[name] for name in upstream]
        keys[stage] = stage_key(stage, VERSIONS[stage], upstream=above, config=configs[stage], **parts)

    key("init_points", prompt=spec.prompt, seed=seed, models=[points])
    for stage, above, section in (
        ("optimize_gaussians", "init_points", recipe.geometry),
        ("densify_prune", "optimize_gaussians", recipe.appearance),
    ):
        used = [image] + ([points] if section.point_weight > 0 else [])
        key(stage, above, seed=seed, models=used, **prompt)
    key("extract_mesh", "densify_prune")
    key("refine_texture", "extract_mesh", seed=seed, models=[image], **prompt)
    key("evaluate", "init_points", "densify_prune", "refine_texture", prompt=spec.prompt)
    key("record", "evaluate", spec=spec.to_json(), models=[points, image])
    return Journey(library, run_id, spec, {"image": image, "points": points}, keys, configs)


def finished(journey: Journey) -> bool:
    """Whether the asset is made and whole: one small file and five ``stat`` calls."""
    return Library(journey.library).find("record", journey.keys["record"], quick=True) is not None


def verified(journey: Journey) -> bool:
    """Whether a made asset is whole to the last byte: its deliverables, and every stage's output that is still there.

    What is damaged is removed, and with it the mark that the asset is finished, so that it is made again.
    """
    library = Library(journey.library)
    if library.find("record", journey.keys["record"]) is None:
        return False
    told = json.loads((library.asset_dir(journey.asset_id) / "asset.json").read_bytes())
    keys = told["stages"]  # of the seed that it was made from
    present = [stage for stage in STAGES[:-1] if library.has(stage, keys[stage])]
    damaged = [stage for stage in present if library.find(stage, keys[stage]) is None]
    if damaged:
        library.discard("record", journey.keys["record"])
    return not damaged


def stages_done(journey: Journey) -> list[str]:
    """Stages whose output is there, in order; nothing is verified or changed."""
    library = Library(journey.library)
    return [stage for stage in STAGES if library.has(stage, journey.keys[stage])]
