"""What all stages have in common: find or make, publish, and one catalogue row for each attempt.

    def work(folder):                       # writes files, returns metrics
        save_points(folder / "points.ply", cloud)
        return {"points": len(cloud)}

    reference = run_stage(journey, "init_points", work)

A *reference* is what tasks hand to each other: ``{"stage", "key", "dir", "outputs"}``, small enough for any database,
with ``dir`` relative to the library.
"""

from __future__ import annotations

import json
import logging
import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from catalog.schema import Artifact, StageRun
from catalog.writer import append
from pipeline_core import logs
from pipeline_core.acceptance import Held, Verdict
from pipeline_core.bucket import Place
from pipeline_core.device import loaded_torch, made_with
from pipeline_core.errors import DamagedInput, error_class
from pipeline_core.findings import Finding
from pipeline_core.models import import_scipy
from pipeline_core.picture import Picture, read_picture
from pipeline_core.secrets import redact_error
from pipeline_core.stages import DELIVERY, named
from pipeline_core.storage import Library
from pipeline_core.version import code_version
from tasks import halt
from tasks.journey import Journey
from tasks.meter import Share, meter, price_per_hour
from tasks.progress import board

Reference = dict[str, Any]


class Measured(dict[str, float]):
    """A stage's metrics, with the findings and clauses that its row shall have beside them."""

    def __init__(
        self, metrics: Mapping[str, float], findings: Sequence[Finding] = (), clauses: Sequence[Held] = ()
    ) -> None:
        super().__init__(metrics)
        self.findings, self.clauses = tuple(findings), tuple(clauses)


Work = Callable[[Path], Mapping[str, float]]

OF_THE_DISK = ("mtime_ns", "tag")
"""What a record's artifacts have that the catalogue has not: by it a later look is spared the sha256."""

Publish = Callable[[Journey, Path, StageRun, list[dict[str, Any]]], dict[str, Any]]
"""Makes a workspace's files and their row public; returns the record that holds from then on."""


def publish_output(journey: Journey, folder: Path, run: StageRun, outputs: list[dict[str, Any]]) -> dict[str, Any]:
    """How a stage publishes: its files become ``stages/<stage>/<key>/``, then its row is appended."""
    assert run.stage_key
    record = Library(journey.library).publish(folder, run.stage, run.stage_key, with_times(run, outputs))
    append(journey.library, [StageRun.from_json(record)])
    return record


@dataclass(frozen=True)
class Publication:
    """Where a stage's files come to lie, and how they are published."""

    place: Callable[[Library, Journey, str], Place]
    publish: Publish


IN_STAGES = Publication(lambda library, journey, stage: library.stage_dir(stage, journey.keys[stage]), publish_output)


def run_stage(
    journey: Journey,
    stage: str,
    work: Work,
    upstream: tuple[Reference, ...] = (),
    publication: Publication = IN_STAGES,
) -> Reference:
    """Find the stage's output or make it with ``work``. Raises what ``work`` raises, after a row that tells of it."""
    halt.check()
    library, key = Library(journey.library), journey.keys[stage]
    board.update(journey.asset_id, state="running", stage=stage)
    found = library.find(stage, key, quick=True)
    if found is not None:
        # a kill may have come between the output and its row; appending the same event again changes nothing
        append(journey.library, [StageRun.from_json(found)])
        append(journey.library, [reused(journey, stage, found, upstream)])
        tell(journey, stage, "found")
        return reference(stage, key, found)
    started = datetime.now(UTC)
    tell(journey, stage, "begin")
    with meter.share() as share:
        return _make(journey, stage, work, upstream, publication, started, share)


