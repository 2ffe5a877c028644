"""A farm's open runs, brought from what they are to what they should be: called again and again, by whoever likes.

    outcomes = reconcile("library", farm)       # a service's loop, a schedule, a person; splatmill reconcile

A run is open from ``open_run`` (``splatmill submit``) until its ``summary.json`` is written. In between, each call

1. closes shards whose process is gone, or that a worker took and never began: they would hold their place in the work
   pool for ever, and Prefect does not notice by itself;
2. finds what is missing by the library's files and the catalogue: not made, not failed for good (``tasks.rules``), and
   in no shard that is open;
3. submits the missing as new shards, unless the deadline or the budget forbids;
4. ends the run when nothing is missing and no shard is open.

Nothing is remembered between calls, so any call may be killed anywhere. Truth about what is made is in files, truth
about who is at work in beats (``flows.farm.beats``), and Prefect is asked only which shards there are. ``Farm`` is all
that is needed of it; ``flows.farm.prefect`` has it for a real server.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Protocol

from catalog import query
from catalog.schema import StageRun
from catalog.writer import append
from flows.batch import SUMMARY, BatchRequest, Summary, conclude, write_summary
from flows.budget import Admission
from flows.farm import beats
from flows.farm.beats import Beat
from flows.farm.runs import Run, journeys, open_runs, read_run
from flows.farm.shards import START_S, measured, split
from flows.todo import ids, sort_out
from pipeline_core.errors import SplatmillError
from pipeline_core.files import lock
from pipeline_core.stages import names, sql_list
from pipeline_core.storage import Library
from tasks.journey import Journey, stages_done, verified
from tasks.rules import RULES

LOCK = ".reconcile"
CONTROL = "control"
"""Folder of a library where flows that make nothing (batch, nightly, reconcile, compact) show that they live."""
ENDED = ("completed", "failed", "crashed", "cancelled")
WORKER_LOST, NOT_MADE = "WorkerLost", "NotMade"
MOST_LOSSES = 5
"""Processes that may die while they make one asset; after that it is held to be the cause."""
MOST_SILENT = 5
"""Shards that may end in order and leave no word about one of their assets."""
SAME_CODE = "do all machines run the same version of splatmill, and see the library at the same path?"


class FarmUnreachable(SplatmillError):
    """The server did not answer; the next call may reach it."""


@dataclass(frozen=True)
class Shard:
    """A shard's flow run: Prefect's id, its state's type in lower case, since when, and the assets it was given."""

    id: str
    state: str
    since: datetime
    assets: tuple[str, ...]

    @property
    def open(self) -> bool:
        """Whether it may still make something."""
        return self.state not in ENDED


class Farm(Protocol):
    """What is needed of the server. Every method may raise :class:`FarmUnreachable`."""

    def shards(self, run_id: str) -> list[Shard]:
        """All shards of a run, ended ones too."""

    def others(self, library: str) -> list[Shard]:
        """Open flow runs about a library that make nothing: batch, nightly, reconcile, compact."""

    def submit(self, request: BatchRequest) -> None:
        """Queue a shard; the same ``request.shard`` is queued once, however often it is submitted."""

    def close(self, shard_id: str, why: str) -> None:
        """Declare a shard crashed, which gives back its place in the pool."""

    def workers(self) -> int:
        """Workers that are online."""


@dataclass(frozen=True)
class Patience:
    """Seconds after which a shard is given up: taken by a worker and not begun; running without a sign of life; with
    an asset in one and the same stage (Prefect's timeouts cannot interrupt a thread)."""

    begin_s: float = 300.0
    silent_s: float = 60.0
    stage_s: float = 86400.0


