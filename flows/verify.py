"""``splatmill verify``: assets are made again from their records, in a scratch library and compared.

    [told] = verify("library", ["mug"], Path("/tmp/scratch"))
    told.verdict                                # "same": every stage and every deliverable, byte for byte

The record is ``asset.json`` with the records of its stages, or their rows of the catalogue where a stage's output is
gone. The same functions make the asset, from the delivered seed and settings, with the library's copies of the files
that its row named. Nothing of the library is changed. docs/REPRODUCING.md says what may differ, and how much.
"""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from catalog import query
from catalog.render import aligned
from flows.live import progress
from flows.show import must_exist
from pipeline_core import stages
from pipeline_core.bucket import Place
from pipeline_core.deliverables import PROVENANCE
from pipeline_core.errors import DataError, ModelNotFound, RequestError
from pipeline_core.metrics.tolerance import Change, beyond
from pipeline_core.secrets import redact
from pipeline_core.spec import ID_PATTERN, AssetSpec
from pipeline_core.stages import DELIVERY
from pipeline_core.storage import RECORD, Library, sha256_file
from tasks.journey import Journey, plan_journey
from tasks.progress import board

SAME, WITHIN, DIFFERS, DAMAGED, FAILED = "same", "within", "differs", "damaged", "failed"
GOOD = (SAME, WITHIN)
RUN_ID = "verify"
ROUNDING = ("threads", "threads_beside", "at_once")
"""What numbers may be rounded differently for: where nothing else differs, metrics are held to their tolerance."""

WORDS = {"code_version": "code", "config_hash": "settings", "model_ids": "models", "device": "device"}
WORDS |= {"gpu_name": "GPU"}
"""Columns of a row that tell how it was made, and what people call them."""
SAID = {"at_once": "stages at once in the process", "cpu": "processor", "threads_beside": "threads beside a GPU"}
"""What people call a part of ``made_with``, where that is not its name."""

ROWS_SQL = """
select stage_runs.*, list({role: role, path: path, sha256: sha256, bytes: bytes}) as artifacts
from stage_runs join artifacts using (event_id, asset_id, stage)
where asset_id = ? and stage_key = ? and status in ('ok', 'skipped') group by all order by event_id desc limit 1
"""


@dataclass
class Verified:
    """What came of one asset. ``stage``: the first that differs; ``differs``: what is not as it was, as sentences;
    ``metrics``: those beyond their tolerance; ``kept``: the scratch library."""

    asset_id: str
    verdict: str = SAME
    stage: str = ""
    differs: list[str] = field(default_factory=list)
    metrics: list[Change] = field(default_factory=list)
    kept: str = ""


class Damaged(DataError):
    """A file of the library is not what was made."""


def show_verified(library: str, asset_ids: Sequence[str], *, keep: bool, as_json: bool) -> int:
    """Verify assets and print what came of each; returns the exit code."""
    told = []
    with progress(quiet=as_json):
        for asset_id in asset_ids:
            scratch = Path(mkdtemp(prefix="splatmill-verify-"))
            try:
                told.append(verify(library, asset_id, scratch))
                board.update(asset_id, state="done")
            finally:
                if not keep:
                    shutil.rmtree(scratch, ignore_errors=True)
            told[-1].kept = str(scratch) if keep else ""
    if not as_json:
        print(redact("\n".join(line for each in told for line in _lines(each))))
    else:
        print(redact(json.dumps({"assets": [asdict(each) for each in told], "ok": _ok(told)})))
    return 0 if _ok(told) else 1


def _ok(told: Sequence[Verified]) -> bool:
    return all(each.verdict in GOOD for each in told)


def _lines(told: Verified) -> Iterator[str]:
    """What people read of one asset."""
    yield f"{told.asset_id}: " + {
        SAME: "the same bytes, every stage and every file",
        WITHIN: f"other bytes from {told.stage} on, metrics within their tolerance",
        DIFFERS: f"differs, first in {told.stage}",
        DAMAGED: "damaged: " + "; ".join(told.differs),
        FAILED: f"could not be made again{' in ' * bool(told.stage)}{told.stage}: " + "; ".join(told.differs),
    }[told.verdict]
    if told.verdict in (WITHIN, DIFFERS):
        yield from (f"  {line}" for line in told.differs)
    if told.metrics:
        rows = [[each.name, f"{each.was:.6g}", f"{each.now:.6g}", f"{each.allowed:.3g}"] for each in told.metrics]
        yield "  " + aligned(["metric", "was", "is", "may differ by"], rows).replace("\n", "\n  ")
    if told.kept:
        yield f"  made again in {told.kept}"