def _make(
    journey: Journey,
    stage: str,
    work: Work,
    upstream: tuple[Reference, ...],
    publication: Publication,
    started: datetime,
    share: Share,
) -> Reference:
    """Make the output and publish it, or leave a row that tells why not."""
    library, key = Library(journey.library), journey.keys[stage]
    try:
        with library.workspace() as folder:
            import_scipy()
            metrics = work(folder)
            lists = {name: getattr(metrics, name, ()) for name in ("findings", "clauses")}
            outputs = library.outputs(folder, publication.place(library, journey, stage))
            run = stage_run(
                journey, stage, "ok", started, metrics=metrics, upstream=upstream, outputs=outputs,
                spec_json=whole_request(journey, stage), share_s=share(), **lists,
                made_with=json.dumps(made_with() | {"at_once": str(share.most)}),
            )  # fmt: skip
            record = publication.publish(journey, folder, run, outputs)
        if record["event_id"] != run.event_id:  # another process was faster: its output counts, ours is told of
            append(journey.library, [reused(journey, stage, record, upstream)])
    except BaseException as error:
        redact_error(error)
        # an engine that was closed under a stage is no fault of the asset's
        reason = CancelledError("the run was stopped") if halt.pulled() else error
        row = failed(journey, stage, started, reason, upstream, share())
        append(journey.library, [row], keep=True)
        tell(journey, stage, row.status, row)
        if reason is error:
            raise
        raise reason from error
    tell(journey, stage, "end", run)
    return reference(stage, key, record)


def tell(journey: Journey, stage: str, event: str, row: StageRun | None = None) -> None:
    """Have the log tell of a stage (``pipeline_core.logs``); ``row`` is its attempt's, once that is over."""
    fields: dict[str, Any] = {"run": journey.run_id, "asset": journey.asset_id, "stage": stage}
    if row is not None:
        fields["seconds"] = row.duration_s
    if row is not None and row.error_type:
        fields |= {"error_class": row.error_class, "error_type": row.error_type, "why": row.error_message}
    logs.event(event, level=logging.ERROR if event in ("failed", "timeout") else logging.INFO, **fields)


def whole_request(journey: Journey, stage: str) -> str | None:
    """The request as JSON, with what models could not read of its prompt, for the row of a stage whose key it enters as
    a whole; None for others."""
    return json.dumps(journey.spec.to_json() | journey.told(), sort_keys=True) if "spec" in named(stage).reads else None


def reference(stage: str, key: str, record: Mapping[str, Any]) -> Reference:
    """What a task hands on: names and hashes of files, not their contents."""
    outputs = {Path(artifact["path"]).name: artifact["sha256"] for artifact in record["artifacts"]}
    return {"stage": stage, "key": key, "dir": f"stages/{stage}/{key}", "outputs": outputs}


def path_of(journey: Journey, upstream: Reference, name: str) -> Path:
    """Where an upstream output lies on this machine; raises :class:`DamagedInput` when it is not what was made."""
    path = Library(journey.library).whole_file(upstream["stage"], upstream["key"], name)
    if path is None:
        raise DamagedInput(f"{upstream['dir']} is not what {upstream['stage']} made; it will be made again")
    return path


def told_by(journey: Journey, upstream: Reference, name: str) -> dict[str, Any]:
    """What an upstream output's JSON file says; raises as :func:`path_of` does."""
    told: dict[str, Any] = json.loads(path_of(journey, upstream, name).read_bytes())
    return told


def verdict_of(journey: Journey, accepted: Reference) -> Verdict:
    """What the stage accept made of an asset, by the reference to it."""
    return Verdict.from_json(told_by(journey, accepted, "verdict.json"))


def input_of(journey: Journey, column: str) -> Path:
    """The library's copy of the file that the row named in ``column``.

    Raises :class:`DamagedInput` when it is gone or is not what was planned.
    """
    ref = journey.spec.files[column]
    path = Library(journey.library).whole_input(ref)
    if path is None:
        raise DamagedInput(
            f"{column} {ref.name}: the library's copy, inputs/{ref.file}, is gone or not what was planned (did the "
            "file change while the run began?); run the manifest again, which copies it anew"
        )
    return path


def picture_of(journey: Journey) -> Picture | None:
    """The image that the row gave, cut out and centred; None where it gave none. Raises as :func:`input_of` does."""
    if journey.spec.image is None:
        return None
    return read_picture(input_of(journey, "image"), elevation=journey.spec.image_elevation)


