"""``splatmill export``: assets that somebody chose, packed for an engine, with a manifest of what was written.

    ids = choose(library, ["select asset_id from assets where faces < 5000"])
    export(library, ids, Path("shipped"), profile("unreal"), formats(["glb", "usdz"]))

It reads finished folders ``assets/<asset_id>/`` of a folder or an object store and runs no stage. What is wrong with
one asset is told at its name; the others are written.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from catalog import attribution, guard, query
from catalog.cli import bring_up_to_date
from catalog.store import Store, open_store
from pipeline_core.errors import DiskError, RequestError, SplatmillError
from pipeline_core.files import disk_errors, lock, write_json, write_text
from pipeline_core.packing.compress import compressions
from pipeline_core.packing.finished import Finished
from pipeline_core.packing.formats import Format, formats
from pipeline_core.packing.pack import Packed, pack, tools
from pipeline_core.packing.profiles import Profile, profile
from pipeline_core.packing.tools import require
from pipeline_core.secrets import redact

MANIFEST, TABLE, LOCK = "export.json", "export.csv", ".export.lock"
ASSET_ID = re.compile("[a-z0-9][a-z0-9_-]*")
COLUMNS = ("asset_id", "profile", "format", "file", "bytes", "sha256")


@dataclass
class Report:
    """What an export wrote, what it could not, and what assets have not: by asset id."""

    written: dict[str, Packed] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Asked:
    """What the command line asks for; empty = nothing said. The last three are of datasets (``flows.dataset``)."""

    select: tuple[str, ...] = ()
    everything: bool = False
    tags: tuple[str, ...] = ()
    profile: str = "blender"
    formats: str = ""
    compress: str = ""
    overwrite: bool = False
    rejected: bool = False
    with_duplicates: bool = False
    commercial: bool = False
    shard_mb: float = 500.0


def show_export(library: str, target: Path, asked: Asked, *, as_json: bool) -> int:
    """Export what is asked for and print what became of each asset; returns the exit code."""
    row = profile(asked.profile)
    rows = formats(asked.formats.split(",") if asked.formats else row.formats)
    if asked.compress:
        row = replace(row, compress=compressions(asked.compress.split(",")))
    require(tools(row, rows))
    chosen = choose(
        library, asked.select, everything=asked.everything, tags=asked.tags, rejected=asked.rejected
    )

    def say(asset_id: str, told: Packed | str) -> None:
        if isinstance(told, str):
            print(redact(f"{asset_id}: not exported: {told}"), file=sys.stderr)
        elif not as_json:
            names = ", ".join(f"{each.file} ({each.bytes / 1024:.0f} KiB)" for each in told.files)
            print(names + "".join(f"; it has no {words}" for words in told.without))

    report = export(library, chosen, target, row, rows, overwrite=asked.overwrite, say=say)
    if as_json:
        written = {name: asdict(packed) for name, packed in report.written.items()}
        print(json.dumps({"to": str(target), "written": written, "failed": report.failed}))
    else:
        failed = f", {len(report.failed)} failed" if report.failed else ""
        print(f"{len(report.written)} assets in {target}{failed}; {target / MANIFEST} lists the files")
    return 1 if report.failed else 0


ACCEPTED_SQL = "select asset_id from assets where accepted"


def ids_in(path: Path) -> list[str]:
    """The asset ids of a file: ``{"asset_ids": [...]}`` as the gallery saves it, or one a line.

    Raises :class:`RequestError` where the file cannot be read or names none.
    """
    try:
        text = path.read_text("utf-8")
        found = json.loads(text)["asset_ids"] if text.lstrip().startswith("{") else text.split()
    except (OSError, ValueError, KeyError) as error:
        raise RequestError(f"--ids-from {path}: cannot be read: {error}") from None
    if not isinstance(found, list) or not found or not all(isinstance(each, str) for each in found):
        raise RequestError(f'--ids-from {path}: no ids; give {{"asset_ids": [...]}} or one id a line')
    return found


def choose(
    library: str, words: Sequence[str], *, everything: bool = False, tags: Sequence[str] = (), rejected: bool = False
) -> list[str]:
    """Asset ids: those given, and of those that one SELECT answers, or of all delivered ones (with tags
    ``name=value``), the accepted ones, each once; with ``rejected`` the others too.

    Raises :class:`RequestError` where nothing or more than one thing is asked, and what the guarded query raises.
    """
    if bool(words) == (everything or bool(tags)):
        raise RequestError('splatmill export: asset ids, a query in quotes ("select asset_id ..."), or --all or --tag')
    if words and all(ASSET_ID.fullmatch(word) for word in words):
        return list(dict.fromkeys(words))
    if len(words) > 1:
        bad = next(word for word in words if not ASSET_ID.fullmatch(word))
        raise RequestError(f"splatmill export: {bad!r} is no asset id; a query is one argument, in quotes")
    bring_up_to_date(library, True)
    if words:
        answer = guard.ask(library, words[0], limits=guard.Limits(rows=10_000_000)).table
        if "asset_id" not in answer.column_names:
            raise RequestError(f"the query must answer with a column asset_id; it has {', '.join(answer.column_names)}")
        found = [str(each) for each in answer.column("asset_id").to_pylist() if each is not None]
    else:
        pairs = [each.partition("=") for each in tags]
        if wrong := [each for each in tags if not all(each.partition("="))]:
            raise RequestError(f"--tag {wrong[0]}: name=value, such as category=furniture")
        found = attribution.select(library, tags={name: value for name, _, value in pairs})
    if found and not rejected:
        accepted = {row["asset_id"] for row in query.rows(library, ACCEPTED_SQL, live=False)}
        kept = [each for each in found if each in accepted]
        if len(kept) < len(found):
            left_out = f"{len(found) - len(kept)} assets are left out: not accepted (--rejected takes them, too)"
            print(left_out, file=sys.stderr)
        found = kept
    if not found:
        raise RequestError(f"nothing to export: no asset of {library} fits; splatmill status tells what there is")
    return list(dict.fromkeys(found))


def export(
    library: str,
    asset_ids: Sequence[str],
    target: Path,
    row: Profile,
    rows: Sequence[Format],
    *,
    overwrite: bool = False,
    say: Callable[[str, Packed | str], None] = lambda asset_id, told: None,
) -> Report:
    """Pack ``asset_ids`` into ``target`` by a profile, in some formats; ``say`` hears of each asset what was written,
    or why it was not.

    Raises :class:`RequestError` before anything is written for a tool that is missing or a bad target, and
    :class:`DiskError` when the disk is full.
    """
    store = open_store(library)
    require(tools(row, rows))
    check_target(store, target)
    report = Report()
    with disk_errors(target):
        target.mkdir(parents=True, exist_ok=True)
    with lock(target / LOCK, wait=False) as mine:
        if not mine:
            raise RequestError(f"--to {target}: another export is writing there; wait for it")
        try:
            for asset_id in asset_ids:
                told = _one(store, asset_id, target, row, rows, overwrite)
                if isinstance(told, str):
                    report.failed[asset_id] = told
                else:
                    report.written[asset_id] = told
                say(asset_id, told)
        finally:
            _write_manifest(target, row, report)
    return report


def check_target(store: Store, target: Path) -> None:
    """Raise :class:`RequestError` where there is no library, or ``target`` is a file or lies inside of it."""
    if store.folder is not None:
        if not store.exists():
            raise RequestError(f"no library at {store.library}: give --library or set SPLATMILL_LIBRARY")
        if target.resolve().is_relative_to(store.folder.resolve()):
            raise RequestError(f"--to {target}: that is inside of the library; give another folder")
    if target.exists() and not target.is_dir():
        raise RequestError(f"--to {target}: that is a file; give a folder")


def _one(
    store: Store, asset_id: str, target: Path, row: Profile, rows: Sequence[Format], overwrite: bool
) -> Packed | str:
    """One asset: what was written, or why nothing was."""
    if not ASSET_ID.fullmatch(asset_id):
        return f"{asset_id!r} is no asset id"
    try:
        with folder_of(store, asset_id) as folder:
            return pack(Finished(folder), target, row, rows, overwrite=overwrite)
    except DiskError:
        raise
    except SplatmillError as error:
        return str(error)
    except Exception as error:  # a file that nobody foresaw costs its asset, not the night
        return f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def folder_of(store: Store, asset_id: str) -> Iterator[Path]:
    """The asset's finished folder on this machine; fetched where the library lies in an object store."""
    if store.folder is not None:
        yield store.folder / "assets" / asset_id
        return
    with TemporaryDirectory(prefix="splatmill-export-") as name:
        folder = Path(name) / asset_id
        folder.mkdir()
        for path in store.glob(f"assets/{asset_id}/*"):
            with store.open(path) as source, (folder / PurePosixPath(path).name).open("wb") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
        yield folder


# --- the manifest ----------------------------------------------------------------------------------------------------


def _write_manifest(target: Path, row: Profile, report: Report) -> None:
    """Add what was written to what earlier exports into this folder wrote: as JSON, and as a table."""
    try:
        before = json.loads((target / MANIFEST).read_bytes())
        files = {each["file"]: each for each in before["files"]}
        without = dict(before["without"])
    except (OSError, ValueError, KeyError, TypeError):
        files, without = {}, {}
    for asset_id, packed in report.written.items():
        without[asset_id] = list(packed.without)
        for each in packed.files:
            files[each.file] = {"asset_id": asset_id, "profile": row.name} | asdict(each)
    document = {
        "files": [files[name] for name in sorted(files)],
        "without": {name: words for name, words in sorted(without.items()) if words},
        "failed": report.failed,
    }
    write_json(target / MANIFEST, document)
    table = io.StringIO()
    writer = csv.DictWriter(table, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(document["files"])
    write_text(target / TABLE, table.getvalue())
