"""People's verdicts on assets: given at the command line, on the served gallery, or in a file that its page wrote.

    {"decisions": [{"id": "019...", "asset_id": "chair-07", "verdict": "accepted", "stars": 4, "by": "ana"}]}

A decision's id is a UUIDv7 that the page draws when the decision is made, and becomes the event's: a file that is
imported twice is recorded once, and of two decisions on an asset the one that was made later counts, whichever comes
first.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from catalog import ids, query, schema
from catalog.ids import ID_PATTERN, new_id
from catalog.store import Store, open_store
from catalog.writer import append
from pipeline_core.errors import RequestError

AHEAD_MS = 3_600_000
"""So far may the clock of whoever decides be ahead of ours; a later id would outlive every verdict to come."""
MOST = 100_000
"""So many decisions may a file have."""


class Decision(BaseModel):
    """What a person says of an asset, whole: a decision without a verdict takes an earlier one back."""

    model_config = ConfigDict(extra="forbid")

    id: str = Field(default_factory=new_id, description="UUIDv7 of the moment in which it was made")
    asset_id: str = Field(min_length=1)
    verdict: Literal["accepted", "rejected"] | None = None
    stars: int | None = Field(default=None, ge=1, le=5)
    reason: str = Field(default="", max_length=80, description="why, in a few words that others use too")
    note: str = Field(default="", max_length=1000)
    by: str = Field(min_length=1, max_length=64)

    @field_validator("id")
    @classmethod
    def _is_an_id_of_today(cls, value: str) -> str:
        if not ID_PATTERN.fullmatch(value):
            raise ValueError("must be a UUIDv7 in lower case, as the gallery draws it")
        if ids.milliseconds(value) > time.time_ns() // 1_000_000 + AHEAD_MS:
            raise ValueError("is of a time to come: set the clock of the machine that the page was open on")
        return value

    def event(self) -> schema.StageRun:
        """The catalogue's row of it."""
        accepted = None if self.verdict is None else self.verdict == "accepted"
        said = {"stars": self.stars, "reason": self.reason, "note": self.note}
        return schema.review(self.asset_id, accepted, by=self.by, event_id=self.id, **said)


@dataclass
class Report:
    """What became of decisions. ``newer``: the standing verdicts of assets whose decision was made before them."""

    recorded: int = 0
    known: int = 0
    newer: list[dict[str, Any]] = field(default_factory=list)


def decisions_of(document: Any, where: str) -> list[Decision]:
    """The decisions of a JSON document. Raises :class:`RequestError` that names each bad one's place and field."""
    rows = document.get("decisions") if isinstance(document, dict) else None
    if not isinstance(rows, list):
        raise RequestError(f'{where}: no file of decisions, which is {{"decisions": [...]}} as the gallery saves it')
    if len(rows) > MOST:
        raise RequestError(f"{where}: {len(rows)} decisions; at most {MOST} in a file")
    found, wrong = [], []
    for number, row in enumerate(rows, 1):
        try:
            found.append(Decision.model_validate(row))
        except ValidationError as error:
            for each in error.errors(include_url=False, include_context=False):
                name = ".".join(str(part) for part in each["loc"]) or "it"
                wrong.append(f"{where}, decision {number}: {name}={str(each['input'])[:60]!r}: {each['msg']}")
    if wrong:
        more = f"; {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise RequestError("; ".join(wrong[:5]) + more + ". Nothing was recorded")
    return found


def record(library: str | os.PathLike[str] | Store, decisions: Sequence[Decision]) -> Report:
    """Append the decisions that the catalogue lacks, as one transaction.

    Raises :class:`RequestError` where an asset is not the library's, and ``LeaseHeld`` while another process records.
    """
    store, report = open_store(library), Report()
    if not decisions:
        return report
    if not store.exists():
        raise RequestError(f"no library at {store.library}: give --library or set SPLATMILL_LIBRARY")
    with store.lease("review"):
        with query.connect(store) as con:
            there = con.execute("select distinct asset_id from stage_runs where stage <> 'model'").fetchall()
            standing = con.sql("select * from reviews").to_arrow_table().to_pylist()
        if unknown := sorted({each.asset_id for each in decisions} - {row[0] for row in there}):
            more = f" and {len(unknown) - 5} more" if len(unknown) > 5 else ""
            raise RequestError(
                f"there is no asset {', '.join(repr(each) for each in unknown[:5])}{more} in {store.library}. "
                "Nothing was recorded"
            )
        known = {row["event_id"] for row in standing}
        latest = {row["asset_id"]: row for row in standing if row["is_latest"]}
        fresh = sorted({each.id: each for each in decisions if each.id not in known}.values(), key=lambda each: each.id)
        if fresh:
            append(store, [each.event() for each in fresh], keep=True)
    report.recorded, report.known = len(fresh), len(decisions) - len(fresh)
    report.newer = [
        latest[each.asset_id] for each in {each.asset_id: each for each in fresh}.values()
        if latest.get(each.asset_id, {"event_id": ""})["event_id"] > each.id
    ]  # fmt: skip
    return report


def told(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row of the view ``reviews`` as the gallery's page is told of it; ``at`` in milliseconds since 1970."""
    said = {name: row[name] for name in ("asset_id", "verdict", "stars", "reason", "note")}
    return said | {"id": row["event_id"], "by": row["reviewed_by"], "at": round(row["reviewed_at"].timestamp() * 1000)}
