"""A run's own account: what it was asked for and what became of that in this run, whatever later runs did.

    splatmill status last                # or a run's id, or the beginning of it

A run that is over has its ``summary.json``. The account of one that is not follows from what it was asked for
(``asked.json``) and from the rows that it has left in the catalogue so far.
"""

from __future__ import annotations

import json
import shlex
import time
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from typing import Any

from catalog import query
from catalog.render import aligned
from catalog.views import GOOD, WORK
from flows.asked import ASKED, folder_of, is_farm_s
from flows.batch import hold_to_contracts
from flows.farm import alerts, beats, marks
from flows.summary import SUMMARY, Summary
from pipeline_core.acceptance import EARLY
from pipeline_core.bucket import Place
from pipeline_core.errors import RequestError
from pipeline_core.stages import DELIVERY
from pipeline_core.storage import Library

OVER, RUNNING, WAITING, BROKEN_OFF = "over", "running", "waiting", "broken off"
SILENT_S = 60.0
"""A process without a sign of life for so long is not at work."""
RECONCILED_S = 360.0
"""Nobody reconciles a farm's run that was left alone for so long: the deployment comes by every 300 s."""
SUBMIT_S = 10.0
"""``splatmill submit`` reconciles, too, so many seconds after it was asked at the latest."""

SO_FAR_SQL = f"""
with ended as (  -- how each stage of an asset ended in this run
    select asset_id, stage, max(event_id) as event_id, arg_max(status, event_id) as status, arg_max(struct_pack(
        stage, error_class, error_type, message := error_message), event_id) as why
    from stage_runs where run_id = ? and {WORK} group by asset_id, stage
)
select
    asset_id,
    bool_or(stage = '{DELIVERY}' and status in {GOOD}) as made,
    arg_max(status, event_id) filter (status not in {GOOD}) as status,
    arg_max(why, event_id) filter (status not in {GOOD}) as why
from ended group by asset_id order by asset_id
"""


@dataclass
class Account:
    """Counts are of assets; ``asked`` is None where an older version did not keep it. ``started``: seconds since 1970.

    ``state``: over, running (a process gives signs of life), waiting (a farm's run without one), or broken off.
    """

    run_id: str
    state: str
    manifest: str
    user: str | None
    started: float | None
    seconds: float | None = None
    asked: int | None = None
    made: int = 0
    cached: int = 0
    failed: int = 0
    stopped: int = 0
    left: int = 0
    left_why: str = ""
    quarantined: int = 0
    rejected: int = 0
    unjudged: int = 0
    refused: int = 0
    failures: list[dict[str, Any]] = field(default_factory=list)
    rejections: list[dict[str, Any]] = field(default_factory=list)
    next: str = ""


def account(library: str, run: str) -> Account:
    """The account of the run that ``run`` names: its id, the beginning of its id, or ``last``. Raises RequestError."""
    folder = folder_of(library, run)
    asked, farm, told = (_read(folder / name) for name in (ASKED, "request.json", SUMMARY))
    request = (asked or farm or {}).get("request", {})
    state = OVER if told else RUNNING if _at_work(folder) else WAITING if farm else BROKEN_OFF
    found = Account(
        folder.name,
        state,
        (asked or {}).get("manifest") or request.get("manifest") or (told or {}).get("manifest", ""),
        (asked or {}).get("user"),
        (asked or {}).get("asked") or (farm or {}).get("opened"),
    )
    if told:
        _from_summary(found, Summary(**{each.name: told[each.name] for each in fields(Summary) if each.name in told}))
    else:
        _so_far(found, library, asked or {}, farm or {})
        found.left_why = _held(folder) if farm else ""
    found.next = _next(found, library, request, "submit" if farm else "run")
    if farm and not told and marks.paused(folder):
        found.next = f"splatmill resume {found.run_id} --library {shlex.quote(library)}"
    return found


def _at_work(folder: Place) -> bool:
    return any(b.state == "live" and not b.gone and b.age_s < SILENT_S for b in beats.read(folder).values())


def open_accounts(library: str) -> list[Account]:
    """The accounts of a farm's runs that are not over, and of one machine's that are at work, oldest first."""
    root, found = Library(library).root, []
    over = {path.parent.name for path in root.glob(f"runs/*/{SUMMARY}")}
    for path in sorted(root.glob(f"runs/*/{ASKED}"), key=lambda each: each.stat().st_mtime):
        folder = path.parent
        if folder.name not in over and (is_farm_s(folder) or _at_work(folder)):
            try:
                found.append(account(library, folder.name))
            except RequestError as error:
                found.append(Account(folder.name, "unreadable", "", None, None, next=str(error)))
    return found


def not_made(library: str, run: str) -> str:
    """Say what makes the assets of a run that have not failed and are not made; empty where there are none."""
    found = account(library, run)
    count = found.left + found.stopped
    return f"{count} assets of run {found.run_id} are not made yet; next: {found.next}" if count else ""


def _read(path: Place) -> dict[str, Any] | None:
    """A document of the run; None where it has none."""
    try:
        return json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise RequestError(f"{path} cannot be read ({error}); restore it, or ask splatmill sql for the run") from None


