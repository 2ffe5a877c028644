"""The one event on disk: an attempt of a stage on an asset, with its metrics and artifacts, finished.

>>> run = StageRun(run_id="r1", asset_id="chair-07", stage="extract_mesh", status="ok", metrics={"faces": 9800})
>>> StageRun.from_json(run.to_json()) == run
True

Everything that the catalogue knows is rows of this shape; all else is a view. A request for an asset, a person's
review and a model's licence are events too (:func:`request`, :func:`review`, :func:`model`), so there is one writer
path and one protocol. ``record.json`` beside a stage's output is :meth:`StageRun.to_json`: the catalogue can be
rebuilt from those files alone.

The schema evolves by addition: a new column gets the next ``since`` and is NULL in every older file. No column is
ever renamed or retyped. What follows from the rest is not stored: such a column retires (:data:`RETIRED`), is passed
over in older files, and the views compute it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from catalog.ids import ID_PATTERN, milliseconds, new_id
from pipeline_core import stages
from pipeline_core.acceptance import Held
from pipeline_core.findings import Finding
from pipeline_core.priors import licences

STATEMENTS = ("request", "review", "model")
"""Events that are no stage: they say something of an asset or a model, and are no work."""


def order() -> tuple[str, ...]:
    """An asset's journey in order: asked for, made stage by stage (``pipeline_core.stages``), reviewed."""
    return ("request", *stages.all_names(), "review")


STATUSES = ("ok", "failed", "skipped", "timeout", "cancelled", "quarantined")
"""``skipped`` = an earlier output was found and used; such a row carries that output's metrics and artifacts."""

ERROR_CLASSES = ("transient", "permanent", "oom", "data")
MAX_ERROR_BYTES = 2048

SOLD = {"open": True, "conditions": True, "non-commercial": False}
"""By class of a licence, whether what the model made may be sold; nobody knows it of an unknown one."""

TIMESTAMP = pa.timestamp("us", tz="UTC")
ARTIFACT = pa.struct(
    [
        ("role", pa.string()),
        ("path", pa.string()),
        ("sha256", pa.string()),
        ("bytes", pa.int64()),
        ("media_type", pa.string()),
    ]
)

FINDING = pa.struct(
    [
        ("code", pa.string()),
        ("severity", pa.string()),
        ("message", pa.string()),
        ("file", pa.string()),
        ("count", pa.int64()),
    ]
)

CLAUSE = pa.struct([("name", pa.string()), ("bound", pa.float64()), ("figure", pa.float64()), ("held", pa.bool_())])


@dataclass(frozen=True)
class Column:
    """One column of the event: its Arrow type, the schema version that brought it, and what it means."""

    name: str
    type: pa.DataType
    description: str
    since: int = 1


