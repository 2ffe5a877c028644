"""The catalogue's commands: sql, compare, gc, gallery, attribution, compact, snapshot, fsck, rebuild, push, review.

``flows.cli`` mounts :data:`app` as ``splatmill catalog`` and puts the first five at the top level too, and
:data:`reviews` as ``splatmill review``.
"""

from __future__ import annotations

import getpass
import json
import sys
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from catalog.door import Door
from pipeline_core.errors import RequestError, SplatmillError
from pipeline_core.secrets import redact

app = typer.Typer(
    cls=Door,
    help="Look after the catalogue, and ask it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

reviews = typer.Typer(help="Note people's verdicts on assets.", no_args_is_help=True)

LibraryOption = Annotated[
    str, typer.Option("--library", "-l", envvar="SPLATMILL_LIBRARY", help="folder or address (s3://...) of the library")
]
LiveOption = Annotated[bool, typer.Option("--live", help="read the live files, not the snapshot; for operators")]
OutputOption = Annotated[Path | None, typer.Option("--output", "-o", help="write there instead of standard output")]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON document on standard output, for machines")]


class Format(StrEnum):
    """Forms of an answer."""

    table = "table"
    csv = "csv"
    json = "json"
    parquet = "parquet"
    md = "md"


FormatOption = Annotated[Format, typer.Option("--format", "-f", help="form of the answer")]


@app.command()
def sql(
    query: Annotated[str, typer.Argument(help="one SELECT, in quotes; - reads it from standard input")] = "",
    library: LibraryOption = "library",
    live: LiveOption = False,
    form: FormatOption = Format.table,
    output: OutputOption = None,
    examples: Annotated[bool, typer.Option("--examples", help="print the ten questions with their SQL")] = False,
    example: Annotated[int, typer.Option(min=0, max=10, help="run one of the ten questions")] = 0,
    refresh: Annotated[bool, typer.Option(help="bring the snapshot up to date first, where that is possible")] = True,
    timeout: Annotated[float, typer.Option(min=0.01, help="seconds a query may take")] = 30.0,
    memory: Annotated[str, typer.Option(help="memory a query may take")] = "2GB",
    limit: Annotated[int, typer.Option(min=1, help="rows of the answer")] = 100_000,
) -> None:
    """Ask the catalogue in SQL; it can be read only, and nothing else can be reached.

    Example: splatmill sql "select asset_id, status, faces from assets order by faces desc limit 10"
    """
    from catalog import bounded, guard, questions

    if examples:
        typer.echo(questions.markdown())
        return
    text = questions.QUESTIONS[example - 1].sql if example else sys.stdin.read() if query == "-" else query
    if not text.strip():
        raise RequestError('no query: splatmill sql "select * from assets"; --examples prints ten to start from')
    if not live:
        bring_up_to_date(library, refresh)
    limits = guard.Limits(timeout_s=timeout, memory=memory, rows=limit)
    data, truncated = bounded.answer(library, text, form, live=live, limits=limits)
    _write(data, output, binary=form is Format.parquet)
    if truncated:
        typer.echo(f"only the first {limit} rows; --limit gives more", err=True)


@app.command()
def compare(
    run_a: Annotated[str, typer.Argument(help="run id or its beginning, last, last~1, recipe:<name>, tag:<name=text>")],
    run_b: Annotated[str, typer.Argument(help="likewise")],
    library: LibraryOption = "library",
    live: LiveOption = False,
    form: FormatOption = Format.table,
) -> None:
    """Two nights, recipes or sides of a sweep: cost per accepted asset, stages, metrics, the assets that changed most.

    Example: splatmill compare last~1 last
    """
    from catalog import compare as comparison
    from catalog import render

    if form is Format.parquet:
        raise RequestError("compare answers with five tables: --format table, md, csv or json")
    if not live:
        bring_up_to_date(library, True)
    tables = comparison.compare(library, run_a, run_b, live=live)
    if form is Format.json:
        parts = {name: json.loads(render.to_json(table)) for name, table in tables.items()}
        typer.echo(json.dumps(parts, ensure_ascii=False, indent=1))
        return
    for name, table in tables.items():
        heading = f"## {name}\n" if form is Format.md else f"{name} (a = {run_a}, b = {run_b})"
        typer.echo(f"{heading}\n{render.render(table, form).decode()}")


@app.command()
def gc(
    library: LibraryOption = "library",
    delete: Annotated[bool, typer.Option("--delete/--dry-run", help="do it, or only say what would go")] = False,
    min_age: Annotated[float, typer.Option(min=0, help="hours an output must be unchanged")] = 24.0,
    max_size: Annotated[
        str, typer.Option(help="500G: no more than makes the library so small, the longest unchanged first")
    ] = "",
    json_: JsonOption = False,
) -> None:
    """Remove stage outputs and inputs that no current asset refers to. A dry run unless told otherwise.

    Example: splatmill gc --library ./library
    """
    from catalog.gc import gc as collect
    from catalog.gc import size_of

    bound = size_of(max_size) if max_size else None
    report = collect(library, delete=delete, min_age_s=min_age * 3600, max_bytes=bound)
    if json_:
        typer.echo(json.dumps(asdict(report) | {"bytes": report.bytes}))
        return
    for stage, key, size in report.outputs:
        typer.echo(f"stages/{stage}/{key}  {size / 2**20:.1f} MiB")
    for name, size in report.inputs:
        typer.echo(f"inputs/{name}  {size / 2**20:.1f} MiB")
    for path, size in (*report.strays, *report.trash):
        typer.echo(f"{path}  {size / 2**20:.1f} MiB")
    for line in report.unknown:
        typer.echo(f"kept: {line} (splatmill catalog rebuild)", err=True)
    verb = "removed" if delete else "would be removed (--delete does it)"
    what = f"{len(report.outputs)} outputs, {len(report.inputs)} inputs"
    what += f", {len(report.strays)} files of killed attempts" if report.strays else ""
    what += f", {len(report.trash)} things in the trash" if report.trash else ""
    typer.echo(f"{what}, {report.bytes / 2**20:.1f} MiB, {verb}; {report.kept} kept")
    if report.size is not None:
        before, after = report.size / 2**30, (report.size - report.bytes) / 2**30
        typer.echo(f"the library: {before:.2f} GiB before, {after:.2f} GiB after, {max_size} allowed")
    if report.over:
        over = f"{report.over / 2**30:.2f} GiB over {max_size}"
        typer.echo(f"{over}: assets, open runs and what changed in the last {min_age:g} h need the rest", err=True)


@app.command()
def compact(library: LibraryOption = "library", json_: JsonOption = False) -> None:
    """Gather small files into large ones; readers and writers go on meanwhile.

    Example: splatmill catalog compact --library ./library
    """
    from catalog.compact import compact as work

    report = work(library)
    _say(json_, asdict(report), f"sealed {report.sealed_rows} events of {report.sealed_batches} files, merged "
         f"{report.merged_files} files, removed {report.removed}")  # fmt: skip
    for name in report.unreadable:
        typer.echo(f"cannot be read: {name} (splatmill catalog fsck --repair)", err=True)


@app.command()
def snapshot(
    library: LibraryOption = "library",
    full: Annotated[bool, typer.Option("--full", help="build it from nothing")] = False,
    json_: JsonOption = False,
) -> None:
    """Bring catalog.duckdb up to date: the file for people, BI tools and `splatmill sql`.

    Example: splatmill catalog snapshot --library ./library
    """
    from catalog.snapshot import build

    report = build(library, full=full)
    text = f"{report.path}: {report.events} events, {report.new_events} new, {report.seconds:.1f} s ({report.how})"
    _say(json_, asdict(report), text)


@app.command()
def fsck(
    library: LibraryOption = "library",
    repair: Annotated[bool, typer.Option("--repair", help="mend or quarantine what can be")] = False,
    artifacts: Annotated[bool, typer.Option(help="look at the files that current rows name")] = True,
    hashes: Annotated[bool, typer.Option(help="compute their sha256 too")] = True,
    json_: JsonOption = False,
) -> None:
    """Check every file of the catalogue and every file it speaks of. Exit code 1 when something is left to mend.

    Example: splatmill catalog fsck --library ./library --repair
    """
    from catalog.fsck import fsck as check

    findings = check(library, repair=repair, artifacts=artifacts, hashes=hashes)
    lines = [f"{f.kind:15} {f.where}: {f.detail}{f' -> {f.done}' if f.done else ''}" for f in findings]
    _say(json_, [asdict(finding) for finding in findings], "\n".join(lines) or "nothing wrong")
    raise typer.Exit(1 if any(not finding.done for finding in findings) else 0)


@app.command()
def rebuild(library: LibraryOption = "library", json_: JsonOption = False) -> None:
    """Write the events again that stage records tell of and the catalogue lacks; twice does no harm.

    Example: splatmill catalog rebuild --library ./library
    """
    from catalog.rebuild import rebuild as work

    report = work(library)
    for line in report.unreadable:
        typer.echo(f"not a record: {line}", err=True)
    _say(json_, asdict(report), f"{report.records} records, {report.added} events added")


@app.command()
def push(
    target: Annotated[str, typer.Argument(help="address (s3://bucket/props) or folder of the other library")],
    library: LibraryOption = "library",
    json_: JsonOption = False,
) -> None:
    """Copy what another library lacks of this one: outputs, assets, records and the catalogue's events.

    Example: splatmill catalog push s3://bucket/props --library ./library
    """
    from catalog.push import push as work

    report = work(library, target)
    what = f"{report.outputs} outputs, {report.assets} assets and {report.events} events"
    _say(json_, asdict(report), f"{what} copied to {target} ({report.files} files, {report.bytes / 2**20:.1f} MiB)")


@app.command()
def gallery(
    library: LibraryOption = "library",
    output: Annotated[Path | None, typer.Option("--output", "-o", help="folder; default <library>/gallery")] = None,
    viewers: Annotated[int, typer.Option(min=0, help="3D pages for the newest so many assets")] = 1000,
    serve: Annotated[
        bool, typer.Option("--serve", help="serve it on this machine: verdicts are recorded at once, selections packed")
    ] = False,
    port: Annotated[int, typer.Option(min=0, max=65535, help="of --serve; 0: any that is free")] = 8480,
    by: Annotated[str, typer.Option(envvar="SPLATMILL_USER", help="of --serve: whose verdicts; default: yours")] = "",
) -> None:
    """Write the gallery: a static page on which assets are looked at and judged; it opens from disk, without network.

    Example: splatmill gallery --library ./library
    """
    if serve:
        from catalog import served

        served.serve(library, port=port, by=by or getpass.getuser(), out=output, viewers=viewers)
        return
    from catalog.gallery import write_gallery

    typer.echo(write_gallery(library, output, viewers=viewers))


@app.command()
def attribution(
    assets: Annotated[list[str] | None, typer.Argument(help="asset ids; all delivered ones when none is given")] = None,
    library: LibraryOption = "library",
    sql: Annotated[str, typer.Option("--sql", help="those that a SELECT answers in its column asset_id")] = "",
    tag: Annotated[list[str] | None, typer.Option("--tag", help="those with this tag: category=furniture")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="folder for the two files")] = Path("."),
    json_: JsonOption = False,
) -> None:
    """Write ATTRIBUTION.md and attribution.json: the models that made some assets, their licences, what to do for them.

    Example: splatmill attribution --tag category=furniture --output shipped
    """
    from catalog import attribution as work

    pairs = [each.partition("=") for each in tag or ()]
    if assets and (sql or pairs):
        raise RequestError("splatmill attribution: asset ids, or --sql and --tag, not both")
    if wrong := [name for name, equals, _ in pairs if not (name and equals)]:
        raise RequestError(f"--tag {wrong[0]}: name=value, such as category=furniture")
    if sql:
        bring_up_to_date(library, True)
    chosen = assets or work.select(library, sql, {name: value for name, _, value in pairs})
    if not chosen:
        raise RequestError(f"no delivered asset of {library} fits; splatmill status tells what there is")
    path = work.write_attribution(library, output, chosen)
    told = json.loads((output / work.DATA).read_bytes())
    words = f"{path}: {len(told['assets'])} assets, {len(told['models'])} models, licence class {told['licence_class']}"
    _say(json_, told, words)


