"""The Prefect flow around a batch, apart from ``batch.py`` so that a look at a finished manifest loads no Prefect."""

from __future__ import annotations

import threading
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Cancelled, Completed, Failed, State

from flows.asset import make_asset
from flows.batch import BatchRequest, markdown, run_batch

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
