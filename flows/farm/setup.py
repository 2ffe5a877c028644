"""``splatmill deploy`` registers what a farm's server must know. It may be repeated at will.

There are two work pools of processes. ``splatmill`` makes assets, one shard on each GPU. ``splatmill-control`` runs the
flows that make no assets, so that a batch that waits for its shards never takes the place of one. The deployments are
those of ``prefect.yaml``. If ``SPLATMILL_WEBHOOK`` holds an address, the server posts there whenever a night has ended,
well or badly.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import UUID

from catalog.gc import size_of
from flows.farm.alerts import WEBHOOK
from flows.farm.commands import point_at_farm
from pipeline_core import python
from pipeline_core.errors import RequestError, SplatmillError
from pipeline_core.manifest import load_contracts
from pipeline_core.storage import Library

POOL, CONTROL_POOL = "splatmill", "splatmill-control"
AUTOMATION, BLOCK = "splatmill: a night has ended", "splatmill-night"
ENDINGS = ("Completed", "Failed", "Crashed", "Cancelled", "TimedOut")
MESSAGE = (
    '{"text": {{ ("Night " ~ flow_run.name ~ ": " ~ flow_run.state.name ~ ". " ~ (flow_run.state.message or ""))'
    ' | tojson }}, "state": {{ flow_run.state.name | tojson }}, "flow_run_id": {{ (flow_run.id ~ "") | tojson }}}'
)
"""A JSON document with a ``text``, which Slack, Mattermost and Teams show as it is."""


def set_up(
    library: str,
    gpus: int,
    manifest: Path | None,
    file: Path,
    commercial: bool = False,
    allow_outside: bool = False,
    max_size: str = "",
    accept: Path | None = None,
) -> Iterator[str]:
    """Register everything; yields what was done. Raises :class:`RequestError` before anything is registered."""
    if max_size:
        size_of(max_size)
    root = str(Library(library).create().root)
    if not file.is_file():
        raise RequestError(f"--file {file}: not found; it is deployments/prefect.yaml of the source tree")
    if manifest is not None and not manifest.is_file():
        raise RequestError(f"--manifest {manifest}: not found")
    if accept is not None:
        load_contracts(accept)
    point_at_farm()
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        yield from make_pools(client, gpus)
        register(file, root, manifest, commercial, allow_outside, max_size, accept)
        yield f"deployments of {file} registered for {root}"
        if os.environ.get(WEBHOOK):
            announce_nights(client, os.environ[WEBHOOK])
            yield f"nights' ends are posted to the address in {WEBHOOK}"


def make_pools(client: Any, gpus: int) -> Iterator[str]:
    """Make the two work pools, or bring them up to date; yields what was done."""
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    template = ProcessWorker.get_default_base_job_template()
    for name, limit in ((POOL, gpus), (CONTROL_POOL, None)):
        pool = WorkPoolCreate(name=name, type="process", concurrency_limit=limit, base_job_template=template)
        client.create_work_pool(pool, overwrite=True)
        yield f"work pool {name}: " + (f"{limit} at a time" if limit else "no limit")
    order_queues(client)


def order_queues(client: Any) -> None:
    """Make the queues of shards, in the order of their priorities; the pool's own has the usual one."""
    from flows.farm.prefect import queue

    there = {each.name: each for each in client.read_work_queues(work_pool_name=POOL)}
    for priority in range(1, 10):  # each moves down those that are at its place, so that the order is right in the end
        name = queue(priority) or "default"
        found = there.get(name) or client.create_work_queue(name=name, work_pool_name=POOL)
        client.update_work_queue(found.id, priority=priority)


def register(
    file: Path,
    library: str,
    manifest: Path | None,
    commercial: bool = False,
    allow_outside: bool = False,
    max_size: str = "",
    accept: Path | None = None,
) -> None:
    """Call ``prefect deploy --all``, which fills in the file's ``{{ $NAMES }}`` from the environment."""
    settings = {
        "SPLATMILL_LIBRARY": library,
        # Prefect's answers lie beside the outputs; those of a bucket on each machine, where a miss costs a look
        "SPLATMILL_RESULTS": "~/.prefect/results" if "://" in library else f"{library}/.prefect/results",
        "SPLATMILL_MANIFEST": str(manifest.absolute()) if manifest else "",
        "SPLATMILL_ACCEPT": str(accept.absolute()) if accept else "",
        "SPLATMILL_NIGHTLY": "true" if manifest else "false",
        "SPLATMILL_COMMERCIAL": "true" if commercial else "false",
        "SPLATMILL_ALLOW_OUTSIDE": "true" if allow_outside else "false",
        "SPLATMILL_MAX_SIZE": max_size,
        "SPLATMILL_GC": "true" if max_size else "false",
    }
    command = python.command("prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(file.absolute()))
    with tempfile.TemporaryDirectory(prefix="splatmill-deploy-") as empty:  # Prefect imports from where it is started
        done = subprocess.run(
            command, cwd=empty, env=python.environment(os.environ | settings), stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
    if done.returncode:
        raise SplatmillError(f"prefect deploy ended with {done.returncode}:\n{done.stdout[-3000:]}")


def announce_nights(client: Any, address: str) -> None:
    """Have the server post to ``address`` at every night's end. The server keeps the address as a secret."""
    from prefect.automations import Automation
    from prefect.blocks.webhook import Webhook
    from prefect.events.actions import CallWebhook
    from prefect.events.schemas.automations import EventTrigger, Posture

    hook = Webhook(url=address, method="POST", headers={"Content-Type": "application/json"})
    block = hook.save(BLOCK, overwrite=True)
    trigger = EventTrigger(
        posture=Posture.Reactive,
        expect={f"prefect.flow-run.{ending}" for ending in ENDINGS},
        match={"prefect.resource.id": "prefect.flow-run.*"},
        match_related={"prefect.resource.role": "flow", "prefect.resource.name": "nightly"},
        for_each={"prefect.resource.id"},
    )
    action = CallWebhook(block_document_id=UUID(str(block)), payload=MESSAGE)
    wanted = Automation(name=AUTOMATION, trigger=trigger, actions=[action])
    for old in client.read_automations_by_name(AUTOMATION):
        client.delete_automation(old.id)
    wanted.create()
