"""What the orchestration costs an asset: Prefect's client and server, our files and catalogue, against a plain pool.

    python tests/bench/orchestration.py                          # 300, 1000 and 3000 assets: about 20 minutes
    python tests/bench/orchestration.py --assets 300 --only prefect files

The journey is the real one (``flows.run``, every task, file, catalogue row and cache key); only the work
inside the stages is replaced by writing outputs of a few bytes. Rows of the table:

* ``prefect``: ``splatmill run``'s path: the flow in a process of its own, against a server of its own on SQLite
  with the settings that we ship. *client* is the CPU time of that process, *server* the server's until it has recorded
  every task run, *wall* the clock of the client.
* ``files``: the same work in a plain process pool, without Prefect: what stays is our own files and rows. The
  difference to ``prefect`` is what Prefect costs the client.
* ``empty``: an empty call per asset in the same pool: the pool alone.
* ``dask``: the same tasks through ``prefect-dask`` (``DaskTaskRunner`` on a local cluster), where it is installed.

*re-run* is the whole command ``splatmill run`` on the finished manifest, interpreter start included. Memory is the
client's resident set after all assets, less that after the first fifty. Last line of stdout: JSON.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: a module here may have a room's name

import psutil  # noqa: E402

from flows.batch import BatchRequest, plan_batch, prepare  # noqa: E402
from flows.server import CLIENT, own_server  # noqa: E402
from tasks.journey import Journey  # noqa: E402

POOL_PROCESSES = 2
IN_FLIGHT = 4
SETTLE_S = 600.0
SIZES = {"empty": lambda sizes: sizes[:1], "dask": lambda sizes: [min(60, sizes[0])]}
"""Rows that are not measured at every size: an empty call costs what it costs, and Dask's runner takes seconds each."""
OUTPUTS = {
    "init_points": ("points.ply",),
    "optimize_gaussians": ("splat.ply", "curves.json"),
    "densify_prune": ("splat.ply", "curves.json"),
    "extract_mesh": ("mesh.glb", "surface.npz"),
    "refine_texture": ("asset.glb",),
    "dress": ("asset.glb", "material.json"),
    "levels": ("lods.glb", "collision.glb", "levels.json"),
    "evaluate": ("preview.png", "turntable.webp", "stages.webp", "metrics.json"),
    "validate": ("validation.json",),
    "accept": ("verdict.json",),
    "record": ("asset.glb", "splat.ply", "preview.png", "turntable.webp", "stages.webp", "asset.json"),
}

TEXTS = {
    "metrics.json": '{"faces": 1.0}', "material.json": "{}", "levels.json": '{"metrics": {}}', "validation.json": "{}",
    "verdict.json": '{"clauses": []}',
}  # fmt: skip
"""What the last stage reads of them."""


# --- the journey with next to no work --------------------------------------------------------------------------------


def write_outputs(folder: Path, stage: str) -> dict[str, float]:
    """A stage's output files, a few bytes each."""
    for name in OUTPUTS[stage]:
        (folder / name).write_text(TEXTS.get(name, stage))
    return {"faces": 1.0}


def lighten_stages() -> None:
    """Replace the work inside the stages; tasks, publishing, cache keys and catalogue stay what they are."""
    from tasks import policy
    from tasks.stage import run_stage

    def light(journey: Journey, stage: str, work: Any, *rest: Any) -> dict[str, Any]:
        return run_stage(journey, stage, lambda folder: write_outputs(folder, stage), *rest)

    policy.run_stage = light


def travel(journey: Journey, call: Callable[..., Any]) -> Any:
    """``flows.asset.travel``, each task called by ``call(task, *arguments)``."""
    from pipeline_core.stages import DELIVERY, STAGES
    from tasks.policy import task_of

    made: dict[str, Any] = {}
    for stage in STAGES:
        made[stage.name] = call(task_of(stage.name), journey, *(made[name] for name in stage.upstream))
    return made[DELIVERY]


def without_prefect(journey: Journey) -> float:
    """The journey as plain function calls; returns the CPU seconds it took."""
    began = time.process_time()
    travel(journey, lambda task, *arguments: task.fn(*arguments))
    return time.process_time() - began


def empty(journey: Journey) -> float:
    """Nothing, but sent to a process and back."""
    return 0.0


# --- rows, each in a process of its own ------------------------------------------------------------------------------


def measure_prefect(request: BatchRequest, assets: int) -> dict[str, Any]:
    """The flow, as ``splatmill run`` calls it."""
    lighten_stages()
    from flows import run

    memory = MemoryByAsset(assets)
    original, run.make_asset = run.make_asset, memory.around(run.make_asset)
    cpu, wall = time.process_time(), time.perf_counter()
    state = run.run_flow(prepare(request), threading.Event())(request, return_state=True)
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    run.make_asset = original
    assert f"{assets} made" in state.message, state.message
    return {"client_ms": 1e3 * cpu / assets, "wall_ms": 1e3 * wall / assets, "growth_mb": memory.growth_mb()}


