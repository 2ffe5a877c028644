"""``splatmill``: the one command.

    splatmill run deployments/manifests/starter.csv --library ./library

Exit codes: 0 everything was made, 1 some assets failed, 2 the request was wrong, 130 interrupted. Nothing heavy is
imported before it is needed: ``--help`` and ``sql`` load neither torch nor Prefect.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

import typer

from catalog import cli as catalogue
from catalog.door import Door
from pipeline_core import logs
from pipeline_core.errors import RequestError
from pipeline_core.files import ensure_home
from pipeline_core.python import reach_loopback_directly
from pipeline_core.secrets import redact

app = typer.Typer(
    cls=Door,
    help="A factory for game-ready 3D assets: prompts in; textured meshes, Gaussian splats and a SQL catalogue out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
server_app = typer.Typer()
bench_app = typer.Typer(help="Measure this machine.", no_args_is_help=True)
app.add_typer(server_app, name="server")
app.add_typer(bench_app, name="bench")
app.add_typer(catalogue.app, name="catalog")
app.add_typer(catalogue.reviews, name="review")

ManifestArg = Annotated[Path, typer.Argument(help="CSV, JSONL, YAML or Parquet file of prompts")]
PathsArg = Annotated[list[Path], typer.Argument(help="files, or folders of them")]
RunArg = Annotated[str, typer.Argument(help="a run's id, the beginning of its id, or last")]
LibraryOption = Annotated[
    str, typer.Option("--library", "-l", envvar="SPLATMILL_LIBRARY", help="folder of the library, or s3://bucket/props")
]
RecipeOption = Annotated[str, typer.Option("--recipe", "-r", help="recipe of rows that name none")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", "-s", help="recipe field for all rows: geometry.steps=200")
]
SkipOption = Annotated[bool, typer.Option("--skip-invalid", help="make the good rows of a manifest that has bad ones")]
OutsideOption = Annotated[
    bool, typer.Option("--allow-outside", help="rows may name files outside of the manifest's folder")
]
AcceptOption = Annotated[
    str, typer.Option("--accept", help="YAML file of acceptance contracts, in place of the manifest's own")
]
RejectedOption = Annotated[
    bool, typer.Option("--rejected", "--with-rejects", help="of a query, --all or --tag also what is not accepted")
]
JsonOption = Annotated[bool, typer.Option("--json", help="one JSON document on standard output, for machines")]
InFlightOption = Annotated[int, typer.Option("--in-flight", min=1, max=256, help="assets on their way at once")]
ThreadsOption = Annotated[
    int, typer.Option("--threads", min=0, max=1024, help="CPU threads; 0 = OMP_NUM_THREADS, else all cores")
]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:<number>")]
DeadlineOption = Annotated[
    str, typer.Option("--deadline", help="06:00, or a date and time: begin nothing that would not be done by then")
]
HoursOption = Annotated[
    float, typer.Option("--gpu-hours", min=0.0, help="begin nothing that would take the run beyond; 0 = no limit")
]
CommercialOption = Annotated[
    bool, typer.Option("--commercial", help="refuse, before any work, models that forbid commercial use or do not say")
]

DEFAULT_LIBRARY = "library"
PASS_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}
"""These settings leave a command's options to the function that it calls."""


@app.command()
def run(
    manifest: ManifestArg,
    library: LibraryOption = DEFAULT_LIBRARY,
    recipe: RecipeOption = "factory",
    set_: SetOption = None,
    accept: AcceptOption = "",
    skip_invalid: SkipOption = False,
    allow_outside: OutsideOption = False,
    in_flight: InFlightOption = 4,
    threads: ThreadsOption = 0,
    device: DeviceOption = "auto",
    deadline: DeadlineOption = "",
    gpu_hours: HoursOption = 0.0,
    commercial: CommercialOption = False,
    json_: JsonOption = False,
) -> None:
    """Make every asset of a manifest; what is there already is not made again.

    Example: splatmill run deployments/manifests/starter.csv --library ./library
    """
    from flows.local import run_here

    _prepare(threads, device)
    request = _request(manifest, library, recipe, set_, skip_invalid, in_flight, allow_outside, commercial, accept)
    raise typer.Exit(run_here(_with_limits(request, deadline, gpu_hours), as_json=json_))


