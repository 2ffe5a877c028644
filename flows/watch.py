"""A library at work, seen from any terminal: assets, runs, rate, time left, workers, GPUs, disk. It only reads.

    watch = Watch("library")
    watch.look()                 # a document; again every few seconds: splatmill status --watch, splatmill metrics

The first look reads the events of the catalogue, later ones only the files that are new; processes are known by their
beats (``flows.farm.beats``). Nobody else is asked: no server, no worker, no GPU of this machine.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from catalog import listing, query
from catalog.render import aligned
from catalog.schema import STATEMENTS
from catalog.store import open_store
from catalog.views import GOOD, WORK
from flows.account import SILENT_S
from flows.asked import ASKED
from flows.farm import beats
from flows.farm.beats import Beat
from flows.farm.runs import REQUEST
from flows.live import clock
from flows.summary import SUMMARY
from pipeline_core.bucket import Place
from pipeline_core.stages import DELIVERY
from pipeline_core.storage import Library

FORGET_S = 3600.0
"""A process that has been silent for so long is no longer shown."""
RECENT = 200
"""Rate and time left follow from so many assets that were delivered last."""
FEWEST = 3
"""Fewer gaps between deliveries tell no rate."""
NINE_IN_TEN = 1.2816
"""Standard deviations from the mean to the ninth decile of a normal distribution."""

LATEST_SQL = """
select asset, stage, max(event_id) as event_id, arg_max(status, event_id) as status, arg_max(run, event_id) as run,
    arg_max(finished_at, event_id) as finished_at, arg_max(verdict, event_id) as verdict
from {events} where stage <> 'model' group by asset, stage
"""
FIRST_SQL = """
select asset, stage, event_id, status, run, finished_at, verdict from fresh where stage <> 'model' and event_id in (
    select max(event_id) from fresh where stage <> 'model' group by asset, stage
)
"""
"""The same of all events at once, in half the time: an event is there once, and has an id of its own."""
VERDICT = f"""case when stage <> 'accept' or status not in {GOOD} then null
    when not list_contains(list_transform(clauses, lambda c: c.name), 'judged') then 'early'
    when list_contains(list_transform(clauses, lambda c: c.held), false) then 'rejected'
    when len(list_filter(clauses, lambda c: c.held is null)) > 0 then 'unjudged' else 'ok' end"""
"""What became of an asset's contract, by an event of the stage accept; early = rejected before any work."""
STANDING_SQL = f"""
with journey as (
    select asset, max(verdict) as verdict,
        max(event_id) filter (stage = '{DELIVERY}' and status in {GOOD}) as delivered,
        max(event_id) filter (status not in {GOOD}) as broken,
        arg_max(status, event_id) filter (status not in {GOOD}) as bad_status,
        arg_max(stage, event_id) filter (status not in {GOOD}) as bad_stage,
        arg_max(stage, event_id) filter ({WORK}) as last_stage
    from latest {{where}} group by asset
)
select asset,
    case when verdict = 'early' and last_stage = 'accept' then 'rejected'
        when delivered is not null and (broken is null or broken < delivered)
            then coalesce(if(verdict = 'early', 'rejected', verdict), 'ok')
        when broken is not null then bad_status when last_stage is not null then 'running' else 'requested'
    end as status,
    case when verdict = 'early' and status = 'rejected' then 'accept'
        when status in ('ok', 'rejected', 'unjudged') then '{DELIVERY}' when status = 'running' then last_stage
        else coalesce(bad_stage, 'request') end as stage
from journey
"""
"""An asset's status as in the view ``assets``, and the stage that it has come to or that stopped it."""
RUNS_SQL = f"""
with journey as (
    select run, asset, bool_or(stage = '{DELIVERY}' and status in {GOOD}) as made,
        bool_or(status not in {GOOD}) as failed, coalesce(max(verdict) = 'rejected', false) as rejected
    from latest where {WORK} and run in (select hash(unnest(?))) group by all
)
select run, count(*) filter (made and not rejected) as made, count(*) filter (made and rejected) as rejected,
    count(*) filter (failed and not made) as failed
from journey group by run
"""
DELIVERIES_SQL = f"""
select epoch(finished_at) as at from latest
where stage = '{DELIVERY}' and status = 'ok' and run in (select hash(unnest(?)))
order by finished_at desc limit {RECENT}
"""


