"""A manifest's assets, several at a time; one bad asset never sinks the batch.

    summary = run_batch(BatchRequest(manifest="props.csv", library="library"), stop=threading.Event())

``batch`` is the same as a Prefect flow: ``splatmill run`` calls it here, a farm's worker calls it there. What is
finished is left out by looking at files, before Prefect hears of it, so running a finished manifest again takes
seconds and starts nothing. Truth about what was made is in the library and its catalogue, not in Prefect.
"""

from __future__ import annotations

import contextvars
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from catalog.ids import new_id
from catalog.schema import StageRun
from catalog.writer import append
from pipeline_core.errors import error_class
from pipeline_core.manifest import Manifest, load_manifest
from pipeline_core.priors.resolve import model_id
from pipeline_core.spec import derive_id
from pipeline_core.storage import Library, write_json
from tasks import halt
from tasks.journey import Journey, finished, plan_journey
from tasks.progress import board
from tasks.requests import request_rows

SUMMARY = "summary.json"
Make = Callable[[Journey], Any]


class BatchRequest(BaseModel):
    """What to make: plain data, so that it can be a flow parameter."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    manifest: str = Field(description="path of the manifest")
    library: str = Field(description="folder of the library")
    run_id: str = Field(default_factory=new_id, pattern="^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")
    recipe: str = Field("factory", description="recipe of rows that name none")
    overrides: dict[str, Any] = Field({}, description="dotted recipe fields that have the last word")
    skip_invalid: bool = Field(False, description="make the good rows of a manifest that has bad ones")
    in_flight: int = Field(4, ge=1, le=256, description="assets on their way at the same time")
    only: tuple[str, ...] = Field((), description="asset ids; empty = all")


@dataclass
class Summary:
    """How a batch ended. ``failures``: asset id, stage, error class, type and message of each."""

    run_id: str
    library: str
    manifest: str
    asked: int = 0
    made: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    seconds: float = 0.0
    first_asset_s: float | None = None

    @property
    def ok(self) -> bool:
        """Whether everything that was asked for is there."""
        return not (self.failures or self.stopped or self.refused)


def plan_batch(request: BatchRequest) -> tuple[Manifest, list[Journey]]:
    """The manifest, and the journeys it asks for. Raises :class:`RequestError` for what cannot be made at all."""
    manifest = load_manifest(
        request.manifest, recipe=request.recipe, overrides=request.overrides, skip_invalid=request.skip_invalid
    )
    resolve = lru_cache(maxsize=256)(model_id)
    library = str(Library(request.library).root)
    specs = [spec for spec in manifest.specs if not request.only or spec.asset_id in request.only]
    return manifest, [plan_journey(library, request.run_id, spec, resolve) for spec in specs]


def run_batch(request: BatchRequest, make: Make, stop: threading.Event | None = None) -> Summary:
    """Make what is missing with ``make``, and write ``summary.json`` and ``report.md`` to ``runs/<run_id>/``.

    ``stop`` ends it early: assets on their way stop at the next step, and nothing that is finished is lost.
    """
    began, stop = time.monotonic(), stop or threading.Event()
    manifest, journeys = plan_batch(request)
    library = Library(request.library).create()
    library.sweep()
    halt.release()
    todo = [each for each in journeys if not finished(each)]
    waiting = {each.asset_id for each in todo}
    for each in journeys:
        board.update(each.asset_id, state="waiting" if each.asset_id in waiting else "cached")
    summary = Summary(request.run_id, str(library.root), request.manifest, asked=len(journeys))
    summary.cached = [each.asset_id for each in journeys if each.asset_id not in waiting]
    summary.refused = [str(problem) for problem in manifest.problems]
    rows = [*request_rows(todo), *refused_rows(request, manifest)]
    if rows:
        append(str(library.root), rows)
    if todo:
        _make_all(todo, make, request.in_flight, stop, summary, began)
    summary.seconds = time.monotonic() - began
    folder = library.run_dir(request.run_id)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / SUMMARY, asdict(summary))
    (folder / "report.md").write_text(markdown(summary) + "\n", encoding="utf-8")
    return summary


def _make_all(
    journeys: list[Journey], make: Make, in_flight: int, stop: threading.Event, summary: Summary, began: float
) -> None:
    """Make ``journeys`` in order, ``in_flight`` at a time, filling ``summary``."""
    queue = iter(journeys)
    running: dict[Future[Any], Journey] = {}
    pool = ThreadPoolExecutor(max_workers=in_flight, thread_name_prefix="asset")
    try:
        while True:
            for journey in _next(queue, in_flight - len(running), stop):
                # tasks find their flow run in the context, which a thread does not inherit by itself
                context = contextvars.copy_context()
                running[pool.submit(context.run, make, journey)] = journey
            if not running:
                break
            done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
            for future in done:
                _note(running.pop(future), future, stop, summary, began)
            if stop.is_set():
                halt.pull()
    except BaseException:
        stop.set()
        halt.pull()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    summary.stopped += [each.asset_id for each in queue]


def _next(queue: Iterable[Journey], places: int, stop: threading.Event) -> list[Journey]:
    """The next journeys for the free places; none once the batch is to stop."""
    return [] if stop.is_set() else [journey for _, journey in zip(range(places), queue)]


def _note(journey: Journey, future: Future[Any], stop: threading.Event, summary: Summary, began: float) -> None:
    """Put down how an asset ended."""
    error = future.exception() if not future.cancelled() else CancelledError()
    if error is None:
        summary.made.append(journey.asset_id)
        summary.first_asset_s = summary.first_asset_s or time.monotonic() - began
        board.update(journey.asset_id, state="done")
    elif isinstance(error, (CancelledError, KeyboardInterrupt)) or stop.is_set():
        summary.stopped.append(journey.asset_id)
        board.update(journey.asset_id, state="stopped")
    else:
        stage = next((p.stage for p in board.positions() if p.asset_id == journey.asset_id), "")
        message = str(error) or type(error).__name__
        summary.failures.append(
            {
                "asset_id": journey.asset_id,
                "stage": stage,
                "error_class": error_class(error),
                "error_type": type(error).__name__,
                "message": message,
            }
        )
        board.update(journey.asset_id, state="failed", error=message)


def refused_rows(request: BatchRequest, manifest: Manifest) -> list[StageRun]:
    """One catalogue row for every bad row that ``skip_invalid`` passed over, with all its problems."""
    by_row: dict[int, list[str]] = {}
    for problem in manifest.problems:
        by_row.setdefault(problem.row, []).append(str(problem))
    return [
        StageRun(
            run_id=request.run_id,
            asset_id=derive_id(f"refused {Path(request.manifest).stem} row {row}", manifest.sha256, row),
            stage="request",
            status="failed",
            error_type="ManifestError",
            error_class="data",
            error_message="\n".join(problems),
        )
        for row, problems in by_row.items()
    ]


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