@app.command()
def submit(
    manifest: ManifestArg,
    library: LibraryOption = DEFAULT_LIBRARY,
    recipe: RecipeOption = "factory",
    set_: SetOption = None,
    accept: AcceptOption = "",
    skip_invalid: SkipOption = False,
    allow_outside: OutsideOption = False,
    in_flight: InFlightOption = 4,
    deadline: DeadlineOption = "",
    gpu_hours: HoursOption = 0.0,
    commercial: CommercialOption = False,
    priority: Annotated[int, typer.Option(min=1, max=9, help="shards of 1 are taken first, of 9 last")] = 5,
) -> None:
    """Queue a manifest on the farm that PREFECT_API_URL points at; its workers make it. See deployments/README.md.

    Example: splatmill submit props.csv --library /mnt/library
    """
    from flows.farm.commands import submit_batch
    from pipeline_core.storage import Library

    root = str(Library(library).root)
    request = _request(
        manifest.absolute(), root, recipe, set_, skip_invalid, in_flight, allow_outside, commercial, accept
    )
    request = _with_limits(request, deadline, gpu_hours).model_copy(update={"priority": priority})
    typer.echo(submit_batch(request))


@app.command()
def cancel(run: RunArg, library: LibraryOption = DEFAULT_LIBRARY) -> None:
    """Stop a run, of a farm or of one machine: nothing begins, what is under way stops and keeps a checkpoint.

    Example: splatmill cancel last --library ./library
    """
    from flows.farm.commands import cancel_run

    typer.echo(cancel_run(library, run))


@app.command()
def pause(run: RunArg, library: LibraryOption = DEFAULT_LIBRARY) -> None:
    """Let no further asset of a farm's run begin; its workers take other runs' shards until splatmill resume.

    Example: splatmill pause last --library /mnt/library
    """
    from flows.farm.commands import pause_run

    typer.echo(pause_run(library, run))


@app.command()
def resume(run: RunArg, library: LibraryOption = DEFAULT_LIBRARY) -> None:
    """Let a paused run go on.

    Example: splatmill resume last --library /mnt/library
    """
    from flows.farm.commands import resume_run

    typer.echo(resume_run(library, run))


@app.command()
def reconcile(
    library: LibraryOption = DEFAULT_LIBRARY,
    every: Annotated[float, typer.Option(min=0.0, help="repeat after so many seconds, until stopped; 0 = once")] = 0.0,
) -> None:
    """Close the farm's shards whose process is gone and submit again what is missing, in all runs that are open.

    Example: splatmill reconcile --library /mnt/library --every 60
    """
    from flows.farm.commands import reconcile_here

    reconcile_here(library, every)


@app.command()
def worker(
    gpu: Annotated[int | None, typer.Option(min=0, max=63, help="index of the GPU it may use; none = the CPU")] = None,
    control: Annotated[bool, typer.Option("--control", help="run batch, nightly, reconcile, compact instead")] = False,
    name: Annotated[str, typer.Option(help="its name on the farm; default: the machine's, and the GPU")] = "",
) -> None:
    """Take shards from the farm's queue, one at a time, until stopped: one such worker for each GPU.

    Example: splatmill worker --gpu 0
    """
    from flows.farm.commands import name_of, work
    from flows.farm.setup import CONTROL_POOL, POOL

    if control and gpu is not None:
        raise RequestError("--control needs no --gpu: the flows that it runs only wait for shards and look after runs")
    _prepare(0, "auto" if gpu is not None else "cpu")
    name = name or name_of(gpu, control)
    if control:
        work(CONTROL_POOL, None, name, at_once=4)
    work(POOL, gpu, name, at_once=1)


