"""The Prefect flow of ``splatmill run``, and the state in which a batch's flow run ends.

This module is apart from ``local.py`` so that a look at a finished manifest loads no Prefect.
"""

from __future__ import annotations

import threading
from typing import Any

from prefect import Flow, flow
from prefect.artifacts import create_markdown_artifact
from prefect.states import Cancelled, Completed, Failed, State

from flows.asset import make_asset
from flows.batch import BatchRequest, Plan, run_batch
from flows.summary import Summary, markdown


def run_flow(plan: Plan, stop: threading.Event) -> Flow[[BatchRequest], State[Any]]:
    """Make the flow that makes the assets of ``plan`` in this process.

    The flow takes its request as a parameter only so that Prefect's UI shows it.
    """

    @flow(name="run", log_prints=False, persist_result=False)
    def run(request: BatchRequest) -> State[Any]:
        return reported(run_batch(request, make_asset, stop, plan))

    return run


def reported(summary: Summary) -> State[Any]:
    """Leave the batch's report among Prefect's artifacts; returns the state in which its flow run ends."""
    create_markdown_artifact(markdown(summary), key="batch-report", description=f"Run {summary.run_id}")
    return ended(summary)


def ended(summary: Summary) -> State[Any]:
    """The state of a flow run by what became of its assets."""
    message = f"{len(summary.made)} made, {len(summary.cached)} there already, {len(summary.failures)} failed"
    if summary.rejected:
        message += f", {len(summary.rejected)} rejected by their contract"
    if summary.stopped:
        return Cancelled(message=f"{message}, {len(summary.stopped)} stopped")
    if summary.left:
        message += f", {len(summary.left)} left because of {summary.left_why}"
    return Completed(message=message) if summary.ok else Failed(message=message)
