"""The deliverables of an asset, from what its stages made: the same files for the stage that looks at them and the one
that publishes them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from pipeline_core import deliverables
from pipeline_core.io import xmp
from pipeline_core.models import licence
from pipeline_core.storage import copy_known
from pipeline_core.version import code_version
from tasks.journey import Journey
from tasks.stage import Reference, path_of, picture_of


def deliver(journey: Journey, folder: Path, upstream: Iterable[Reference]) -> dict[str, Any]:
    """Write every deliverable that a stage made something for, marked as generated where its format can say so; returns
    where they come from."""
    made = {name: each for each in upstream for name in each["outputs"]}
    provenance = describe(journey)
    if "asset.glb" in made:
        provenance["frame"] = frame_of_asset(journey, made["asset.glb"])
    mark = xmp.Mark.of(provenance)
    for row in deliverables.DELIVERABLES:
        if row.source not in made:
            continue
        source = path_of(journey, made[row.source], row.source)
        if row.exporter:
            row.export()(source, folder / row.file, spec=journey.spec, provenance=provenance)
        else:
            copy_known(source, folder / row.file)
        if PurePosixPath(row.file).suffix in xmp.SUFFIXES:
            xmp.mark_file(folder / row.file, mark)
    return provenance


def frame_of_asset(journey: Journey, mesh: Reference) -> dict[str, Any]:
    """The one frame that all deliverables stand in, from the mesh's bounds."""
    from pipeline_core.frame import STANDARD, frame_of
    from pipeline_core.io.gltf import bounds

    spec = journey.spec
    frame = frame_of(bounds(path_of(journey, mesh, "asset.glb")), spec.height_m, spec.size_m)
    return STANDARD | frame.to_json()


def describe(journey: Journey) -> dict[str, Any]:
    """Where an asset comes from. It names no date and no host: one request always gives the same file."""
    spec, picture = journey.spec, picture_of(journey)
    return {
        "asset_id": spec.asset_id,
        "prompt": spec.prompt,
        "seed": spec.seed,
        **({} if picture is None else {"image": spec.files["image"].model_dump() | {"treatment": picture.treatment}}),
        "spec": spec.to_json(),
        "models": {
            kind: {"id": journey.models[kind], "licence": found.name, "licence_class": found.licence_class}
            for kind, ref in spec.recipe.model_refs().items()
            if (found := licence(ref, kind))
        },
        "code_version": code_version(),
    }