@app.command()
def drain(
    worker: Annotated[str, typer.Argument(help="its name; without: this machine's only one")] = "",
    gpu: Annotated[int | None, typer.Option(min=0, max=63, help="instead: the worker that was started with it")] = None,
    wait: Annotated[
        float | None, typer.Option(min=0.0, help="seconds to wait at most; without: as long as it takes")
    ] = None,
    undo_: Annotated[bool, typer.Option("--undo", help="let it take shards again")] = False,
) -> None:
    """Have a worker of this machine end the assets that it has begun and take nothing more; wait until it is done.

    Example: splatmill drain --gpu 0
    """
    from flows.farm.commands import name_of
    from flows.farm.drain import drain as take_out
    from flows.farm.drain import undo

    if worker and gpu is not None:
        raise RequestError("splatmill drain: a worker's name or --gpu, not both")
    name = worker if gpu is None else name_of(gpu, control=False)
    typer.echo(undo(name) if undo_ else take_out(name, wait))


@app.command()
def deploy(
    library: LibraryOption,
    gpus: Annotated[int, typer.Option(min=1, max=4096, help="shards that may run at once: the farm's GPUs")] = 1,
    manifest: Annotated[
        Path | None,
        typer.Option(envvar="SPLATMILL_NIGHTLY_MANIFEST", help="what nightly makes; none = no nightly schedule"),
    ] = None,
    accept: Annotated[
        Path | None, typer.Option(help="YAML file of acceptance contracts that nightly holds its assets to")
    ] = None,
    file: Annotated[Path, typer.Option(help="the deployments")] = Path("deployments/prefect.yaml"),
    commercial: Annotated[
        bool, typer.Option("--commercial", envvar="SPLATMILL_COMMERCIAL", help="nightly is for commercial use")
    ] = False,
    allow_outside: OutsideOption = False,
    max_size: Annotated[
        str, typer.Option(envvar="SPLATMILL_MAX_SIZE", help="500G: what gc holds the library to; none = no schedule")
    ] = "",
) -> None:
    """Register work pools, deployments and, with SPLATMILL_WEBHOOK set, word of every night's end. Repeat at will.

    Example: splatmill deploy --library /mnt/library --gpus 4 --manifest /mnt/library/nightly.csv
    """
    from flows.farm.setup import set_up

    for line in set_up(library, gpus, manifest, file, commercial, allow_outside, max_size, accept):
        typer.echo(line)


@app.command()
def plan(
    manifest: ManifestArg,
    library: LibraryOption = DEFAULT_LIBRARY,
    recipe: RecipeOption = "factory",
    set_: SetOption = None,
    accept: AcceptOption = "",
    skip_invalid: SkipOption = False,
    allow_outside: OutsideOption = False,
    commercial: CommercialOption = False,
    json_: JsonOption = False,
) -> None:
    """Show what ``run`` would do: resolved settings, what is cached, what would be made. Changes nothing.

    Example: splatmill plan props.csv --set geometry.steps=50
    """
    from flows.show import show_plan

    request = _request(manifest, library, recipe, set_, skip_invalid, 1, allow_outside, commercial, accept)
    show_plan(request, as_json=json_)


@app.command()
def sweep(
    manifest: ManifestArg,
    over: Annotated[
        list[str], typer.Option("--over", help="values of a recipe field, recipe or seed: geometry.guidance_scale=5,10")
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="YAML file to write; default: the manifest's name and -sweep.yaml")
    ] = None,
    allow_outside: OutsideOption = False,
) -> None:
    """Write a manifest that has every row with every combination of some settings; run takes it, compare has its sides.

    Example: splatmill sweep props.csv --over geometry.guidance_scale=5,10,20 --over mesh.face_budget=2000,5000
    """
    from pipeline_core.sweep import sweep as write_sweep

    out = out or manifest.with_name(f"{manifest.stem}-sweep.yaml")
    count, axes = write_sweep(manifest, over, out, allow_outside=allow_outside)
    typer.echo(f"{out}: {count} assets; splatmill run {out}, then, say")
    name, *_, last = axes[0][0][0], *(typed for _, typed, _ in axes[0])
    typer.echo(f'splatmill compare "tag:{name}={axes[0][0][1]}" "tag:{name}={last}"')