COLUMNS = (
    Column("event_id", pa.string(), "UUIDv7 of this attempt; greater ids are later, whatever the clocks said"),
    Column("batch_id", pa.string(), "file and transaction the event was published in"),
    Column("schema_version", pa.int16(), "version of the schema it was written with"),
    Column("run_id", pa.string(), "the batch (night) it belongs to"),
    Column("asset_id", pa.string(), "the asset worked on; the model id for stage = 'model'"),
    Column("stage", pa.string(), "request, a stage of the pipeline, review, or model"),
    Column("attempt", pa.int32(), "1 for the first try within a run, then 2, 3, ..."),
    Column("status", pa.string(), "ok, failed, skipped (earlier output used), timeout, cancelled or quarantined"),
    Column("queued_at", TIMESTAMP, "when the attempt began to wait, UTC by the worker's clock"),
    Column("started_at", TIMESTAMP, "when work began, UTC by the worker's clock"),
    Column("finished_at", TIMESTAMP, "when the attempt ended, UTC by the worker's clock"),
    Column("date", pa.date32(), "UTC day of finished_at"),
    Column("duration_s", pa.float64(), "seconds from started_at to finished_at"),
    Column("queue_s", pa.float64(), "seconds from queued_at to started_at"),
    Column("peak_rss_mb", pa.float64(), "largest resident memory of the process, MiB"),
    Column("peak_vram_mb", pa.float64(), "largest device memory allocated, MiB; NULL without a GPU"),
    Column("gpu_s", pa.float64(), "seconds of GPU time charged to this attempt (its share of a batch); NULL without"),
    Column("host", pa.string(), "host name of the worker"),
    Column("worker_pid", pa.int32(), "process id of the worker"),
    Column("device", pa.string(), "cpu, cuda:0, ..."),
    Column("gpu_name", pa.string(), "model of the GPU; NULL without one"),
    Column("prefect_flow_run_id", pa.string(), "Prefect flow run, for its UI"),
    Column("prefect_task_run_id", pa.string(), "Prefect task run, for its UI"),
    Column("stage_key", pa.string(), "the output lies in stages/<stage>/<stage_key>/"),
    Column("upstream_keys", pa.list_(pa.string()), "stage keys of the outputs it read"),
    Column("recipe", pa.string(), "name of the recipe"),
    Column("config_hash", pa.string(), "fingerprint of the settings that the stage read"),
    Column("code_version", pa.string(), "version of splatmill (and commit, where known)"),
    Column("seed", pa.int64(), "seed of the asset"),
    Column("model_ids", pa.list_(pa.string()), "models that the stage used, as 'reference@revision'"),
    Column("input_sha256", pa.list_(pa.string()), "sha256 of the files it read"),
    Column("error_type", pa.string(), "class of the exception; NULL when all went well"),
    Column("error_class", pa.string(), "transient, permanent, oom or data: what the retry policy made of it"),
    Column("error_message", pa.string(), "what went wrong, at most 2 kB"),
    Column("metrics", pa.map_(pa.string(), pa.float64()), "numbers that the stage measured, by name"),
    Column("tags", pa.map_(pa.string(), pa.string()), "labels of the asset, by name ('category' is one)"),
    Column("artifacts", pa.list_(ARTIFACT), "files that the stage made; paths relative to the library"),
    Column("share_s", pa.float64(), "seconds charged to this attempt: stages share a process's time", 3),
    Column("price_per_hour", pa.float64(), "price of an hour of that process then; NULL where none was set", 3),
    Column("asked_by", pa.string(), "of a request: the user who asked", 3),
    Column("made_with", pa.string(), "of what was made: versions, processor, threads, stages at once, as JSON", 6),
    Column("findings", pa.list_(FINDING), "what validation found wrong with the asset's files; NULL where nothing", 4),
    Column("clauses", pa.list_(CLAUSE), "of the stage accept: the contract's clauses and what became of each", 5),
    Column(
        "spec_json",
        pa.string(),
        "for request and record: the asset's whole specification, and what models could not read of its prompt; "
        "review, model: details",
    ),
)

RETIRED = {1: (Column("stage_idx", pa.int16(), "place of the stage in the journey"),)}
"""Columns that files up to a version have and newer ones do not."""

SCHEMA_VERSION = max(*(column.since for column in COLUMNS), *(last + 1 for last in RETIRED))


def schema_at(version: int) -> pa.Schema:
    """The event's Arrow schema as version ``version`` wrote it."""
    kept = [column for column in COLUMNS if column.since <= version]
    gone = [column for last, columns in RETIRED.items() if version <= last for column in columns]
    return pa.schema([(column.name, column.type) for column in kept + gone])


SCHEMA = schema_at(SCHEMA_VERSION)


@dataclass(frozen=True)
class Artifact:
    """A file that a stage made. ``path`` is relative to the library, with forward slashes; ``bytes`` its size."""

    role: str
    path: str
    sha256: str
    bytes: int
    media_type: str = "application/octet-stream"


STRUCTS: dict[str, type[Any]] = {"artifacts": Artifact, "findings": Finding, "clauses": Held}
"""Columns that are lists of structures, and the class of each."""


