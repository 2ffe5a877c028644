"""This stage holds an asset to its contract, by what the stages before it measured."""

from __future__ import annotations

from pathlib import Path

from pipeline_core.acceptance import judge
from pipeline_core.files import write_json
from pipeline_core.findings import Finding, tally
from pipeline_core.storage import Library
from tasks.deliver import deliver
from tasks.journey import Journey
from tasks.policy import stage_task
from tasks.stage import Measured, Reference, told_by


@stage_task
def accept(
    journey: Journey, folder: Path, dressed: Reference, levels: Reference, evaluated: Reference, validated: Reference
) -> Measured:
    """Write ``verdict.json``: the verdict and its clauses, which the catalogue has as rows, the seed, and the keys of
    the stages that it is about."""
    findings = [Finding(**each) for each in told_by(journey, validated, "validation.json")["findings"]]
    metrics = told_by(journey, evaluated, "metrics.json") | told_by(journey, levels, "levels.json")["metrics"]
    metrics |= journey.figures()
    metrics |= {f"finding_{severity}s": count for severity, count in tally(findings).items()}
    contract = journey.spec.accept
    if contract and "kb" in contract.bounds:
        metrics["kb"] = size_of_glb(journey, dressed) / 1000
    verdict = judge(contract, metrics)
    told = {"seed": journey.spec.seed, "fidelity": metrics.get("fidelity")}
    write_json(folder / "verdict.json", verdict.to_json() | told | {"stages": journey.keys})
    return Measured({}, clauses=verdict.clauses)


def size_of_glb(journey: Journey, dressed: Reference) -> int:
    """Bytes of the ``asset.glb`` that would be delivered."""
    with Library(journey.library).workspace() as scratch:
        deliver(journey, scratch, [dressed])
        return (scratch / "asset.glb").stat().st_size
