"""Everything that only a GPU can answer, in one command on a bare machine: ``make gpu``.

Needs torch, numba, diffusers, transformers and gsplat; no Prefect, no network. Each section writes ``<name>.json``
as it goes, so that a stop loses nothing. Environment:

    OUT     folder of the results (default: gpu-results)
    ONLY    sections to run, with commas between: parity,strategies,asset,graphs,parts,bench,batch
    LIMIT   seconds for all of it (default 360); a section that no longer fits is skipped and says so: batch wants 300
            for itself, so it runs alone or with a higher limit
    DRY     1 = walk through it on a CPU at toy sizes: a check of the program
    KIT     folder with ``wheels/*.whl`` to install aside and packages to import first, for a machine without an index
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

faulthandler.enable()
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
if os.environ.get("KIT"):
    aside = tempfile.mkdtemp()
    wheels = [str(wheel) for wheel in Path(os.environ["KIT"], "wheels").glob("*.whl")]
    command = [
        sys.executable,
        "-m",
        "pip",
        "install",
        "-q",
        "--no-index",
        "--no-deps",
        "--no-compile",
        "--target",
        aside,
    ]
    subprocess.run([*command, *wheels], check=True)
    sys.path[1:1] = [aside, os.environ["KIT"]]
os.environ["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)  # for processes of sections
os.environ.setdefault("NUMBA_CACHE_DIR", "/tmp/numba")

from pipeline_core.device import configure  # noqa: E402

configure()

import torch  # noqa: E402

DRY = os.environ.get("DRY", "") == "1"
OUT = Path(os.environ.get("OUT", "gpu-results"))
LIMIT = float(os.environ.get("LIMIT", "360"))
ONLY = os.environ.get("ONLY", "")
BEGAN = time.monotonic()


def left() -> float:
    """Seconds until the limit."""
    return LIMIT - (time.monotonic() - BEGAN)


class Notes(dict[str, Any]):
    """What a section found so far: every entry is on the disk, and printed, as it is made."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        with (OUT / f"{self.name}.json").open("w") as file:
            json.dump(self, file, indent=1, default=str)
            file.flush()
            os.fsync(file.fileno())
        print(
            f"[{time.monotonic() - BEGAN:6.1f} s] {self.name}: {key}: {json.dumps(value, default=str)}"[:700],
            flush=True,
        )


Section = Callable[[torch.device, Notes, bool, Callable[[], float]], None]


def run(name: str, section: Section, least_s: float) -> bool:
    """Run one section; False where it raised."""
    if ONLY and name not in ONLY.split(","):
        return True
    notes = Notes(name)
    if left() < least_s:
        notes["skipped"] = f"{left():.0f} s are left, it takes {least_s:.0f}"
        return True
    device = torch.device("cpu") if DRY else torch.device("cuda", 0)
    notes["card"] = "none" if DRY else torch.cuda.get_device_name(0)
    began = time.monotonic()
    try:
        section(device, notes, DRY, left)
    except Exception as error:
        notes["error"] = f"{type(error).__name__}: {error}"
        notes["trace"] = traceback.format_exc()[-2000:]
    notes["seconds"] = round(time.monotonic() - began, 1)
    gc.collect()
    if not DRY:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return "error" not in notes


def main() -> int:
    """Run what is asked for; 1 where a section failed."""
    from tests.gpu import sections

    OUT.mkdir(parents=True, exist_ok=True)
    if not DRY and not torch.cuda.is_available():
        print("no CUDA device is here; DRY=1 walks through the program without one", file=sys.stderr)
        return 2
    todo = [
        ("parity", sections.parity, 10), ("strategies", sections.strategies, 5), ("asset", sections.asset, 40),
        ("graphs", sections.graphs, 15), ("parts", sections.parts, 20), ("bench", sections.bench, 45),
        ("batch", sections.batch, sections.BATCH_S),
    ]  # fmt: skip
    went = [run(name, section, 0 if DRY else least) for name, section, least in todo]
    return 0 if all(went) else 1


if __name__ == "__main__":
    sys.exit(main())