def stage_run(
    journey: Journey,
    stage: str,
    status: str,
    started: datetime,
    *,
    metrics: Mapping[str, float] | None = None,
    upstream: tuple[Reference, ...] = (),
    outputs: list[dict[str, Any]] | None = None,
    share_s: float | None = None,
    **columns: Any,
) -> StageRun:
    """The catalogue row of one attempt, with what is known of this process and of Prefect's run."""
    row, torch = named(stage), loaded_torch()
    gpu = torch.cuda if torch is not None and torch.cuda.is_available() else None
    return StageRun(
        run_id=journey.run_id,
        asset_id=journey.asset_id,
        stage=stage,
        status=status,
        started_at=started,
        peak_rss_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        peak_vram_mb=gpu.max_memory_allocated() / 2**20 if gpu else None,
        share_s=share_s,
        gpu_s=share_s if gpu else None,
        price_per_hour=None if share_s is None else price_per_hour(),
        worker_pid=os.getpid(),
        device="cuda" if gpu else "cpu",
        gpu_name=gpu.get_device_name() if gpu else None,
        stage_key=journey.keys[stage],
        upstream_keys=(*(each["key"] for each in upstream), *(journey.kept if stage == DELIVERY else ())),
        recipe=journey.spec.recipe.name,
        config_hash=journey.configs[stage],
        code_version=code_version(),
        seed=journey.spec.seed,
        model_ids=tuple(journey.models[kind] for kind in row.models_used(journey.spec.recipe)),
        input_sha256=(
            *(sha256 for each in upstream for sha256 in each["outputs"].values()),
            *(ref.sha256 for column, ref in journey.spec.files.items() if column in row.reads),
        ),
        metrics=metrics or {},
        tags=journey.spec.tags,
        artifacts=tuple(Artifact(**{k: v for k, v in each.items() if k not in OF_THE_DISK}) for each in outputs or ()),
        **prefect_columns(),
        **columns,
    )


def with_times(run: StageRun, outputs: list[dict[str, Any]]) -> dict[str, Any]:
    """What ``record.json`` holds: the row, and each file's time of change, which spares a later look the sha256."""
    document = run.to_json()
    document["artifacts"] = outputs
    return document


def reused(journey: Journey, stage: str, found: Mapping[str, Any], upstream: tuple[Reference, ...]) -> StageRun:
    """The row of a stage whose output was there already: another run or another asset had made it."""
    earlier = StageRun.from_json(found)
    return stage_run(
        journey,
        stage,
        "skipped",
        datetime.now(UTC),
        metrics=earlier.metrics,
        findings=earlier.findings,
        clauses=earlier.clauses,
        upstream=upstream,
        outputs=[dict(each) for each in found["artifacts"]],
        spec_json=found.get("spec_json"),
        made_with=found.get("made_with"),
    )


def failed(
    journey: Journey,
    stage: str,
    started: datetime,
    error: BaseException,
    upstream: tuple[Reference, ...],
    share_s: float,
) -> StageRun:
    """The row of an attempt that raised."""
    stopped = isinstance(error, (CancelledError, KeyboardInterrupt, SystemExit))
    timed_out = isinstance(error, TimeoutError)
    return stage_run(
        journey,
        stage,
        "cancelled" if stopped else "timeout" if timed_out else "failed",
        started,
        upstream=upstream,
        share_s=share_s,
        error_type=type(error).__name__,
        error_class=error_class(error),
        error_message=str(error) or type(error).__name__,
    )


def prefect_columns() -> dict[str, Any]:
    """Ids of Prefect's flow and task run and the attempt's number; nothing when a stage runs without Prefect."""
    if "prefect" not in sys.modules:
        return {}
    from prefect.context import TaskRunContext

    context = TaskRunContext.get()
    if context is None:
        return {}
    run = context.task_run
    return {
        "prefect_flow_run_id": str(run.flow_run_id) if run.flow_run_id else None,
        "prefect_task_run_id": str(run.id),
        "attempt": max(1, run.run_count),
    }
