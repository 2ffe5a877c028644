"""A farm's run as it lies in the library. Opening it writes it; its shards and ``reconcile`` read it.

    <library>/runs/<run_id>/request.json     what was asked, and the ids of its assets by what was to be done
                            specs.jsonl      recipes, then one line for each asset that was to be made
                            asked.json, asked/<manifest>    for splatmill retry (flows.asked); a farm reads neither
                            shards/<name>/   each shard's summary
                            beats/           signs of life (flows.farm.beats)
                            cancelled.json, paused.json, excused/    what stops it or its shards (flows.farm.marks)
                            reconciled, alerts/     when somebody looked after it, what was told (flows.farm.alerts)
                            summary.json     the run is over

The run holds specs and not keys, because every machine plans the keys with its own code and its own models. A machine
that would make something else makes it under another key, and ``reconcile`` finds the asset missing.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from flows.asked import keep
from flows.batch import (
    BatchRequest,
    Make,
    Plan,
    admission,
    announce,
    keep_inputs,
    make_missing,
    plan_batch,
    plan_specs,
    prepare,
)
from flows.farm import beats, marks
from flows.farm.drain import drained
from flows.summary import SUMMARY, Summary, write_summary
from flows.todo import ids, sort_out
from pipeline_core.bucket import Place
from pipeline_core.config import Recipe
from pipeline_core.errors import RequestError
from pipeline_core.files import replaced, write_json
from pipeline_core.spec import AssetSpec
from pipeline_core.storage import Library
from pipeline_core.version import code_version
from tasks.journey import Journey

REQUEST, SPECS = "request.json", "specs.jsonl"
LISTS = ("todo", "cached", "quarantined", "turned_down", "refused", "warnings")
HELD_S = 120.0
"""How long a shard waits for assets that a worker holds who may be lost without being dead."""


@dataclass(frozen=True)
class Run:
    """An open run. ``todo``, ``cached``, ``quarantined`` and ``turned_down`` (by their contract, before any work) hold
    asset ids as they were when the run was ``opened``; ``tags`` the most frequent value of each tag."""

    request: BatchRequest
    folder: Place
    opened: float
    todo: tuple[str, ...]
    cached: tuple[str, ...]
    quarantined: tuple[str, ...]
    refused: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    turned_down: tuple[str, ...] = ()
    tags: dict[str, str] = field(default_factory=dict)


def open_run(request: BatchRequest, plan: Plan | None = None) -> BatchRequest:
    """Open a run in the library; returns the request as workers will see it. ``plan`` is the request's, if known.

    Raises :class:`RequestError` for what cannot be made at all.
    """
    plan = plan or prepare(request)
    root, copy = Library(request.library).create().root, keep(request, plan)
    request = request.model_copy(update={"manifest": str(copy), "library": str(root)})
    keep_inputs(plan)
    announce(plan)
    todo = plan.todo
    write_specs(request.folder / SPECS, [each.spec for each in todo.missing])
    document = {
        "request": request.model_dump(mode="json") | {"code": code_version()},
        "opened": time.time(),
        "todo": ids(todo.missing),
        "cached": ids(todo.made),
        "quarantined": ids(todo.held),
        "turned_down": ids(todo.turned_down),
        "refused": plan.refused,
        "warnings": plan.warnings,
        "tags": _tags(each.spec for each in todo.missing),
    }
    write_json(request.folder / REQUEST, document)
    return request


def _tags(specs: Iterable[AssetSpec]) -> dict[str, str]:
    counts: dict[str, Counter[str]] = {}
    for spec in specs:
        for name, value in spec.tags.items():
            counts.setdefault(name, Counter())[value] += 1
    return {name: values.most_common(1)[0][0] for name, values in counts.items()}


def read_run(folder: Place) -> Run:
    """The run that lies in ``folder``. Raises :class:`RequestError` where none was opened, or it is damaged."""
    path = folder / REQUEST
    try:
        told = {"warnings": [], "turned_down": []} | json.loads(path.read_text(encoding="utf-8"))
        request = BatchRequest.model_validate(told["request"])
        if "cached" not in told:
            told = _with_specs(folder, request, told)
        lists = {name: tuple(told[name]) for name in LISTS}
        return Run(request, folder, told["opened"], **lists, tags=told.get("tags", {}))
    except FileNotFoundError:
        raise RequestError(f"{folder}: no run was opened here; splatmill submit opens one") from None
    except (ValueError, KeyError, TypeError) as error:
        why = f"cannot be read ({type(error).__name__}: {str(error).splitlines()[0]})"
        raise RequestError(f"{path} {why}: restore it, or delete {folder} to give this run up; assets stay") from error


def _with_specs(folder: Place, request: BatchRequest, told: dict[str, Any]) -> dict[str, Any]:
    """Bring a run up to date that an older version opened: that kept the manifest's copy, and no specs."""
    _, journeys = plan_batch(request)
    todo, looked_at = set(told["todo"]), {*told["todo"], *told["quarantined"]}
    write_specs(folder / SPECS, [each.spec for each in journeys if each.asset_id in todo])
    told = told | {"cached": [name for name in ids(journeys) if name not in looked_at]}
    write_json(folder / REQUEST, told)
    return told


