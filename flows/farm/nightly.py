"""The scheduled flows: a night of work with its report, and the catalogue's upkeep.

A night opens a run of its manifest and waits while the farm's workers make it; ``flows.farm.reconcile`` tries again
what failed in passing. The night leaves one Markdown report and one table of failures among Prefect's artifacts. The
message of its last state is the notification that ``splatmill deploy`` arranges.
"""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact, create_table_artifact
from prefect.states import Completed, Failed, State

from catalog import compact as compaction
from catalog import gc as collection
from catalog.gallery import write_gallery
from catalog.snapshot import build as build_snapshot
from catalog.store import LeaseHeld
from flows.batch import BatchRequest
from flows.budget import next_time
from flows.farm.flows import at_work, stop
from flows.farm.prefect import PrefectFarm
from flows.farm.reconcile import watch
from flows.farm.runs import open_run
from flows.run import ended
from flows.summary import Summary, markdown

FAILURES = ("asset_id", "stage", "error_class", "error_type", "message")


@flow(name="nightly", log_prints=False, persist_result=False)
def nightly(request: BatchRequest, until: str = "") -> State[Any]:
    """Make a night's assets, report, and refresh the catalogue.

    ``until``: a time such as 06:00 by the worker's clock (its ``TZ``); nothing begins that would not end by then.
    """
    if until:
        request = request.model_copy(update={"deadline": next_time(until)})
    with at_work(request.library):
        request = open_run(request)
        summary = watch(request, PrefectFarm(), stop)
    if summary is None:
        return Failed(message=f"run {request.run_id} is not over, but nothing moves: is a worker online?")
    report(summary)
    refresh_catalogue(request.library)
    return ended(summary)


@flow(name="compact", log_prints=False, persist_result=False)
def compact(library: str) -> str:
    """Seal the catalogue's small files, bring the snapshot up to date, write the gallery."""
    with at_work(library):
        return refresh_catalogue(library)


@flow(name="gc", log_prints=False, persist_result=False)
def gc(library: str, max_size: str = "") -> State[Any]:
    """Remove what nothing current needs; with a ``max_size`` such as 500G, no more than makes the library so small."""
    with at_work(library):
        done = collection.gc(library, delete=True, max_bytes=collection.size_of(max_size) if max_size else None)
    told = f"{len(done.outputs)} outputs and {len(done.inputs)} inputs removed, {done.bytes / 2**30:.2f} GiB"
    if done.over:
        return Failed(message=f"{told}; still {done.over / 2**30:.2f} GiB over {max_size}: the rest is needed")
    return Completed(message=told)


def report(summary: Summary) -> None:
    """Leave the night's two artifacts. The table is there even when nothing failed: without it, the night broke off."""
    about = f"Night of run {summary.run_id}"
    create_markdown_artifact(markdown(summary), key="nightly-report", description=about)
    rows = [{name: each[name] for name in FAILURES} for each in summary.failures]
    create_table_artifact(rows, key="nightly-failures", description=about)


def refresh_catalogue(library: str) -> str:
    """Compact the catalogue, write its snapshot and the gallery; returns what was done.

    When another process is at work on the catalogue, this one leaves the work to it.
    """
    try:
        done = compaction.compact(library)
        build_snapshot(library)
        if "://" not in library:  # a bucket's needs a folder: splatmill gallery --output
            write_gallery(library)
    except LeaseHeld as busy:
        return f"left to another process: {busy}"
    return f"{done.sealed_rows} rows sealed, {done.merged_files} files merged"