@app.command()
def retry(
    manifest: Annotated[
        Path | None, typer.Argument(help="a manifest or a run's id; without: what the last run was asked for")
    ] = None,
    library: LibraryOption = DEFAULT_LIBRARY,
    asset: Annotated[
        list[str] | None, typer.Option("--asset", help="this one, also where its contract rejected it: further seeds")
    ] = None,
    stage: Annotated[str, typer.Option(help="only assets that failed in this stage")] = "",
    error_type: Annotated[str, typer.Option(help="only assets that failed with this error")] = "",
    error_class: Annotated[str, typer.Option(help="only this class: transient, oom, data or permanent")] = "",
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="recipe of rows that name none; default: factory, or the run's")
    ] = None,
    set_: SetOption = None,
    allow_outside: OutsideOption = False,
    in_flight: InFlightOption = 4,
    threads: ThreadsOption = 0,
    device: DeviceOption = "auto",
    commercial: CommercialOption = False,
    here: Annotated[bool, typer.Option("--here", help="on this machine, also what a farm's run was asked for")] = False,
    json_: JsonOption = False,
) -> None:
    """Make again the assets of a manifest or a run whose last attempt failed, and no others; or those of some names.

    A run, by default the library's last, is asked again with the manifest, recipe and --set that it had: a farm's run
    on the farm, as a new run.

    Example: splatmill retry props.csv --stage extract_mesh --error-type DivergedError
    """
    from flows.account import not_made
    from flows.asked import folder_of, is_farm_s
    from flows.local import run_here
    from flows.show import failed_assets, named_assets

    _prepare(threads, device)
    failed = failed_assets(library, stage=stage, error_type=error_type, error_class=error_class)
    failed, farm, unmade = named_assets(library, asset) if asset else failed, False, ""
    if manifest and (manifest.exists() or not _is_run(library, str(manifest))):
        request = _request(manifest, library, recipe or "factory", set_, True, in_flight, allow_outside, commercial)
    else:
        request = _request_again(library, str(manifest or ""), recipe, set_, in_flight, commercial)
        farm = not here and is_farm_s(folder_of(library, str(manifest or "last")))
        unmade = "" if failed else not_made(library, str(manifest or "last"))
    if not failed:
        for line in filter(None, ("nothing to retry: no asset of this library failed that way", unmade)):
            typer.echo(line, err=True)
        raise typer.Exit(0)
    request = request.model_copy(update={"only": tuple(failed), "again": bool(asset)})
    if farm:
        from flows.farm.commands import submit_batch

        typer.echo(submit_batch(request))
        return
    raise typer.Exit(run_here(request, as_json=json_))


@app.command()
def edit(
    asset: Annotated[str, typer.Argument(help="id of a finished asset")],
    do: Annotated[
        list[str] | None, typer.Option("--do", help="an edit, such as 'remove floaters=0.02'; several in their order")
    ] = None,
    as_: Annotated[str, typer.Option("--as", help="id of the new asset; default: from the asset's and the edits")] = "",
    prompt: Annotated[str, typer.Option(help="prompt of the new asset; default: the asset's")] = "",
    parts: Annotated[bool, typer.Option("--parts", help="only list the parts that hang together")] = False,
    library: LibraryOption = DEFAULT_LIBRARY,
    set_: SetOption = None,
    accept: Annotated[str, typer.Option(help="YAML file of acceptance contracts that the new asset is held to")] = "",
    threads: ThreadsOption = 0,
    device: DeviceOption = "auto",
    commercial: CommercialOption = False,
    json_: JsonOption = False,
) -> None:
    """Edit an asset's splat and make a new asset of it, from the mesh on: remove, keep, recolour, move, merge.

    Example: splatmill edit mug --do "remove floaters=0.02" --do "recolour hue=120" --as green-mug
    """
    from flows.edit import prepare_edit, show_parts
    from flows.local import run_here

    _prepare(threads, device)
    if parts:
        show_parts(library, asset, as_json=json_)
        return
    settings = _settings(None, set_) | {"commercial": commercial, "accept": accept}
    request = prepare_edit(library, asset, do or [], new_id=as_, prompt=prompt, **settings)
    raise typer.Exit(run_here(request, as_json=json_))