@dataclass
class Outcome:
    """What one call did about one run. Assets: ``made``, ``waiting`` in open shards, ``missing`` in none."""

    run_id: str
    closed: list[str] = field(default_factory=list)
    submitted: list[int] = field(default_factory=list)
    made: int = 0
    waiting: int = 0
    missing: int = 0
    working: int = 0
    ended: bool = False

    def __str__(self) -> str:
        rest = f", {self.missing} not queued yet" if self.missing else ""
        told = [
            f"run {self.run_id}: {self.made} made, {self.waiting} in shards{rest}, {self.working} processes at work"
        ]
        told += [f"  closed {each}" for each in self.closed]
        if self.submitted:
            told.append(f"  submitted {sum(self.submitted)} assets in shards of {self.submitted}")
        return "\n".join([*told, *["  the run is over"] * self.ended])


# --- one call --------------------------------------------------------------------------------------------------------


def reconcile(library: str, farm: Farm, patience: Patience = Patience()) -> list[Outcome]:
    """Bring every open run of ``library`` on; raises :class:`FarmUnreachable` before anything is concluded.

    Flows that wait for shards or tidy up hold places too, and are closed by the same rules.
    """
    seen = beats.read(Library(library).root / CONTROL)
    for flow in farm.others(library):
        why = verdict(flow, seen.get(flow.id), patience)
        if why:
            beats.fence(Library(library).root / CONTROL, flow.id)
            farm.close(flow.id, why)
    return [outcome for run in open_runs(library) if (outcome := reconcile_run(run, farm, patience))]


def reconcile_run(run: Run, farm: Farm, patience: Patience = Patience()) -> Outcome | None:
    """Bring one run on; None while another process on this machine is doing so."""
    with lock(run.folder / LOCK, wait=False) as alone:
        if not alone:
            return None
        outcome = Outcome(run.request.run_id)
        shards = close_dead(run, farm, patience, outcome)
        state = assess(run, shards)
        if not state.missing and not any(shard.open for shard in shards):
            verify(run, state)  # the last look before the run is over: everything is read, nothing is taken on trust
        outcome.made, outcome.waiting = len(state.made), len(state.waiting)
        outcome.working = beats.count_live(run.folder)
        refusal = submit_missing(run, farm, shards, state, outcome) if state.missing else ""
        outcome.missing = len(state.missing) - sum(outcome.submitted)
        if not outcome.submitted and not any(shard.open for shard in shards):
            finish(run, state, refusal)
            outcome.ended = True
        return outcome


def close_dead(run: Run, farm: Farm, patience: Patience, outcome: Outcome) -> list[Shard]:
    """Close shards that will not go on; returns all shards with their states as they are after that."""
    seen, shards = beats.read(run.folder), []
    for shard in farm.shards(run.request.run_id):
        beat = seen.get(shard.id)
        why = verdict(shard, beat, patience)
        if why and shard.open:
            give_up(run, shard, beat, why)
            farm.close(shard.id, why)
            outcome.closed.append(f"shard {shard.id}: {why}")
            shard = Shard(shard.id, "crashed", shard.since, shard.assets)
        elif why:
            give_up(run, shard, beat, why)
        shards.append(shard)
    return shards


def verdict(shard: Shard, beat: Beat | None, patience: Patience, now: datetime | None = None) -> str:
    """Why a shard is to be given up; empty when it is not."""
    if not shard.open:
        # a process that Prefect holds for crashed was killed, or must stop; one that ended in order says so itself
        lost = beat and beat.state == "live" and (shard.state == "crashed" or beat.gone)
        return f"its process was lost ({shard.state})" if lost else ""
    age = ((now or datetime.now(UTC)) - shard.since).total_seconds()
    if beat is None:
        late = shard.state != "scheduled" and age > patience.begin_s
        return f"it was taken {age:.0f} s ago and never began ({shard.state})" if late else ""
    if beat.state == "dead":
        return "it was given up before"
    if beat.gone and beat.state == "live":
        return f"its process {beat.pid} is gone"
    if beat.age_s > patience.silent_s:
        return f"its last sign of life is {beat.age_s:.0f} s old"
    for asset_id, (stage, seconds) in beat.assets.items():
        if seconds > patience.stage_s:
            return f"{asset_id} has been in {stage} for {seconds / 3600:.1f} h"
    return ""


