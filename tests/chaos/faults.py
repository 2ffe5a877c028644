"""The chaos test's faults. Each is a function ``fault(farm, rng) -> str``: what was done, empty = no chance now."""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import psutil

from flows.farm import beats
from flows.farm.beats import Beat
from pipeline_core.stages import names
from tests.chaos.services import Farm

Fault = Callable[[Farm, random.Random], str]
RESTART_S = 3.0
"""Seconds after which a service manager starts a killed process again."""


def kill_engine(farm: Farm, rng: random.Random) -> str:
    """kill -9 a process that makes a shard."""
    beat = _pick(farm, rng)
    return _signal(beat, signal.SIGKILL) if beat else ""


def sigterm_engine(farm: Farm, rng: random.Random) -> str:
    """SIGTERM a process that makes a shard: it may keep a checkpoint."""
    beat = _pick(farm, rng)
    return _signal(beat, signal.SIGTERM) if beat else ""


def kill_worker(farm: Farm, rng: random.Random) -> str:
    """kill -9 a worker and leave its shard's process behind."""
    name = rng.choice(farm.alive()) if farm.alive() else ""
    if not name:
        return ""
    farm.kill(name)
    _later(farm, name)
    return name


def kill_worker_and_engine(farm: Farm, rng: random.Random) -> str:
    """kill -9 a worker and its shard's process, as a machine that loses power."""
    name = rng.choice(farm.alive()) if farm.alive() else ""
    if not name:
        return ""
    children = _children(farm, name)
    farm.kill(name)
    for child in children:
        _kill(child.pid)
    _later(farm, name)
    return f"{name} and {len(children)} children"


def kill_submitting(farm: Farm, rng: random.Random) -> str:
    """kill -9 a worker between its taking a shard and the shard's beginning, with the process that is starting."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        known = {path.stem for path in farm.library.glob("runs/*/beats/*")}
        taken = [run["id"] for run in _pending(farm) if run["id"] not in known]
        if taken:
            for name in farm.alive():
                children = [child for child in _children(farm, name) if _flow_run(child) in taken]
                if children or not _children(farm, name):
                    farm.kill(name)
                    for child in children:
                        _kill(child.pid)
                    _later(farm, name)
                    return f"{name} while {taken[0]} was Submitting"
        time.sleep(0.05)
    return ""


def sigterm_worker(farm: Farm, rng: random.Random) -> str:
    """SIGTERM a worker, as a service manager that stops it; then start it again."""
    name = rng.choice(farm.alive()) if farm.alive() else ""
    if not name:
        return ""

    def stop() -> None:
        farm.kill(name, signal.SIGTERM)
        if farm.processes[name].poll() is None:
            farm.kill(name)
        farm.start_worker(name)

    threading.Thread(target=stop, daemon=True).start()
    return name


def kill_reconciler(farm: Farm, rng: random.Random) -> str:
    """kill -9 ``splatmill reconcile``, and start it again."""
    farm.kill("reconcile")
    farm.start_reconciler()
    return "reconcile"


def restart_server(farm: Farm, rng: random.Random) -> str:
    """kill -9 the Prefect server, and start it again."""
    farm.kill("server")
    time.sleep(RESTART_S)
    farm.start_server()
    return "server"


def stop_postgres(farm: Farm, rng: random.Random) -> str:
    """Crash PostgreSQL for 20 seconds."""
    farm.postgres.stop("immediate")
    time.sleep(20)
    farm.postgres.start()
    return "20 s"


def fill_disk(farm: Farm, rng: random.Random) -> str:
    """Leave no byte on the disk of the library for 15 seconds."""
    if not os.path.ismount(farm.library.parent):
        return ""
    path, written = farm.library.parent / "filler", 0
    try:
        with open(path, "wb", buffering=0) as file:
            for size in (2**20, 4096):
                while True:
                    try:
                        written += file.write(b"\0" * size)
                    except OSError:
                        break
        time.sleep(15)
    finally:
        path.unlink(missing_ok=True)
    return f"{written / 2**20:.0f} MiB"


def corrupt(farm: Farm, rng: random.Random) -> str:
    """Overwrite some bytes of a stage's output or of a deliverable."""
    stage = rng.choice([*names()[:6], "assets"])
    folder = farm.library / "assets" if stage == "assets" else farm.library / "stages" / stage
    try:
        chosen = rng.choice(sorted(folder.iterdir()))
        path = rng.choice(sorted(path for path in chosen.iterdir() if path.suffix in (".ply", ".glb", ".png")))
        with open(path, "r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(b"chaos")
    except (IndexError, OSError):
        return ""
    return str(path.relative_to(farm.library))


FAULTS: dict[str, tuple[Fault, int]] = {
    "kill_engine": (kill_engine, 6),
    "kill_worker": (kill_worker, 4),
    "kill_worker_and_engine": (kill_worker_and_engine, 4),
    "kill_submitting": (kill_submitting, 3),
    "kill_reconciler": (kill_reconciler, 3),
    "sigterm_engine": (sigterm_engine, 4),
    "sigterm_worker": (sigterm_worker, 2),
    "restart_server": (restart_server, 2),
    "stop_postgres": (stop_postgres, 2),
    "fill_disk": (fill_disk, 2),
    "corrupt": (corrupt, 10),
}
"""Each fault and how often it is drawn in comparison with the others."""


# --- who is who ------------------------------------------------------------------------------------------------------


def live(farm: Farm) -> list[Beat]:
    """Beats of the processes that make shards now."""
    return [
        beat
        for folder in farm.library.glob("runs/*")
        for beat in beats.read(folder).values()
        if beat.state == "live" and not beat.gone
    ]


def _pick(farm: Farm, rng: random.Random) -> Beat | None:
    found = live(farm)
    return rng.choice(found) if found else None


def _signal(beat: Beat, number: int) -> str:
    try:
        os.kill(beat.pid, number)
    except ProcessLookupError:
        return ""
    return f"{beat.worker} pid {beat.pid} with {len(beat.assets)} assets"


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _children(farm: Farm, name: str) -> list[psutil.Process]:
    try:
        return psutil.Process(farm.processes[name].pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _flow_run(process: psutil.Process) -> str:
    try:
        return process.environ().get("PREFECT__FLOW_RUN_ID", "")
    except psutil.Error:
        return ""


def _later(farm: Farm, name: str) -> None:
    """Start a killed worker again after a moment."""
    timer = threading.Timer(RESTART_S, farm.start_worker, [name])
    timer.daemon = True
    timer.start()


def _pending(farm: Farm) -> list[dict]:
    body = json.dumps({"flow_runs": {"state": {"type": {"any_": ["PENDING"]}}}}).encode()
    request = urllib.request.Request(
        f"{farm.url}/flow_runs/filter", body, {"Content-Type": "application/json"}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return json.loads(answer.read())
    except (OSError, ValueError):
        return []


def strays(folder: Path) -> list[str]:
    """Processes that still speak of ``folder`` in their command line or environment."""
    found = []
    for process in psutil.process_iter():
        try:
            text = " ".join([*process.cmdline(), *process.environ().values()])
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
        if str(folder) in text and process.pid != os.getpid():
            found.append(f"{process.pid} {' '.join(process.cmdline())[:120]}")
    return found
