"""What the catalogue costs: appends against Delta, the ten questions, and the snapshot.

    python tests/bench/catalog.py                       # 10k, 1M and 5M rows: about half an hour on two idle cores
    python tests/bench/catalog.py --rows 10000 1000000

An append is one small file: encode a row, write, fsync, link. Delta's is a data file and a numbered log entry that
every writer competes for, so its rate falls with the number of writers; ours is bounded by the disk. Both run here in
turns, in the same minutes, on the same disk: the ratio is what counts. Questions are asked five times on two threads;
*ms* is the median wall time and *cpu* the median CPU time of the process over both threads. Where the machine is busy,
wall time says little and CPU time is the better guide. Last line of stdout: JSON.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[0] = str(ROOT)  # not this folder: a module here has the catalogue's name

import pyarrow as pa  # noqa: E402

from catalog import compact, listing, query, snapshot  # noqa: E402
from catalog.questions import QUESTIONS  # noqa: E402
from catalog.schema import Artifact, StageRun, to_table  # noqa: E402
from catalog.store import open_store  # noqa: E402
from catalog.writer import append  # noqa: E402
from tests.catalog.synthetic import EVENTS_PER_ASSET, NIGHT, fill  # noqa: E402

try:
    import deltalake
except ImportError:
    deltalake = None

PROCESSES = 8
REPEATS = 5


def event(name: str) -> StageRun:
    """A typical row: four metrics, two artifacts."""
    return StageRun(
        run_id="bench",
        asset_id=name,
        stage="evaluate",
        status="ok",
        duration_s=2.0,
        metrics={"faces": 9800.0, "fidelity": 0.3, "consistency": 0.9, "watertight": 1.0},
        tags={"category": "furniture"},
        artifacts=tuple(Artifact(role, f"stages/x/{role}", "ab" * 32, 1234) for role in ("preview", "turntable")),
    )


def append_delta(path: str, run: StageRun) -> bool:
    """One append to a Delta table; False when Delta gives up after its own retries."""
    try:
        deltalake.write_deltalake(path, delta_table(run), mode="append")
    except deltalake.exceptions.CommitFailedError:
        return False
    return True


def delta_table(run: StageRun) -> pa.Table:
    """The row as Delta takes it."""
    return to_table([run], run.event_id)


def worker(kind: str, path: str, name: str, count: int, start, results) -> None:
    """Append ``count`` rows as fast as possible; report how many were accepted and the seconds each took."""
    accepted, seconds = 0, []
    start.wait()
    for number in range(count):
        run = event(f"{name}-{number}")
        began = time.perf_counter()
        accepted += bool(append(path, [run])) if kind == "ours" else append_delta(path, run)
        seconds.append(time.perf_counter() - began)
    results.put((accepted, seconds))


def concurrent(kind: str, path: str, count: int) -> dict:
    """All processes at once; the clock runs from the common start to the last end."""
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(PROCESSES + 1), context.Queue()
    jobs = [
        context.Process(target=worker, args=(kind, path, f"p{index}", count, start, results))
        for index in range(PROCESSES)
    ]
    for job in jobs:
        job.start()
    start.wait()
    began = time.perf_counter()
    found = [results.get() for _ in jobs]
    elapsed = time.perf_counter() - began
    for job in jobs:
        job.join()
    seconds = sorted(each for _, times in found for each in times)
    asked = PROCESSES * count
    return {
        "asked": asked,
        "accepted": sum(accepted for accepted, _ in found),
        "per_s": asked / elapsed,
        "p50_ms": 1e3 * statistics.median(seconds),
        "p95_ms": 1e3 * seconds[int(0.95 * len(seconds))],
    }


def bench_appends(folder: Path, rounds: int, ours: int, delta: int) -> dict:
    """Ours and Delta in turns, a fresh catalogue and table each round; Delta's figures are null where it is not."""
    found = {"ours": [], "delta": []}
    stored = stored_delta = 0
    for turn in range(rounds):
        library, table = str(folder / f"ours-{turn}"), str(folder / f"delta-{turn}")
        found["ours"].append(concurrent("ours", library, ours))
        stored += query.rows(library, "select count(distinct event_id) as n from events")[0]["n"]
        if deltalake:
            deltalake.write_deltalake(table, delta_table(event("first")))
            found["delta"].append(concurrent("delta", table, delta))
            stored_delta += len(deltalake.DeltaTable(table).to_pyarrow_table(columns=["event_id"])) - 1
    for kind, rows in found.items():
        for row in rows:
            shown = ", ".join(f"{name} {value:.1f}" for name, value in row.items())
            print(f"8 processes, {kind:5}: {shown}", flush=True)
    rates = {kind: statistics.median(row["per_s"] for row in rows) for kind, rows in found.items() if rows}
    peer = {"delta_asked": None, "delta_stored": None, "delta_per_s": None, "vs_delta": None}
    if deltalake:
        peer = {
            "delta_asked": sum(row["asked"] for row in found["delta"]),
            "delta_stored": stored_delta,
            "delta_per_s": round(rates["delta"], 1),
            "vs_delta": round(rates["ours"] / rates["delta"], 1),
        }
    return {
        "appends_asked": sum(row["asked"] for row in found["ours"]),
        "appends_stored": stored,
        "appends_per_s": round(rates["ours"], 1),
    } | peer


