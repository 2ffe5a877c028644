"""Finds where the assets of a farm's run stand, by the library's files, the catalogue's rows and the farm's shards."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from catalog import query
from catalog.schema import StageRun
from flows.farm.marks import Excuse, excuses, turned_away_in_a_row
from flows.farm.protocol import Shard
from flows.farm.runs import Run, journeys
from flows.todo import ids, sort_out
from pipeline_core.stages import all_names, sql_list
from tasks.journey import Journey, stages_done, verified
from tasks.rules import RULES

WORKER_LOST, NOT_MADE, OTHER_VERSION = "WorkerLost", "NotMade", "OtherVersion"
MOST_LOSSES = 5
"""So many processes may die while they make one asset; then the asset is held to be the cause."""
MOST_SILENT = 5
"""So many shards may end in order and leave no word about one of their assets; then the asset counts as failed."""
MOST_TURNED_AWAY = 5
"""So often in a row workers of another version may turn shards away; then what is missing has failed."""
MOST_UNBEGUN = 8
"""So many shards may be lost before they begin any of their assets; then these count as failed."""
SAME_CODE = "do all machines run the same version of splatmill, and see the library at the same path?"

WORDS_SQL = f"""
with words as (
    select asset_id, prefect_flow_run_id as shard, arg_max(
        struct_pack(event_id, status, stage, error_class, error_type, error_message), event_id
    ) as last
    from stage_runs where run_id = $1 and stage in {sql_list(all_names())} group by all
), verdict as (
    select asset_id, event_id, coalesce(list(name) filter (not held), []) as failed
    from verdicts where run_id = $1 group by all
)
select
    asset_id,
    list(shard) as shards,
    list(last order by last.event_id) filter (last.error_type = '{WORKER_LOST}') as losses,
    list(last order by last.event_id)
        filter (last.status in ('failed', 'timeout') and last.error_type <> '{WORKER_LOST}') as failures,
    any_value(failed_clauses) as failed_clauses
from words left join (
    select asset_id, arg_max(failed, event_id) as failed_clauses from verdict group by asset_id
) using (asset_id)
group by asset_id
"""


@dataclass
class Standing:
    """The assets of a run by where they stand. Each is in exactly one of the lists.

    ``rejected``: of those ``made``, the clauses of their contracts that do not hold. ``row``: shards that were turned
    away in a row, some asset in ``rounds`` of them.
    """

    made: list[str] = field(default_factory=list)
    rejected: dict[str, list[str]] = field(default_factory=dict)
    failures: list[dict[str, str]] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    stopped: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    row: list[Excuse] = field(default_factory=list)
    rounds: int = 0


def assess(run: Run, shards: Sequence[Shard]) -> Standing:
    """Sort a run's assets by the library's files, the catalogue and the open shards."""
    words = {row["asset_id"]: row for row in query.rows(run.request.library, WORDS_SQL, [run.request.run_id])}
    open_ = {asset_id for shard in shards if shard.open for asset_id in shard.assets}
    excused, told = excuses(run.folder), dict[str, str]()
    row = turned_away_in_a_row(run.folder, excused)
    away = Counter(name for each in row for shard in shards if shard.id == each.shard for name in shard.assets)
    shards = [shard for shard in shards if shard.open or shard.id not in excused]
    cancelled = {asset_id for shard in shards if shard.state == "cancelled" for asset_id in shard.assets}
    begun = {shard_id for word in words.values() for shard_id in word["shards"]}
    silent, unbegun = Counter[str](), Counter[str]()
    for shard in shards:
        if shard.state in ("completed", "failed"):
            silent.update(shard.assets)
            told |= dict.fromkeys(shard.assets, shard.message)
        elif shard.state == "crashed" and shard.id not in begun:
            unbegun.update(shard.assets)
    todo = sort_out(run.request.library, list(journeys(run).values()), by_name=True)
    standing = Standing(made=ids(todo.made) + ids(todo.turned_down), row=row, rounds=max(away.values(), default=0))
    clauses = {name: row["failed_clauses"] for name, row in words.items()}
    standing.rejected = {name: clauses[name] for name in standing.made if clauses.get(name)}
    for journey in todo.missing:
        name = journey.asset_id
        if name in open_:
            standing.waiting.append(name)
        elif failure := final_failure(journey, words.get(name), silent[name], unbegun[name], told.get(name, "")):
            standing.failures.append(failure)
        elif standing.rounds >= MOST_TURNED_AWAY and name not in cancelled:
            why = f"turned away {standing.rounds} times: {row[-1].why}"
            standing.failures.append(_failure(journey, next_stage(journey), "permanent", OTHER_VERSION, why))
        else:
            (standing.stopped if name in cancelled else standing.missing).append(name)
    return standing


def verify(run: Run, standing: Standing) -> None:
    """Move made assets that are damaged to the missing ones."""
    known = journeys(run)
    whole = [name for name in standing.made if verified(known[name])]
    for name in sorted(set(standing.made) - set(whole)):
        standing.missing.append(name)
        standing.rejected.pop(name, None)
    standing.made = whole


def final_failure(
    journey: Journey, word: dict[str, Any] | None, ended: int, unbegun: int, said: str = ""
) -> dict[str, str] | None:
    """The failure of an asset that has had all its rounds; None while it may be tried again.

    ``word`` is the asset's row of :data:`WORDS_SQL`. ``ended`` shards with this asset have ended in order, and
    ``unbegun`` were lost before they began anything. ``said``: the message of the last that ended.
    """
    failures, losses = ((word[name] if word else None) or [] for name in ("failures", "losses"))
    if failures and len(failures) >= RULES[failures[-1]["error_class"]].rounds:
        last = failures[-1]
        return _failure(journey, last["stage"], last["error_class"], last["error_type"], last["error_message"] or "")
    if len(losses) >= MOST_LOSSES:
        why = f"{len(losses)} processes died while they made it"
        return _failure(journey, losses[-1]["stage"], "permanent", WORKER_LOST, why)
    if ended - len(failures) >= MOST_SILENT:
        why = f"{ended} shards ended without making it, {f'the last with: {said}' if said else 'without a reason'}: "
        why += SAME_CODE
        return _failure(journey, next_stage(journey), "permanent", NOT_MADE, why)
    if unbegun >= MOST_UNBEGUN:
        why = f"{unbegun} processes were lost before they began it: does splatmill doctor pass on every worker?"
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
    """The first stage of an unfinished asset whose output is missing; the last when only deliverables are damaged."""
    done = stages_done(journey)
    return next((stage for stage in journey.keys if stage not in done), list(journey.keys)[-1])


def rows_of_failures(run: Run, standing: Standing) -> list[StageRun]:
    """Catalogue rows of the failures that no process lived to write."""
    return [
        _row(journeys(run)[failure["asset_id"]], failure)
        for failure in standing.failures
        if failure["error_type"] in (WORKER_LOST, NOT_MADE, OTHER_VERSION)
    ]


def _row(journey: Journey, failure: dict[str, str]) -> StageRun:
    columns: dict[str, Any] = {name: failure[name] for name in ("asset_id", "stage", "error_class", "error_type")}
    return StageRun(
        run_id=journey.run_id,
        status="failed",
        # a shard that ended without a word says nothing of the asset: no key, and so no quarantine
        stage_key=journey.keys[failure["stage"]] if failure["error_type"] == WORKER_LOST else None,
        error_message=failure["message"],
        **columns,
    )