def recorded_threads(library: str, asset_ids: Sequence[str]) -> int:
    """The number of threads that most stages of these assets were made with; 0 where none is recorded. Raises
    :class:`RequestError` where there is no such library or asset."""
    must_exist(library)
    counts: Counter[int] = Counter()
    for asset_id in asset_ids:
        try:
            rows = _rows(Library(library), _asset(library, asset_id))
        except Damaged:
            continue
        counts.update(int(made["threads"]) for row in rows.values() if (made := _made_with(row)))
    return counts.most_common(1)[0][0] if counts else 0


def verify(library: str, asset_id: str, scratch: Path) -> Verified:
    """Make an asset again in the folder ``scratch`` and compare. Raises :class:`RequestError` where none is."""
    told = Verified(asset_id)
    shelf = Library(library)
    try:
        record = _asset(library, asset_id)
        rows = _rows(shelf, record)
        _check_whole(shelf, asset_id, record, rows)
        journey = _plan(shelf, record, scratch)
    except Damaged as error:
        told.verdict, told.differs = DAMAGED, [str(error)]
        return told
    except ModelNotFound as error:
        told.verdict, told.differs = FAILED, [str(error)]
        return told
    try:
        _travel(journey)
    except Exception as error:
        told.verdict, told.differs = FAILED, [f"{type(error).__name__}: {error}"]
        told.stage = _first_missing(journey)
        return told
    _compare(told, record, rows, journey)
    return told


# --- the record ------------------------------------------------------------------------------------------------------


def _asset(library: str, asset_id: str) -> dict[str, Any]:
    """What ``asset.json`` tells. Raises :class:`RequestError` or :class:`Damaged` where there is none."""
    if not re.fullmatch(ID_PATTERN, asset_id):
        raise RequestError(f"{asset_id!r} is no asset id")
    place = Library(library).asset_dir(asset_id) / PROVENANCE
    try:
        told: dict[str, Any] = json.loads(place.read_bytes())
        AssetSpec.from_json(told["spec"])
        told["files"], told["stages"], told["metrics"]
    except FileNotFoundError:
        raise RequestError(f"{asset_id}: {library} has no such asset; splatmill status lists what there is") from None
    except (ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{PROVENANCE} cannot be read ({error!r})") from None
    return told


def _rows(shelf: Library, record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The row of each stage: its record where the output is there, else the catalogue's."""
    found = {}
    for stage in stages.names():
        if (key := record["stages"].get(stage)) is None:
            continue
        try:
            found[stage] = json.loads((shelf.stage_dir(stage, key) / RECORD).read_bytes())
        except FileNotFoundError:
            for row in query.rows(str(shelf.root), ROWS_SQL, [record["asset_id"], key]):
                found[stage] = row
        except ValueError:
            raise Damaged(f"stages/{stage}/{key}/{RECORD} cannot be read") from None
    return found


def _check_whole(
    shelf: Library, asset_id: str, record: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]]
) -> None:
    """Raise :class:`Damaged` where a deliverable, or an output of a stage that is there, is not what was made."""
    for name, file in record["files"].items():
        if _sha256(shelf.asset_dir(asset_id) / name) != file["sha256"]:
            raise Damaged(f"assets/{asset_id}/{name} is not the file that was delivered")
    for stage, row in rows.items():
        for artifact in row["artifacts"] if stage != DELIVERY else ():
            digest = _sha256(shelf.root / artifact["path"])
            if digest not in (None, artifact["sha256"]):
                raise Damaged(f"{artifact['path']} is not what {stage} made")


def _sha256(place: Place) -> str | None:
    """Of a file's content; None where it is gone."""
    try:
        return sha256_file(place)
    except FileNotFoundError:
        return None


# --- made again ------------------------------------------------------------------------------------------------------


