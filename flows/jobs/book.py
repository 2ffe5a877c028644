"""Jobs as they lie in the library, and what became of them. Files alone tell; any process may be killed at any time.

    <library>/runs/<job>/job.json            what was accepted; made once, never changed
                         job/<sha256>.csv    the manifest (or .jsonl)
                         job/log             what the job's process said
                         job/starts.json     how often a process was started for it on this machine
                         job/broken.json     why it cannot be made
                         job/told.json       the webhook: what is told, and whether it arrived (flows.jobs.keeper)

A job that came with an ``Idempotency-Key`` is named by it, so that the same key finds the same job, whatever process of
whatever host is asked.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any

from catalog import query
from catalog.ids import new_id
from flows.account import SILENT_S, SO_FAR_SQL
from flows.asked import ASKED
from flows.batch import BatchRequest, hold_to_contracts
from flows.farm import beats, marks
from flows.farm.runs import REQUEST
from flows.summary import SUMMARY, Summary, write_summary
from pipeline_core.bucket import Place
from pipeline_core.deliverables import DELIVERABLES, PROVENANCE
from pipeline_core.files import create, write_json
from pipeline_core.storage import Library

JOB, FOLDER = "job.json", "job"
LOG, STARTS, LOCK = f"{FOLDER}/log", f"{FOLDER}/starts.json", f"{FOLDER}/lock"
BROKEN, TOLD = f"{FOLDER}/broken.json", f"{FOLDER}/told.json"
NAME = re.compile("job-[0-9a-f-]{24,36}")
"""A job's id, which is its run's."""
FILES = frozenset([*(row.file for row in DELIVERABLES), PROVENANCE])
"""What may be fetched of an asset."""


@dataclass(frozen=True)
class Job:
    """What was accepted. ``digest``: sha256 of what was posted. ``assets``: ids, as they stood then. ``webhook``: where
    its end is told; empty = at the site's own address, if there is one."""

    request: BatchRequest
    at: float
    digest: str
    webhook: str = ""
    assets: dict[str, list[str]] = field(default_factory=dict)
    refused: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        """The job's id."""
        return self.request.run_id

    @cached_property
    def folder(self) -> Place:
        """The run's folder."""
        return self.request.folder

    @property
    def cancelled(self) -> str:
        """By whom and when it was cancelled; empty where it was not."""
        return marks.cancelled(self.folder)

    @property
    def broken(self) -> str:
        """Why it cannot be made; empty where it can."""
        return read(self.folder / BROKEN).get("why", "")

    def summary(self) -> Summary | None:
        """How it ended; None while it has not. What was interrupted on this machine and not cancelled goes on."""
        told = read(self.folder / SUMMARY)
        if not told:
            return None
        summary = Summary(**{each.name: told[each.name] for each in fields(Summary) if each.name in told})
        final = not summary.stopped or self.cancelled or (self.folder / REQUEST).exists()
        return summary if final else None

    @property
    def over(self) -> bool:
        """Whether nothing more will be made of it."""
        return bool(self.broken) or self.summary() is not None

    def at_work(self) -> bool:
        """Whether a process of it gives signs of life."""
        return any(b.state == "live" and not b.gone and b.age_s < SILENT_S for b in beats.read(self.folder).values())


def name_for(user: str, key: str) -> str:
    """The id of the job that ``user`` posts with an idempotency key, or without one."""
    digest = hashlib.sha256("\0".join([user, key]).encode()).hexdigest()[:32]
    return f"job-{digest}" if key else f"job-{new_id()}"


def accept(job: Job) -> bool:
    """Put a job down; False where one of its id is there."""
    document = {
        "request": job.request.model_dump(mode="json"), "at": job.at, "digest": job.digest, "webhook": job.webhook,
        "assets": job.assets, "refused": job.refused, "warnings": job.warnings,
    }  # fmt: skip
    return create(job.folder / JOB, json.dumps(document, ensure_ascii=False).encode())


def find(library: str, name: str) -> Job | None:
    """The job of this id; None where there is none. ``name`` may be anything."""
    if not NAME.fullmatch(name):
        return None
    told = read(Library(library).run_dir(name) / JOB)
    return Job(**told | {"request": BatchRequest.model_validate(told["request"])}) if told else None


def names(library: str) -> Iterator[str]:
    """Ids of what may be jobs: whoever was killed while one was put down left a folder without one."""
    runs = Library(library).root / "runs"
    return (path.name for path in runs.iterdir() if NAME.fullmatch(path.name)) if runs.is_dir() else iter(())


