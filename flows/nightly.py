"""The scheduled flow: make what is missing, try again what may pass, then put the catalogue in order and report.

python -c "from flows.nightly import nightly; nightly({'manifest': 'props.csv', 'library': 'library'})"
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from catalog.compact import compact
from catalog.gallery import write_gallery
from catalog.ids import new_id
from catalog.snapshot import build as build_snapshot
from flows.asset import make_asset
from flows.batch import BatchRequest, Summary, markdown, run_batch
from flows.farm import stop
from tasks.rules import RULES


@flow(name="nightly", log_prints=False, persist_result=False)
def nightly(request: BatchRequest, second_chance: bool = True) -> dict[str, Any]:
    """One night: run, retry, compact, snapshot, report. Returns the counts that the report shows."""
    first = run_batch(request, make_asset, stop)
    again = None
    failed = [each["asset_id"] for each in first.failures if RULES[each["error_class"]].rounds > 1]
    if second_chance and failed and not stop.is_set():
        changes = {"only": tuple(failed), "run_id": new_id()}
        again = run_batch(request.model_copy(update=changes), make_asset, stop)
    compact(request.library)
    build_snapshot(request.library)
    write_gallery(request.library)
    text = "\n\n".join(markdown(summary) for summary in (first, again) if summary)
    create_markdown_artifact(markdown=text, key="nightly-report", description=f"Night of run {first.run_id}")
    return counts(first, again)


def counts(first: Summary, again: Summary | None) -> dict[str, Any]:
    """Assets made, there already, and failed for good after both rounds."""
    rescued = set(again.made) if again else set()
    return {
        "run_id": first.run_id,
        "made": len(first.made) + len(rescued),
        "cached": len(first.cached),
        "failed": len([each for each in first.failures if each["asset_id"] not in rescued]),
        "stopped": len(first.stopped) + (len(again.stopped) if again else 0),
    }
