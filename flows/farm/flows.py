"""The farm's Prefect flows.

``shard`` makes a part of a run on the worker that took it. ``batch`` makes nothing: it opens a run, has it divided into
shards for the farm's workers and waits for them. ``reconcile_runs`` is ``splatmill reconcile`` on a schedule.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from typing import Any

from prefect import flow
from prefect.runtime import flow_run
from prefect.states import Crashed, Failed, State
from pydantic import ValidationError

from flows.asset import make_asset
from flows.batch import BatchRequest, run_batch
from flows.farm import alerts, beats, marks
from flows.farm.drain import drained
from flows.farm.outage import Outage
from flows.farm.prefect import PrefectFarm
from flows.farm.reconcile import CONTROL, reconcile, watch
from flows.farm.runs import open_run, run_shard
from flows.run import ended, reported
from flows.server import pointed_at
from pipeline_core import logs
from pipeline_core.storage import Library
from pipeline_core.version import code_version

stop = threading.Event()
"""When this is set, the process begins no asset, and those on their way stop at their next step."""


@flow(name="shard", log_prints=False, persist_result=False)
def shard(request: BatchRequest) -> State[Any]:
    """Make the shard that the request names, on this machine; a request that names none is a whole run.

    A worker whose code would make something else, and one whose run is paused or cancelled, turns it away.
    """
    logs.configure(run=request.run_id)
    Outage(pointed_at() or "").outlast()
    if not request.shard:
        return reported(run_batch(request, make_asset, stop))
    if why := marks.turn_away(request, str(flow_run.id)):
        return Failed(message=why)
    try:
        alerts.tell_silence(request.folder)
        with beats.beating(request.folder, str(flow_run.id), stop, shard=request.shard) as abandoned:
            summary = run_shard(request, make_asset, stop, str(flow_run.id))
    except beats.Fenced as error:
        return Crashed(message=str(error))
    except ValidationError as error:
        if request.code in ("", code_version()):
            raise
        why = marks.cannot_read(request, error)
        marks.excuse(request.folder, str(flow_run.id), marks.VERSION, why)
        return Failed(message=why)
    alerts.tell_silence(request.folder)
    if abandoned.is_set():
        return Crashed(message=f"its worker is gone; {len(summary.stopped)} assets stopped at a checkpoint")
    if summary.left and (marks.halted(request.folder, str(flow_run.id)) or drained()):
        marks.excuse(request.folder, str(flow_run.id), marks.PAUSE, summary.left_why)
    return ended(summary)


@flow(name="batch", log_prints=False, persist_result=False)
def batch(request: BatchRequest) -> State[Any]:
    """Have a manifest's assets made by the farm's workers, and wait for them."""
    with at_work(request.library):
        request = open_run(request)
        summary = watch(request, PrefectFarm(), stop)
    if summary is None:
        return Failed(message=f"run {request.run_id} is not over, but nothing moves: is a worker online?")
    return reported(summary)


@flow(name="reconcile", log_prints=False, persist_result=False)
def reconcile_runs(library: str) -> list[str]:
    """Close dead shards and submit what is missing, in all open runs of ``library``."""
    with at_work(library):
        return [str(outcome) for outcome in reconcile(library, PrefectFarm())]


@contextlib.contextmanager
def at_work(library: str) -> Iterator[None]:
    """Give signs of life of a flow that makes nothing, so that ``reconcile`` can tell when its process is gone."""
    Outage(pointed_at() or "").outlast()
    folder = Library(library).create().root / CONTROL
    beats.forget_old(folder)
    with beats.beating(folder, str(flow_run.id), stop):
        yield