@dataclass(frozen=True, kw_only=True)
class StageRun:
    """One finished attempt; columns as in :data:`COLUMNS`. Times are aware datetimes; the rest is computed here."""

    run_id: str
    asset_id: str
    stage: str
    status: str
    attempt: int = 1
    event_id: str = field(default_factory=new_id)
    queued_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    duration_s: float | None = None
    queue_s: float | None = None
    peak_rss_mb: float | None = None
    peak_vram_mb: float | None = None
    gpu_s: float | None = None
    host: str = field(default_factory=socket.gethostname)
    worker_pid: int | None = None
    device: str | None = None
    gpu_name: str | None = None
    prefect_flow_run_id: str | None = None
    prefect_task_run_id: str | None = None
    stage_key: str | None = None
    upstream_keys: tuple[str, ...] = ()
    recipe: str | None = None
    config_hash: str | None = None
    code_version: str | None = None
    seed: int | None = None
    model_ids: tuple[str, ...] = ()
    input_sha256: tuple[str, ...] = ()
    error_type: str | None = None
    error_class: str | None = None
    error_message: str | None = None
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    artifacts: tuple[Artifact, ...] = ()
    spec_json: str | None = None
    share_s: float | None = None
    price_per_hour: float | None = None
    asked_by: str | None = None
    findings: tuple[Finding, ...] = ()
    clauses: tuple[Held, ...] = ()
    made_with: str | None = None

    def __post_init__(self) -> None:
        for name in ("run_id", "asset_id", "stage"):
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty: {self}")
        if self.status not in STATUSES:
            raise ValueError(f"status must be one of {', '.join(STATUSES)}, got {self.status!r}")
        if self.error_class is not None and self.error_class not in ERROR_CLASSES:
            raise ValueError(f"error_class must be one of {', '.join(ERROR_CLASSES)}, got {self.error_class!r}")
        if not ID_PATTERN.fullmatch(self.event_id):
            raise ValueError(f"event_id must be a UUIDv7 in lower case, got {self.event_id!r}")
        for name in ("queued_at", "started_at", "finished_at"):
            value = getattr(self, name)
            if value is not None and value.tzinfo is None:
                raise ValueError(f"{name} must know its time zone, got {value!r}")
        self._normalise()

    def _normalise(self) -> None:
        """Fill what follows from the rest, and bring values to the types that the file will have."""

        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        for name in ("queued_at", "started_at", "finished_at"):
            if getattr(self, name) is not None:
                put(name, getattr(self, name).astimezone(UTC))
        if self.duration_s is None and self.started_at is not None:
            put("duration_s", max(0.0, (self.finished_at - self.started_at).total_seconds()))
        if self.queue_s is None and self.queued_at is not None and self.started_at is not None:
            put("queue_s", max(0.0, (self.started_at - self.queued_at).total_seconds()))
        if self.error_message is not None:
            put("error_message", clip_utf8(self.error_message, MAX_ERROR_BYTES))
        put("metrics", {str(name): float(value) for name, value in self.metrics.items() if value is not None})
        put("tags", {str(name): str(value) for name, value in self.tags.items()})
        for name in ("upstream_keys", "model_ids", "input_sha256", *STRUCTS):
            put(name, tuple(getattr(self, name)))

    def to_json(self) -> dict[str, Any]:
        """The content of ``record.json``: every field by name, times as ISO 8601 UTC, NULL and empty ones left out."""
        document: dict[str, Any] = {"schema_version": SCHEMA_VERSION}
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None or value == () or value == {}:
                continue
            if isinstance(value, datetime):
                value = value.isoformat(timespec="microseconds")
            elif item.name in STRUCTS:
                value = [vars(each).copy() for each in value]
            elif isinstance(value, tuple):
                value = list(value)
            elif isinstance(value, Mapping):
                value = dict(value)
            document[item.name] = value
        return document

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> StageRun:
        """The event that a ``record.json`` describes. Fields of a newer version are passed over.

        Raises ``ValueError``, ``TypeError`` or ``KeyError`` for a document that is no such record.
        """
        known = {item.name for item in fields(cls)}
        values = {name: value for name, value in document.items() if name in known}
        for name in ("queued_at", "started_at", "finished_at"):
            if values.get(name) is not None:
                values[name] = datetime.fromisoformat(values[name])
        for name, kind in STRUCTS.items():
            parts = {item.name for item in fields(kind)}
            values[name] = tuple(
                kind(**{part: value for part, value in each.items() if part in parts}) for each in values.get(name, ())
            )
        if "event_id" not in values or "finished_at" not in values:
            raise ValueError("a stage record must have event_id and finished_at")
        return cls(**values)

    def to_row(self, batch_id: str) -> dict[str, Any]:
        """One row of :data:`SCHEMA`."""
        row = {item.name: getattr(self, item.name) for item in fields(self)}
        row |= {
            "batch_id": batch_id,
            "schema_version": SCHEMA_VERSION,
            "date": self.finished_at.date(),
            "metrics": list(self.metrics.items()),
            "tags": list(self.tags.items()),
            "artifacts": [vars(each) for each in self.artifacts],
            "findings": [vars(each) for each in self.findings] or None,
            "clauses": [vars(each) for each in self.clauses] or None,
        }
        return row


