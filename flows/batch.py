"""A manifest's assets, several at a time; one bad asset never sinks the batch.

    summary = run_batch(BatchRequest(manifest="props.csv", library="library"), make_asset)

``run_batch`` makes a whole manifest in this process; ``flows.farm.runs.run_shard`` makes a part of one on a farm, by
the same ``make_missing``. Both look at files first and leave out what is finished, before Prefect hears of it, so
running a finished manifest again takes seconds and starts nothing. Truth about what was made is in the library and its
catalogue, not in Prefect.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from catalog import query
from catalog.compact import compact_if_many
from catalog.ids import new_id
from catalog.schema import StageRun
from catalog.writer import append
from flows.budget import Admission
from flows.farm.marks import cancelled
from flows.farm.shards import measured
from flows.fits import refuse_misfits, refuse_missing_models
from flows.licences import check_commercial, site_is_commercial
from flows.making import Making
from flows.prompts import refuse_unreadable, warnings, words_of_rejected
from flows.replaced import Replaced, replaced
from flows.replaced import warnings as words_of_replaced
from flows.summary import Summary, write_summary
from flows.todo import Todo, ids, sort_out
from pipeline_core.acceptance import Contracts, Held, Verdict, read_contracts
from pipeline_core.bucket import Place
from pipeline_core.config import ModelRef
from pipeline_core.errors import RequestError
from pipeline_core.manifest import Manifest, load_contracts, load_manifest
from pipeline_core.priors.resolve import model_id
from pipeline_core.spec import AssetSpec, derive_id
from pipeline_core.stages import DELIVERY
from pipeline_core.storage import Library
from pipeline_core.version import code_version
from tasks import halt
from tasks.journey import Journey, plan_journey
from tasks.progress import board
from tasks.requests import request_rows, user
from tasks.rules import rejected_before, to_quarantine, told_of, turn_down

Make = Callable[[Journey], Any]
Resolve = Callable[[ModelRef, Any], str]

VERDICTS_SQL = """
select asset_id, name, bound, figure, held from verdicts
where is_latest and held is distinct from true and asset_id in (select unnest(?::varchar[])) order by event_id
"""
"""The clauses that keep assets from being accepted."""


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
    allow_outside: bool = Field(
        False,
        description="rows may name files outside of the manifest's folder",
        json_schema_extra={"type": ["boolean", "string"]},  # as for ``commercial``
    )
    accept: dict[str, Any] = Field(
        {},
        description="contracts for the rows, in place of the manifest's; a path is read at once",
        json_schema_extra={"type": ["object", "string"]},
    )
    accept_file: str = Field("", description="the file that these were read from")
    kept: dict[str, str] = Field({}, description="sha256 by name of files that the library has, should they be gone")
    only: tuple[str, ...] = Field((), description="asset ids; empty = all")
    again: bool = Field(False, description="assets that their contract rejected are made again, from further seeds")
    deadline: datetime | None = Field(None, description="nothing is begun that would not be finished by then")
    gpu_hours: float | None = Field(None, gt=0, description="nothing is begun that would take the run beyond")
    commercial: bool = Field(
        False,
        validate_default=True,
        description="refuse models whose licence forbids commercial use or is unknown",
        json_schema_extra={"type": ["boolean", "string"]},  # prefect.yaml fills in "true" or "false"
    )
    asked_by: str = Field(default_factory=lambda: user() or "", max_length=64, description="who asks")
    priority: int = Field(5, ge=1, le=9, description="a farm's shards of 1 go before those of 2")
    code: str = Field("", description="version of the code that submitted the shard")
    stages: dict[str, int] = Field({}, description="versions of the stages in that code; empty = unknown")
    shard: str = Field("", pattern="^[0-9a-f]{0,16}$", description="name of a part of a farm's run; empty = all of it")

    @model_validator(mode="before")
    @classmethod
    def _of_another_version(cls, told: Any) -> Any:
        """Leave out fields that only another version of the code knows. What people write has no ``code``: no typos."""
        if isinstance(told, dict) and told.get("code") and told["code"] != code_version():
            return {name: value for name, value in told.items() if name in cls.model_fields}
        return told

    @model_validator(mode="before")
    @classmethod
    def _read_contracts(cls, told: Any) -> Any:
        """Contracts that are a path, as the command and ``prefect.yaml`` write it, become what the file holds."""
        if isinstance(told, dict) and isinstance(path := told.get("accept"), str):
            return told | {"accept": load_contracts(path).to_json() if path else {}, "accept_file": path}
        return told

    @field_validator("commercial")
    @classmethod
    def _or_the_site(cls, asked: bool) -> bool:
        return asked or site_is_commercial()

    @property
    def folder(self) -> Place:
        """Where the run writes its report."""
        return Library(self.library).run_dir(self.run_id)


def plan_batch(request: BatchRequest) -> tuple[Manifest, list[Journey]]:
    """The manifest, and the journeys it asks for. Raises :class:`RequestError` for what cannot be made at all."""
    manifest = load_manifest(
        request.manifest, recipe=request.recipe, overrides=request.overrides, skip_invalid=request.skip_invalid,
        allow_outside=request.allow_outside, kept=request.kept, accept=_contracts(request),
    )  # fmt: skip
    specs = [spec for spec in manifest.specs if not request.only or spec.asset_id in request.only]
    if request.commercial:
        check_commercial(specs)  # before a model is fetched
    resolve = lru_cache(maxsize=256)(model_id)
    specs = refuse_missing_models(manifest, specs, resolve, skip_invalid=request.skip_invalid)
    journeys = refuse_misfits(manifest, _journeys(request, specs, resolve), skip_invalid=request.skip_invalid)
    return manifest, refuse_unreadable(manifest, journeys, skip_invalid=request.skip_invalid)


def _contracts(request: BatchRequest) -> Contracts | None:
    """The contracts that the request brings. Raises :class:`RequestError` for what is wrong in them."""
    problems: list[str] = []
    found = read_contracts(request.accept, lambda *told: problems.append("{}, {!r}: {}".format(*told)))
    if problems:
        raise RequestError("\n".join(problems))
    return found if request.accept else None


def plan_specs(request: BatchRequest, specs: Iterable[AssetSpec]) -> list[Journey]:
    """The journeys of ``specs``, with the models of this machine, each of which is resolved once.

    Raises :class:`RequestError` where the request is for commercial use and a model's licence is not.
    """
    specs = list(specs)
    if request.commercial:
        check_commercial(specs)
    return _journeys(request, specs, lru_cache(maxsize=256)(model_id))


def _journeys(request: BatchRequest, specs: Iterable[AssetSpec], resolve: Resolve) -> list[Journey]:
    library = str(Library(request.library).root)
    planned = [plan_journey(library, request.run_id, spec, resolve) for spec in specs]
    return [replace(each, further=rejected_before(each)) for each in planned] if request.again else planned


@dataclass(frozen=True)
class Plan:
    """A batch that was planned and looked at, and of which nothing is begun.

    ``replaced``: the delivered assets that it would replace.
    """

    request: BatchRequest
    manifest: Manifest
    todo: Todo
    replaced: list[Replaced] = field(default_factory=list)

    @property
    def refused(self) -> list[str]:
        """What is wrong with the rows that ``skip_invalid`` passed over."""
        return list(map(str, self.manifest.problems))

    @property
    def warnings(self) -> list[str]:
        """What is replaced, what is rejected before any work, and what the models cannot read of the prompts that are
        still to be made."""
        told = words_of_replaced(self.manifest, self.replaced) + words_of_rejected(self.manifest, self.todo.turned_down)
        return told + warnings(self.manifest, self.todo.missing)


def prepare(request: BatchRequest) -> Plan:
    """Read the manifest, plan its journeys and sort them: once for each command.

    Raises as :func:`plan_batch` does, and :class:`RequestError` where the manifest asks for none of ``request.only``.
    """
    manifest, journeys = plan_batch(request)
    if request.only and not journeys:
        named = ", ".join(request.only[:5]) + (" ..." if len(request.only) > 5 else "")
        raise RequestError(f"{request.manifest} asks for none of {named}; name the manifest: splatmill retry FILE")
    todo = sort_out(request.library, journeys, by_name=bool(request.only), again=request.again)
    return Plan(request, manifest, todo, replaced(request.library, manifest, todo.missing))


def run_batch(
    request: BatchRequest, make: Make, stop: threading.Event | None = None, plan: Plan | None = None
) -> Summary:
    """Make what is missing with ``make``, and write ``summary.json`` and ``report.md`` to the run's folder.

    ``stop`` ends it early: assets on their way stop at the next step, and nothing that is finished is lost. ``plan``
    is the request's, when the caller has it already.
    """
    began = time.monotonic()
    plan = plan or prepare(request)
    Library(request.library).create().sweep()
    keep_inputs(plan)
    announce(plan)
    gate = admission(request, spent=lambda: time.monotonic() - began)
    summary = make_missing(request, plan.todo, make, stop or threading.Event(), gate, first_alone=True)
    summary.refused, summary.warnings = plan.refused, plan.warnings
    summary.stopped_why = cancelled(request.folder)
    summary.seconds = time.monotonic() - began
    conclude(request, plan.todo.missing, summary, ids(plan.todo.turned_down))
    write_summary(request.folder, summary)
    return summary


def make_missing(
    request: BatchRequest,
    todo: Todo,
    make: Make,
    stop: threading.Event,
    gate: Admission,
    held_s: float = float("inf"),
    *,
    first_alone: bool = False,
) -> Summary:
    """Make ``todo.missing`` with ``make``, and show every asset of ``todo`` on the board (the others: ``Making``)."""
    halt.release()
    for each in todo.turned_down:
        turn_down(each)
    decided = [*todo.made, *todo.turned_down]
    for state, journeys in (("cached", decided), ("quarantined", todo.held), ("waiting", todo.missing)):
        for each in journeys:
            board.update(each.asset_id, state=state)
    summary = Summary(
        request.run_id,
        str(Library(request.library).root),
        request.manifest,
        asked=todo.asked,
        cached=ids(todo.made),
        quarantined=ids(todo.held),
    )
    if todo.missing:
        Making(todo.missing, make, request.in_flight, stop, gate, summary, held_s, first_alone).run()
    return summary


def keep_inputs(plan: Plan) -> None:
    """Copy the files that rows name into the library, before work: no later stage, and no other machine, needs more.

    What changed or went away since it was planned is left to its asset's stage, which says so.
    """
    library, sources = Library(plan.request.library), plan.manifest.sources
    needed = {ref for each in plan.todo.missing for ref in each.spec.files.values()}
    for ref in sources:
        if ref in needed or not library.input_file(ref).exists():
            library.keep_input(ref, sources[ref])


def announce(plan: Plan) -> None:
    """Tell the catalogue what was asked for, and what was refused."""
    new = [each for each in plan.todo.turned_down if not told_of(each)]
    rows = request_rows([*plan.todo.missing, *new], plan.request.asked_by)
    rows += refused_rows(plan.request, plan.manifest)
    if rows:
        append(plan.request.library, rows, keep=True)
    for each in new:
        turn_down(each)
    for each in plan.todo.missing:
        if each.further:
            Library(each.library).discard(DELIVERY, each.keys[DELIVERY])


def conclude(
    request: BatchRequest, todo: list[Journey], summary: Summary, turned_down: Sequence[str] = ()
) -> None:
    """Put into quarantine what has failed often enough; name what is rejected or unjudged, what has files with errors
    in them, and what looks like another asset. ``turned_down``: what was rejected before any work.

    Before it asks the catalogue, it has the run's many small files become few.
    """
    compact_if_many(request.library)
    hold_to_contracts(request.library, summary, turned_down)
    compared = {each.asset_id for each in todo if each.spec.recipe.choice.start_margin is not None}
    summary.from_start = from_start(request.library, [name for name in summary.made if name in compared])
    summary.flawed = flawed(request.library, summary.made)
    summary.alike = alike(request.library, summary.made)
    rows = to_quarantine(request.library, request.run_id, todo, summary.failures)
    if rows:
        append(request.library, rows, keep=True)


def hold_to_contracts(library: str, summary: Summary, turned_down: Sequence[str] = ()) -> None:
    """Take what its contract rejects out of what was made, and name what is unjudged, by the catalogue's verdicts."""
    names = [*summary.made, *summary.cached, *turned_down]
    try:
        rows = query.rows(library, VERDICTS_SQL, [names]) if names else []
    except RequestError as error:
        summary.warnings = [*summary.warnings, f"no verdict is known: {error}"]
        return
    why: dict[str, list[Held]] = {}
    for row in rows:
        why.setdefault(row.pop("asset_id"), []).append(Held(**row))
    verdicts = {name: Verdict(tuple(held)) for name, held in why.items()}
    told = [{"asset_id": name, "why": str(verdicts[name])} for name in names if name in verdicts]
    summary.rejected = [each for each in told if verdicts[each["asset_id"]].failed]
    summary.unjudged = [each for each in told if not verdicts[each["asset_id"]].failed]
    out = {each["asset_id"] for each in summary.rejected}
    summary.made = [name for name in summary.made if name not in out]
    summary.cached = [name for name in summary.cached if name not in out]


