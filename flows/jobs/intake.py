"""From what was posted to a job. Whatever is wrong is told as :class:`Refusal`, with row, field and value; nothing of a
client's text becomes a path, a model that nobody allowed, or SQL."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from catalog.ids import new_id
from flows.batch import BatchRequest, prepare
from flows.jobs import book
from flows.jobs.book import Job
from pipeline_core.acceptance import read_contracts
from pipeline_core.config import RECIPES, Recipe
from pipeline_core.errors import RequestError
from pipeline_core.files import write_bytes
from pipeline_core.manifest import Problem, load_manifest, parse_override
from pipeline_core.secrets import redact
from pipeline_core.spec import FILES
from pipeline_core.storage import Library

MODELS = "SPLATMILL_JOBS_MODELS"
"""Environment variable: model references that jobs may name beside those of the recipes, separated by commas."""
WEBHOOKS = "SPLATMILL_JOBS_WEBHOOKS"
"""Environment variable: origins (https://ci.example.org) that jobs may have posted to, separated by commas."""
REFERENCES = ("image_prior", "image_lora", "image_encoder", "image_config", "init.point_prior")
SUFFIX = {"application/json": ".jsonl", "application/x-ndjson": ".jsonl", "text/csv": ".csv"}
"""What a body may be, and the manifest that is made of it."""
NO_FILES = "nothing: rows that come over HTTP cannot name files"
SHOWN = 1000
"""So many problems are told in one answer."""


class Refusal(Exception):
    """An answer of HTTP that is no 2xx: ``status``, words, and what is wrong, each with row, field, value, allowed."""

    def __init__(self, status: int, words: str, problems: Iterable[dict[str, Any]] = ()) -> None:
        super().__init__(words)
        self.status, self.words, self.problems = status, words, list(problems)


class Options(BaseModel):
    """How a job's assets are made: fields of a JSON body beside ``rows``, or parameters of the address."""

    model_config = ConfigDict(extra="forbid")

    recipe: Literal[tuple(RECIPES)] = Field("factory", description="recipe of rows that name none")  # type: ignore[valid-type]
    set: dict[str, Any] = Field({}, description="recipe fields for all rows: {'geometry.steps': 200}", max_length=200)
    accept: dict[str, Any] = Field(
        {}, description="acceptance contract, as in a YAML manifest: {'faces': 5000, 'tags': {...}}", max_length=200
    )
    skip_invalid: bool = Field(False, description="make the good rows of a manifest that has bad ones")
    commercial: bool = Field(False, description="refuse models whose licence forbids commercial use or is unknown")
    priority: int = Field(5, ge=1, le=9, description="jobs of 1 go before those of 9")
    deadline: datetime | None = Field(None, description="with time zone; nothing begins that would not be done by then")
    gpu_hours: float | None = Field(None, gt=0, description="nothing begins that would take the job beyond")
    webhook: str = Field("", max_length=2000, description="told when the job is over; the service names allowed ones")

    @field_validator("accept", mode="before")
    @classmethod
    def _from_the_address(cls, told: Any) -> Any:
        try:
            return json.loads(told) if isinstance(told, str) else told
        except (ValueError, RecursionError):
            raise ValueError('a contract as JSON: {"faces": 5000}') from None

    @field_validator("deadline")
    @classmethod
    def _with_zone(cls, when: datetime | None) -> datetime | None:
        if when is not None and when.tzinfo is None:
            raise ValueError("a date and time with its time zone: 2030-01-31T06:00:00Z")
        return when


class Body(Options):
    """A JSON body: the rows of a manifest, and options."""

    rows: list[dict[str, Any]] = Field(min_length=1, description="of a manifest: {'prompt': 'a red mug', 'seed': 7}")


def take(
    library: str, user: str, kind: str, parameters: list[tuple[str, str]], body: bytes, key: str, in_flight: int
) -> tuple[Job, bool]:
    """The job that was posted, and whether it is new. Raises :class:`Refusal`.

    ``kind``: the body's media type; ``parameters`` of the address; ``key``: the ``Idempotency-Key``, or empty.
    """
    if kind not in SUFFIX:
        raise Refusal(415, f"Content-Type {kind or '(none)'}: one of {', '.join(SUFFIX)}")
    posted = json.dumps([kind, sorted(parameters)]).encode() + body
    digest, name = hashlib.sha256(posted).hexdigest(), book.name_for(user, key)
    if (before := book.find(library, name)) is not None:
        return _same(before, digest), False
    options, data = _read(kind, parameters, body)
    manifest = Library(library).run_dir(name) / book.FOLDER / f"{new_id()}{SUFFIX[kind]}"
    webhook = _allowed_webhook(options.webhook)
    request = BatchRequest(
        manifest=str(manifest), library=str(Library(library).root), run_id=name, recipe=options.recipe,
        overrides=_overrides(options.set), skip_invalid=options.skip_invalid, in_flight=in_flight,
        deadline=options.deadline, gpu_hours=options.gpu_hours, commercial=options.commercial,
        priority=options.priority, asked_by=user, accept=_contracts(options.accept),
    )  # fmt: skip
    _refuse_models(request.overrides)
    Library(library).create()
    write_bytes(manifest, data, durable=True)
    try:
        job = _planned(request, digest, webhook)
    except BaseException:
        _forget(manifest)
        raise
    if book.accept(job):
        return job, True
    accepted = book.find(library, name)  # somebody posted the same key meanwhile
    assert accepted is not None, name
    return _same(accepted, digest), False


def _same(job: Job, digest: str) -> Job:
    if job.digest != digest:
        raise Refusal(422, f"this Idempotency-Key is that of job {job.name}, which was posted with another body")
    return job


def _forget(manifest: Path) -> None:
    """Remove the manifest of a refused job, and its folders where nothing else is in them."""
    manifest.unlink(missing_ok=True)
    for folder in (manifest.parent, manifest.parent.parent):
        try:
            folder.rmdir()
        except OSError:
            return


def _planned(request: BatchRequest, digest: str, webhook: str) -> Job:
    """Look at everything that ``splatmill run`` looks at before it begins."""
    try:
        manifest = load_manifest(
            request.manifest, recipe=request.recipe, overrides=request.overrides, skip_invalid=request.skip_invalid
        )
        recipes = {id(spec.recipe): spec for spec in manifest.specs}  # a manifest's equal recipes are one object
        for spec in recipes.values():
            _refuse_models(_references(spec.recipe), manifest.rows[spec.asset_id])
        plan = prepare(request)
    except RequestError as error:
        problems = _told(error.problems, request)
        counted = f"{len(problems)} problems of the manifest; nothing was begun"
        words = counted if problems else _clean(str(error), request)
        raise Refusal(422, words, problems[:SHOWN]) from None
    lists = {"missing": plan.todo.missing, "cached": plan.todo.made, "quarantined": plan.todo.held}
    lists["turned_down"] = plan.todo.turned_down
    warnings = [_clean(line, request) for line in plan.warnings]
    ids = {name: [each.asset_id for each in journeys] for name, journeys in lists.items()}
    refused = _told(plan.manifest.problems, request)
    return Job(request, time.time(), digest, webhook, ids, refused[:SHOWN], warnings[:SHOWN])


def _told(problems: Iterable[Problem], request: BatchRequest) -> list[dict[str, Any]]:
    """Problems of a manifest; ``row`` is None where no single one is meant. Of files nothing is told, not even whether
    they are there."""
    told = []
    for each in problems:
        allowed = NO_FILES if each.field in FILES else _clean(each.allowed, request)
        told.append({"row": each.row or None, "field": each.field, "value": each.value, "allowed": allowed})
    return told


def _clean(words: str, request: BatchRequest) -> str:
    """Words without secrets and without where things lie on this machine."""
    folder = str(Path(request.manifest).parent)
    return redact(words.replace(request.manifest, "manifest").replace(folder, "the manifest's folder"))


# --- parts of a body -------------------------------------------------------------------------------------------------


def _read(kind: str, parameters: list[tuple[str, str]], body: bytes) -> tuple[Options, bytes]:
    """Options, and the bytes of a manifest."""
    try:
        if kind != "application/json":
            return Options.model_validate(_parameters(parameters)), body
        if parameters:
            raise Refusal(400, f"{parameters[0][0]}: with application/json, options are fields of the body")
        found = Body.model_validate_json(body)
    except ValidationError as error:
        told = [wrong(each) for each in error.errors(include_url=False)[:SHOWN]]
        status = 400 if error.errors()[0]["type"] == "json_invalid" else 422
        raise Refusal(status, f"{error.error_count()} problems of the request; nothing was begun", told) from None
    lines = (json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in found.rows)
    return found, ("\n".join(lines) + "\n").encode()


def _parameters(given: list[tuple[str, str]]) -> dict[str, Any]:
    """The parameters of an address as fields; ``set=geometry.steps=200`` may come several times."""
    found: dict[str, Any] = {}
    for name, value in given:
        if name == "set":
            setting, _, text = value.partition("=")
            found.setdefault("set", {})[setting] = text
        elif name in found:
            raise Refusal(400, f"{name} is given twice")
        else:
            found[name] = value
    return found


def wrong(error: Mapping[str, Any]) -> dict[str, Any]:
    place = list(error["loc"])
    row = place[1] + 1 if place[:1] == ["rows"] and len(place) > 1 else None
    field = ".".join(map(str, place[2:] if row else place))
    value = "" if error["type"] in ("missing", "json_invalid") else repr(error["input"])[:99]
    return {"row": row, "field": field, "value": value, "allowed": str(error["msg"])}


def _overrides(settings: dict[str, Any]) -> dict[str, Any]:
    found, wrong = {}, []
    for name, value in settings.items():
        try:
            known, parsed = parse_override(f"{name}={value if isinstance(value, str) else json.dumps(value)}")
            found[known] = parsed
        except RequestError as error:
            allowed = str(error).partition(": ")[2]
            wrong.append({"row": None, "field": f"set.{name}"[:99], "value": repr(value)[:99], "allowed": allowed})
    if wrong:
        raise Refusal(422, f"{len(wrong)} problems of the request; nothing was begun", wrong)
    return found


def _contracts(told: dict[str, Any]) -> dict[str, Any]:
    """The contracts that were posted, which rows may add to. Raises :class:`Refusal` for what is wrong in them."""
    wrong: list[dict[str, Any]] = []

    def refuse(field: str, value: Any, allowed: str) -> None:
        wrong.append({"row": None, "field": field, "value": repr(value)[:99], "allowed": allowed})

    read_contracts(told, refuse)
    if wrong:
        raise Refusal(422, f"{len(wrong)} problems of the request; nothing was begun", wrong[:SHOWN])
    return told


# --- what the operator allows ----------------------------------------------------------------------------------------


def listed(variable: str) -> set[str]:
    """The entries of a variable that is a list."""
    return {text.strip() for text in os.environ.get(variable, "").split(",") if text.strip()}


def _references(recipe: Recipe) -> dict[str, Any]:
    """The models that a recipe names, by field."""
    return {
        "image_prior": recipe.image_prior,
        "image_lora": recipe.image_lora,
        "image_encoder": recipe.image_encoder,
        "image_config": recipe.image_config,
        "init.point_prior": recipe.init.point_prior,
    }


def _refuse_models(references: Mapping[str, Any], row: int | None = None) -> None:
    """Raise :class:`Refusal` for a model that neither a recipe nor the operator names: it would be a path."""
    allowed = {name for recipe in RECIPES.values() for name in _names(_references(recipe))} | listed(MODELS)
    wrong = [
        {"row": row, "field": field, "value": repr(name)[:99], "allowed": f"a model that a recipe or {MODELS} names"}
        for field in REFERENCES
        for name in _names({field: references.get(field)})
        if name not in allowed
    ]
    if wrong:
        raise Refusal(422, "a model that jobs may not name; nothing was begun", wrong)


def _names(references: Mapping[str, Any]) -> list[str]:
    found: list[str] = []
    for value in references.values():
        entries = value if isinstance(value, (list, tuple)) else [value]
        for entry in entries:
            name = entry.get("path") if isinstance(entry, dict) else getattr(entry, "path", entry)
            found += [str(name)] if name else []
    return found


def _allowed_webhook(address: str) -> str:
    """The address that a job names for its end, if its origin is allowed; empty where it names none."""
    if not address:
        return ""
    try:
        parts = urlsplit(address)
        origin = f"{parts.scheme}://{parts.netloc}"
    except ValueError:
        origin = ""
    if not address.isprintable() or " " in address or origin not in listed(WEBHOOKS):
        allowed = f"an address of one of the origins in the service's {WEBHOOKS}"
        wrong = {"row": None, "field": "webhook", "value": repr(address)[:99], "allowed": allowed}
        raise Refusal(422, "a webhook that is not allowed; nothing was begun", [wrong])
    return address
