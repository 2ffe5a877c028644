"""The deliverables: what an artist takes, what says where it came from, and the catalogue's last row."""

from __future__ import annotations

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prefect import task

from catalog.writer import append
from pipeline_core.files import write_json
from pipeline_core.secrets import redact_error
from pipeline_core.storage import Library, sha256_file
from pipeline_core.version import code_version
from tasks import halt
from tasks.journey import Journey
from tasks.models import licence
from tasks.policy import policy
from tasks.progress import board
from tasks.stage import Reference, failed, path_of, reference, reused, stage_run, with_times


@task(**policy("record", hours=1))
def record(journey: Journey, gaussians: Reference, asset: Reference, scores: Reference) -> Reference:
    """``assets/<asset_id>/``: asset.glb, splat.ply, preview.png, turntable.webp and asset.json."""
    halt.check()
    library, key = Library(journey.library), journey.keys["record"]
    upstream = (gaussians, asset, scores)
    board.update(journey.asset_id, state="running", stage="record")
    found = library.find("record", key)
    if found is not None:
        append(journey.library, [reused(journey, "record", found, upstream)])
        return reference("record", key, found)
    started = datetime.now(UTC)
    try:
        metrics = json.loads(path_of(journey, scores, "metrics.json").read_text(encoding="utf-8"))
        with library.workspace() as folder:
            _write_deliverables(folder, journey, upstream, metrics)
            outputs = library.outputs(folder, library.asset_dir(journey.asset_id))
            library.publish_asset(folder, journey.asset_id)
        spec_json = json.dumps(journey.spec.to_json(), sort_keys=True)
        run = stage_run(
            journey, "record", "ok", started, metrics=metrics, upstream=upstream, outputs=outputs, spec_json=spec_json
        )
        # The row before the mark: an asset that counts as finished is in the catalogue. A kill in between repeats this.
        append(journey.library, [run])
        with library.workspace() as folder:
            document = library.publish(folder, "record", key, with_times(run, outputs))
    except BaseException as error:
        redact_error(error)
        append(journey.library, [failed(journey, "record", started, error, upstream)], keep=True)
        raise
    return reference("record", key, document)


def _write_deliverables(
    folder: Path, journey: Journey, upstream: tuple[Reference, ...], metrics: dict[str, float]
) -> None:
    from pipeline_core.io.gltf import load_glb, save_glb

    gaussians, asset, scores = upstream
    spec = journey.spec
    provenance = describe(journey)
    textured = load_glb(path_of(journey, asset, "asset.glb"))
    save_glb(
        folder / "asset.glb",
        textured,
        name=spec.asset_id,
        height_m=spec.height_m,
        extras={name: provenance[name] for name in ("asset_id", "prompt", "seed", "models", "code_version")},
    )
    shutil.copyfile(path_of(journey, gaussians, "splat.ply"), folder / "splat.ply")
    for name in ("preview.png", "turntable.webp"):
        if name in scores["outputs"]:
            shutil.copyfile(path_of(journey, scores, name), folder / name)
    files = {
        path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size} for path in sorted(folder.iterdir())
    }
    write_json(folder / "asset.json", provenance | {"metrics": metrics, "files": files, "stages": journey.keys})


def describe(journey: Journey) -> dict[str, Any]:
    """Where an asset comes from. No dates and no host: the same request gives the same file, byte for byte."""
    spec, recipe = journey.spec, journey.spec.recipe
    references = {"image": recipe.image_prior, "points": recipe.init.point_prior}
    return {
        "asset_id": spec.asset_id,
        "prompt": spec.prompt,
        "seed": spec.seed,
        "spec": spec.to_json(),
        "models": {
            kind: {"id": journey.models[kind], "licence": licence(ref, kind)} for kind, ref in references.items()
        },
        "code_version": code_version(),
    }