def give_up(run: Run, shard: Shard, beat: Beat | None, why: str) -> None:
    """Fence a shard's process off, once, and put down which stages it took with it."""
    if not beats.fence(run.folder, shard.id) or beat is None:
        return
    known = journeys(run)
    rows = [
        StageRun(
            run_id=run.request.run_id,
            asset_id=asset_id,
            stage=stage or next_stage(known[asset_id]),
            status="failed",
            error_type=WORKER_LOST,
            error_class="transient",
            error_message=f"the process that made it was lost: {why}",
            prefect_flow_run_id=shard.id,
            duration_s=seconds,
            worker_pid=beat.pid,
            host=beat.host,
        )
        for asset_id, (stage, seconds) in beat.assets.items()
        if asset_id in known
    ]
    if rows:
        append(run.request.library, rows, keep=True)


# --- what is missing -------------------------------------------------------------------------------------------------

WORDS_SQL = f"""
with words as (
    select asset_id, prefect_flow_run_id as shard, arg_max(
        struct_pack(event_id, status, stage, error_class, error_type, error_message), event_id
    ) as last
    from stage_runs where run_id = ? and stage in {sql_list(names())} group by all
)
select
    asset_id,
    list(last order by last.event_id) filter (last.error_type = '{WORKER_LOST}') as losses,
    list(last order by last.event_id)
        filter (last.status in ('failed', 'timeout') and last.error_type <> '{WORKER_LOST}') as failures
from words group by asset_id
"""


@dataclass
class State:
    """The assets of a run: each is in exactly one of these."""

    made: list[str] = field(default_factory=list)
    failures: list[dict[str, str]] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


def assess(run: Run, shards: Sequence[Shard]) -> State:
    """Sort a run's assets by the library's files, the catalogue and the open shards."""
    words = {row["asset_id"]: row for row in query.rows(run.request.library, WORDS_SQL, [run.request.run_id])}
    open_ = {asset_id for shard in shards if shard.open for asset_id in shard.assets}
    cancelled = {asset_id for shard in shards if shard.state == "cancelled" for asset_id in shard.assets}
    silent: dict[str, int] = {}
    for shard in shards:
        for asset_id in shard.assets if shard.state in ("completed", "failed") else ():
            silent[asset_id] = silent.get(asset_id, 0) + 1
    todo = sort_out(run.request.library, list(journeys(run).values()), by_name=True)
    state = State(made=ids(todo.made))
    for journey in todo.missing:
        name = journey.asset_id
        if name in open_:
            state.waiting.append(name)
        elif failure := final_failure(journey, words.get(name), silent.get(name, 0)):
            state.failures.append(failure)
        else:
            (state.stopped if name in cancelled else state.missing).append(name)
    return state


def verify(run: Run, state: State) -> None:
    """Move made assets that are damaged to the missing ones."""
    known = journeys(run)
    whole = [name for name in state.made if verified(known[name])]
    state.missing += sorted(set(state.made) - set(whole))
    state.made = whole


def final_failure(journey: Journey, word: dict[str, Any] | None, ended: int) -> dict[str, str] | None:
    """The failure that stands, once an asset has had all its rounds; None while it may be tried again.

    ``ended``: shards with this asset that ended in order.
    """
    failures, losses = ((word[name] if word else None) or [] for name in ("failures", "losses"))
    if failures and len(failures) >= RULES[failures[-1]["error_class"]].rounds:
        last = failures[-1]
        return _failure(journey, last["stage"], last["error_class"], last["error_type"], last["error_message"] or "")
    if len(losses) >= MOST_LOSSES:
        why = f"{len(losses)} processes died while they made it"
        return _failure(journey, losses[-1]["stage"], "permanent", WORKER_LOST, why)
    if ended - len(failures) >= MOST_SILENT:
        why = f"{ended} shards ended without making it, without a reason: {SAME_CODE}"
        return _failure(journey, next_stage(journey), "permanent", NOT_MADE, why)
    return None