def _from_summary(found: Account, summary: Summary) -> None:
    for name in ("made", "cached", "stopped", "left", "quarantined", "rejected", "unjudged", "refused"):
        setattr(found, name, len(getattr(summary, name)))
    found.asked, found.failed, found.failures = summary.asked, len(summary.failures), list(summary.failures)
    found.rejections = list(summary.rejected)
    found.left_why, found.seconds = summary.stopped_why or summary.left_why, summary.seconds


def _held(folder: Place) -> str:
    """Why a farm's open run makes nothing for the time being."""
    row = marks.turned_away_in_a_row(folder, marks.excuses(folder))
    return marks.cancelled(folder) or marks.paused(folder) or (row[-1].why if row else marks.share(folder))


def _so_far(found: Account, library: str, asked: dict[str, Any], farm: dict[str, Any]) -> None:
    counts = asked.get("assets", {})
    found.cached = counts.get("cached", len(farm.get("cached", ())))
    found.quarantined = counts.get("quarantined", len(farm.get("quarantined", ())))
    found.refused = counts.get("refused", len(farm.get("refused", ())))
    todo = counts.get("todo", len(farm["todo"]) if "todo" in farm else None)
    made: list[str] = []
    for row in query.rows(library, SO_FAR_SQL, [found.run_id]):
        if row["made"]:
            made.append(row["asset_id"])
        elif row["status"] == "cancelled":
            found.stopped += 1
        elif row["why"]:
            found.failures.append({"asset_id": row["asset_id"], **row["why"]})
    found.failed = len(found.failures)
    turned_down = counts.get("turned_down", len(farm.get("turned_down", ())))
    seen = Summary(found.run_id, library, found.manifest, made=made)
    hold_to_contracts(library, seen)
    found.made, found.unjudged, found.rejections = len(seen.made), len(seen.unjudged), seen.rejected
    found.rejected = len(seen.rejected) + turned_down
    if todo is not None:
        found.asked = todo + found.cached + found.quarantined + turned_down
        found.left = max(0, todo - len(made) - found.failed - found.stopped)


def _next(found: Account, library: str, request: dict[str, Any], command: str) -> str:
    """The command that brings the run on; empty when all is done."""
    where = f" --library {shlex.quote(library)}"
    if found.state == RUNNING:
        return f"splatmill status --watch{where}"
    if found.state == WAITING:
        now = time.time()
        ago, age = alerts.reconciled_s(Library(library).run_dir(found.run_id), now), now - (found.started or 0.0)
        return f"splatmill {'status --watch' if ago < min(RECONCILED_S, age - SUBMIT_S) else 'reconcile'}{where}"
    if found.stopped or found.left or found.state == BROKEN_OFF:
        return _same_again(found, request, command) + where
    if found.failed or found.quarantined:
        again = "" if found.run_id == folder_of(library, "last").name else f" {found.run_id}"
        return f"splatmill retry{again}{where}"
    made = [each["asset_id"] for each in found.rejections if each["why"].partition(" ")[0] not in EARLY]
    if made:
        return f"splatmill retry {found.run_id} --asset {made[0]}{where}"
    return ""


def _same_again(found: Account, request: dict[str, Any], command: str) -> str:
    """The run's own command, without its library."""
    words = ["splatmill", command, found.manifest]
    if request.get("accept_file"):
        words += ["--accept", request["accept_file"]]
    if request.get("recipe", "factory") != "factory":
        words += ["--recipe", request["recipe"]]
    for name, value in request.get("overrides", {}).items():
        words += ["--set", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    words += [
        f"--{name.replace('_', '-')}" for name in ("skip_invalid", "allow_outside", "commercial") if request.get(name)
    ]
    return shlex.join(words)


def show_account(library: str, run: str, *, as_json: bool) -> None:
    """Print the account of a run."""
    found = account(library, run)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    when = f", begun {datetime.fromtimestamp(found.started):%Y-%m-%d %H:%M}" if found.started else ""
    took = f", {found.seconds:.0f} s" if found.seconds is not None else ""
    by = f" by {found.user}" if found.user else ""
    print(f"run {found.run_id}: {found.state}{when}{by}{took}; manifest {found.manifest}")
    names = ["asked", "made", "cached", "rejected", "unjudged", "failed", "stopped", "left", "quarantined", "refused"]
    print("\n" + aligned(names, [["?" if getattr(found, n) is None else getattr(found, n) for n in names]]))
    if found.left_why:
        print(f"\nnot begun: {found.left_why}")
    if found.rejections:
        shown = [[each["asset_id"], each["why"][:110]] for each in found.rejections]
        print("\n" + aligned(["rejected asset", "why"], shown))
    if found.failures:
        columns = ("asset_id", "stage", "error_class", "message")
        shown = [[str(each.get(name) or "")[:90] for name in columns] for each in found.failures]
        print("\n" + aligned(["failed asset", "stage", "class", "message"], shown))
    print(f"\nnext: {found.next}" if found.next else "\nnothing is left to do")
