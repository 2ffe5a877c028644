"""What the command asks of a farm: to queue a batch, to reconcile a library's runs, to be a worker."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time

from catalog.door import tell
from flows.asked import folder_of, is_farm_s
from flows.batch import BatchRequest, prepare
from flows.farm import beats, marks
from flows.prompts import tell as warn
from flows.server import CLIENT, WORKER, pointed_at, warm_server
from flows.summary import SUMMARY
from pipeline_core import logs, python
from pipeline_core.bucket import Place
from pipeline_core.errors import RequestError, SplatmillError
from pipeline_core.storage import Library


def submit_batch(request: BatchRequest) -> str:
    """Queue a batch as shards; returns what was queued. Manifest and farm are checked before anything is written."""
    request = request.model_copy(update={"library": str(Library(request.library).root)})
    plan = prepare(request)
    warn(plan.warnings, "splatmill plan --json")
    point_at_farm()
    from flows.farm.prefect import PrefectFarm
    from flows.farm.reconcile import reconcile_run
    from flows.farm.runs import open_run, read_run

    farm = PrefectFarm()
    farm.workers()
    request = open_run(request, plan)
    outcome = reconcile_run(read_run(request.folder), farm)
    return str(outcome or f"run {request.run_id}: opened; splatmill reconcile is at it")


def cancel_run(library: str, run: str) -> str:
    """Cancel a run, also while the farm's server is away: its processes see the library. Returns what was done.

    Raises :class:`RequestError` where there is no such run, it is over, or no process of it is at work.
    """
    folder = open_folder(library, run)
    at_work = [beat for beat in beats.read(folder).values() if beat.state == "live" and not beat.gone]
    if not at_work and not is_farm_s(folder):
        raise RequestError(f"run {folder.name}: no process of it is at work; nothing is left to cancel")
    marks.put(folder, marks.CANCELLED)
    for beat in at_work:
        beats.fence(folder, beat.name)
    told = f"run {folder.name}: cancelled; {len(at_work)} processes stop at their next step, and keep checkpoints"
    return told if not is_farm_s(folder) else f"{told}\n{bring_on(folder)}"


def pause_run(library: str, run: str) -> str:
    """Let no further shard of a farm's run begin; returns what was done."""
    folder = open_folder(library, run)
    if not is_farm_s(folder):
        raise RequestError(
            f"run {folder.name} is one machine's: splatmill cancel stops it, and the same command goes on with it"
        )
    marks.put(folder, marks.PAUSED)
    return f"run {folder.name}: paused; shards at work end after the assets that they have begun\n{bring_on(folder)}"


def resume_run(library: str, run: str) -> str:
    """Let a paused run go on; returns what was done."""
    folder = open_folder(library, run)
    if not marks.lift(folder, marks.PAUSED):
        raise RequestError(f"run {folder.name} is not paused")
    return f"run {folder.name}: goes on\n{bring_on(folder)}"


def open_folder(library: str, run: str) -> Place:
    """The folder of a run that is not over. Raises :class:`RequestError`."""
    folder = folder_of(library, run)
    if (folder / SUMMARY).exists():
        raise RequestError(f"run {folder.name} is over; splatmill status {folder.name} tells how it ended")
    return folder


def bring_on(folder: Place) -> str:
    """Reconcile a run, if nobody else is at it; returns what that did."""
    try:
        point_at_farm()
        from flows.farm.prefect import PrefectFarm
        from flows.farm.reconcile import reconcile_run
        from flows.farm.runs import read_run

        return str(reconcile_run(read_run(folder), PrefectFarm()) or "splatmill reconcile is at it")
    except SplatmillError as error:  # the mark is in the library, and whoever reconciles next acts on it
        return f"the queue is left to splatmill reconcile: {error}"


def reconcile_here(library: str, every_s: float) -> None:
    """Reconcile a library's open runs once, or every so many seconds until interrupted, and print what was done.

    What keeps it from that is said once, and when it is over.
    """
    point_at_farm()
    from flows.farm.prefect import PrefectFarm
    from flows.farm.reconcile import reconcile

    trouble = ""
    while True:
        try:
            for outcome in reconcile(library, PrefectFarm()):
                print(outcome, flush=True)
            if trouble:
                logs.say("reconciling again")
            trouble = ""
        except (SplatmillError, OSError) as error:  # the server is away, the disk is full: it may be better next time
            if not every_s:
                raise
            if trouble != type(error).__name__:
                tell(error, as_json=False)
            trouble = type(error).__name__
        if not every_s:
            return
        time.sleep(every_s)


def point_at_farm(settings: dict[str, str] = CLIENT) -> None:
    """Set the environment for the farm's server: the one that is pointed at, else the one that this user keeps warm."""
    if not pointed_at():
        warm = warm_server()
        if not warm:
            raise RequestError(
                "no farm is known: set PREFECT_API_URL and PREFECT_API_AUTH_STRING to its server's, or start one here "
                "with splatmill server start (deployments/README.md)"
            )
        os.environ["PREFECT_API_URL"] = warm["url"]
        if warm["auth"]:
            os.environ["PREFECT_API_AUTH_STRING"] = warm["auth"]
    for name, value in settings.items():
        os.environ.setdefault(name, value)


def name_of(gpu: int | None, control: bool) -> str:
    """The name of a worker that was given none."""
    return f"{socket.gethostname()}-{'control' if control else 'cpu' if gpu is None else f'gpu{gpu}'}"


def work(pool: str, gpu: int | None, name: str, at_once: int) -> None:
    """Become a worker of ``pool`` that runs ``at_once`` flows at a time, on the GPU ``gpu`` if one is named."""
    point_at_farm(WORKER)
    if gpu is not None:
        from pipeline_core.models import prepare_device

        os.environ["CUDA_VISIBLE_DEVICES"] = str(gpu)
        prepare_device()  # the rasteriser is compiled once, before this worker's flows all want it
    command = python.command("flows.farm.worker", "--pool", pool, "--name", name, "--limit", str(at_once))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # scripts start their "&" with it ignored, and Prefect stops by it
    os.execve(sys.executable, command, python.environment())