def request(run_id: str, asset_id: str, spec: Mapping[str, Any], **columns: Any) -> StageRun:
    """ "Somebody asked for this asset": ``spec`` is its whole specification (prompt, seed, recipe, tags, budget)."""
    text = json.dumps(spec, sort_keys=True, default=str)
    return StageRun(run_id=run_id, asset_id=asset_id, stage="request", status="ok", spec_json=text, **columns)


def review(asset_id: str, accepted: bool | None, *, by: str, event_id: str | None = None, **said: Any) -> StageRun:
    """A person's verdict on an asset (None takes it back); the latest one counts.

    ``said`` may hold ``stars`` (1 to 5), ``reason`` and ``note``; ``event_id`` the moment in which it was decided.
    """
    verdict = None if accepted is None else "accepted" if accepted else "rejected"
    details = json.dumps({"verdict": verdict, "by": by} | {name: value for name, value in said.items() if value})
    event_id = new_id() if event_id is None else event_id
    return StageRun(
        run_id="review", asset_id=asset_id, stage="review", status="ok", spec_json=details, event_id=event_id,
        finished_at=datetime.fromtimestamp(milliseconds(event_id) / 1000, UTC),
    )  # fmt: skip


def model(model_id: str, *, kind: str, licence: str | None, run_id: str = "models", **details: Any) -> StageRun:
    """A model came into use: ``kind`` is image, point or judge; ``licence`` an SPDX id where there is one.

    ``details`` may hold ``source`` (address) and ``bytes``, and where the licence's name does not tell them, its
    ``licence_class``, ``conditions`` and ``link``. A licence "unknown" counts as none.
    """
    kept = licences.read_back(licence).to_json() | details
    told = kept | {"kind": kind, "licence": None if licence == "unknown" else licence}
    text = json.dumps({"commercial_use": SOLD.get(kept["licence_class"]), **told}, sort_keys=True)
    return StageRun(run_id=run_id, asset_id=model_id, stage="model", status="ok", model_ids=(model_id,), spec_json=text)


def to_table(runs: Sequence[StageRun], batch_id: str) -> pa.Table:
    """The events as a table of :data:`SCHEMA`."""
    return pa.Table.from_pylist([run.to_row(batch_id) for run in runs], schema=SCHEMA)


def conform(table: pa.Table) -> pa.Table:
    """``table`` in the shape of :data:`SCHEMA`: columns it lacks become NULL, columns we do not know are dropped.

    Raises ``pa.ArrowInvalid`` or ``pa.ArrowNotImplementedError`` when a column has a type that cannot be cast.
    """
    columns = []
    for item in SCHEMA:
        at = table.schema.get_field_index(item.name)
        columns.append(pa.nulls(table.num_rows, item.type) if at < 0 else table.column(at).cast(item.type))
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def drift(schema: pa.Schema) -> list[str]:
    """How a file's schema departs from ours, in words; empty when it is ours or an older or newer version of it."""
    found = []
    for name in ("event_id", "asset_id", "stage", "status", "finished_at"):
        if schema.get_field_index(name) < 0:
            found.append(f"lacks the column {name}")
    for item in schema:
        at = SCHEMA.get_field_index(item.name)
        if at >= 0 and _kind(item.type) != _kind(SCHEMA.field(at).type):
            found.append(f"{item.name} is {item.type}, not {SCHEMA.field(at).type}")
    return found


def _kind(data_type: pa.DataType) -> str:
    """Family of types within which a cast keeps the meaning."""
    for name in ("is_string", "is_large_string"):
        if getattr(pa.types, name)(data_type):
            return "text"
    if pa.types.is_integer(data_type) or pa.types.is_floating(data_type):
        return "number"
    if pa.types.is_map(data_type):
        return f"map of {_kind(data_type.key_type)} to {_kind(data_type.item_type)}"
    if pa.types.is_list(data_type) or pa.types.is_large_list(data_type):
        return f"list of {_kind(data_type.value_type)}"
    return "struct" if pa.types.is_struct(data_type) else str(data_type)


def clip_utf8(text: str, limit: int) -> str:
    """``text`` cut to at most ``limit`` bytes of UTF-8, between characters; lone surrogates become '?'."""
    data = text.encode("utf-8", errors="replace")
    return data[:limit].decode("utf-8", errors="ignore")