class Tally:
    """Counts of a catalogue that follow what is appended: the first :meth:`renew` reads it, later ones what is new."""

    def __init__(self, library: str) -> None:
        self.store = open_store(library)
        self.files: set[str] = set()
        self.con = duckdb.connect()
        if self.store.filesystem is not None:
            self.con.register_filesystem(self.store.filesystem)
        self.con.execute("set timezone = 'UTC'; set enable_progress_bar = false")
        self.con.execute(
            "create table latest (asset ubigint, stage varchar, event_id uuid, status varchar, run ubigint, "
            "finished_at timestamptz, verdict varchar); "
            "create table standing (asset ubigint, status varchar, stage varchar); "
            "create table attempts (stage varchar, status varchar, count bigint, seconds double); "
            "create table batches (batch ubigint)"
        )

    def renew(self) -> None:
        """Count what the catalogue has now. Raises ``listing.CatalogueDamaged``."""
        for attempt in range(1, query.OPEN_TRIES + 1):
            files = listing.visible(self.store).files
            new = [name for name in files if name not in self.files]
            try:
                if new:
                    self._add(new)
                break
            except duckdb.Error as error:
                # a file that was listed may have been compacted away since; if it is all there, it is damaged
                if attempt == query.OPEN_TRIES or listing.visible(self.store).files == files:
                    raise listing.CatalogueDamaged(query.diagnosis(self.store, error)) from error
        self.files = set(files)

    def _add(self, files: Sequence[str]) -> None:
        first = not self.files
        self.con.execute(f"""
            create or replace temp table fresh as
            select hash(asset_id) as asset, stage, event_id::uuid as event_id, status, hash(run_id) as run, finished_at,
                duration_s, hash(batch_id) as batch, {VERDICT} as verdict
            from ({query.union_sql(self.store, files)}) where batch not in (from batches)
        """)  # what was compacted was counted before
        self.con.execute("begin")
        self.con.execute("insert into batches select distinct batch from fresh")
        self.con.execute("""
            create or replace temp table counted as select stage, status, sum(count) as count, sum(seconds) as seconds
            from (from attempts union all
                select stage, status, count(*), coalesce(sum(duration_s), 0) from fresh group by all) group by all
        """)
        self.con.execute("delete from attempts; insert into attempts from counted")
        if first:
            self.con.execute(f"create or replace table latest as {FIRST_SQL}")
            self.con.execute(f"create or replace table standing as {STANDING_SQL.format(where='')}")
        else:
            self._renew_latest()
        self.con.execute("drop table fresh; drop table counted; commit")

    def _renew_latest(self) -> None:
        where = "where asset in (select asset from newest)"
        self.con.execute(f"create or replace temp table newest as {LATEST_SQL.format(events='fresh')}")
        self.con.execute(f"insert into newest from latest {where}")
        self.con.execute(f"create or replace temp table newest as {LATEST_SQL.format(events='newest')}")
        self.con.execute(f"delete from latest {where}; delete from standing {where}")
        self.con.execute("insert into latest from newest")
        self.con.execute(f"insert into standing {STANDING_SQL.format(where=where)}")
        self.con.execute("drop table newest")

    def rows(self, sql: str, *parameters: Any) -> list[dict[str, Any]]:
        """The answer of a query on ``latest``, ``standing`` and ``attempts``."""
        answer = self.con.execute(sql, list(parameters))
        names = [column[0] for column in answer.description]
        return [dict(zip(names, row)) for row in answer.fetchall()]


@dataclass
class _Run:
    """A run that is not over, as its folder tells: how many assets it is to make, and who is at it."""

    run_id: str
    farm: bool
    user: str | None
    todo: int | None
    beats: list[Beat]


