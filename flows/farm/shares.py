"""Divides a farm's workers among those whose runs wait for it: users, or the values of a tag, by their weights.

    <library>/shares.yaml       by: user                      # or the name of a tag
                                shares:
                                  ana: {weight: 2}
                                  ben: {limit: 4}             # at most so many shards in the queue and at work

Without the file every user has the same weight. Shares only count while several wait: who is alone has the farm. Then
each has as many shards in the queue as keep his part of the workers busy, those beyond are taken back, shards become
short, and those at work that hold another's part give way after the assets that they have begun.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from flows.farm import marks
from flows.farm.protocol import Farm, Shard
from flows.farm.runs import Run, open_runs, read_run
from pipeline_core.errors import RequestError
from pipeline_core.storage import Library

log = logging.getLogger("splatmill")

FILE = "shares.yaml"
TURN_S = 300.0
"""While several wait, a shard is about so long, and one that holds a part of a worker that is another's ends then."""


class Share(BaseModel):
    """What a user, or a tag's value, gets: a weight beside the others', and at most so many shards at a time."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weight: float = Field(1.0, gt=0, le=1e6)
    limit: int | None = Field(None, ge=1)


class Rules(BaseModel):
    """The file. ``by``: user, or the name of a tag. Who is not named has a weight of 1."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    by: str = Field("user", min_length=1, max_length=64)
    shares: dict[str, Share] = {}

    def of(self, who: str) -> Share:
        """The share of a user or a tag's value."""
        return self.shares.get(who, Share())


