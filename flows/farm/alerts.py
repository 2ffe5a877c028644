"""Tells people of a run's trouble while there is time: JSON to the address in ``SPLATMILL_WEBHOOK``, each alert once.

    alerts.raise_(folder, "disk", "the disk of /mnt/library is nearly full: 900 MiB are free")
    alerts.deliver(folder)

    <library>/runs/<run_id>/alerts/<kind>.json      what is told: run, kind, text, when, by whom, and whether it arrived

The file is made by whoever is first, so that a call that is repeated raises nothing twice; it is posted, three times at
most in one call, until the receiver has answered with 2xx, and again in the next call (``flows.post`` signs it).
"""

from __future__ import annotations

import itertools
import json
import logging
import math
import os
import shutil
import socket
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from http.client import HTTPException
from typing import Any

from flows.farm.protocol import Farm
from flows.farm.runs import Run
from flows.farm.shards import measured
from flows.farm.standing import Standing
from flows.making import min_free_mb
from flows.post import post
from pipeline_core.bucket import Place
from pipeline_core.files import create, write_json
from pipeline_core.secrets import redact
from pipeline_core.storage import Library

WEBHOOK = "SPLATMILL_WEBHOOK"
ALERTS = "alerts"
TRIES, PAUSE_S = 3, 1.0
NO_WORKER_S = 300.0
"""A run without a worker for so long is told."""
FAILED_SHARE, FAILED_COUNT = 0.2, 5
"""More failures than these, both as a share of the assets that have ended and as a number, are told; and rejections."""
NEARLY_FULL = 4
"""A disk with less room than so many times what an asset needs to begin is told."""
SILENT_S = 900.0
"""A run that nobody has reconciled for so long is told."""
LOOKED = "reconciled"
"""This file of an open run is touched whenever somebody reconciles it."""

log = logging.getLogger("splatmill")


def raise_(folder: Place, kind: str, text: str) -> bool:
    """Put an alert of a run down; False when the run has raised one of this kind before."""
    told = {"text": f"Run {folder.name}: {text}", "run_id": folder.name, "kind": kind, "at": time.time()}
    told |= {"host": socket.gethostname(), "sent": False}
    path = folder / ALERTS / f"{kind}.json"
    return not path.exists() and create(path, json.dumps(told).encode())


def deliver(folder: Place) -> int:
    """Post what was put down and has not arrived; returns how many alerts arrived now. An outage is only logged."""
    address, arrived = os.environ.get(WEBHOOK, "").strip(), 0
    if not address:
        return 0
    found: list[Place] = list((folder / ALERTS).glob("*.json"))
    for path in sorted(found, key=lambda each: each.name):
        told = json.loads(path.read_text("utf-8"))
        if told["sent"]:
            continue
        try:
            _repeat(address, {name: told[name] for name in ("text", "run_id", "kind", "at", "host")})
        except (OSError, ValueError, HTTPException) as error:
            log.warning("alert %s of run %s did not arrive: %s", path.stem, folder.name, redact(str(error)))
            return arrived  # the next call tries again
        write_json(path, told | {"sent": True})
        arrived += 1
    return arrived


def _repeat(address: str, told: dict[str, Any]) -> None:
    """Post a document, up to :data:`TRIES` times. Raises what kept the last of them from arriving."""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(PAUSE_S * 4 ** (attempt - 1))
        try:
            post(address, told, f"{told['run_id']}-{told['kind']}")
            return
        except (OSError, HTTPException) as error:
            last = error
    raise last


# --- what is told ----------------------------------------------------------------------------------------------------


def look(run: Run, standing: Standing, farm: Farm, last_sign_s: float, now: float) -> None:
    """Raise what is wrong with a run that makes assets, and deliver. ``last_sign_s``: age of its last sign of life.

    What cannot be written down, on a disk without room, is logged: the run goes on.
    """
    try:
        _look(run, standing, farm, last_sign_s, now)
    except OSError as error:
        log.warning("alerts of run %s: %s", run.folder.name, error)


def _look(run: Run, standing: Standing, farm: Farm, last_sign_s: float, now: float) -> None:
    if why := silence(run.folder, now):
        raise_(run.folder, "silent", why)
    (run.folder / LOOKED).touch()
    left = len(standing.missing) + len(standing.waiting)
    workers = farm.workers() if left else 0
    if left and not workers and min(last_sign_s, now - run.opened) > NO_WORKER_S:
        raise_(run.folder, "no-worker", f"no worker is online, and {left} assets wait")
    failed, rejected = len(standing.failures), len(standing.rejected)
    ended = failed + len(standing.made)
    if failed >= FAILED_COUNT and failed > FAILED_SHARE * ended:
        last = standing.failures[-1]
        raise_(run.folder, "failures", f"{failed} of {ended} assets failed, {last['asset_id']} with: {last['message']}")
    if rejected >= FAILED_COUNT and rejected > FAILED_SHARE * ended:
        [(clause, times)] = Counter(itertools.chain(*standing.rejected.values())).most_common(1)
        raise_(run.folder, "rejected", f"{rejected} of {ended} assets are rejected, {times} of them for {clause}")
    root = run.request.library
    local = Library(root).local
    free, need = shutil.disk_usage(local).free / 2**20, NEARLY_FULL * min_free_mb()
    if free < need:
        raise_(run.folder, "disk", f"the disk of {local} is nearly full: {free:.0f} MiB are free")
    if run.request.deadline and left:
        seconds = left * measured(root, run.request.recipe).worker_s / max(1, workers)
        if datetime.fromtimestamp(now, UTC) + timedelta(seconds=seconds) > run.request.deadline:
            told = f"{left} assets take {max(1, workers)} workers about {seconds / 3600:.1f} h"
            raise_(run.folder, "deadline", f"{told}; the deadline is {run.request.deadline:%Y-%m-%d %H:%M %Z}")
    deliver(run.folder)


def reconciled_s(folder: Place, now: float) -> float:
    """Seconds since somebody reconciled a run; infinite where nobody has."""
    path = folder / LOOKED
    return now - path.stat().st_mtime if path.exists() else math.inf


def silence(folder: Place, now: float) -> str:
    """Say for how long nobody has reconciled a run; empty where that is short, and where nobody has yet."""
    age = reconciled_s(folder, now)
    if age == math.inf:
        return ""
    return f"nobody has reconciled it for {age / 60:.0f} min: is splatmill reconcile at work?" if age > SILENT_S else ""


def tell_silence(folder: Place) -> None:
    """What a worker does for a run: it tells that nobody reconciles it."""
    why = silence(folder, time.time())
    if why and raise_(folder, "silent", why):
        deliver(folder)