class Watch:
    """Looks at one library again and again."""

    def __init__(self, library: str) -> None:
        self.library, self.tally = library, Tally(library)
        self.place = Library(library)
        self._over: set[str] = set()
        self._asked: dict[str, dict[str, Any]] = {}

    def look(self) -> dict[str, Any]:
        """What is there now, as plain data; None wherever nobody knows. Times are seconds, sizes bytes."""
        began = time.perf_counter()
        self.tally.renew()
        runs = self._runs()
        told = self._progress(runs)
        left = sum(each["queue"] + each["under_way"] for each in told)
        names = [each.run_id for each in runs]
        times = [row["at"] for row in self.tally.rows(DELIVERIES_SQL, names)] if names else []
        pace, now = rate(times, time.time()), time.time()
        disk = None if "://" in self.library else shutil.disk_usage(self.place.root)
        return {
            "time": now,
            "library": self.library,
            "assets": {row["status"]: row["n"] for row in self.tally.rows(
                "select status, count(*) as n from standing group by status order by status")},
            "stages": self.tally.rows(
                "select stage, status, count(*) as assets from standing group by all order by stage, status"),
            "attempts": self.tally.rows(f"from attempts where {WORK} order by stage, status"),
            "runs": told,
            "queue": sum(each["queue"] for each in told),
            "assets_per_hour": pace and 3600 / pace[0],
            "eta": None if pace is None or not left else eta(left, *pace),
            "workers": [_worker(run, beat) for run in runs for beat in run.beats],
            "disk": disk and {"free_bytes": disk.free, "size_bytes": disk.total},
            "look_s": time.perf_counter() - began,
        }  # fmt: skip

    def _progress(self, runs: list[_Run]) -> list[dict[str, Any]]:
        """How far each run is."""
        names = [each.run_id for each in runs]
        if not names:
            return []
        hashes = self.tally.rows("select unnest(?) as run_id, hash(run_id) as run", names)
        known, counted = {row["run_id"]: row["run"] for row in hashes}, self.tally.rows(RUNS_SQL, names)
        by_run = {row["run"]: row for row in counted}
        told = []
        for run in runs:
            done = by_run.get(known[run.run_id], {"made": 0, "rejected": 0, "failed": 0})
            under_way = len({asset_id for beat in run.beats for asset_id in beat.assets})
            rest = max(0, (run.todo or 0) - done["made"] - done["rejected"] - done["failed"] - under_way)
            told.append(
                {"run_id": run.run_id, "farm": run.farm, "user": run.user, "todo": run.todo, "made": done["made"],
                 "rejected": done["rejected"], "failed": done["failed"], "under_way": under_way, "queue": rest}
            )  # fmt: skip
        return told

    def _runs(self) -> list[_Run]:
        """The runs that are not over: those of the farm, and those of one machine that give signs of life."""
        found = []
        folder = self.place.root / "runs"
        for path in sorted(folder.iterdir()) if folder.is_dir() else ():
            if path.name in self._over:
                continue
            if (path / SUMMARY).exists():
                self._over.add(path.name)
                continue
            farm = (path / REQUEST).exists()
            live = [b for b in beats.read(path).values() if b.state == "live" and b.age_s < FORGET_S]
            if farm or any(not each.gone and each.age_s < SILENT_S for each in live):
                told = self._what_was_asked(path)
                found.append(_Run(path.name, farm, told.get("user"), told.get("assets", {}).get("todo"), live))
        return found

    def _what_was_asked(self, path: Place) -> dict[str, Any]:
        if path.name not in self._asked:
            with contextlib.suppress(OSError, ValueError):
                self._asked[path.name] = json.loads((path / ASKED).read_text("utf-8"))
        return self._asked.get(path.name, {})


def _worker(run: _Run, beat: Beat) -> dict[str, Any]:
    state = "gone" if beat.gone else "silent" if beat.age_s > SILENT_S else "alive"
    under_way = [{"asset_id": name, "stage": stage, "seconds": s} for name, (stage, s) in beat.assets.items()]
    return {
        "worker": beat.worker or f"{beat.host}-{beat.pid}",
        "host": beat.host,
        "pid": beat.pid,
        "run_id": run.run_id,
        "shard": beat.shard,
        "state": state,
        "age_s": beat.age_s,
        "assets": under_way,
        "gpu": beat.gpu,
    }


def rate(times: Sequence[float], now: float) -> tuple[float, float, int] | None:
    """Mean and standard deviation of the seconds from one delivery to the next, and how many such gaps were measured.

    ``times`` are seconds since 1970, newest first. The gap since the last delivery counts once it is longer than the
    mean, so that what stands still slows down. None where less than :data:`FEWEST` gaps are known.
    """
    gaps = [max(0.0, later - earlier) for later, earlier in itertools.pairwise(times)]
    if len(gaps) < FEWEST or not sum(gaps):
        return None
    if now - times[0] > statistics.fmean(gaps):
        gaps.append(now - times[0])
    return statistics.fmean(gaps), statistics.stdev(gaps), len(gaps)


