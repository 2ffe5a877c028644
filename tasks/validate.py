"""This stage looks at the deliverables before they are published, and says what is wrong with them."""

from __future__ import annotations

from pathlib import Path

from pipeline_core.files import write_json
from pipeline_core.findings import merged, tally
from pipeline_core.storage import Library
from tasks.deliver import deliver
from tasks.journey import Journey
from tasks.policy import stage_task
from tasks.stage import Measured, Reference, told_by


@stage_task
def validate(journey: Journey, folder: Path, *upstream: Reference) -> Measured:
    """Write ``validation.json``: the findings, which the catalogue has as rows, and which validators looked.

    An asset with errors is delivered all the same, and shows them.
    """
    from pipeline_core.validation import khronos
    from pipeline_core.validation.asset import check_asset, silhouettes

    with Library(journey.library).workspace() as scratch:
        deliver(journey, scratch, upstream)
        findings = check_asset(scratch, journey.spec, whole=False)
    [evaluation] = [each for each in upstream if "metrics.json" in each["outputs"]]
    metrics, least = told_by(journey, evaluation, "metrics.json"), journey.spec.recipe.evaluate.least_overlap
    findings = merged([*findings, *silhouettes(metrics, least)])
    validator = khronos.found()
    looked = {"khronos": validator.version or None, "khronos_missing": validator.missing or None}
    write_json(folder / "validation.json", {"validators": looked, "findings": [vars(each) for each in findings]})
    counts = tally(findings)
    metrics = {f"finding_{severity}s": float(count) for severity, count in counts.items()}
    return Measured(metrics | {"khronos_validated": float(not validator.missing)}, findings)