def open_runs(library: str) -> list[Place]:
    """Folders of the runs that were opened and are not over, oldest first."""
    found = sorted(Library(library).root.glob(f"runs/*/{REQUEST}"), key=lambda path: path.stat().st_mtime)
    return [path.parent for path in found if not (path.parent / SUMMARY).exists()]


def journeys(run: Run) -> dict[str, Journey]:
    """The journeys of a run's ``todo``, by asset id. They do not change, and this process plans them once."""
    return _journeys(run.folder, run.opened)


@lru_cache(maxsize=4)
def _journeys(folder: Place, opened: float) -> dict[str, Journey]:
    run = read_run(folder)
    return {each.asset_id: each for each in plan_specs(run.request, read_specs(folder / SPECS))}


# --- specs -----------------------------------------------------------------------------------------------------------


def write_specs(path: Place, specs: Sequence[AssetSpec]) -> None:
    """Write specs as JSON lines. The first line holds the recipes by fingerprint, and a spec names its recipe by it."""
    recipes = {id(spec.recipe): spec.recipe for spec in specs}  # a manifest's equal recipes are one object
    names = {each: recipe.fingerprint() for each, recipe in recipes.items()}
    head = {names[each]: recipe.model_dump(mode="json") for each, recipe in recipes.items()}
    lines = [spec.model_dump(mode="json", exclude={"recipe"}) | {"recipe": names[id(spec.recipe)]} for spec in specs]
    with replaced(path) as scratch, scratch.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(line) + "\n" for line in [head, *lines])


def read_specs(path: Place, only: Iterable[str] = ()) -> list[AssetSpec]:
    """The specs in a file of :func:`write_specs`, or ``only`` those of some asset ids. Equal recipes are one object."""
    wanted = set(only)
    with path.open(encoding="utf-8") as file:
        recipes = {name: Recipe.model_validate(told) for name, told in json.loads(next(file)).items()}
        told = [spec for spec in map(json.loads, file) if not wanted or spec["asset_id"] in wanted]
    return [AssetSpec.from_json(each | {"recipe": recipes[each["recipe"]]}) for each in told]


# --- a part of a run -------------------------------------------------------------------------------------------------


def run_shard(
    request: BatchRequest, make: Make, stop: threading.Event | None = None, shard_id: str = ""
) -> Summary:
    """Make the shard ``request.shard`` of an open run with ``make``, and write its summary below the run's folder.

    ``stop`` ends it early, as in :func:`run_batch`, and so do marks for the run or for ``shard_id``. A shard tells the
    catalogue neither what was asked for nor what goes into quarantine: the run does.
    """
    began = time.monotonic()
    Library(request.library).create().sweep()
    run = read_run(request.folder)
    specs = read_specs(run.folder / SPECS, only=request.only)
    gate = admission(request, spent=lambda: beats.spent_s(run.folder), processes=lambda: beats.count_live(run.folder))
    gate.halted = lambda: marks.halted(run.folder, shard_id or request.shard) or drained()
    todo = sort_out(request.library, plan_specs(request, specs), by_name=True)
    summary = make_missing(request, todo, make, stop or threading.Event(), gate, held_s=HELD_S)
    summary.seconds = time.monotonic() - began
    write_summary(run.folder / "shards" / request.shard, summary)
    return summary
