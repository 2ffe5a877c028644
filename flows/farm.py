"""The Prefect flow around a batch, apart from ``batch.py`` so that a look at a finished manifest loads no Prefect."""

from __future__ import annotations

import threading
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Cancelled, Completed, Failed, State

from flows.asset import make_asset
from flows.batch import BatchRequest, Summary, run_batch

stop = threading.Event()
"""Set to end the batch that this process runs: assets on their way stop at their next step."""


@flow(name="batch", log_prints=False, persist_result=False)
def batch(request: BatchRequest) -> State[Any]:
    """Make a manifest's assets on this machine; a Markdown report goes to Prefect's artifacts."""
    summary = run_batch(request, make_asset, stop)
    create_markdown_artifact(markdown(summary), key="batch-report", description=f"Run {summary.run_id}")
    message = f"{len(summary.made)} made, {len(summary.cached)} there already, {len(summary.failures)} failed"
    if summary.stopped:
        return Cancelled(message=f"{message}, {len(summary.stopped)} stopped")
    return Completed(message=message) if summary.ok else Failed(message=message)


def markdown(summary: Summary) -> str:
    """The run's report. Users' text is quoted so that it stays text."""
    lines = [
        f"# Run {summary.run_id}",
        "",
        "| asked | made | there already | failed | refused | stopped | seconds |",
        "|---|---|---|---|---|---|---|",
        f"| {summary.asked} | {len(summary.made)} | {len(summary.cached)} | {len(summary.failures)} "
        f"| {len(summary.refused)} | {len(summary.stopped)} | {summary.seconds:.0f} |",
    ]
    if summary.failures:
        lines += ["", "| asset | stage | class | error |", "|---|---|---|---|"]
    for each in summary.failures:
        message = each["message"].replace("|", "/").replace("`", "'").replace("\n", " ")[:200]
        lines.append(f"| {each['asset_id']} | {each['stage']} | {each['error_class']} | `{message}` |")
    return "\n".join(lines)