def end_unbegun(job: Job) -> None:
    """Write the summary of a job that was cancelled while no process made it."""
    Library(job.request.library).create()
    summary = Summary(
        job.name, job.request.library, job.request.manifest, asked=sum(map(len, job.assets.values())),
        stopped=job.assets["missing"], stopped_why=job.cancelled, cached=job.assets["cached"],
        quarantined=job.assets["quarantined"], warnings=job.warnings,
    )  # fmt: skip
    write_summary(job.folder, summary)


def give_up(job: Job, why: str) -> None:
    """Put down why a job cannot be made."""
    write_json(job.folder / BROKEN, {"why": why})


def read(path: Place) -> dict[str, Any]:
    """A document of a job; empty where there is none."""
    try:
        told = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    return told if isinstance(told, dict) else {}


# --- what became of it -----------------------------------------------------------------------------------------------


def document(job: Job) -> dict[str, Any]:
    """A job as its asker sees it."""
    summary, broken, cancelled = job.summary(), job.broken, job.cancelled
    state = "running" if job.at_work() else "queued"
    if broken or summary:
        state = "broken" if broken else "cancelled" if cancelled else "done"
    assets = standing(job)
    counts = {"asked": len(assets)} | dict.fromkeys(STATES, 0)
    for each in assets:
        counts[each["state"]] += 1
    counts["unjudged"] = sum("why" in each and each["state"] != "rejected" for each in assets)
    told = read(job.folder / TOLD)
    return {
        "id": job.name,
        "state": state,
        "ok": summary.ok if summary and not broken else False if broken else None,
        "user": job.request.asked_by,
        "submitted_at": job.at,
        "seconds": summary.seconds if summary else None,
        "assets": counts,
        "failures": [each for each in assets if each["state"] == "failed"][:SHOWN],
        "left_why": summary.left_why if summary else "",
        "why": broken or cancelled,
        "refused": job.refused,
        "warnings": job.warnings,
        "webhook": {name: told[name] for name in ("wanted", "sent", "tries", "error")} if told else None,
    }


STATES = ("made", "cached", "rejected", "failed", "stopped", "left", "quarantined", "waiting")
"""made, or there already; rejected by its contract; failed; stopped because it was cancelled; left because of a
deadline or budget; passed over because it failed before; waiting or under way."""
SHOWN = 100
"""So many failures are in a job's document; its assets have all."""


def standing(job: Job) -> list[dict[str, Any]]:
    """Every asset of a job with its state, the error of those that failed, and why others are rejected or unjudged."""
    summary = job.summary()
    state = dict.fromkeys((name for each in job.assets.values() for name in each), "waiting")
    state |= dict.fromkeys(job.assets["cached"], "cached") | dict.fromkeys(job.assets["quarantined"], "quarantined")
    state |= dict.fromkeys(job.assets.get("turned_down", ()), "rejected")
    errors: dict[str, Any] = {}
    if summary:
        for name in ("made", "cached", "stopped", "left", "quarantined"):
            state |= dict.fromkeys(getattr(summary, name), name)
        # what an earlier process of the job made, its last one found
        state |= {name: "made" for name in job.assets["missing"] if state[name] == "cached"}
        errors = {each["asset_id"]: each for each in summary.failures}
    elif (job.folder / ASKED).exists():  # it was begun
        for row in query.rows(job.request.library, SO_FAR_SQL, [job.name]):
            if row["made"]:
                state[row["asset_id"]] = "made"
            elif row["why"] and row["status"] != "cancelled":
                errors[row["asset_id"]] = row["why"]
    if not summary:
        there = [name for name, how in state.items() if how in ("made", "cached", "rejected")]
        hold_to_contracts(job.request.library, summary := Summary(job.name, job.request.library, "", made=there))
    state |= {each["asset_id"]: "rejected" for each in summary.rejected}
    state |= dict.fromkeys(errors, "failed")
    why = {each["asset_id"]: {"why": each["why"]} for each in (*summary.rejected, *summary.unjudged)}
    return [
        {"asset_id": name, "state": how} | ({"error": _error(errors[name])} if how == "failed" else why.get(name, {}))
        for name, how in state.items()
    ]


def _error(told: dict[str, Any]) -> dict[str, Any]:
    return {name: told.get(name) for name in ("stage", "error_class", "error_type", "message")}


def files_of(job: Job, asset_id: str) -> dict[str, Any]:
    """Size and sha256 of an asset's files by name; empty where it is not there. ``asset_id`` is one of the job's."""
    folder = Library(job.request.library).asset_dir(asset_id)
    try:
        files = json.loads((folder / PROVENANCE).read_bytes()).get("files", {})
    except (OSError, ValueError):
        return {}
    return {name: files.get(name, {}) for name in sorted(FILES) if (folder / name).is_file()}
