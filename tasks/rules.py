"""What is done about an error, by its class. Nothing here loads Prefect.

    transient   a full disk, a lost connection   3 retries, 2 rounds a run, never quarantined
    oom         the batch does not fit           2 retries (the engine halves its batch first), 2 rounds, 3 runs
    data        this input cannot work           none: quarantined at once
    permanent   anything else                    none; quarantined when a second run fails the same way
                of these, a diverged optimisation is made again at once from two other seeds

What its contract rejects is no error: it is made again at once from the next seed, as often as the contract says.

A *retry* is the same stage in the same process, after a pause that grows. A *round* is another process of the same
run, after all the rest of the run. A *quarantined* asset is passed over by later runs until it is asked for by name
(``splatmill retry``) or something that its stage depends on is changed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from catalog import query
from catalog.schema import StageRun
from pipeline_core.acceptance import REJECTED, Contract, Verdict
from pipeline_core.deliverables import PROVENANCE
from pipeline_core.errors import DivergedError, RequestError
from pipeline_core.files import write_json
from pipeline_core.storage import Library
from tasks.journey import Journey, in_place_of
from tasks.stage import Measured, Reference, run_stage, told_by


@dataclass(frozen=True)
class Rule:
    """``retries`` in place; ``rounds`` of one run; ``runs`` that may fail before the quarantine, None = any number."""

    retries: int
    rounds: int
    runs: int | None


RULES = {
    "transient": Rule(retries=3, rounds=2, runs=None),
    "oom": Rule(retries=2, rounds=2, runs=3),
    "data": Rule(retries=0, rounds=1, runs=1),
    "permanent": Rule(retries=0, rounds=1, runs=2),
}
DELAYS_S = [2, 15, 60]
"""Seconds before each retry, a third more or less at random, so that many that failed together do not come together."""
RESEEDED = DivergedError
RESEEDS = 2
SEEDS = 64
"""So many seeds, its own counted, an asset may come to be made from."""
MENDED = 3
"""Damaged files that are made again on one journey."""


def reseeded(journey: Journey, attempt: int) -> Journey:
    """The same asset from another seed. It counts as made under the key that was asked for; its rows tell the seed."""
    if attempt == 0:
        return journey
    return in_place_of(journey, seed=seeds(journey.spec.seed)[attempt])


def seeds(seed: int) -> list[int]:
    """The seed that was asked for, and those that a diverged or rejected asset is made again from, in order."""
    again = (hashlib.sha256(f"{seed} again {attempt}".encode()).digest() for attempt in range(1, SEEDS))
    return [seed, *(int.from_bytes(digest[:4], "big") for digest in again)]


def candidates(journey: Journey) -> list[Journey]:
    """The journeys of an asset's candidates; the first has the asset's own seed."""
    _, *others = candidate_seeds(journey.spec.seed, journey.spec.recipe.choice.candidates)
    return [journey, *(in_place_of(journey, seed=seed) for seed in others)]


def candidate_seeds(seed: int, count: int) -> list[int]:
    """The seeds of an asset's candidates; of more candidates, the first are the same."""
    others = (hashlib.sha256(f"{seed} candidate {number}".encode()).digest() for number in range(1, count))
    return [seed, *(int.from_bytes(digest[:4], "big") for digest in others)]


# --- what a contract rejects -----------------------------------------------------------------------------------------


def attempts(journey: Journey) -> int:
    """How often the asset is made at most, before it stays rejected."""
    return (journey.spec.accept or Contract()).attempts + journey.further


def rejected_before(journey: Journey) -> int:
    """How many attempts at an asset that is delivered as rejected were made, by its ``asset.json``; else 0."""
    try:
        told = json.loads((Library(journey.library).asset_dir(journey.asset_id) / PROVENANCE).read_bytes())
    except (OSError, ValueError):
        return 0
    return len(told.get("attempts", [told])) if told.get("verdict") == REJECTED else 0