def eta(left: int, mean: float, deviation: float, measured: int) -> dict[str, float]:
    """Seconds until ``left`` more assets are there, and the first and ninth decile of that.

    The sum of as many gaps as are left varies by their own spread, and by how well so few tell their mean.
    """
    spread = NINE_IN_TEN * deviation * (left + left**2 / measured) ** 0.5
    return {
        "left": left,
        "seconds": left * mean,
        "low_s": max(0.0, left * mean - spread),
        "high_s": left * mean + spread,
    }


# --- for people ------------------------------------------------------------------------------------------------------


def text(seen: dict[str, Any]) -> str:
    """A look in words, as a terminal shows it."""
    assets = ", ".join(f"{count} {status}" for status, count in seen["assets"].items()) or "none yet"
    lines = [f"{time.strftime('%H:%M:%S', time.localtime(seen['time']))}  assets: {assets}"]
    lines += ["  " + ", ".join(_in_words(each) for each in seen["stages"] if each["status"] != "ok")]
    pace = "no rate yet" if seen["assets_per_hour"] is None else f"{seen['assets_per_hour']:.1f} assets an hour"
    if seen["eta"]:
        low, middle, high = (clock(seen["eta"][name]) for name in ("low_s", "seconds", "high_s"))
        pace += f", {seen['eta']['left']} left: about {middle} (8 in 10 times from {low} to {high})"
    lines += [f"{pace}; queue {seen['queue']}"]
    if seen["disk"]:
        free, size = (seen["disk"][name] / 2**30 for name in ("free_bytes", "size_bytes"))
        lines += [f"disk: {free:.1f} of {size:.1f} GiB free"]
    if seen["runs"]:
        names = ["run_id", "user", "todo", "made", "rejected", "failed", "under_way", "queue"]
        lines += [
            "",
            aligned(names, [["?" if each[name] is None else each[name] for name in names] for each in seen["runs"]]),
        ]
    if seen["workers"]:
        rows = [_row(each) for each in seen["workers"]]
        lines += ["", aligned(["worker", "run", "shard", "last sign", "at work on", "GPU"], rows)]
    else:
        lines += ["", "nobody is at work"]
    return "\n".join(line for line in lines if line != "  ")


def _in_words(each: dict[str, Any]) -> str:
    preposition = "after" if each["status"] == "running" else "in"
    where = "" if each["stage"] in STATEMENTS else f" {preposition} {each['stage']}"
    return f"{each['assets']} {each['status']}{where}"


def _row(worker: dict[str, Any]) -> list[str]:
    gpu, state = worker["gpu"], "" if worker["state"] == "alive" else f" ({worker['state']})"
    parts = [f"{each['asset_id']}: {each['stage']} {clock(each['seconds'])}" for each in worker["assets"][:3]]
    more = len(worker["assets"]) - len(parts)
    used = "-"
    if gpu:
        memory, size, busy = (
            "?" if gpu[name] is None else f"{gpu[name]:.0f}" for name in ("used_mb", "size_mb", "busy_percent")
        )
        used = f"{memory}/{size} MiB, {busy} %"
    said = ", ".join(parts) + (f", {more} more" if more else "")
    return [
        worker["worker"],
        worker["run_id"],
        worker["shard"] or "-",
        f"{worker['age_s']:.0f} s ago{state}",
        said,
        used,
    ]


def show(library: str, *, every_s: float, as_json: bool, looks: int = 0) -> None:
    """Look every so many seconds until interrupted (or so many times), and show it: a panel, text, or a JSON line."""
    watch, shown = Watch(library), 0
    panel = _panel() if sys.stdout.isatty() and not as_json else None
    with panel or contextlib.nullcontext(), contextlib.suppress(KeyboardInterrupt):
        while True:
            seen = watch.look()
            if panel:
                from rich.text import Text

                panel.update(Text(text(seen)), refresh=True)
            else:
                print(json.dumps(seen) if as_json else text(seen) + "\n", flush=True)
            shown += 1
            if shown == looks:
                return
            time.sleep(every_s)


def _panel() -> Any:
    from rich.live import Live

    return Live(auto_refresh=False)
