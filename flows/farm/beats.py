"""Signs of life: a small file that every process of a run touches, so that others can tell when it is gone.

    <library>/runs/<run_id>/beats/<flow run id>.live      touched every two seconds; JSON: host, pid, assets, GPU
                                                   .done  the process ended in order
                                                   .dead  somebody found it gone, or gave it up; it may not go on

``.dead`` is a fence: a process that was only suspended, or whose disk was away, finds it and stops at once, so that
only one process makes its assets. Ages are told by a file touched on the same file system, not by this machine's clock.
Prefect's own heartbeats are not used, because they begin only when a run is *Running*. A run of one machine beats as
``here``, for whoever looks on (``flows.watch``).
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline_core.bucket import BucketError, Place
from pipeline_core.device import gpu_load
from pipeline_core.files import create, rename, time_there, write_json
from pipeline_core.python import process_alive
from tasks.progress import board

BEAT_S = 2.0
GPU_S = 10.0
"""The GPU is looked at so often."""
GRACE_S = 120.0
"""A process that may not go on has so many seconds to stop in order. Then it is ended: a stage may hang for ever."""
SUFFIXES = (".live", ".done", ".dead")


@dataclass(frozen=True)
class Beat:
    """What a process's file tells.

    The file was touched ``age_s`` seconds ago, and ``busy_s`` seconds after the process began. ``assets`` has, for each
    asset under way, the stage that it is in and for how many seconds. ``gpu`` is what
    :func:`pipeline_core.device.gpu_load` told last.
    """

    name: str
    state: str
    age_s: float
    busy_s: float
    host: str
    pid: int
    worker: str
    assets: dict[str, tuple[str, float]]
    shard: str = ""
    gpu: dict[str, Any] | None = None

    @property
    def gone(self) -> bool:
        """Whether the process is known to have ended, which only its own host can tell."""
        return self.host == socket.gethostname() and not process_alive(self.pid)


class Fenced(RuntimeError):
    """Others gave this process up; it must not begin."""


@contextlib.contextmanager
def beating(
    run_dir: Place, name: str, stop: threading.Event, *, shard: str = "", tied: bool = True
) -> Iterator[threading.Event]:
    """Touch ``<name>.live`` until the block ends; sets ``stop`` and the yielded event when this process must end.

    It must end when it is fenced off, and, if it is ``tied`` to it, when the process that started it is gone: a worker
    that is started anew would otherwise share its GPU with this one. A process that does not end within
    :data:`GRACE_S` is ended. Raises :class:`Fenced` when the process was given up before it began.
    """
    folder = run_dir / "beats"
    folder.mkdir(parents=True, exist_ok=True)
    live, dead = folder / f"{name}.live", folder / f"{name}.dead"
    pulse = _Pulse(live, dead, stop, shard, tied)
    write_json(live, pulse.document({}))
    if dead.exists():
        live.unlink(missing_ok=True)
        raise Fenced(f"{name} was given up before it began; its assets are made elsewhere")
    thread = threading.Thread(target=pulse.beat, name="beat", daemon=True)
    thread.start()
    threading.Thread(target=pulse.look, name="gpu", daemon=True).start()
    try:
        yield pulse.abandoned
    finally:
        pulse.over.set()
        thread.join()
        with contextlib.suppress(FileNotFoundError):
            rename(live, folder / f"{name}.done")


class _Pulse:
    """The two threads of a process that beats. The GPU is looked at in one of its own: a driver may hang."""

    def __init__(self, live: Place, dead: Place, stop: threading.Event, shard: str, tied: bool) -> None:
        self.live, self.dead, self.stop, self.shard, self.tied = live, dead, stop, shard, tied
        self.over, self.abandoned = threading.Event(), threading.Event()
        self.began = time.time()
        self.gpu: dict[str, Any] | None = None

    def beat(self) -> None:
        since: dict[tuple[str, str], float] = {}
        parent, asked = _worker(), 0.0
        while not self.over.wait(BEAT_S):
            now = time.time()
            if self._is_fenced() or (self.tied and os.getppid() != parent):
                self.abandoned.set()
                self.stop.set()
                asked = asked or now
                if now - asked > GRACE_S:
                    os._exit(1)
            under_way = [(p.asset_id, p.stage) for p in board.positions() if p.state == "running"]
            since = {each: since.get(each, now) for each in under_way}
            assets = {asset_id: (stage, now - start) for (asset_id, stage), start in since.items()}
            with contextlib.suppress(OSError):  # a full disk must not make a process look dead: the time counts
                if isinstance(self.live, Path):
                    os.utime(self.live)
                write_json(self.live, self.document(assets))

    def _is_fenced(self) -> bool:
        with contextlib.suppress(BucketError):  # the store is away: the next beat looks again
            return self.dead.exists()
        return False

    def look(self) -> None:
        while not self.over.wait(GPU_S):
            self.gpu = gpu_load()

    def document(self, assets: dict[str, tuple[str, float]]) -> dict[str, Any]:
        return _document(assets, self.began) | {"shard": self.shard, "gpu": self.gpu}


def _worker() -> int:
    """The id of the process that started this one; 0 when that was a worker and it is gone already."""
    parent = os.getppid()
    if "PREFECT__WORKER_NAME" not in os.environ:
        return parent
    try:
        command = " ".join(psutil.Process(parent).cmdline())
    except psutil.Error:
        return 0
    return parent if any(word in command for word in ("flows.farm.worker", "prefect", "splatmill")) else 0


def _document(assets: dict[str, tuple[str, float]], began: float) -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "worker": os.environ.get("PREFECT__WORKER_NAME", ""),
        "began": began,
        "beat": time.time(),
        "assets": assets,
    }


# --- what others see -------------------------------------------------------------------------------------------------


def read(run_dir: Place) -> dict[str, Beat]:
    """All beats of a run by name. Where a fence and the file that it fences off are both there, the fence counts."""
    folder = run_dir / "beats"
    found: dict[str, Beat] = {}
    if not folder.is_dir():
        return found
    now = time_there(folder)
    for suffix in SUFFIXES:
        for path in folder.glob(f"*{suffix}"):
            with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
                touched, told = path.stat().st_mtime, json.loads(path.read_text(encoding="utf-8"))
                busy = max(0.0, told["beat"] - told["began"])
                assets = {asset_id: (stage, seconds) for asset_id, (stage, seconds) in told["assets"].items()}
                found[path.stem] = Beat(
                    path.stem, suffix[1:], now - touched, busy, told["host"], told["pid"], told["worker"], assets,
                    told.get("shard", ""), told.get("gpu"),
                )  # fmt: skip
    return found


def fence(run_dir: Place, name: str) -> bool:
    """Forbid a process to go on. Returns False when that was done before, and when the process has ended in order."""
    folder = run_dir / "beats"
    folder.mkdir(parents=True, exist_ok=True)
    live, dead = folder / f"{name}.live", folder / f"{name}.dead"
    if dead.exists() or (folder / f"{name}.done").exists():
        return False
    try:
        rename(live, dead)
    except FileNotFoundError:  # it never began, or somebody else fenced it off this moment
        nobody = _document({}, time.time()) | {"host": "", "pid": 0, "worker": ""}
        return create(dead, json.dumps(nobody).encode())
    return True


def forget_old(run_dir: Place, older_s: float = 86400.0) -> None:
    """Remove the beats of processes that ended long ago."""
    for path in (run_dir / "beats").glob("*"):
        with contextlib.suppress(FileNotFoundError):
            if path.suffix != ".live" and time.time() - path.stat().st_mtime > older_s:
                path.unlink()


def spent_s(run_dir: Place) -> float:
    """Seconds that all processes of a run have held their devices."""
    return sum(beat.busy_s for beat in read(run_dir).values())


def count_live(run_dir: Place) -> int:
    """Processes of a run that are at work."""
    return sum(beat.state == "live" for beat in read(run_dir).values())