class MemoryByAsset:
    """The process's resident set after the first fifty assets and after all of them."""

    def __init__(self, assets: int) -> None:
        self.assets, self.done, self.first_mb, self.last_mb = assets, 0, 0.0, 0.0

    def around(self, make: Any) -> Any:
        """``make``, with a look at the memory after it."""

        def call(journey: Journey) -> Any:
            made = make(journey)
            self.done += 1
            if self.done == min(50, self.assets):
                self.first_mb = resident_mb()
            self.last_mb = resident_mb()
            return made

        return call

    def growth_mb(self) -> float:
        """MiB that the assets after the first fifty left behind."""
        return self.last_mb - self.first_mb


def resident_mb() -> float:
    """Resident set of this process, MiB."""
    return psutil.Process().memory_info().rss / 2**20


def measure_pool(request: BatchRequest, assets: int, call: Any = without_prefect) -> dict[str, Any]:
    """The same work in a plain process pool."""
    _, journeys = plan_batch(request)
    context = get_context("spawn")
    with ProcessPoolExecutor(POOL_PROCESSES, mp_context=context, initializer=lighten_stages) as pool:
        list(pool.map(empty, journeys[:POOL_PROCESSES]))  # imports are done before the clock starts
        own, wall = time.process_time(), time.perf_counter()
        spent = sum(pool.map(call, journeys))
        own, wall = time.process_time() - own, time.perf_counter() - wall
    return {"client_ms": 1e3 * (own + spent) / assets, "wall_ms": 1e3 * wall / assets}


def measure_empty(request: BatchRequest, assets: int) -> dict[str, Any]:
    """The pool alone."""
    return measure_pool(request, assets, empty)


def measure_dask(request: BatchRequest, assets: int) -> dict[str, Any]:
    """The tasks of all assets submitted to a local Dask cluster through Prefect's integration."""
    from distributed import Client, LocalCluster
    from prefect import flow
    from prefect_dask import DaskTaskRunner

    lighten_stages()

    def submit(journey: Journey) -> Any:
        return travel(journey, lambda task, *arguments: task.submit(*arguments))

    cluster = LocalCluster(n_workers=POOL_PROCESSES, threads_per_worker=2, dashboard_address=None)
    workers = [psutil.Process(each.pid) for each in cluster.workers.values()]

    @flow(name="dask", task_runner=DaskTaskRunner(address=cluster.scheduler_address), persist_result=False)
    def through_dask() -> int:
        _, journeys = plan_batch(request)
        return sum(bool(future.result()) for future in [submit(each) for each in journeys])

    def spent() -> float:
        return time.process_time() + sum(map(cpu_of, workers))

    with cluster, Client(cluster) as client:
        client.run(lighten_stages)  # imports are done before the clock starts
        cpu, wall = spent(), time.perf_counter()
        assert through_dask() == assets
        cpu, wall = spent() - cpu, time.perf_counter() - wall
    return {"client_ms": 1e3 * cpu / assets, "wall_ms": 1e3 * wall / assets}


MEASURES = {"prefect": measure_prefect, "files": measure_pool, "empty": measure_empty, "dask": measure_dask}


# --- the bench -------------------------------------------------------------------------------------------------------


def write_manifest(folder: Path, assets: int) -> BatchRequest:
    """A manifest of ``assets`` different props, and the request for it."""
    path = folder / "props.csv"
    rows = [f"mug-{i:05d},a blue mug number {i},{i}\n" for i in range(assets)]
    path.write_text("id,prompt,seed\n" + "".join(rows))
    return BatchRequest(manifest=str(path), library=str(folder / "library"), recipe="draft", in_flight=IN_FLIGHT)


