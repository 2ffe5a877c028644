"""The Prefect flows of a batch, apart from ``batch.py`` so that a look at a finished manifest loads no Prefect.

``shard`` makes assets here: all of a manifest (``splatmill run``) or a part of one (on a farm). ``batch`` makes
nothing: it divides a manifest into shards for a farm's workers and waits for them. ``tidy`` is ``splatmill reconcile``
on a schedule.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact
from prefect.runtime import flow_run
from prefect.states import Cancelled, Completed, Crashed, Failed, State

from flows.asset import make_asset
from flows.batch import BatchRequest, Summary, markdown, run_batch
from flows.farm import beats
from flows.farm.prefect import PrefectFarm
from flows.farm.reconcile import CONTROL, open_run, reconcile, watch
from pipeline_core.storage import Library

stop = threading.Event()
"""Set to end the batch that this process runs: assets on their way stop at their next step."""


@flow(name="shard", log_prints=False, persist_result=False)
def shard(request: BatchRequest) -> State[Any]:
    """Make a manifest's assets, or the part of them that the request names, on this machine."""
    if not request.shard:
        summary = run_batch(request, make_asset, stop)
        create_markdown_artifact(markdown(summary), key="batch-report", description=f"Run {summary.run_id}")
        return ended(summary)
    try:
        with beats.beating(Library(request.library).run_dir(request.run_id), str(flow_run.id), stop) as abandoned:
            summary = run_batch(request, make_asset, stop)
    except beats.Fenced as error:
        return Crashed(message=str(error))
    if abandoned.is_set():
        return Crashed(message=f"its worker is gone; {len(summary.stopped)} assets stopped at a checkpoint")
    return ended(summary)


@flow(name="batch", log_prints=False, persist_result=False)
def batch(request: BatchRequest) -> State[Any]:
    """Have a manifest's assets made by the farm's workers, and wait for them."""
    with at_work(request.library):
        request = open_run(request)
        summary = watch(request, PrefectFarm(), stop)
    if summary is None:
        return Failed(message=f"run {request.run_id} is not over, but nothing moves: is a worker online?")
    create_markdown_artifact(markdown(summary), key="batch-report", description=f"Run {summary.run_id}")
    return ended(summary)


@flow(name="reconcile", log_prints=False, persist_result=False)
def tidy(library: str) -> list[str]:
    """Close dead shards and submit what is missing, of all open runs of ``library``."""
    with at_work(library):
        return [str(outcome) for outcome in reconcile(library, PrefectFarm())]


@contextlib.contextmanager
def at_work(library: str) -> Iterator[None]:
    """Signs of life of a flow that makes nothing, by which ``reconcile`` can tell when its process is gone."""
    folder = Library(library).create().root / CONTROL
    beats.tidy(folder)
    with beats.beating(folder, str(flow_run.id), stop):
        yield


def ended(summary: Summary) -> State[Any]:
    """The state of a flow run by what became of its assets."""
    message = f"{len(summary.made)} made, {len(summary.cached)} there already, {len(summary.failures)} failed"
    if summary.stopped:
        return Cancelled(message=f"{message}, {len(summary.stopped)} stopped")
    if summary.left:
        message += f", {len(summary.left)} left because of {summary.left_why}"
    return Completed(message=message) if summary.ok else Failed(message=message)
