"""What the review page costs in a real Chromium: until it is ready, and each filter, order and verdict after it.

    python tests/bench/gallery.py                     # 3000 assets with 66 figures and a picture each: a minute

Each time is from the key or click until the second frame after it, which is on the screen. *ready* counts from the
moment the address is opened. *cpu* is what the page's thread works in it: on a busy machine the rest is waiting. Last
line of stdout: JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: a module here may have a room's name

from catalog.gallery import write_gallery  # noqa: E402
from catalog.schema import Artifact, StageRun, request  # noqa: E402
from catalog.writer import append  # noqa: E402
from pipeline_core.io.images import save_png  # noqa: E402
from tests.chromium import Chromium, Page  # noqa: E402

FRAMES = "await new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))"
ACTIONS = {
    "filter": "set('q', '{word}'); $('q').value = '{word}'",
    "bounds": "set('least.figure_{n}', '0.{n}')",
    "no_filter": "view = new URLSearchParams(); set('q', '')",
    "sort": "set('sort', 'figure_{n}')",
    "group": "set('group', view.has('group') ? '' : '1')",
    "verdict": "nodes.get(found[{n}]).focus(); acts.accept([found[{n}]])",
    "select_all": "acts.all()",
    "verdict_of_all": "acts.reject(targets())",
}


def fill(library: Path, count: int, figures: int) -> None:
    """``count`` delivered assets of a third as many prompts; every twentieth failed."""
    draw = random.Random(0)
    picture = library / "preview.png"
    save_png(picture, np.random.default_rng(0).integers(0, 255, (256, 256, 3)).astype(np.uint8) // 64 * 64)
    runs = []
    for n in range(count):
        name, kind = f"prop-{n:05d}", ("chair", "vase", "barrel", "lamp", "crate")[n // 3 % 5]
        words = {"recipe": "factory", "tags": {"category": kind}, "seed": n % 3}
        runs.append(request("night", name, {"prompt": f"a {kind} of make {n // 3}", "seed": n % 3}, **words))
        if n % 20 == 19:
            error = {"error_type": "DataError", "error_class": "data", "error_message": "the density field is empty"}
            words |= {"stage": "extract_mesh", "status": "failed"}
            runs.append(StageRun(run_id="night", asset_id=name, **words, **error))
            continue
        folder = library / "assets" / name
        folder.mkdir(parents=True)
        os.link(picture, folder / "preview.png")
        metrics = {f"figure_{each}": draw.random() for each in range(figures)} | {"faces": float(draw.randrange(9000))}
        files = (Artifact("preview", f"assets/{name}/preview.png", "ab" * 32, 1),)
        took = {"duration_s": 60 * draw.random(), "metrics": metrics, "artifacts": files}
        runs.append(StageRun(run_id="night", asset_id=name, stage="record", status="ok", **words, **took))
    append(library, runs)


def busy(page: Page) -> float:
    """Seconds of CPU that the page's thread has had."""
    metrics = {each["name"]: each["value"] for each in page.ask("Performance.getMetrics")["metrics"]}
    return float(metrics["TaskDuration"])


def seconds(page: Page, action: str) -> float:
    """How long one action takes until it is on the screen."""
    return float(page.js(f"(async () => {{ const began = performance.now(); {action}; {FRAMES};"
                         " return performance.now() - began; })()")) / 1000  # fmt: skip


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=int, default=3000)
    parser.add_argument("--figures", type=int, default=66)
    parser.add_argument("--times", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Chromium(Path(folder) / "profile", webgl=False) as browser:
        library = Path(folder) / "library"
        library.mkdir()
        fill(library, arguments.assets, arguments.figures)
        began = time.perf_counter()
        index = write_gallery(library)
        written = time.perf_counter() - began
        ready, ready_cpu = [], []
        for _ in range(arguments.times):
            began = time.perf_counter()
            page = browser.open("about:blank")
            page.ask("Performance.enable", timeDomain="threadTicks")
            page.ask("Page.navigate", url=index.as_uri())
            page.until(f"document.documentElement?.dataset.ready === '{arguments.assets}'")
            page.js(f"(async () => {{ {FRAMES} }})()")
            ready.append(time.perf_counter() - began)
            ready_cpu.append(busy(page))
        told: dict[str, float] = {}
        for name, action in ACTIONS.items():
            took, before = [], busy(page)
            for n in range(arguments.times):
                word = ("vase", "lamp", "crate", "make 7", "density")[n % 5]
                took.append(seconds(page, action.format(n=n + 1, word=word)))
            cpu = (busy(page) - before) / arguments.times
            print(f"{name:15} median {statistics.median(took):.3f} s, most {max(took):.3f} s, cpu {cpu:.3f} s")
            told |= {f"{name}_p50_s": round(statistics.median(took), 3), f"{name}_max_s": round(max(took), 3)}
            told[f"{name}_cpu_s"] = round(cpu, 3)
        size = index.stat().st_size
    print(json.dumps({
        "assets": arguments.assets,
        "page_mb": round(size / 2**20, 1),
        "write_s": round(written, 2),
        "ready_p50_s": round(statistics.median(ready), 2),
        "ready_max_s": round(max(ready), 2),
        "ready_cpu_s": round(statistics.median(ready_cpu), 2),
        **told,
        "load_average": round(os.getloadavg()[0], 1),
    }))  # fmt: skip


if __name__ == "__main__":
    main()
