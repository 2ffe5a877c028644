"""Takes a worker of this machine out of its farm without loss: it ends what it has begun, and takes nothing more.

    <state>/workers/<name>.<pid>/lock      held while the worker lives
                                 drain     somebody drained it: it takes no flow, and its shard begins no further asset
                                 drained   it has nothing in hand any more

Files and no server, so that a worker can be drained while its server is away. A drained worker stays and does nothing
until it is stopped, because whoever looks after its process (systemd, a container) would start one that ended anew.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import time
from contextlib import ExitStack
from pathlib import Path

from pipeline_core import logs
from pipeline_core.errors import RequestError
from pipeline_core.files import lock, state_folder

MARK = "SPLATMILL_DRAIN"
"""Environment variable of a worker's flows: the path of the file that drains their worker."""
LOCK, DRAIN, DRAINED = "lock", "drain", "drained"
LOOK_S = 0.5


class Post:
    """A worker's place on this machine, by which others find it, for as long as the block lasts."""

    def __init__(self, name: str) -> None:
        self.name, self.folder = name, _workers() / f"{name}.{os.getpid()}"
        self.mark = self.folder / DRAIN

    def __enter__(self) -> Post:
        shutil.rmtree(self.folder, ignore_errors=True)  # of a process that had this id before
        self._held = ExitStack()
        self._held.enter_context(lock(self.folder / LOCK, wait=False))
        os.environ[MARK] = str(self.mark)
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def asked(self) -> bool:
        """Whether it is to take nothing more."""
        return self.mark.exists()

    async def rest(self, stop: asyncio.Event) -> None:
        """Wait, with nothing in hand, until the worker may take flows again or is stopped."""
        if stop.is_set() or not self.asked():
            return
        (self.folder / DRAINED).touch()
        logs.say(f"worker {self.name}: drained; stop it, or let it go on with: splatmill drain {self.name} --undo")
        while self.asked() and not stop.is_set():
            await asyncio.sleep(LOOK_S)
        (self.folder / DRAINED).unlink(missing_ok=True)


def drained() -> str:
    """Say that the worker of this process is drained; empty where it is not, and in a process without a worker."""
    mark = os.environ.get(MARK, "")
    if not mark or not Path(mark).exists():
        return ""
    return f"its worker {os.environ.get('PREFECT__WORKER_NAME', '')} is drained"


def drain(name: str, wait_s: float | None = None) -> str:
    """Drain a worker and wait, ``wait_s`` seconds at most, until it has nothing in hand; returns what was done.

    Raises :class:`RequestError` where this machine has no such worker, and where the time was too short. Whoever stops
    to wait changes nothing: the worker stays drained.
    """
    name, folders = find(name)
    for folder in folders:
        (folder / DRAIN).touch()
    end = None if wait_s is None else time.monotonic() + wait_s
    while any(_lives(folder) and not (folder / DRAINED).exists() for folder in folders):
        if end is not None and time.monotonic() > end:
            raise RequestError(
                f"worker {name} takes nothing more, but has not ended what it has in hand: wait for it with "
                f"splatmill drain {name}, or stop it, and what it has in hand keeps a checkpoint"
            )
        time.sleep(LOOK_S)
    return (
        f"worker {name} is drained: it has nothing in hand, and takes nothing more until it is started again, or "
        f"splatmill drain {name} --undo"
    )


def undo(name: str) -> str:
    """Let a drained worker take flows again; returns what was done."""
    name, folders = find(name)
    for folder in folders:
        (folder / DRAIN).unlink(missing_ok=True)
    return f"worker {name} takes flows again"


def find(name: str) -> tuple[str, list[Path]]:
    """The worker ``name`` of this machine, or its only one, and its folders: one a process, should two share the name.

    Raises :class:`RequestError` where it is not to be found, with the names that there are.
    """
    living: dict[str, list[Path]] = {}
    for folder in sorted(_workers().glob("*.*")):
        if _lives(folder):
            living.setdefault(folder.name.rpartition(".")[0], []).append(folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    if not name and len(living) == 1:
        [name] = living
    if name in living:
        return name, living[name]
    there = f"those of this user are {', '.join(living)}" if living else f"this user has none ({_workers()})"
    raise RequestError(f"splatmill drain {name or 'WORKER'}: no such worker is at work on this machine; {there}")


def _lives(folder: Path) -> bool:
    """Whether the worker's process lives: it holds the lock."""
    if not (folder / LOCK).exists():
        return False
    with lock(folder / LOCK, wait=False) as free:
        return not free


def _workers() -> Path:
    return state_folder() / "workers"