def rules(library: str) -> Rules:
    """The library's rules. Raises :class:`RequestError` for a file that cannot be used."""
    path = Library(library).root / FILE
    try:
        return Rules.model_validate(yaml.safe_load(path.read_text("utf-8")) or {})
    except FileNotFoundError:
        return Rules()
    except ValidationError as error:
        wrong = error.errors()[0]
        where = ".".join(map(str, wrong["loc"])) or "the file"
        raise RequestError(f"{path}, {where}, {wrong['input']!r}: {wrong['msg']}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RequestError(f"{path} cannot be read ({str(error).splitlines()[0]}); mend it, or remove it") from None


@dataclass(frozen=True)
class Claim:
    """An open run that wants workers. ``giving_way``: shards that end early. ``more``: not all of it is queued."""

    run_id: str
    who: str
    priority: int
    opened: float
    shards: tuple[Shard, ...]
    giving_way: frozenset[str] = frozenset()
    more: bool = True

    @property
    def held(self) -> list[Shard]:
        """Open shards that stay, oldest first."""
        return sorted((s for s in self.shards if s.open and s.id not in self.giving_way), key=lambda s: s.since)

    @property
    def queued(self) -> list[Shard]:
        """Those that no worker has taken."""
        return [shard for shard in self.held if shard.state == "scheduled"]

    @property
    def at_work(self) -> list[Shard]:
        """Those that hold a worker."""
        return [shard for shard in self.held if shard.state != "scheduled"]


@dataclass
class Turn:
    """What a run may do. ``room``: shards that it may queue (None = any number). ``take_back``: ids of queued shards
    beyond its part. ``give_way``: of shards at work that hold another's. ``short``: others wait. ``told``: in words."""

    who: str = ""
    room: int | None = None
    take_back: list[str] = field(default_factory=list)
    give_way: list[str] = field(default_factory=list)
    short: bool = False
    told: str = ""


def look(library: str, farm: Farm) -> dict[str, Turn]:
    """Whose turn it is, by run. Paused and cancelled runs wait for nothing."""
    known, runs = _known(library), []
    for folder in open_runs(library):
        try:
            run = read_run(folder)
        except RequestError:
            continue  # reconcile tells of it
        if not marks.cancelled(folder) and not marks.paused(folder):
            runs.append(run)
    if len(runs) < 2 and not any(share.limit for share in known.shares.values()):
        return {}
    return turns([_claim(run, known, farm) for run in runs], known, farm.workers(), datetime.now(UTC))


def _known(library: str) -> Rules:
    """The rules; where their file is wrong, that is told, and all are equal: a word in a file stops no farm."""
    try:
        return rules(library)
    except RequestError as error:
        log.warning("%s: until then all have equal shares", error)
        return Rules()


def _claim(run: Run, known: Rules, farm: Farm) -> Claim:
    shards, excused = farm.shards(run.request.run_id), marks.excuses(run.folder)
    settled = {
        name for shard in shards for name in shard.assets
        if shard.open or (shard.state in ("completed", "failed") and shard.id not in excused)
    }  # fmt: skip
    who = run.request.asked_by if known.by == "user" else run.tags.get(known.by, "")
    more = any(name not in settled for name in run.todo)
    giving_way = marks.giving_way(run.folder)
    return Claim(run.request.run_id, who, run.request.priority, run.opened, tuple(shards), giving_way, more)


def turns(claims: Sequence[Claim], known: Rules, workers: int, now: datetime) -> dict[str, Turn]:
    """Whose turn it is, by run. ``now`` tells how long shards are at work."""
    parties: dict[str, list[Claim]] = {}
    for claim in sorted(claims, key=lambda each: (each.priority, each.opened)):
        if claim.more or claim.held:
            parties.setdefault(claim.who, []).append(claim)
    found = {claim.run_id: Turn(claim.who) for claim in claims}
    parts = divide(workers, {who: _wants(theirs, known.of(who), workers) for who, theirs in parties.items()})
    came = {who: min(each.opened for each in theirs) for who, theirs in parties.items()}
    for who, theirs in parties.items():
        others_came = max((when for other, when in came.items() if other != who), default=None)
        _queue(theirs, found, known.of(who), parts[who], others_came)
    if len(parties) > 1:
        _make_way(parties, found, parts, workers, now)
        for who, theirs in parties.items():
            others = ", ".join(sorted(other or "nobody's name" for other in parties if other != who))
            for claim in theirs:
                turn = found[claim.run_id]
                turn.short = True
                turn.told = f"{who or 'nobody'} has {parts[who]:.3g} of {workers} workers while {others} waits"
    return found


def divide(workers: int, wants: Mapping[str, tuple[float, float]]) -> dict[str, float]:
    """Parts of ``workers`` by (weight, most) of each: what one does not want is divided among the others."""
    parts, rest, open_ = dict.fromkeys(wants, 0.0), float(workers), dict(wants)
    while open_ and rest > 1e-9:
        unit = rest / sum(weight for weight, _ in open_.values())
        full = {who: most for who, (weight, most) in open_.items() if most <= weight * unit}
        if not full:
            return parts | {who: weight * unit for who, (weight, _) in open_.items()}
        for who, most in full.items():
            parts[who] = most
            rest -= most
            del open_[who]
    return parts


def _wants(theirs: Sequence[Claim], share: Share, workers: int) -> tuple[float, float]:
    most = float(workers) if any(each.more for each in theirs) else min(workers, sum(len(each.held) for each in theirs))
    return share.weight, min(most, share.limit or most)


def _queue(
    theirs: Sequence[Claim], found: dict[str, Turn], share: Share, part: float, others_came: float | None
) -> None:
    """How many shards a party's runs may have: its part of the workers, and half as many that wait, at least one.

    ``others_came``: when the last of the others did (seconds since 1970), None where there are none. What was queued
    before is longer than a turn, and would go first.
    """
    if others_came is None and share.limit is None:
        return
    most = max(1, math.ceil(part)) + max(1, math.ceil(part / 2)) if others_came is not None else math.inf
    room = min(most, share.limit or most) - sum(len(each.held) for each in theirs)
    for claim in reversed(theirs):  # what is least urgent is taken back first, and there what came last
        long = [shard for shard in claim.queued if others_came and shard.since.timestamp() < others_came]
        rest = [shard for shard in claim.queued if shard not in long]
        room += len(long)
        back = rest[int(max(0, len(rest) + min(0, room))) :]
        found[claim.run_id].take_back = [shard.id for shard in long + back]
        room += len(back)
    for claim in theirs:
        more = claim.more or bool(found[claim.run_id].take_back)
        found[claim.run_id].room = max(0, int(room)) if more else 0
        room = 0 if more else room


def _make_way(
    parties: Mapping[str, list[Claim]], found: dict[str, Turn], parts: Mapping[str, float], workers: int, now: datetime
) -> None:
    """Have as many shards give way as others lack workers: at once where a whole worker is held too many, and after a
    turn where a part of one is."""
    at_work = {who: sum(len(each.at_work) for each in theirs) for who, theirs in parties.items()}
    leaving = sum(s.open and s.id in c.giving_way for theirs in parties.values() for c in theirs for s in c.shards)
    lacking = sum(max(0, math.ceil(parts[who] - count - 1e-9)) for who, count in at_work.items())
    lacking -= leaving + max(0, workers - sum(at_work.values()) - leaving)
    for who, theirs in sorted(parties.items(), key=lambda each: parts[each[0]] - at_work[each[0]]):
        held = sorted(((s, c) for c in theirs for s in c.at_work), key=lambda pair: pair[0].since)
        over = at_work[who] - parts[who]
        for shard, claim in held:
            long = (now - shard.since).total_seconds() >= TURN_S
            if lacking <= 0 or over <= 1e-9 or (over < 1 - 1e-9 and not long):
                break
            found[claim.run_id].give_way.append(shard.id)
            lacking, over = lacking - 1, over - 1