@app.command("review")
@reviews.command("set")
def set_review(
    asset_ids: Annotated[list[str], typer.Argument(help="the assets")],
    accept: Annotated[bool, typer.Option("--accept/--reject", help="the verdict")],
    by: Annotated[str, typer.Option(envvar="SPLATMILL_USER", help="who says so")],
    stars: Annotated[int | None, typer.Option(min=1, max=5, help="how good they are")] = None,
    reason: Annotated[str, typer.Option(help="why, in a few words that others use too: 'two faces'")] = "",
    note: Annotated[str, typer.Option(help="what else there is to say")] = "",
    library: LibraryOption = "library",
) -> None:
    """Note a person's verdict on some assets; the latest counts.

    Example: splatmill review set chair-07 --accept --stars 4 --by ana
    """
    from catalog.review import decisions_of, record

    said = {"verdict": "accepted" if accept else "rejected", "stars": stars, "reason": reason, "note": note, "by": by}
    rows = [said | {"asset_id": asset_id} for asset_id in dict.fromkeys(asset_ids)]
    report = record(library, decisions_of({"decisions": rows}, "splatmill review set"))
    typer.echo(f"{report.recorded} {'verdict' if report.recorded == 1 else 'verdicts'} recorded")


@reviews.command("import")
def import_reviews(
    file: Annotated[Path, typer.Argument(help="the JSON file that the gallery saved; - reads standard input")],
    library: LibraryOption = "library",
    json_: JsonOption = False,
) -> None:
    """Record the verdicts that somebody saved from the gallery; a second time does no harm.

    Example: splatmill review import reviews.json
    """
    from catalog.review import decisions_of, record

    try:
        document = json.loads(sys.stdin.read() if str(file) == "-" else file.read_bytes())
    except (OSError, ValueError) as error:
        raise RequestError(f"{file}: cannot be read as JSON: {error}") from None
    report = record(library, decisions_of(document, str(file)))
    words = [f"{report.recorded} verdicts recorded, {report.known} were known"]
    for row in report.newer:
        words.append(
            f"{row['asset_id']}: {row['reviewed_by']} decided later ({row['reviewed_at']:%Y-%m-%d %H:%M} UTC: "
            f"{row['verdict'] or 'taken back'}), and that stands"
        )
    _say(json_, asdict(report), "\n".join(words))