def _plan(shelf: Library, record: Mapping[str, Any], scratch: Path) -> Journey:
    """The journey of what was delivered, in the scratch library, which gets the files that the row named."""
    spec = AssetSpec.from_json(record["spec"])
    library = Library(scratch).create()
    for column, ref in spec.files.items():
        source = shelf.whole_input(ref)
        if source is None or not library.keep_input(ref, source):
            raise Damaged(f"{column} {ref.name}: the library's copy, inputs/{ref.file}, is gone or damaged")
    journey = plan_journey(str(library.root), RUN_ID, spec)
    asked = {DELIVERY: record["stages"][DELIVERY]}  # an asset from another seed lies under the key that was asked for
    return replace(journey, keys=journey.keys | asked)


def _travel(journey: Journey) -> None:
    """Make the asset without Prefect's server: its tasks are called as the plain functions that they are."""
    from tasks.policy import task_of

    made: dict[str, Any] = {}
    for stage in stages.STAGES:
        made[stage.name] = task_of(stage.name).fn(journey, *(made[name] for name in stage.upstream))


def _first_missing(journey: Journey) -> str:
    """The stage at which a journey ended."""
    library = Library(journey.library)
    return next((name for name in stages.names() if not library.has(name, journey.keys[name])), "")


# --- compared --------------------------------------------------------------------------------------------------------


def _compare(
    told: Verified, record: Mapping[str, Any], rows: Mapping[str, Mapping[str, Any]], journey: Journey
) -> None:
    """Fill in what differs between what was made and what is made now."""
    again = Library(journey.library)
    delivered = json.loads((again.asset_dir(told.asset_id) / PROVENANCE).read_bytes())
    new = _rows(again, delivered)
    for stage in stages.names():
        if stage == DELIVERY:
            was, now = ({name: file["sha256"] for name, file in each["files"].items()} for each in (record, delivered))
        elif stage in rows and stage in new:
            was, now = _outputs(rows[stage]), _outputs(new[stage])
        else:
            continue
        if was != now:
            break
    else:
        return
    files = [name for name in sorted({*was, *now}) if was.get(name) != now.get(name)]
    told.stage = stage
    what = dict(_circumstances(rows.get(stage, {}), new[stage]))
    told.differs = [f"bytes: {', '.join(files)}", *what.values()]
    if not what:
        told.differs.append("nothing that is recorded differs: the stage does not repeat itself")
    told.metrics = beyond(record["metrics"], delivered["metrics"])
    rounded = (what and what.keys() <= {*ROUNDING}) or "cuda" in str(new[stage].get("device"))
    told.verdict = WITHIN if rounded and not told.metrics else DIFFERS


def _outputs(row: Mapping[str, Any]) -> dict[str, str]:
    return {artifact["path"].rpartition("/")[2]: artifact["sha256"] for artifact in row["artifacts"]}


def _circumstances(was: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What of a stage's making is not as it was: its name and a sentence. ``was`` is empty where no row is left."""
    if not was:
        yield "record", "how it was made is not known any more: neither its record nor its row is there"
        return
    for column, word in WORDS.items():
        if _shown(was.get(column)) != _shown(now.get(column)):
            yield column, f"{word}: was {_shown(was.get(column))}, is {_shown(now.get(column))}"
    if lost := [each for each in was.get("input_sha256") or () if each not in now["input_sha256"]]:
        yield "inputs", f"input files: what it read had the sha256 {', '.join(each[:12] for each in lost)}"
    before, after = _made_with(was), _made_with(now)
    if not before:
        yield "made_with", "libraries, threads and machine: not recorded (made by an older version)"
        return
    if after["device"] == "cpu" and before["threads"] == after["threads"] == "1":
        before["at_once"] = after["at_once"]  # with one thread no asset is batched with others
    for name in before | after:
        if before.get(name) != after.get(name):
            word = SAID.get(name, name)
            yield name, f"{word}: was {before.get(name, 'none')}, is {after.get(name, 'none')}"


def _made_with(row: Mapping[str, Any]) -> dict[str, str]:
    """Versions, threads and machine of a row; empty where they were not recorded."""
    told: dict[str, str] = json.loads(row.get("made_with") or "{}")
    return told and told | {"device": str(row.get("device"))}


def _shown(value: Any) -> str:
    return ", ".join(value) if isinstance(value, (list, tuple)) and value else str(value or "none")
