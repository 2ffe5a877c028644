"""The last stage writes the deliverables, says where they come from, and appends the asset's last row."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from catalog.schema import StageRun
from catalog.writer import append
from pipeline_core import deliverables
from pipeline_core.acceptance import Verdict
from pipeline_core.files import write_json
from pipeline_core.storage import Library, known_sha256
from tasks.deliver import deliver
from tasks.journey import Journey
from tasks.policy import published_task
from tasks.stage import Publication, Reference, told_by, verdict_of, with_times


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
    """Write the deliverables and ``asset.json``; returns the asset's metrics.

    Before its row's ``upstream`` come the verdicts of the attempts that were rejected, so that their outputs are kept.
    """
    made = {name: each for each in upstream for name in each["outputs"]}
    attempts = [attempt(journey, each) for each in upstream if each["stage"] == "accept"]
    metrics, material, levels = (told_by(journey, made[n], n) for n in ("metrics.json", "material.json", "levels.json"))
    provenance = deliver(journey, folder, upstream)
    files = {path.name: {"sha256": known_sha256(path), "bytes": path.stat().st_size} for path in folder.iterdir()}
    metrics |= levels.pop("metrics")
    whole = provenance | journey.told() | {"material": material, "levels": levels, "metrics": metrics, "files": files}
    verdict = verdict_of(journey, made["verdict.json"])
    whole |= {"stages": journey.keys} | journey.chosen | verdict.to_json()
    if len(attempts) > 1:
        whole["attempts"] = attempts
    write_json(folder / deliverables.PROVENANCE, whole)
    return metrics


def attempt(journey: Journey, accepted: Reference) -> dict[str, Any]:
    """What ``asset.json`` tells of one attempt, by the reference to its verdict."""
    told = told_by(journey, accepted, "verdict.json")
    failed = [str(each) for each in Verdict.from_json(told).failed]
    return {"seed": told["seed"], "verdict": told["verdict"], "failed": failed, "stages": told["stages"]}
