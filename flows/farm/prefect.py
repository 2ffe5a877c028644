"""The farm behind a real Prefect server: shards are flow runs of the deployment ``shard/shard``, tagged by run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import httpx
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.filters import (
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
    FlowRunFilterTags,
)
from prefect.client.schemas.objects import StateType, WorkerStatus
from prefect.client.schemas.sorting import FlowRunSort
from prefect.exceptions import ObjectNotFound, PrefectHTTPStatusError
from prefect.states import Cancelled, Crashed

from flows.batch import BatchRequest
from flows.farm import beats
from flows.farm.protocol import FarmUnreachable, Shard
from pipeline_core.bucket import Place
from pipeline_core.errors import RequestError
from pipeline_core.secrets import redact
from pipeline_core.storage import Library

DEPLOYMENT = "shard/shard"
PAGE = 200
USUAL = 5
"""The priority of a request that names none."""


class PrefectFarm:
    """The server that the process is pointed at."""

    def shards(self, run_id: str) -> list[Shard]:
        """All shards of a run."""
        found = _flow_runs(FlowRunFilter(tags=FlowRunFilterTags(all_=[tag(run_id)])))
        gone = _gone(found)
        return [_shard(run, tuple(run.parameters["request"]["only"]), gone) for run in found if run.state]

    def others(self, library: str) -> list[Shard]:
        """Flow runs about a library that a worker took, that have not ended, and that are no shards."""
        taken = FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[StateType.PENDING, StateType.RUNNING, StateType.CANCELLING])
        )
        root = Library(library).root
        found = [
            run
            for run in _flow_runs(FlowRunFilter(state=taken))
            if run.deployment_id and not _request(run).get("shard") and _library(run) == root
        ]
        gone = _gone(found)
        return [_shard(run, (), gone) for run in found]

    def submit(self, request: BatchRequest) -> None:
        """Queue a shard."""
        try:
            with _client() as client:
                client.create_flow_run_from_deployment(
                    _deployment(client).id,
                    parameters={"request": request.model_dump(mode="json")},
                    name=f"{request.run_id}-{request.shard}",
                    tags=[tag(request.run_id)],
                    work_queue_name=queue(request.priority),
                    idempotency_key=f"{request.run_id}-{request.shard}",
                )
        except PrefectHTTPStatusError as error:
            if error.response.status_code not in (409, 422):
                raise
            raise RequestError(
                f"the server does not take the shard ({error.response.text[:300]}): its deployments are another "
                "version's; splatmill deploy registers this one's"
            ) from None

    def close(self, shard_id: str, why: str) -> None:
        """Declare a shard crashed. It must not be *Scheduled*: a worker that still holds the run would fail on it."""
        with _client() as client:
            client.set_flow_run_state(UUID(shard_id), Crashed(message=why), force=True)

    def cancel(self, shard_id: str, why: str) -> None:
        """Declare a shard cancelled."""
        with _client() as client:
            client.set_flow_run_state(UUID(shard_id), Cancelled(message=why), force=True)

    def workers(self) -> int:
        """How many workers of the shards' pool are online."""
        with _client() as client:
            pool = _deployment(client).work_pool_name
            found = client.read_workers_for_work_pool(pool)
        return sum(worker.status == WorkerStatus.ONLINE for worker in found)


def close_left_by(worker: str) -> list[str]:
    """Close the shards that a process of this worker's name took and did not begin; returns their ids.

    It is for a worker that starts: whoever took them is gone, and leaves no sign of life that could be missed.
    """
    pending = FlowRunFilter(state=FlowRunFilterState(type=FlowRunFilterStateType(any_=[StateType.PENDING])))
    closed = []
    for run in _flow_runs(pending):
        if run.labels.get("prefect.worker.name") != worker or not _request(run).get("shard"):
            continue
        folder = BatchRequest.model_validate(_request(run)).folder
        if str(run.id) not in beats.read(folder):
            beats.fence(folder, str(run.id))
            PrefectFarm().close(str(run.id), f"worker {worker} was started anew before it began")
            closed.append(str(run.id))
    return closed


def queue(priority: int) -> str | None:
    """The work queue of shards of this priority; None for the pool's own, which is in the middle."""
    return None if priority == USUAL else f"priority-{priority}"


def tag(run_id: str) -> str:
    """The tag of a run's flow runs."""
    return f"run:{run_id}"


def _flow_runs(wanted: FlowRunFilter) -> list[Any]:
    found: list[Any] = []
    with _client() as client:
        while True:
            page = client.read_flow_runs(
                flow_run_filter=wanted, sort=FlowRunSort.ID_DESC, limit=PAGE, offset=len(found)
            )
            found += page
            if len(page) < PAGE:
                return found


def _shard(run: Any, assets: tuple[str, ...], gone: set[tuple[str, str]]) -> Shard:
    since = run.created if run.state.is_scheduled() else run.state.timestamp  # what waits becomes Late: a new state
    return Shard(
        str(run.id), run.state.type.value.lower(), since, assets, redact(run.state.message or ""),
        _taker(run) in gone,
    )  # fmt: skip


def _gone(runs: list[Any]) -> set[tuple[str, str]]:
    """Pools and names of workers that are offline, of the pools in which a run was taken and has not begun."""
    found = set()
    for pool in {_taker(run)[0] for run in runs if run.state and run.state.type == StateType.PENDING} - {""}:
        with _client() as client:
            workers = client.read_workers_for_work_pool(pool)
        found |= {(pool, worker.name) for worker in workers if worker.status == WorkerStatus.OFFLINE}
    return found


def _taker(run: Any) -> tuple[str, str]:
    """The pool and the name of the worker that took a run; empty where none has."""
    return run.work_pool_name or "", run.labels.get("prefect.worker.name", "")


def _request(run: Any) -> dict[str, Any]:
    """The batch that a flow run is about."""
    found = run.parameters.get("request")
    return found if isinstance(found, dict) else {}


def _library(run: Any) -> Place | None:
    """The library that a flow run is about."""
    named = run.parameters.get("library") or _request(run).get("library")
    return Library(named).root if named else None


def _deployment(client: SyncPrefectClient) -> Any:
    try:
        return client.read_deployment_by_name(DEPLOYMENT)
    except ObjectNotFound:
        why = f"the server has no deployment {DEPLOYMENT}; splatmill deploy registers it (deployments/README.md)"
        raise RequestError(why) from None


@contextlib.contextmanager
def _client() -> Iterator[SyncPrefectClient]:
    """Yields a client. Raises :class:`FarmUnreachable` when the server does not answer or says that it is broken."""
    try:
        with get_client(sync_client=True) as client:
            yield client
    except (httpx.TransportError, PrefectHTTPStatusError) as error:
        if isinstance(error, PrefectHTTPStatusError) and error.response.status_code < 500:
            raise
        raise FarmUnreachable(f"the Prefect server does not answer: {error}") from error