def rank(journey: Journey, made: Mapping[str, Reference]) -> tuple[int, float]:
    """The least is the best of several attempts: the one with the fewest failed clauses, of these the most faithful."""
    told = told_by(journey, made["accept"], "verdict.json")
    return len(Verdict.from_json(told).failed), -(told["fidelity"] or 0.0)


def told_of(journey: Journey) -> bool:
    """Whether the verdict on what is rejected before any work is there."""
    return Library(journey.library).has("accept", journey.keys["accept"])


def turn_down(journey: Journey) -> None:
    """Leave the verdict on what is rejected before any work, as an output and a row of the stage accept; once."""
    verdict = journey.turned_down
    if verdict is None or told_of(journey):
        return

    def write(folder: Path) -> Measured:
        told: dict[str, Any] = {"seed": journey.spec.seed, "fidelity": None, "stages": {}}
        write_json(folder / "verdict.json", verdict.to_json() | told)
        return Measured({}, clauses=verdict.clauses)

    run_stage(journey, "accept", write)


# --- quarantine ------------------------------------------------------------------------------------------------------

QUARANTINED_SQL = "select asset_id, stage, stage_key from stage_runs where is_latest and status = 'quarantined'"
FAILED_RUNS_SQL = """
select asset_id, stage, stage_key, list(distinct run_id) as runs
from stage_runs where status in ('failed', 'timeout') and list_contains(?, asset_id) group by all
"""


def quarantined(library: str, journeys: Sequence[Journey]) -> set[str]:
    """Ids of the assets that wait in quarantine and would fail there again: same stage, same inputs."""
    if not journeys:
        return set()
    found = {row["asset_id"]: row for row in _rows(library, QUARANTINED_SQL)}
    return {
        each.asset_id
        for each in journeys
        if each.asset_id in found and each.keys.get(found[each.asset_id]["stage"]) == found[each.asset_id]["stage_key"]
    }


def to_quarantine(
    library: str, run_id: str, journeys: Iterable[Journey], failures: Sequence[dict[str, str]]
) -> list[StageRun]:
    """Catalogue rows for those failures that have had all the runs that their class is given."""
    by_id = {each.asset_id: each for each in journeys}
    wanted = [each for each in failures if RULES[each["error_class"]].runs and each["stage"] in _keys(by_id, each)]
    if not wanted:
        return []
    counted = _rows(library, FAILED_RUNS_SQL, [[each["asset_id"] for each in wanted]])
    runs = {(row["asset_id"], row["stage"], row["stage_key"]): row["runs"] for row in counted}

    def failed_runs(journey: Journey, stage: str) -> int:
        """In how many runs the stage failed, of whichever seed the asset was to be made."""
        begun = [each for attempt in range(RESEEDS + 1) for each in candidates(reseeded(journey, attempt))]
        return len({run for each in begun for run in runs.get((each.asset_id, stage, each.keys[stage]), ())})

    rows = []
    for each in wanted:
        key = by_id[each["asset_id"]].keys[each["stage"]]
        given = RULES[each["error_class"]].runs or 1
        if max(1, failed_runs(by_id[each["asset_id"]], each["stage"])) < given:
            continue
        columns: dict[str, Any] = {name: each[name] for name in ("asset_id", "stage", "error_class", "error_type")}
        rows.append(
            StageRun(
                run_id=run_id,
                status="quarantined",
                stage_key=key,
                error_message=each["message"],
                recipe=by_id[each["asset_id"]].spec.recipe.name,
                tags=by_id[each["asset_id"]].spec.tags,
                **columns,
            )
        )
    return rows


def _keys(by_id: dict[str, Journey], failure: dict[str, str]) -> dict[str, str]:
    return by_id[failure["asset_id"]].keys if failure["asset_id"] in by_id else {}


def _rows(library: str, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
    """Rows of the catalogue; none where there is no catalogue yet."""
    try:
        return query.rows(library, sql, parameters)
    except RequestError:
        return []
