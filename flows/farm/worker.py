"""The process of ``splatmill worker``: Prefect's process worker, which outlasts an absent server and can be drained.

python -m flows.farm.worker --pool splatmill --name gpu-0 --limit 1
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from typing import Any

import httpx
from prefect.logging.configuration import setup_logging
from prefect.workers.process import ProcessWorker

from catalog.door import tell
from flows.farm.drain import Post, find
from flows.farm.outage import Outage, is_outage
from flows.farm.prefect import close_left_by
from flows.farm.protocol import FarmUnreachable
from flows.server import pointed_at
from pipeline_core import logs
from pipeline_core.errors import SplatmillError

LOOK_S = 0.5


class Worker(ProcessWorker):
    """Takes flows while its ``post`` is not drained."""

    def __init__(self, *, outage: Outage, post: Post, **options: Any) -> None:
        super().__init__(**options)
        self.outage, self.post = outage, post

    @classmethod
    def __dispatch_key__(cls) -> str:  # Prefect keeps its own worker for pools of the type
        return "splatmill"

    @property
    def idle(self) -> bool:
        """Whether it has nothing in hand."""
        return self._limiter is None or not self._limiter.borrowed_tokens

    async def _submit_scheduled_flow_runs(self, flow_run_response: list[Any]) -> list[Any]:
        return [] if self.post.asked() else await super()._submit_scheduled_flow_runs(flow_run_response)

    async def _submit_run(self, flow_run: Any) -> None:
        """A server that goes before it heard that the flow is taken costs the flow, not the worker and its others."""
        try:
            await super()._submit_run(flow_run)
        except Exception as error:
            if not is_outage(error):
                raise
            self.outage.suspect()
            self._release_limit_slot(flow_run.id)
            self._submitting_flow_run_ids.discard(flow_run.id)

    async def _cancel_run(self, flow_run_id: Any) -> None:
        """The same for one that is to be cancelled."""
        try:
            await super()._cancel_run(flow_run_id)
        except Exception as error:
            if not is_outage(error):
                raise
            self.outage.suspect()


def main() -> int:
    """Work until stopped: what is in hand stops then, and keeps a checkpoint. A second signal waits for nothing.

    Returns the exit code.
    """
    parser = argparse.ArgumentParser()
    for name in ("--pool", "--name"):
        parser.add_argument(name, required=True)
    parser.add_argument("--limit", type=int, required=True)
    options = parser.parse_args()
    setup_logging()
    outage = Outage(pointed_at() or "")
    outage.outlast()
    outage.watch()
    try:
        with Post(options.name) as post:
            with contextlib.suppress(FarmUnreachable):  # reconcile closes them later
                if len(find(options.name)[1]) == 1:
                    close_left_by(options.name)
            asyncio.run(live(options, outage, post))
    except httpx.HTTPStatusError as error:
        why = f"{outage.name_of_server} refuses this worker ({error.response.status_code})"
        return tell(SplatmillError(f"{why}: is PREFECT_API_AUTH_STRING its password?"), as_json=False)
    except SplatmillError as error:
        return tell(error, as_json=False)
    finally:
        outage.close()
    logs.say(f"worker {options.name}: stopped")
    return 0


async def live(options: argparse.Namespace, outage: Outage, post: Post) -> None:
    """Take flows until stopped. A drained worker stays, idle, until it is stopped or told to take flows again."""
    stop = asyncio.Event()

    def ask() -> None:
        if stop.is_set():
            os.kill(os.getpid(), signal.SIGKILL)
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ask)
    while not stop.is_set():
        await work(options, outage, post, stop)
        await post.rest(stop)


async def work(options: argparse.Namespace, outage: Outage, post: Post, stop: asyncio.Event) -> None:
    """Take flows until told to stop, or until the post is drained and none is in hand."""
    worker = Worker(outage=outage, post=post, work_pool_name=options.pool, name=options.name, limit=options.limit)
    at_work = asyncio.create_task(worker.start(printer=logs.say))
    try:
        while not (at_work.done() or stop.is_set() or (post.asked() and worker.idle)):
            await asyncio.wait([at_work], timeout=LOOK_S)
    finally:
        at_work.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await at_work


if __name__ == "__main__":
    sys.exit(main())
