"""The last stage writes the deliverables, says where they come from, and appends the asset's last row."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from catalog.schema import StageRun
from catalog.writer import append
from pipeline_core import deliverables
from pipeline_core.files import write_json
from pipeline_core.io import xmp
from pipeline_core.models import licence
from pipeline_core.storage import Library, copy_known, known_sha256
from pipeline_core.version import code_version
from tasks.journey import Journey
from tasks.policy import published_task
from tasks.stage import Publication, Reference, path_of, picture_of, with_times


def publish_asset(journey: Journey, folder: Path, run: StageRun, outputs: list[dict[str, Any]]) -> dict[str, Any]:
    """The files replace ``assets/<asset_id>/`` as a whole; only the record lies under ``stages/``.

    The record marks the asset as finished. It comes after the row, so every finished asset is in the catalogue; a kill
    in between only repeats the stage.
    """
    library = Library(journey.library)
    assert run.stage_key
    library.publish_asset(folder, journey.asset_id)
    append(journey.library, [run])
    record = with_times(run, outputs)
    with library.workspace() as empty:
        library.publish(empty, run.stage, run.stage_key, record)
    return record  # also where another process made the same: these are the files that lie there now


IN_ASSETS = Publication(lambda library, journey, stage: library.asset_dir(journey.asset_id), publish_asset)


@published_task(IN_ASSETS)
def record(journey: Journey, folder: Path, *upstream: Reference) -> Mapping[str, float]:
    """Write every deliverable that a stage made something for, marked as generated where its format can say so, and
    ``asset.json``; returns the asset's metrics."""
    made = {name: each for each in upstream for name in each["outputs"]}
    metrics: dict[str, float] = json.loads(path_of(journey, made["metrics.json"], "metrics.json").read_bytes())
    provenance = describe(journey) | {"frame": frame_of_asset(journey, made["asset.glb"])}
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
    files = {path.name: {"sha256": known_sha256(path), "bytes": path.stat().st_size} for path in folder.iterdir()}
    whole = provenance | journey.told() | {"metrics": metrics, "files": files, "stages": journey.keys}
    write_json(folder / deliverables.PROVENANCE, whole)
    return metrics


def frame_of_asset(journey: Journey, mesh: Reference) -> dict[str, Any]:
    """The one frame that all deliverables stand in, from the mesh's bounds."""
    from pipeline_core.frame import STANDARD, frame_of
    from pipeline_core.io.gltf import bounds

    frame = frame_of(bounds(path_of(journey, mesh, "asset.glb")), journey.spec.height_m)
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