@app.command()
def status(
    run: Annotated[
        str | None, typer.Argument(help="a run's own account: its id, the beginning of its id, or last")
    ] = None,
    library: LibraryOption = DEFAULT_LIBRARY,
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="stay and show what is at work; with --json one line a look")
    ] = False,
    every: Annotated[float, typer.Option(min=0.1, help="with --watch: seconds between two looks")] = 2.0,
    json_: JsonOption = False,
) -> None:
    """How many assets are made, failed or unfinished, the last runs, and what went wrong; or one run's own account.

    Example: splatmill status last --library ./library
    """
    if watch:
        from flows.show import must_exist
        from flows.watch import show

        if run:
            raise RequestError("splatmill status --watch looks at the whole library: leave out the run")
        must_exist(library)
        show(library, every_s=every, as_json=json_)
        return
    if run:
        from flows.account import show_account

        show_account(library, run, as_json=json_)
        return
    from flows.show import show_status

    show_status(library, as_json=json_)


@app.command()
def metrics(
    library: LibraryOption = DEFAULT_LIBRARY,
    host: Annotated[str, typer.Option(help="address to bind; whoever reaches it reads it")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="port to bind; 0 = any that is free")] = 9464,
) -> None:
    """What status --watch shows, for Prometheus: answer GET /metrics until stopped. See deployments/README.md.

    Example: splatmill metrics --library /mnt/library
    """
    from flows.metrics import serve
    from flows.show import must_exist

    must_exist(library)
    serve(library, host, port)


