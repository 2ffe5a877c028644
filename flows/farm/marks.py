"""What people, and workers that cannot help, put down in a run's folder; ``reconcile`` and shards act on it.

<library>/runs/<run_id>/cancelled.json         somebody cancelled the run: it makes nothing more
                        paused.json            somebody paused it: no shard begins until the file is gone
                        excused/<id>.json      a shard's flow run that ended without making its assets, and why; it
                                               says nothing about these
                        way/<id>            the shard ends after the assets that it has begun: it is another's turn
                        share.json          what part of the farm the run has while others wait (flows.farm.shares)
                        excused/<id>.json has  kind, why, worker, host, code

A worker turns a shard away when the stages of its code have other versions (``pipeline_core.stages``) than those of
the code that submitted the shard: what it made would lie under other keys. A difference that no stage's version tells,
of commands or of this wing, turns nothing away.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline_core.bucket import Place
from pipeline_core.files import write_json
from pipeline_core.stages import STAGES
from pipeline_core.version import code_version
from tasks.requests import user

if TYPE_CHECKING:
    from flows.batch import BatchRequest

CANCELLED, PAUSED, EXCUSED, WAY, SHARE = "cancelled.json", "paused.json", "excused", "way", "share.json"
VERSION, PAUSE = "version", "pause"
AGAIN_S = 60.0
"""So long nothing is submitted after every worker turned a shard away; twice as long after the next one."""


@dataclass(frozen=True)
class Excuse:
    """Why a shard ended without making its assets. ``at``: seconds since 1970, by the library's disk."""

    shard: str
    kind: str
    why: str
    at: float


# --- what people ask for ---------------------------------------------------------------------------------------------


def put(folder: Place, mark: str, by: str = "") -> None:
    """Leave a mark, in the name of ``by`` or of this process's user."""
    write_json(folder / mark, {"by": by or user(), "at": time.time()})


def lift(folder: Place, mark: str) -> bool:
    """Take a mark away; False where there is none."""
    try:
        (folder / mark).unlink()
        return True
    except FileNotFoundError:
        return False


def cancelled(folder: Place) -> str:
    """By whom and when a run was cancelled; empty where it was not."""
    return _told(folder / CANCELLED, "cancelled")


def paused(folder: Place) -> str:
    """By whom and since when a run is paused; empty where it is not."""
    return _told(folder / PAUSED, "paused")


def _told(path: Place, what: str) -> str:
    try:
        told = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return ""
    return f"{what} by {told['by'] or 'somebody'} at {time.strftime('%Y-%m-%d %H:%M', time.localtime(told['at']))}"


def give_way(folder: Place, shard_id: str) -> None:
    """Have a shard end after the assets that it has begun."""
    write_json(folder / WAY / shard_id, {"at": time.time()})


def giving_way(folder: Place) -> frozenset[str]:
    """The shards that were asked to give way."""
    place = folder / WAY
    return frozenset(path.name for path in place.iterdir() if path.name[0] != ".") if place.is_dir() else frozenset()


def halted(folder: Place, shard_id: str) -> str:
    """Why a shard begins nothing more; empty where it may."""
    return paused(folder) or ("it is another's turn on the farm" if (folder / WAY / shard_id).exists() else "")


def tell_share(folder: Place, told: str) -> None:
    """Keep what part of the farm the run has while others wait; empty = all."""
    if told != share(folder):
        write_json(folder / SHARE, {"told": told})


def share(folder: Place) -> str:
    """What part of the farm the run has, in words; empty where nobody else waits."""
    try:
        return str(json.loads((folder / SHARE).read_text("utf-8"))["told"])
    except (FileNotFoundError, ValueError, KeyError):
        return ""


# --- shards that are excused -----------------------------------------------------------------------------------------


def submitted_by_this_code() -> dict[str, Any]:
    """The fields of a request that tell a worker by which code it was submitted."""
    return {"code": code_version(), "stages": {stage.name: stage.version for stage in STAGES}}


def other_code(request: BatchRequest) -> str:
    """Say why this process's code would make something else than the code that submitted the shard; else empty."""
    own = {stage.name: stage.version for stage in STAGES}
    if not request.stages or request.stages == own:
        return ""
    names = [name for name in {**own, **request.stages} if own.get(name) != request.stages.get(name)]
    differ = ", ".join(f"{name} ({own.get(name, 'none')}, not {request.stages.get(name, 'none')})" for name in names)
    return (
        f"{_own_code()}, which makes something else than {request.code}, which submitted the shard; stages of another "
        f"version: {differ}. Install one version everywhere"
    )


def cannot_read(request: BatchRequest, error: Exception) -> str:
    """Say that this process's code cannot read what the code that submitted the shard wrote."""
    why = "; ".join(str(error).splitlines()[:3])
    return f"{_own_code()}, which cannot read what {request.code} wrote ({why}). Install one version everywhere"


def _own_code() -> str:
    worker = os.environ.get("PREFECT__WORKER_NAME") or f"process {os.getpid()}"
    return f"worker {worker} of {socket.gethostname()} has splatmill {code_version()}"


def turn_away(request: BatchRequest, shard_id: str) -> str:
    """Say why a shard may not begin here, and excuse it; empty when it may."""
    folder = request.folder
    if why := other_code(request):
        excuse(folder, shard_id, VERSION, why)
    elif why := cancelled(folder) or paused(folder):
        excuse(folder, shard_id, PAUSE, f"the run is {why}")
    return why


def excuse(folder: Place, shard_id: str, kind: str, why: str) -> None:
    """Put down that a shard ends without making its assets."""
    told = {"worker": os.environ.get("PREFECT__WORKER_NAME", ""), "host": socket.gethostname(), "code": code_version()}
    write_json(folder / EXCUSED / f"{shard_id}.json", {"kind": kind, "why": why} | told)


def excuses(folder: Place) -> dict[str, Excuse]:
    """The excused shards of a run by id, oldest first."""
    found = []
    for path in (folder / EXCUSED).glob("*.json"):
        told = json.loads(path.read_text("utf-8"))
        found.append(Excuse(path.stem, told["kind"], told["why"], path.stat().st_mtime))
    return {each.shard: each for each in sorted(found, key=lambda each: each.at)}


def turned_away_in_a_row(folder: Place, found: dict[str, Excuse]) -> list[Excuse]:
    """The shards that workers of another version turned away since a worker last showed that it makes any."""
    beats = [path for suffix in ("live", "done") for path in (folder / "beats").glob(f"*.{suffix}")]
    worked = max((path.stat().st_mtime for path in beats), default=0.0)
    return [each for each in found.values() if each.kind == VERSION and each.at > worked]


def hold(folder: Place, row: Sequence[Excuse], rounds: int, now: float) -> str:
    """Say why a run's missing assets are not submitted yet; empty when they may be.

    ``row``: :func:`turned_away_in_a_row`, which happened to some asset in ``rounds`` shards.
    """
    if why := paused(folder):
        return f"{why}; splatmill resume goes on"
    if row and now - row[-1].at < AGAIN_S * 2 ** (rounds - 1):
        return row[-1].why
    return ""