def bench_latency(folder: Path, count: int) -> dict:
    """One process, append by append, ours and Delta's in turns."""
    seconds = {"ours": [], "delta": []}
    if deltalake:
        deltalake.write_deltalake(str(folder / "one-delta"), delta_table(event("first")))
    for number in range(count):
        for kind in seconds if deltalake else ("ours",):
            run = event(f"one-{number}")
            began = time.perf_counter()
            append(folder / "one-ours", [run]) if kind == "ours" else append_delta(str(folder / "one-delta"), run)
            seconds[kind].append(time.perf_counter() - began)
    medians = {kind: round(1e3 * statistics.median(each), 2) if each else None for kind, each in seconds.items()}
    return {f"append_p50_ms_{kind}": median for kind, median in medians.items()}


def ask_all(library: Path, live: bool) -> dict:
    """The ten questions: ms and cpu ms each, and the seconds the connection took."""
    began = time.perf_counter()
    with query.connect(library, live=live, threads=2) as con:
        connect_s, wall, cpu = time.perf_counter() - began, [], []
        for question in QUESTIONS:
            times = []
            for _ in range(REPEATS if not live else 1):
                began, cpu_began = time.perf_counter(), time.process_time()
                con.execute(question.sql).fetchall()
                times.append((time.perf_counter() - began, time.process_time() - cpu_began))
            wall.append(round(1e3 * statistics.median(each[0] for each in times), 1))
            cpu.append(round(1e3 * statistics.median(each[1] for each in times), 1))
    return {"connect_s": round(connect_s, 2), "ms": wall, "cpu_ms": cpu}


def bench_size(folder: Path, rows: int, live_files: int) -> dict:
    """One catalogue of ``rows``: questions on files as written, compacted, and on the snapshot; two nights more."""
    library = folder / f"rows-{rows}"
    following = fill(library, rows)
    for number in range(live_files):
        append(library, [event(f"late-{number}")])
    found = {"before_compaction": ask_all(library, live=True)}
    compact.compact(library, compact.Policy(grace_s=-1.0))
    found["files"] = len(listing.visible(open_store(library)).files)
    found["after_compaction"] = ask_all(library, live=True)
    cpu = time.process_time()
    full = snapshot.build(library, threads=2)
    found |= {"full_snapshot_s": round(full.seconds, 1), "full_snapshot_cpu_s": round(time.process_time() - cpu, 1)}
    found["snapshot_mb"] = round(os.path.getsize(full.path) / 1e6)
    found["snapshot"] = ask_all(library, live=False)
    for name in ("first_increment", "second_increment"):
        following = fill(library, NIGHT * EVENTS_PER_ASSET, first=following, files=1)
        cpu = time.process_time()
        step = snapshot.build(library, threads=2)
        found[name] = {
            "s": round(step.seconds, 2), "cpu_s": round(time.process_time() - cpu, 2), "events": step.new_events,
            "how": step.how,
        }  # fmt: skip
    print(json.dumps({"rows": rows} | found), flush=True)
    return found


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, nargs="*", default=[10_000, 1_000_000, 5_000_000])
    parser.add_argument("--rounds", type=int, default=3, help="turns of concurrent appends; 0 = none")
    parser.add_argument("--appends", type=int, default=200, help="appends per process")
    parser.add_argument("--delta-appends", type=int, default=25, help="appends per process to Delta")
    parser.add_argument("--live-files", type=int, default=500, help="one-row files before compaction")
    parser.add_argument("--folder", type=Path, help="where to work; a temporary folder unless given")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as work:
        folder = Path(work)
        result = {}
        if arguments.rounds:
            if deltalake is None:
                print("deltalake is not here, its figures are null: pip install 'splatmill[bench]'", file=sys.stderr)
            result |= bench_latency(folder, 50)
            result |= bench_appends(folder, arguments.rounds, arguments.appends, arguments.delta_appends)
        sizes = {rows: bench_size(folder, rows, arguments.live_files) for rows in arguments.rows}
    for rows, found in sizes.items():
        for state in ("before_compaction", "after_compaction", "snapshot"):
            result[f"slowest_question_ms_{_short(rows)}_{state}"] = max(found[state]["ms"])
            result[f"slowest_question_cpu_ms_{_short(rows)}_{state}"] = max(found[state]["cpu_ms"])
        result[f"incremental_snapshot_s_{_short(rows)}"] = found["second_increment"]["s"]
        result[f"incremental_snapshot_cpu_s_{_short(rows)}"] = found["second_increment"]["cpu_s"]
    if sizes:
        result["slowest_question_ms_1m"] = result.get("slowest_question_ms_1m_snapshot")
        result["incremental_snapshot_s"] = result[f"incremental_snapshot_s_{_short(max(sizes))}"]
        result["incremental_snapshot_rows"] = max(sizes)
    result["load_average"] = os.getloadavg()[0]
    print(json.dumps(result))


def _short(rows: int) -> str:
    return f"{rows // 1_000_000}m" if rows >= 1_000_000 else f"{rows // 1000}k"


if __name__ == "__main__":
    main()
