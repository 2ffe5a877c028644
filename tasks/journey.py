"""A journey is planned before it begins: the key of every stage follows from the spec and the models' ids alone.

So a plan needs no model in memory, a finished asset is recognised without starting anything, and two assets that share
a beginning (same prompt and seed, another texture recipe) share its stages. Nothing here loads torch or Prefect.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from pipeline_core import stages
from pipeline_core.acceptance import Verdict, decided_early
from pipeline_core.config import ModelRef
from pipeline_core.deliverables import PROVENANCE
from pipeline_core.metrics.judges import judge_of, starter_id
from pipeline_core.priors.reading import ENCODING, Reading, read
from pipeline_core.priors.resolve import model_id
from pipeline_core.spec import AssetSpec
from pipeline_core.stages import DELIVERY
from pipeline_core.storage import Library, stage_key

READS: dict[str, Callable[[AssetSpec], Any]] = {
    "prompt": lambda spec: spec.prompt,
    "negative": lambda spec: spec.negative_prompt,
    "seed": lambda spec: spec.seed,
    "image": lambda spec: spec.image and [spec.image.file, spec.image_elevation],
    "parts": lambda spec: [part.model_dump(mode="json") for part in spec.parts] or None,
    "init_file": lambda spec: spec.init_file and spec.init_file.file,
    "metres": lambda spec: (spec.size_m or spec.height_m) if spec.recipe.mesh.texels_per_metre else None,
    "size": lambda spec: spec.size_m,
    "height": lambda spec: spec.height_m if spec.size_m is None and spec.height_m != 1.0 else None,
    "audition": lambda spec: spec.recipe.choice.audition,
    "spec": lambda spec: {name: value for name, value in spec.to_json().items() if name != "accept"},
    "contract": lambda spec: spec.accept and spec.accept.model_dump(mode="json"),
}
"""How each word of the table's ``reads`` is looked up in the request; what is None, as a file that no row named, is no
part of a key."""


@dataclass(frozen=True)
class Journey:
    """What every task of one asset is given: plain data, no tensors.

    ``keys`` and ``configs`` by stage: the output's name, and the fingerprint of the settings that the stage reads.
    ``models``: ids by kind, as the recipe has them. ``reading``: what the priors make of the prompt. ``further``:
    attempts that were rejected before somebody asked for it by name, which count no more. ``judge``: id of the model
    that says whether the asset shows the prompt; empty where none can. ``chosen``: what ``asset.json`` tells of the
    others that were begun; ``kept``: keys of their outputs, which are kept with its own.
    """

    library: str
    run_id: str
    spec: AssetSpec
    models: dict[str, str]
    keys: dict[str, str]
    configs: dict[str, str]
    reading: Reading = field(default_factory=Reading)
    further: int = 0
    judge: str = ""
    chosen: dict[str, Any] = field(default_factory=dict)
    kept: tuple[str, ...] = ()

    @property
    def asset_id(self) -> str:
        """The asset's id."""
        return self.spec.asset_id

    @property
    def turned_down(self) -> Verdict | None:
        """The verdict on what its contract rejects before any work; else None."""
        return decided_early(self.spec.accept, self.figures())

    def figures(self) -> dict[str, float]:
        """What clauses of a contract ask of the plan alone."""
        return self.reading.figures() | {"judgeable": float(bool(self.judge))}

    def told(self) -> dict[str, Any]:
        """What is kept of the plan: ``judge``, where there is one, and the reading, under ``prompt_reading``, where
        not all of the prompt was read."""
        kept = {"judge": self.judge, "prompt_reading": self.reading.to_json()}
        return {name: value for name, value in kept.items() if value}


def plan_journey(
    library: str, run_id: str, spec: AssetSpec, resolve: Callable[[ModelRef, Any], str] = model_id
) -> Journey:
    """Keys of all stages of ``spec``. Raises :class:`ModelNotFound` when a model is not there.

    ``resolve(ref, kind)`` gives a model's id; a batch passes a cached one.
    """
    recipe = spec.recipe
    models = {kind: resolve(ref, kind) for kind, ref in recipe.model_refs().items()}
    travelled = stages.of(recipe)
    configs = {stage.name: stage.settings(recipe).fingerprint() for stage in travelled}
    keys: dict[str, str] = {}
    reading = read(spec)
    judge = judge_of(spec.prompt, recipe.evaluate)
    judged_by = starter_id() if judge == "starter" else models.get("judge", "")
    for stage in travelled:
        parts = {part: value for part in stage.reads if (value := READS[part](spec)) is not None}
        used = [models[kind] for kind in stage.models_used(recipe)]
        if used:
            parts["models"] = used
        if "audition" in parts and judged_by:
            parts["judge"] = judged_by
        if "prompt" in parts and {*stage.models_used(recipe)} & {*reading.newly_encoded}:
            parts["encoding"] = ENCODING
        above = [keys[name] for name in stage.key_upstream]
        keys[stage.name] = stage_key(stage.name, stage.version, upstream=above, config=configs[stage.name], **parts)
    return Journey(library, run_id, spec, models, keys, configs, reading, judge=judged_by)


def in_place_of(journey: Journey, **changes: Any) -> Journey:
    """The journey of the spec with these fields changed, which counts as made under the key that was asked for."""
    spec = journey.spec.model_copy(update=changes)
    other = plan_journey(journey.library, journey.run_id, spec, lambda ref, kind: journey.models[kind])
    return replace(other, keys=other.keys | {DELIVERY: journey.keys[DELIVERY]})


def finished(journey: Journey) -> bool:
    """Whether the asset is made and whole. Reads its record and looks at its files, but not into them."""
    return Library(journey.library).find(DELIVERY, journey.keys[DELIVERY], quick=True) is not None


def verified(journey: Journey) -> bool:
    """Whether a made asset is whole to the last byte: its deliverables, and every stage's output that is still there.

    Removes what is damaged, and the asset's own record with it, so that the asset is made again.
    """
    library = Library(journey.library)
    if library.find(DELIVERY, journey.keys[DELIVERY]) is None:
        return False
    told = json.loads((library.asset_dir(journey.asset_id) / PROVENANCE).read_bytes())
    keys = told["stages"]  # of the seed that it was made from
    present = [name for name in stages.names() if name != DELIVERY and name in keys and library.has(name, keys[name])]
    damaged = [name for name in present if library.find(name, keys[name]) is None]
    if damaged:
        library.discard(DELIVERY, journey.keys[DELIVERY])
    return not damaged


def discard_damaged(journey: Journey) -> None:
    """Remove every output on the journey that is not whole to the last byte, so that one more travel mends them all."""
    for name, key in journey.keys.items():
        Library(journey.library).find(name, key)


def stages_done(journey: Journey) -> list[str]:
    """Stages whose output is there, in order; nothing is verified or changed."""
    library = Library(journey.library)
    return [name for name in journey.keys if library.has(name, journey.keys[name])]