def bring_up_to_date(library: str, refresh: bool) -> None:
    """Renew the snapshot; where that is not possible use the one there is, and say how old it is."""
    from catalog import query, snapshot
    from catalog.query import NoSnapshot
    from catalog.store import open_store

    if not refresh:
        return
    store, there = open_store(library), True
    try:
        there = store.exists()
        if there:
            snapshot.build(store)
    except SplatmillError as error:
        try:
            with query.connect(library, live=False) as con:
                built = con.execute("select built_at from meta").fetchall()[0][0]
        except NoSnapshot:
            raise RequestError(f"{error}. There is no older snapshot; --live reads the files themselves") from None
        typer.echo(
            f"the snapshot is of {built:%Y-%m-%d %H:%M:%S} UTC; it could not be renewed: {redact(str(error))}", err=True
        )
    if not there:
        raise RequestError(f"no library at {library}: give --library or set SPLATMILL_LIBRARY")


def _say(as_json: bool, document: Any, text: str) -> None:
    typer.echo(json.dumps(document, default=str) if as_json else text)


def _write(data: bytes, output: Path | None, *, binary: bool) -> None:
    if output is not None:
        output.write_bytes(data)
    elif binary and sys.stdout.isatty():
        raise RequestError("Parquet is not for a terminal: --output answer.parquet")
    else:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    app()
