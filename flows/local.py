"""``splatmill run`` on this machine: it has a server for the run, runs the flow, shows progress and ends in order."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import threading
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

from flows.asked import keep
from flows.batch import BatchRequest, Plan, prepare, run_batch
from flows.farm.beats import beating
from flows.live import progress
from flows.prompts import tell
from flows.server import prefect_server
from flows.summary import SUMMARY, Summary
from pipeline_core import logs
from pipeline_core.errors import SplatmillError
from pipeline_core.storage import Library
from tasks.journey import Journey

SHOWN = 20
"""So many refused rows are told; the summary has all."""
MADE, SOME_FAILED, INTERRUPTED = 0, 1, 130


def run_here(request: BatchRequest, *, as_json: bool) -> int:
    """Make a batch in this process; returns the exit code. Raises :class:`RequestError` before anything is begun."""
    logs.configure(run=request.run_id)
    plan = prepare(request)
    tell(plan.warnings, "splatmill plan --json")
    library = Library(request.library).create()
    keep(request, plan)
    if not plan.todo.missing:
        summary = run_batch(request, _nothing_to_make, plan=plan)  # the files say so: no server and no models
    else:
        with progress(quiet=as_json), _orderly_end() as stop:
            _warm_up(plan.todo.missing[0])
            with prefect_server(library.local), beating(request.folder, "here", stop, tied=False):
                summary = _run_flow(plan, stop)
    _report(request, summary, as_json)
    if summary.stopped:
        return INTERRUPTED
    return MADE if summary.ok else SOME_FAILED


def _nothing_to_make(journey: Journey) -> None:
    raise AssertionError(journey.asset_id)


def _run_flow(plan: Plan, stop: threading.Event) -> Summary:
    """Run the Prefect flow and read what it wrote down.

    The flow has a thread of its own: the main thread stays free for signals, and Prefect leaves SIGTERM alone.
    """
    from flows.run import run_flow
    from pipeline_core.models import close_engines

    request, ended = plan.request, []

    def run() -> None:
        try:
            ended.append(run_flow(plan, stop)(request, return_state=True).message)
        except BaseException as error:
            ended.append(f"{type(error).__name__}: {error}")

    thread = threading.Thread(target=run, name="flow", daemon=True)
    thread.start()
    while thread.is_alive():
        thread.join(0.2)
    close_engines()
    path = request.folder / SUMMARY
    if not path.is_file():
        raise SplatmillError(f"the run did not come to its end: {ended[0]}")
    return Summary(**json.loads(path.read_text(encoding="utf-8")))


def _warm_up(journey: Journey) -> None:
    """Load the models while the server starts. An error is passed over here: the stage that needs them tells of it."""

    def load() -> None:
        from pipeline_core import models

        with contextlib.suppress(Exception):
            models.import_scipy()
            if journey.spec.recipe.init.uses("points"):
                models.point_prior(journey.spec.recipe.init.point_prior)
            models.engine(journey.spec.recipe)

    threading.Thread(target=load, name="warm-up", daemon=True).start()


@contextlib.contextmanager
def _orderly_end() -> Iterator[threading.Event]:
    """Yields an event. The first Ctrl-C (or SIGTERM) sets it; the second one ends the process at once."""
    stop = threading.Event()

    def ask(number: int, frame: Any) -> None:
        if stop.is_set():
            os._exit(INTERRUPTED)  # threads are not waited for; the server sees that its parent is gone
        stop.set()
        logs.say("splatmill: stopping; what is under way keeps a checkpoint (Ctrl-C again: at once)")

    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(request: BatchRequest, summary: Summary, as_json: bool) -> None:
    """Tell how the run ended: people get sentences, machines get one JSON document."""
    if as_json:
        print(json.dumps(asdict(summary) | {"ok": summary.ok}))
        return
    out = io.StringIO()
    for line in summary.refused[:SHOWN]:
        print(f"refused: {line}", file=out)
    if len(summary.refused) > SHOWN:
        print(f"refused: {len(summary.refused) - SHOWN} more; {request.folder / SUMMARY} has all", file=out)
    for each in summary.failures:
        print(f"failed: {each['asset_id']} in {each['stage']}: {each['error_type']}: {each['message']}", file=out)
    for each in summary.rejected[:SHOWN]:
        print(f"rejected: {each['asset_id']}: {each['why']}", file=out)
    if len(summary.rejected) > SHOWN:
        print(f"rejected: {len(summary.rejected) - SHOWN} more; {request.folder / SUMMARY} has all", file=out)
    made, cached = len(summary.made), len(summary.cached)
    rejected = f"{len(summary.rejected)} rejected, " if summary.rejected else ""
    print(
        f"{made} made, {cached} there already, {rejected}{len(summary.failures)} failed of {summary.asked} "
        f"in {summary.seconds:.0f} s; assets in {summary.library}/assets",
        file=out,
    )
    if summary.unjudged:
        first = "{asset_id}: {why}".format(**summary.unjudged[0])
        print(f"{len(summary.unjudged)} unjudged, neither accepted nor rejected, such as {first}", file=out)
    if summary.from_start:
        print(f"{len(summary.from_start)} are their starts, which distillation made worse", file=out)
    if summary.flawed:
        print(f"{len(summary.flawed)} with errors in their files: splatmill sql 'from findings'", file=out)
    if summary.alike:
        print(f"{len(summary.alike)} pairs look alike: splatmill sql 'from duplicates'", file=out)
    if summary.warnings:
        print(f"{len(summary.warnings)} warnings: {request.folder / SUMMARY}", file=out)
    if summary.left:
        print(f"{len(summary.left)} not begun because of {summary.left_why}", file=out)
    if summary.quarantined:
        print(f"{len(summary.quarantined)} passed over: they failed before (splatmill status)", file=out)
    if summary.stopped:
        print(f"{len(summary.stopped)} not finished. To go on where this stopped, run the same command again", file=out)
    elif summary.failures or summary.quarantined:
        print(f"to try those again: splatmill retry {request.manifest} --library {request.library}", file=out)
    print(out.getvalue(), end="")