def flawed(library: str, made: list[str]) -> list[str]:
    """Those of ``made`` in whose files validation found errors."""
    sql = "select asset_id from assets where finding_errors > 0 and list_contains(?, asset_id) order by asset_id"
    return [row["asset_id"] for row in query.rows(library, sql, [made])] if made else []


def from_start(library: str, made: list[str]) -> list[str]:
    """Those of ``made`` that are their starts without distillation."""
    sql = "select asset_id from assets where delivered_from = 'start' and list_contains(?, asset_id) order by asset_id"
    return [row["asset_id"] for row in query.rows(library, sql, [made])] if made else []


def alike(library: str, made: list[str]) -> list[str]:
    """Near-duplicates with one of ``made`` among them, each two as ``one = other``."""
    sql = """
        select asset_id || ' = ' || other_id as pair from duplicates
        where list_contains($1, asset_id) or list_contains($1, other_id) order by distance, pair
    """
    return [row["pair"] for row in query.rows(library, sql, [made])] if made else []


def admission(
    request: BatchRequest, *, spent: Callable[[], float], processes: Callable[[], int] = lambda: 1
) -> Admission:
    """The gate for the request's deadline and budget; the catalogue tells how long assets take.

    ``spent`` and ``processes`` are those of :class:`Admission`.
    """
    if request.deadline is None and request.gpu_hours is None:
        return Admission()
    return Admission(
        deadline=request.deadline,
        gpu_s=request.gpu_hours * 3600 if request.gpu_hours else None,
        asset_s=measured(request.library, request.recipe).asset_s,
        spent=spent,
        processes=processes,
    )


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