def child(name: str, folder: Path, assets: int, url: str | None) -> dict[str, Any]:
    """Take one measurement in a fresh process."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")} | CLIENT
    environment |= {"PREFECT_LOCAL_STORAGE_PATH": str(folder / "results"), "PREFECT_HOME": str(folder / "home")}
    environment["PYTHONPATH"] = str(ROOT)
    if url:
        environment["PREFECT_API_URL"] = url
    command = [sys.executable, __file__, "--measure", name, "--folder", str(folder), "--assets", str(assets)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def rerun_seconds(request: BatchRequest) -> float:
    """Seconds that the command takes for a finished manifest."""
    command = [sys.executable, "-m", "flows.cli", "run", request.manifest, "-l", request.library, "-r", request.recipe]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PREFECT_API_URL": "http://127.0.0.1:9/api"}  # not needed
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    assert "0 made" in done.stdout, done.stdout
    return time.perf_counter() - began


@contextlib.contextmanager
def measured_server(folder: Path) -> Iterator[tuple[str, psutil.Process]]:
    """A server of our own and its process."""
    with own_server(folder) as url:
        [server] = [each for each in psutil.Process().children() if "flows.server" in each.cmdline()]
        yield url, server


def cpu_of(process: psutil.Process) -> float:
    """CPU seconds of a running process."""
    times = process.cpu_times()
    return times.user + times.system


def settle(url: str, process: psutil.Process, tasks: int) -> float:
    """Wait until the server has recorded ``tasks`` task runs as finished; seconds until then."""
    import urllib.request

    body = json.dumps({"task_runs": {"state": {"type": {"any_": ["COMPLETED"]}}}}).encode()
    request = urllib.request.Request(f"{url}/task_runs/count", body, {"Content-Type": "application/json"})
    began = time.perf_counter()
    while time.perf_counter() - began < SETTLE_S:
        with contextlib.suppress(OSError), urllib.request.urlopen(request, timeout=30) as answer:
            if json.loads(answer.read()) >= tasks:
                break
        time.sleep(1)
    return time.perf_counter() - began


def row_of(name: str, assets: int, folder: Path) -> dict[str, Any]:
    """One row of the table."""
    folder.mkdir(parents=True)
    request = write_manifest(folder, assets)
    if name in ("files", "empty"):
        row = child(name, folder, assets, None)
        return row | {"rerun_s": rerun_seconds(request)} if name == "files" else row
    with measured_server(folder / "server") as (url, server):
        before = cpu_of(server)
        row = child(name, folder, assets, url)
        row["settled_s"] = settle(url, server, len(OUTPUTS) * assets)
        row["server_ms"] = 1e3 * (cpu_of(server) - before) / assets
    if name == "prefect":
        row["rerun_s"] = rerun_seconds(request)
    return row


def why_not(name: str) -> str | None:
    """Why a row cannot be measured here."""
    if name != "dask":
        return None
    try:
        import prefect_dask  # noqa: F401
    except ImportError as error:
        return f"{error}; pip install 'splatmill[bench]'"
    return None


def main() -> None:
    """Measure, print a table, and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=int, nargs="+", default=[300, 1000, 3000])
    parser.add_argument("--only", nargs="+", choices=list(MEASURES), default=list(MEASURES))
    parser.add_argument("--measure", choices=list(MEASURES), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        [assets] = options.assets
        print(json.dumps(MEASURES[options.measure](write_manifest(options.folder, assets), assets)))
        return
    rows = measure_all(options.assets, options.only)
    print(json.dumps(summary(rows)))


def measure_all(sizes: list[int], names: list[str]) -> list[dict[str, Any]]:
    """All rows, printed as they come."""
    columns = ("client_ms", "server_ms", "wall_ms", "settled_s", "growth_mb", "rerun_s")
    print(f"{'row':8} {'assets':>7} " + " ".join(f"{name:>10}" for name in columns), flush=True)
    rows = []
    for name in names:
        reason = why_not(name)
        for assets in SIZES.get(name, lambda sizes: sizes)(sizes):
            with tempfile.TemporaryDirectory(prefix="splatmill-bench-") as folder:
                measured = {"reason": reason} if reason else row_of(name, assets, Path(folder) / name)
            row = {"row": name, "assets": assets, **measured}
            rows.append(row)
            told = reason or " ".join(f"{row[c]:10.1f}" if c in row else " " * 10 for c in columns)
            print(f"{name:8} {assets:7d} {told}", flush=True)
    return rows


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The JSON line: figures of the largest batch, and the others by name."""
    by_name = {row["row"]: row for row in rows}  # the last of a name is the largest
    prefect = by_name.get("prefect", {})
    dask = by_name.get("dask", {})
    files = by_name.get("files", {})
    # of a run's own library where there is one: what the pool wrote lies in as many files as it has rows
    reruns = {row["assets"]: row["rerun_s"] for name in ("files", "prefect") for row in rows if row["row"] == name}
    overhead = prefect["client_ms"] - files["client_ms"] if prefect and files else None
    return {
        "assets": prefect.get("assets"),
        "client_ms_per_asset": prefect.get("client_ms"),
        "client_overhead_ms_per_asset": overhead,
        "server_ms_per_asset": prefect.get("server_ms"),
        "wall_ms_per_asset": prefect.get("wall_ms"),
        "memory_growth_mb": prefect.get("growth_mb"),
        "cached_rerun_s_3000": reruns.get(3000),
        "pool_ms_per_asset": files.get("client_ms"),
        "empty_pool_ms_per_asset": by_name.get("empty", {}).get("client_ms"),
        "dask_ms_per_asset": dask.get("client_ms"),
        "dask_reason": dask.get("reason"),
        "rows": rows,
    }


if __name__ == "__main__":
    main()