def _failure(journey: Journey, stage: str, error_class: str, error_type: str, message: str) -> dict[str, str]:
    return {
        "asset_id": journey.asset_id,
        "stage": stage,
        "error_class": error_class,
        "error_type": error_type,
        "message": message,
    }


def next_stage(journey: Journey) -> str:
    """The first stage of an unfinished asset whose output is missing."""
    done = stages_done(journey)
    return next((stage for stage in journey.keys if stage not in done), "record")


def submit_missing(run: Run, farm: Farm, shards: Sequence[Shard], state: State, outcome: Outcome) -> str:
    """Queue what is missing; returns why nothing was, or an empty text."""
    request = run.request
    timing = measured(request.library, request.recipe)
    gate = Admission(
        request.deadline,
        request.gpu_hours * 3600 if request.gpu_hours else None,
        timing.asset_s + START_S,
        lambda: beats.spent_s(run.folder),
    )
    refusal = gate.refusal()
    if refusal:
        return refusal
    workers = farm.workers()
    parts = split(state.missing, workers=workers, asset_s=timing.worker_s)
    if not timing.assets:
        # nothing was measured yet: one shard each, and the rest as soon as their first assets tell how long they take
        parts = [] if any(shard.open for shard in shards) else parts[:workers]
    for part in parts:
        # the name follows from what was there before, so that a call that is repeated submits nothing twice
        name = hashlib.sha256(json.dumps([request.run_id, len(shards), part]).encode()).hexdigest()[:12]
        farm.submit(request.model_copy(update={"only": part, "shard": name}))
        outcome.submitted.append(len(part))
        outcome.waiting += len(part)
    return ""


def finish(run: Run, state: State, refusal: str) -> None:
    """Write the summary that ends a run."""
    request, known = run.request, journeys(run)
    for failure in state.failures:
        if failure["error_type"] in (WORKER_LOST, NOT_MADE):
            append(request.library, [_failure_row(known[failure["asset_id"]], failure)], keep=True)
    summary = Summary(
        request.run_id,
        request.library,
        request.manifest,
        asked=len(run.todo) + len(run.cached) + len(run.quarantined),
        made=state.made,
        cached=list(run.cached),
        stopped=state.stopped,
        left=state.missing,
        left_why=refusal,
        quarantined=list(run.quarantined),
        failures=state.failures,
        refused=list(run.refused),
        seconds=time.time() - run.opened,
    )
    conclude(request, list(known.values()), summary)
    Library(request.library).sweep()
    for scratch in (run.folder / "beats").glob(".*"):
        scratch.unlink(missing_ok=True)
    write_summary(run.folder, summary)


def _failure_row(journey: Journey, failure: dict[str, str]) -> StageRun:
    columns = {name: failure[name] for name in ("asset_id", "stage", "error_class", "error_type")}
    return StageRun(
        run_id=journey.run_id,
        status="failed",
        stage_key=journey.keys[failure["stage"]],
        error_message=failure["message"],
        **columns,
    )


# --- waiting ---------------------------------------------------------------------------------------------------------


def watch(
    request: BatchRequest,
    farm: Farm,
    stop: threading.Event | None = None,
    *,
    patience: Patience = Patience(),
    every_s: float = 15.0,
    idle_s: float = 3600.0,
) -> Summary | None:
    """Reconcile a run until it is over; returns its summary.

    Returns None when nothing has moved for ``idle_s`` (no worker is online, the server is gone) or ``stop`` is set:
    nobody waits for ever, and the run stays open for ``splatmill reconcile``.
    """
    folder, stop = request.folder, stop or threading.Event()
    moved, before = time.monotonic(), None
    while not (folder / SUMMARY).exists():
        with contextlib.suppress(FarmUnreachable):
            outcome = reconcile_run(read_run(folder), farm, patience)
            now = (outcome.made, outcome.waiting) if outcome else before
            if now != before or (outcome and (outcome.working or outcome.submitted)):
                moved, before = time.monotonic(), now
        if time.monotonic() - moved > idle_s or stop.wait(every_s):
            return None
    return Summary(**json.loads((folder / SUMMARY).read_text(encoding="utf-8")))