@app.command()
def serve(
    library: LibraryOption = DEFAULT_LIBRARY,
    farm: Annotated[bool, typer.Option("--farm", help="the farm makes them, as for submit; else this machine")] = False,
    host: Annotated[str, typer.Option(help="address to bind; beyond loopback tokens are needed")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to bind")] = 8642,
    in_flight: InFlightOption = 4,
    threads: ThreadsOption = 0,
    device: DeviceOption = "auto",
) -> None:
    """Take jobs over HTTP until stopped: POST a manifest, GET what became of it, be told by webhook. See docs/JOBS.md.

    Example: splatmill serve --library ./library
    """
    from flows.jobs.serve import serve as answer

    _prepare(threads, device)
    answer(library, host, port, farm=farm, in_flight=in_flight)


@app.command()
def doctor(
    library: LibraryOption = DEFAULT_LIBRARY,
    recipe: RecipeOption = "factory",
    warmup: Annotated[
        bool, typer.Option("--warmup", help="compile the CPU kernels now, ahead of the first run")
    ] = False,
    json_: JsonOption = False,
) -> None:
    """What is here, what is missing, and how to get it: device, libraries, models, disk, server.

    Example: splatmill doctor --warmup
    """
    _prepare(0, "auto")
    from flows.doctor import examine

    raise typer.Exit(examine(library, recipe, warmup=warmup, as_json=json_))


@app.command()
def models(
    manifest: Annotated[Path | None, typer.Argument(help="its models; without: those that the recipes name")] = None,
    recipe: RecipeOption = "factory",
    set_: SetOption = None,
    allow_outside: OutsideOption = False,
    library: Annotated[str, typer.Option("--library", "-l", help="instead: what this library's assets used")] = "",
    json_: JsonOption = False,
) -> None:
    """The models that recipes, a manifest or a library's assets name: where they are, ids, licences and conditions.

    Example: splatmill models
    """
    from flows.licences import show_models, show_used_models
    from pipeline_core.config import RECIPES
    from pipeline_core.manifest import load_manifest

    if manifest and library:
        raise RequestError("splatmill models: a manifest or --library, not both")
    if library:
        show_used_models(library, as_json=json_)
    elif manifest:
        specs = load_manifest(manifest, **_settings(recipe, set_), allow_outside=allow_outside).specs
        show_models([spec.recipe for spec in specs], as_json=json_)
    else:
        show_models(list(RECIPES.values()), as_json=json_)


app.command()(catalogue.sql)
app.command()(catalogue.compare)
app.command()(catalogue.gc)
app.command()(catalogue.gallery)
app.command()(catalogue.attribution)


@app.command()
def export(
    to: Annotated[Path, typer.Option("--to", help="folder to write to; each asset gets one of its own in it")],
    select: Annotated[
        list[str] | None, typer.Argument(help="asset ids, or one query in quotes that answers with a column asset_id")
    ] = None,
    profile: Annotated[str, typer.Option(help="unreal, unity, godot, blender or web")] = "blender",
    format_: Annotated[
        str,
        typer.Option(
            "--format", help="with commas: glb,usdz,usd,obj,stl,fbx, ply,spz,sog of the splat; or webdataset,parquet"
        ),
    ] = "",
    ids_from: Annotated[Path | None, typer.Option("--ids-from", help="asset ids: the gallery's list, or lines")] = None,
    everything: Annotated[bool, typer.Option("--all", help="every asset that is delivered")] = False,
    tag: Annotated[list[str] | None, typer.Option("--tag", help="those with this tag: category=furniture")] = None,
    compress: Annotated[
        str, typer.Option(help="of GLBs: none, or some of webp,ktx2,meshopt,draco; default: the profile's")
    ] = "",
    rejected: RejectedOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace files that are there already")] = False,
    dataset: Annotated[
        bool, typer.Option("--dataset", help="a dataset to train on: accepted assets, in splits, with a card")
    ] = False,
    with_duplicates: Annotated[
        bool, typer.Option("--with-duplicates", help="dataset: near-duplicates too, where one split has them all")
    ] = False,
    commercial: Annotated[
        bool, typer.Option("--commercial", help="dataset: refuse where a model's licence forbids selling")
    ] = False,
    shard_mb: Annotated[float, typer.Option("--shard-mb", min=0.001, help="dataset: most megabytes a shard")] = 500.0,
    library: LibraryOption = DEFAULT_LIBRARY,
    json_: JsonOption = False,
) -> None:
    """Pack finished assets for an engine: its names, units and axes, in formats that it reads. Runs no stage.

    Example: splatmill export "select asset_id from assets where faces < 5000" --to shipped --profile unreal
    """
    _prepare(0, "cpu")
    from flows.export import Asked, ids_in, show_export

    chosen = (*(select or ()), *(ids_in(ids_from) if ids_from else ()))
    asked = Asked(
        chosen, everything, tuple(tag or ()), profile, format_, compress, overwrite, rejected,
        with_duplicates, commercial, shard_mb,
    )  # fmt: skip
    if dataset:
        from flows.dataset import show_dataset

        raise typer.Exit(show_dataset(library, to, asked, as_json=json_))
    raise typer.Exit(show_export(library, to, asked, as_json=json_))


@app.command()
def kit(
    to: Annotated[Path, typer.Option("--to", help="folder to write to")],
    name: Annotated[str, typer.Option("--name", help="the kit's name: of its file, material and textures")],
    select: Annotated[
        list[str], typer.Argument(help="asset ids, or one query in quotes that answers with a column asset_id")
    ],
    profile: Annotated[str, typer.Option(help="unreal, unity, godot, blender or web")] = "blender",
    size: Annotated[int, typer.Option("--size", help="most texels a side of the atlas, a power of two")] = 4096,
    rejected: RejectedOption = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace a kit of that name")] = False,
    library: LibraryOption = DEFAULT_LIBRARY,
    json_: JsonOption = False,
) -> None:
    """Pack finished assets as a kit: one atlas, one material, one texel density; together, and each apart with the same
    textures.

    Example: splatmill kit barrel chest chair --name tavern --to shipped --profile unreal
    """
    _prepare(0, "cpu")
    from flows.kit import show_kit

    show_kit(
        library, select, to, name, profile_name=profile, size=size, overwrite=overwrite, rejected=rejected,
        as_json=json_,
    )  # fmt: skip


@app.command()
def evaluate(
    assets: Annotated[list[str] | None, typer.Argument(help="asset ids; all of the library when none is given")] = None,
    library: LibraryOption = DEFAULT_LIBRARY,
    judge: Annotated[
        str | None, typer.Option(help="starter, or the folder or hub id of a CLIP model; else each asset's own judge")
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Let a judge that never guided them say whether assets show their prompts.

    Example: splatmill evaluate mug chair --library ./library
    """
    from flows.show import show_scores

    _prepare(0, "auto")
    show_scores(library, assets or [], judge, as_json=json_)


@app.command()
def verify(
    assets: Annotated[list[str], typer.Argument(help="ids of finished assets")],
    library: LibraryOption = DEFAULT_LIBRARY,
    threads: Annotated[int, typer.Option(min=0, max=1024, help="CPU threads; 0 = as they were made with")] = 0,
    device: DeviceOption = "auto",
    keep: Annotated[bool, typer.Option("--keep", help="keep what is made again, and say where")] = False,
    json_: JsonOption = False,
) -> None:
    """Make assets again from their records, elsewhere, and say whether they are the same. Exit code 1 where one is not.

    Example: splatmill verify mug --library ./library
    """
    from flows.verify import recorded_threads, show_verified

    _prepare(threads or recorded_threads(library, assets), device)
    raise typer.Exit(show_verified(library, assets, keep=keep, as_json=json_))


@app.command()
def validate(
    paths: PathsArg,
    signed: Annotated[bool, typer.Option("--signed", help="what is not signed is an error too")] = False,
    json_: JsonOption = False,
) -> None:
    """Look for faults in GLBs, pictures and splats: structure, surface, mark, signature, sha256. Exit code 1 on errors.

    Example: splatmill validate ./library/assets/chair-07
    """
    from flows.checked import validate_paths

    raise typer.Exit(0 if validate_paths(paths, signed=signed, as_json=json_) else 1)


@app.command()
def sign(paths: PathsArg) -> None:
    """Sign copies of PNG, WebP and GLB with C2PA, by the certificate and key that SPLATMILL_C2PA_CERTIFICATE and
    SPLATMILL_C2PA_KEY name (PEM files); a GLB's signature lies beside it, in <name>.glb.c2pa.

    Example: splatmill sign ./shipped
    """
    from flows.checked import sign_paths

    for path in sign_paths(paths):
        typer.echo(path)


@app.command("train-starter", context_settings=PASS_ON)
def train_starter(context: typer.Context) -> None:
    """Train the starter prior, or (--part flow) a small flow transformer; --help lists the trainer's own options.

    Example: splatmill train-starter --out runs/starter
    """
    _prepare(0, "auto")
    from pipeline_core.training.train import main as train

    raise typer.Exit(train(context.args) or 0)


HostOption = Annotated[str, typer.Option(help="address to bind; beyond loopback a password is asked for")]
StartPortOption = Annotated[int | None, typer.Option("--port", min=0, max=65535, help="port to bind; 4200 if none")]
PortOption = Annotated[int, typer.Option(min=0, max=65535, help="port to bind; 0 = any that is free")]
DatabaseOption = Annotated[
    str,
    typer.Option(
        envvar="SPLATMILL_DATABASE",
        help="postgresql+asyncpg://user@host/name instead of a SQLite file; with a password only in SPLATMILL_DATABASE",
    ),
]


@server_app.callback(invoke_without_command=True)
def server(
    context: typer.Context, host: HostOption = "127.0.0.1", port: PortOption = 4200, database: DatabaseOption = ""
) -> None:
    """The Prefect server: alone it runs in the foreground until stopped; start keeps one in the background.

    Example: splatmill server --host 0.0.0.0
    """
    if context.invoked_subcommand is None:
        from flows.server import serve

        serve(host, port, _database(database))


@bench_app.command("gpu", context_settings=PASS_ON)
def bench_gpu(context: typer.Context) -> None:
    """Assets per hour, time by part and memory of one GPU, at true model sizes; --help lists the options.

    Example: splatmill bench gpu --model sd15 --csv tests/bench/results/h100.csv
    """
    _prepare(0, "auto")
    from pipeline_core.benchmark.gpu import main as bench

    raise typer.Exit(bench(context.args))


@server_app.command("start")
def server_start(host: HostOption = "127.0.0.1", port: StartPortOption = None, database: DatabaseOption = "") -> None:
    """Start a server that stays; runs use it until it is stopped.

    Example: splatmill server start
    """
    from flows.server import start_warm

    found = start_warm(host, port, _database(database))
    typer.echo(f"Prefect server at {found['url']} (pid {found['pid']}); UI: {found['url'].removesuffix('/api')}")
    if found.get("auth"):
        typer.echo("it asks for a password: on other machines, and in the UI, what splatmill server password prints")


@server_app.command("password")
def server_password() -> None:
    """Print what other machines must have in PREFECT_API_AUTH_STRING, and the UI asks for.

    Example: splatmill server password
    """
    from flows.server import auth_string

    typer.echo(auth_string())


@server_app.command("stop")
def server_stop() -> None:
    """Stop it.

    Example: splatmill server stop
    """
    from flows.server import stop_warm

    typer.echo("stopped" if stop_warm() else "no server was running")


@server_app.command("status")
def server_status() -> None:
    """Say whether it answers, and where.

    Example: splatmill server status
    """
    from flows.server import pointed_at, warm_server

    found = warm_server()
    if found:
        typer.echo(f"running at {found['url']} (pid {found['pid']})")
    elif elsewhere := pointed_at():
        typer.echo(f"not running here; runs use {redact(elsewhere)}")
    else:
        typer.echo("not running; splatmill run starts its own for each run")
        raise typer.Exit(1)


def _database(url: str) -> str | None:
    """The database's address, checked. Raises :class:`RequestError` where others could read its password."""
    if not url:
        return None
    from flows.server import check_database

    check_database(url)
    typed = any(argument == "--database" or argument.startswith("--database=") for argument in sys.argv)
    if typed and urlsplit(url).password:
        raise RequestError(
            "--database with a password can be read by every user of this machine: set SPLATMILL_DATABASE"
        )
    return url


def _prepare(threads: int, device: str) -> None:
    """Set what must be in the environment before torch is imported."""
    from pipeline_core.device import configure
    from tasks.meter import price_per_hour

    logs.as_json()
    price_per_hour()
    configure(threads or None)
    os.environ["SPLATMILL_DEVICE"] = device


def _request(
    manifest: Path, library: str, recipe: str, overrides: list[str] | None, skip_invalid: bool, in_flight: int,
    allow_outside: bool, commercial: bool, accept: str = "",
) -> Any:  # fmt: skip
    """The batch that the options describe. Raises :class:`RequestError`."""
    from flows.batch import BatchRequest

    return BatchRequest(
        manifest=str(manifest),
        library=library,
        **_settings(recipe, overrides),
        skip_invalid=skip_invalid,
        in_flight=in_flight,
        allow_outside=allow_outside,
        commercial=commercial,
        **({"accept": accept} if accept else {}),
    )


def _is_run(library: str, text: str) -> bool:
    """Whether the text names a run of the library."""
    from flows.asked import folder_of

    try:
        return bool(folder_of(library, text))
    except RequestError:
        return False


def _request_again(
    library: str, run: str, recipe: str | None, overrides: list[str] | None, in_flight: int, commercial: bool
) -> Any:
    """The batch of ``run``, or of the library's last one, with the changes that the options ask for."""
    from flows.asked import ask_again

    def say(words: str) -> None:
        typer.echo(words, err=True)

    changes = _settings(recipe, overrides) | ({"commercial": True} if commercial else {})
    return ask_again(library, say, run, **changes, skip_invalid=True, in_flight=in_flight)


def _settings(recipe: str | None, overrides: list[str] | None) -> dict[str, Any]:
    """Fields of a batch for ``--recipe``, where it is given, and ``--set``."""
    from pipeline_core.config import RECIPES
    from pipeline_core.manifest import parse_override

    if recipe is not None and recipe not in RECIPES:
        raise RequestError(f"--recipe {recipe}: one of {', '.join(RECIPES)}")
    named = {} if recipe is None else {"recipe": recipe}
    return named | {"overrides": dict(parse_override(text) for text in overrides or ())}


def _with_limits(request: Any, deadline: str, gpu_hours: float) -> Any:
    """The batch with its deadline and budget."""
    from flows.budget import next_time

    limits = {"deadline": next_time(deadline) if deadline else None, "gpu_hours": gpu_hours or None}
    return request.model_copy(update=limits)


def main() -> None:
    """Entry point; errors are told at the :class:`~catalog.door.Door`."""
    ensure_home()
    reach_loopback_directly()
    app()


if __name__ == "__main__":
    main()
