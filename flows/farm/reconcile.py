"""Brings a farm's open runs on, from what they are to what they should be. Anybody may call it at any time.

    outcomes = reconcile("library", farm)       # a service's loop, a schedule, a person; splatmill reconcile

A run is open from ``open_run`` (``splatmill submit``) until its ``summary.json`` is written. In between, each call

1. closes shards whose process is gone, and shards that a worker took and never began: they would hold their place in
   the work pool for ever, and Prefect does not notice by itself;
2. finds which assets are missing (``flows.farm.standing``): they are not made, have not failed for good
   (``tasks.rules``), and are in no shard that is open;
3. submits the missing as new shards, unless the deadline or the budget forbids it, and as far as the shares of users
   or tags allow while others wait (``flows.farm.shares``);
4. ends the run when nothing is missing and no shard is open.

A call remembers nothing for the next one, so it may be killed anywhere. Files tell what is made, beats
(``flows.farm.beats``) tell who is at work, and Prefect is asked only which shards there are.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from catalog.compact import compact_if_many
from catalog.schema import StageRun
from catalog.writer import append
from flows.batch import BatchRequest, conclude
from flows.budget import Admission
from flows.farm import alerts, beats, marks, shares
from flows.farm.beats import Beat
from flows.farm.protocol import Farm, FarmUnreachable, Shard
from flows.farm.runs import Run, journeys, open_runs, read_run
from flows.farm.shards import START_S, cut, measured, split
from flows.farm.shares import FILE, Turn
from flows.farm.standing import WORKER_LOST, Standing, assess, next_stage, rows_of_failures, verify
from flows.summary import SUMMARY, Summary, write_summary
from pipeline_core.errors import RequestError
from pipeline_core.lease import Lease, LeaseLost, leased
from pipeline_core.storage import Library

LEASE = ".reconcile"
CONTROL = "control"
"""In this folder of a library, flows that make no assets (batch, nightly, reconcile, compact) give signs of life."""


@dataclass(frozen=True)
class Patience:
    """How long a shard is waited for.

    It is given up when a worker took it and has not begun it after ``begin_s`` seconds, or after ``gone_s`` where that
    worker is offline; when it has given no sign of life for ``silent_s`` seconds, and when an asset has been in one
    stage for ``stage_s`` seconds (Prefect's own timeouts cannot interrupt a thread).
    """

    begin_s: float = 300.0
    gone_s: float = 30.0
    silent_s: float = 60.0
    stage_s: float = 86400.0


@dataclass
class Outcome:
    """What one call did about one run.

    So many assets are ``made``, ``waiting`` in open shards, and ``missing`` from all of them; so many processes are
    ``working``. ``submitted`` has the sizes of the new shards. ``held``: why the missing are not queued for the
    time being. ``problem``: why nothing was done.
    """

    run_id: str
    closed: list[str] = field(default_factory=list)
    submitted: list[int] = field(default_factory=list)
    made: int = 0
    waiting: int = 0
    missing: int = 0
    working: int = 0
    held: str = ""
    ended: bool = False
    problem: str = ""

    def __str__(self) -> str:
        if self.problem:
            return f"run {self.run_id}: {self.problem}"
        rest = f", {self.missing} not queued yet" if self.missing else ""
        told = [
            f"run {self.run_id}: {self.made} made, {self.waiting} in shards{rest}, {self.working} processes at work"
        ]
        told += [f"  closed {each}" for each in self.closed]
        if self.submitted:
            told.append(f"  submitted {sum(self.submitted)} assets in shards of {self.submitted}")
        if self.held:
            told.append(f"  held: {self.held}")
        return "\n".join([*told, *["  the run is over"] * self.ended])


def reconcile(library: str, farm: Farm, patience: Patience = Patience()) -> list[Outcome]:
    """Bring every open run of ``library`` on. Raises :class:`FarmUnreachable` before it concludes anything.

    A run that cannot be read is told of, and the others go on.
    Flows that make no assets hold places in a pool, too; the same rules close them.
    """
    seen = beats.read(Library(library).root / CONTROL)
    for flow in farm.others(library):
        why = verdict(flow, seen.get(flow.id), patience)
        if why:
            beats.fence(Library(library).root / CONTROL, flow.id)
            farm.close(flow.id, why)
    outcomes, whose = [], shares.look(library, farm)
    open_ = open_runs(library)
    if open_:
        compact_if_many(library)  # a night's every look would read each of its small files anew
    for folder in open_:
        try:
            run = read_run(folder)
            outcomes.append(reconcile_run(run, farm, patience, whose.get(run.request.run_id, Turn())))
        except RequestError as error:
            outcomes.append(Outcome(folder.name, problem=str(error)))
    return [outcome for outcome in outcomes if outcome]


def reconcile_run(
    run: Run, farm: Farm, patience: Patience = Patience(), turn: Turn | None = None
) -> Outcome | None:
    """Bring one run on; returns None when another process is doing so, on this host or on another.

    ``turn``: what it may do beside the other open runs (:func:`flows.farm.shares.look`), where that is known.
    """
    turn = turn or shares.look(run.request.library, farm).get(run.request.run_id, Turn())
    try:
        with leased(run.folder / LEASE) as lease:
            return None if lease is None else _reconcile_alone(run, _OnlyAs(lease, farm), patience, turn)
    except LeaseLost:  # this process was suspended, or the disk was away, and another one goes on
        return None


class _OnlyAs:
    """A farm that is told nothing more once the lease is lost."""

    def __init__(self, lease: Lease, farm: Farm) -> None:
        self.lease, self.farm = lease, farm
        self.shards, self.others, self.workers = farm.shards, farm.others, farm.workers

    def submit(self, request: BatchRequest) -> None:
        """Queue a shard."""
        self.lease.check()
        self.farm.submit(request)

    def close(self, shard_id: str, why: str) -> None:
        """Declare a shard crashed."""
        self.lease.check()
        self.farm.close(shard_id, why)

    def cancel(self, shard_id: str, why: str) -> None:
        """Declare a shard cancelled."""
        self.lease.check()
        self.farm.cancel(shard_id, why)


def _reconcile_alone(run: Run, farm: _OnlyAs, patience: Patience, turn: Turn) -> Outcome | None:
    if (run.folder / SUMMARY).exists():
        return None  # the other, who had the lease before, has ended it
    outcome = Outcome(run.request.run_id)
    shards = close_dead(run, farm, patience, outcome)
    why = marks.cancelled(run.folder)
    if why or marks.paused(run.folder):
        shards = withdraw(run, farm, shards, why, outcome)
    shards = make_way(run, farm, shards, turn, outcome)
    standing = assess(run, shards)
    if why:
        standing.stopped, standing.missing = standing.stopped + standing.missing, []
    if not standing.missing and not any(shard.open for shard in shards):
        verify(run, standing)  # the last look before the run is over: everything is read, nothing is taken on trust
    outcome.made, outcome.waiting = len(standing.made), len(standing.waiting)
    outcome.working = beats.count_live(run.folder)
    refusal = submit_missing(run, farm, shards, standing, outcome, turn) if standing.missing else ""
    outcome.missing = len(standing.missing) - sum(outcome.submitted)
    if not why and not marks.paused(run.folder):
        last_sign_s = min((beat.age_s for beat in beats.read(run.folder).values()), default=float("inf"))
        alerts.look(run, standing, farm, last_sign_s, time.time())
    if not outcome.submitted and not outcome.held and not any(shard.open for shard in shards):
        farm.lease.check()
        finish(run, standing, refusal, why)
        outcome.ended = True
    return outcome


def close_dead(run: Run, farm: Farm, patience: Patience, outcome: Outcome) -> list[Shard]:
    """Close the shards that will not go on; returns all shards, with the states that they have then."""
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


def withdraw(run: Run, farm: Farm, shards: Sequence[Shard], why: str, outcome: Outcome) -> list[Shard]:
    """Take a paused run's shards that are not begun out of the queue, and ``why`` it was cancelled, all of them.

    Returns all shards, with the states that they have then. A process is stopped by its fence, and keeps checkpoints.
    """
    seen, left = beats.read(run.folder), []
    for shard in shards:
        if shard.open and (why or shard.id not in seen):
            shard = _take_back(run, farm, shard, f"the run was {why or marks.paused(run.folder)}", outcome)
        left.append(shard)
    return left


def _take_back(run: Run, farm: Farm, shard: Shard, reason: str, outcome: Outcome) -> Shard:
    """Take a shard out of the queue, or stop it; returns it with the state that it has then."""
    marks.excuse(run.folder, shard.id, marks.PAUSE, reason)
    beats.fence(run.folder, shard.id)
    farm.cancel(shard.id, reason)
    outcome.closed.append(f"shard {shard.id}: {reason}")
    return replace(shard, state="cancelled")


def make_way(run: Run, farm: Farm, shards: Sequence[Shard], turn: Turn, outcome: Outcome) -> list[Shard]:
    """Take back and end early what is more than the run's part of the farm; returns all shards, as they are then."""
    seen, left = beats.read(run.folder), []
    marks.tell_share(run.folder, turn.told)
    for shard in shards:
        if shard.id in turn.take_back and shard.open and shard.id not in seen:
            shard = _take_back(run, farm, shard, f"taken back: {turn.told or 'beyond its limit'}", outcome)
        elif shard.id in turn.give_way and shard.open:
            marks.give_way(run.folder, shard.id)
            outcome.closed.append(f"shard {shard.id} gives way: {turn.told}")
        left.append(shard)
    return left


def verdict(shard: Shard, beat: Beat | None, patience: Patience, now: datetime | None = None) -> str:
    """Say why a shard is to be given up; the text is empty when it is not."""
    if not shard.open:
        # a process that Prefect holds for crashed was killed, or must stop; one that ended in order says so itself
        lost = beat and beat.state == "live" and (shard.state == "crashed" or beat.gone)
        return f"its process was lost ({shard.state})" if lost else ""
    age = ((now or datetime.now(UTC)) - shard.since).total_seconds()
    if beat is None:
        late = shard.state != "scheduled" and age > (patience.gone_s if shard.worker_gone else patience.begin_s)
        why = "its worker is offline" if shard.worker_gone else shard.state
        return f"it was taken {age:.0f} s ago and never began ({why})" if late else ""
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
    """Fence a shard's process off, and tell the catalogue, once, which stages were lost with it."""
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


def submit_missing(
    run: Run, farm: Farm, shards: Sequence[Shard], standing: Standing, outcome: Outcome, turn: Turn
) -> str:
    """Queue what is missing, as far as it is the run's ``turn``.

    Returns why the deadline or the budget forbids it, else an empty text."""
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
    outcome.held = marks.hold(run.folder, standing.row, standing.rounds, time.time())
    if outcome.held:
        return ""
    workers = max(1, farm.workers())  # one may still come
    if turn.short:
        room = turn.room or 1
        parts = cut(standing.missing, shards=room, asset_s=timing.worker_s, longest_s=shares.TURN_S)
    else:
        parts = split(standing.missing, workers=workers, asset_s=timing.worker_s)
    turned_away = any(each.kind == marks.VERSION for each in marks.excuses(run.folder).values())
    if not timing.assets or turned_away:
        # nothing was measured yet: one shard for each worker, also for those who come later; the rest as soon as the
        # first assets tell how long they take. A worker that turns shards away must not empty the queue, either
        room = max(0, workers - sum(shard.open for shard in shards))
        if room < len(parts):
            until = "while one turns shards away" if turned_away else "until the first tell how long an asset takes"
            outcome.held = f"one shard a worker {until}"
        parts = parts[:room]
    if turn.room is not None and turn.room < len(parts):
        parts = parts[: turn.room]
        outcome.held = turn.told or f"{turn.who or 'nobody'} has as much in the queue as {FILE} allows"
    for part in parts:
        # the name follows from what was there before, so that a call that is repeated submits nothing twice
        name = hashlib.sha256(json.dumps([request.run_id, len(shards), part]).encode()).hexdigest()[:12]
        farm.submit(request.model_copy(update={"only": part, "shard": name} | marks.submitted_by_this_code()))
        outcome.submitted.append(len(part))
        outcome.waiting += len(part)
    return ""


def finish(run: Run, standing: Standing, refusal: str, cancelled: str = "") -> None:
    """Write the summary that ends a run; ``refusal`` left assets, and it was ``cancelled`` by somebody."""
    request, rows = run.request, rows_of_failures(run, standing)
    if rows:
        append(request.library, rows, keep=True)
    summary = Summary(
        request.run_id,
        request.library,
        request.manifest,
        asked=len(run.todo) + len(run.cached) + len(run.quarantined) + len(run.turned_down),
        made=standing.made,
        cached=list(run.cached),
        stopped=standing.stopped,
        stopped_why=cancelled,
        left=standing.missing,
        left_why=refusal,
        quarantined=list(run.quarantined),
        failures=standing.failures,
        refused=list(run.refused),
        warnings=list(run.warnings),
        seconds=time.time() - run.opened,
    )
    conclude(request, list(journeys(run).values()), summary, run.turned_down)
    Library(request.library).sweep()
    for scratch in (run.folder / "beats").glob(".*"):
        scratch.unlink(missing_ok=True)
    write_summary(run.folder, summary)


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

    Returns None when ``stop`` is set, and when nothing has moved for ``idle_s`` seconds because no worker is online or
    the server is gone. The run then stays open for ``splatmill reconcile``.
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
