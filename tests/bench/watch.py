"""What a look at a large library costs: ``splatmill status --watch`` and ``splatmill metrics`` while a farm is at work.

    python tests/bench/watch.py                       # 100k assets, 64 workers, 20 looks: about a minute

The library has a catalogue of synthetic assets and the beats of a farm's open run; between two looks a few events are
appended, as on a busy night. *first* reads the whole catalogue, once; *look* is what each refresh costs after it.
Last line of stdout: JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: a module here may have a room's name

from catalog.schema import StageRun  # noqa: E402
from catalog.writer import append  # noqa: E402
from flows.metrics import exposition  # noqa: E402
from flows.watch import Watch, text  # noqa: E402
from pipeline_core.files import write_json  # noqa: E402
from tests.catalog.synthetic import EVENTS_PER_ASSET, fill  # noqa: E402


def write_night(library: Path, workers: int, todo: int) -> None:
    """An open run of a farm, with a sign of life of each worker."""
    run = library / "runs" / "night"
    write_json(run / "request.json", {})
    write_json(run / "asked.json", {"assets": {"todo": todo}, "user": "ana"})
    gpu = {"name": "L40S", "used_mb": 9000.0, "size_mb": 46068.0, "busy_percent": 97.0}
    for number in range(workers):
        beat = {"host": f"node-{number}", "pid": number, "worker": f"gpu{number}", "shard": f"{number:x}", "gpu": gpu}
        assets = {f"prop-{number}-{k}": ("optimize_gaussians", 9.0) for k in range(4)}
        write_json(run / "beats" / f"{number}.live", beat | {"began": 0.0, "beat": 9.0, "assets": assets})


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=int, default=100_000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--looks", type=int, default=20)
    parser.add_argument("--appends", type=int, default=16, help="events between two looks, each a file of its own")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder)
        fill(library, arguments.assets * EVENTS_PER_ASSET)
        write_night(library, arguments.workers, arguments.looks * arguments.appends)
        watch = Watch(str(library))
        first = watch.look()["look_s"]
        wall, cpu, written = [], [], []
        for look in range(arguments.looks):
            for number in range(arguments.appends):
                name = f"prop-{look}-{number}"
                append(library, [StageRun(run_id="night", asset_id=name, stage="record", status="ok", duration_s=1.0)])
            before = time.process_time()
            seen = watch.look()
            wall.append(seen["look_s"])
            cpu.append(time.process_time() - before)
            began = time.perf_counter()
            exposition(seen)
            text(seen)
            written.append(time.perf_counter() - began)
        print(text(seen).split("\n\n")[0])
    print(json.dumps({
        "assets": arguments.assets,
        "workers": arguments.workers,
        "first_look_s": round(first, 2),
        "look_p50_s": round(statistics.median(wall), 3),
        "look_max_s": round(max(wall), 3),
        "look_cpu_p50_s": round(statistics.median(cpu), 3),
        "write_p50_s": round(statistics.median(written), 4),
        "peak_rss_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "load_average": round(os.getloadavg()[0], 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
