"""How Prefect runs a stage: when it is retried, what its cache key is, how long it may take.

@stage_task
def extract_mesh(journey, folder, gaussians):    # named as its row in pipeline_core/stages.py
    ...                                          # writes files into folder, returns metrics
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache, wraps
from importlib import import_module
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task
from prefect.cache_policies import CachePolicy
from prefect.client.schemas.objects import State, TaskRun
from prefect.context import FlowRunContext, TaskRunContext
from prefect.serializers import JSONSerializer
from prefect.utilities.annotations import quote

from pipeline_core.errors import DamagedInput, error_class
from pipeline_core.stages import DELIVERY, named
from pipeline_core.storage import Library
from tasks.journey import Journey
from tasks.rules import DELAYS_S, RULES
from tasks.stage import IN_STAGES, Publication, Reference, run_stage

P = ParamSpec("P")
T = TypeVar("T")

Made = dict[str, Reference]
"""References by stage: what a journey has come to."""

REFERENCES = JSONSerializer(object_encoder=None, object_decoder=None)
"""References are plain JSON; without a decoder, reading one can never import a class that a file names."""


@dataclass
class StageKey(CachePolicy):
    """The cache key of a task is the key of its stage.

    That key says everything the output depends on (stages upstream, settings, models, seed), while Prefect's own
    policies would hash the journey with its run id, and so miss on every run. It says nothing about whether the files
    are still whole: :func:`ask` refreshes the cache when they are not.
    """

    def compute_key(
        self, task_ctx: TaskRunContext, inputs: dict[str, Any], flow_parameters: dict[str, Any], **kwargs: Any
    ) -> str | None:
        journey = inputs["journey"]
        return f"{task_ctx.task.name}-{journey.keys[task_ctx.task.name]}"


def worth_retrying(task: Any, run: TaskRun, state: State) -> bool:
    """Whether the class of the error that ended the attempt (Prefect gives it as the state's data) has retries left.

    A damaged input is not mended by the stage that reads it: ``flows.asset`` goes back to the stage that made it.
    """
    error = state.data
    if not isinstance(error, BaseException) or isinstance(error, DamagedInput):
        return False
    return run.run_count <= RULES[error_class(error)].retries


def stage_task(work: Callable[..., Mapping[str, float]]) -> Task[..., Reference]:
    """The task of the stage that ``work`` is named after.

    ``work(journey, folder, *upstream)`` writes the stage's files into ``folder`` and returns its metrics. The task is
    ``task(journey, *upstream) -> reference``, with the references of the row's ``upstream`` in order.
    """
    return published_task(IN_STAGES)(work)


def published_task(publication: Publication) -> Callable[[Callable[..., Mapping[str, float]]], Task[..., Reference]]:
    """:func:`stage_task` for a stage that publishes in a way of its own."""

    def decorate(work: Callable[..., Mapping[str, float]]) -> Task[..., Reference]:
        row = named(work.__name__)

        def run(journey: Journey, *upstream: Reference) -> Reference:
            def write(folder: Path) -> Mapping[str, float]:
                metrics = work(journey, folder, *upstream)
                owed = [name for name in row.outputs if not (folder / name).is_file()]
                assert not owed, f"{row.name} did not write {owed}, which its row promises"
                return metrics

            return run_stage(journey, row.name, write, upstream, publication)

        for name in ("__module__", "__name__", "__qualname__", "__doc__"):
            setattr(run, name, getattr(work, name))
        return Task(run, **policy(row.name, hours=row.hours))

    return decorate


def task_of(stage: str) -> Task[..., Reference]:
    """The task of a stage: what ``tasks/<stage>.py`` calls by the stage's name."""
    return cast("Task[..., Reference]", getattr(import_module(f"tasks.{stage}"), stage))


def policy(stage: str, *, hours: float) -> dict[str, Any]:
    """Keyword arguments of ``@task`` for a stage."""
    return {
        "name": stage,
        "retries": len(DELAYS_S),
        "retry_delay_seconds": DELAYS_S,
        "retry_jitter_factor": 0.3,
        "retry_condition_fn": worth_retrying,
        "cache_policy": StageKey(),
        "persist_result": True,
        "result_serializer": REFERENCES,
        "cache_result_in_memory": False,
        "timeout_seconds": hours * 3600,
        "log_prints": False,
    }


def ask(task: Task[..., Reference], journey: Journey, *upstream: Reference, anew: bool = False) -> Reference:
    """Call a stage's task; Prefect may answer from its cache only while the stage's files are whole.

    Truth is in the files: where they are damaged or gone, the task runs again and its new reference replaces the cached
    one. Deliverables are read to the last byte here; other outputs are when the next stage opens them (``path_of``).
    ``anew``: the task itself is asked, which leaves a row though its files are there.
    """
    quick = task.name != DELIVERY
    there = Library(journey.library).find(task.name, journey.keys[task.name], quick=quick) is not None
    chosen = task if there and not anew else _refreshing(task)
    return chosen(quote(journey), *upstream)  # quoted: Prefect would look for futures in every field of the recipe


def come_through(
    journey: Journey, made: Made, stage: str, others: Sequence[Reference] = (), *, anew: bool = False
) -> None:
    """Bring a journey through ``stage``, with the outputs in ``made`` that its row names, and keep its reference there.

    ``others`` are references that come before those.
    """
    upstream = [made[name] for name in named(stage).upstream]
    made[stage] = ask(task_of(stage), journey, *others, *upstream, anew=anew)


def forgetting(travel: Callable[P, T]) -> Callable[P, T]:
    """Give ``travel`` a memory of its own: Prefect's flow would keep the result of every task of every asset."""

    @wraps(travel)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        flow_run = FlowRunContext.get()
        with flow_run.model_copy(update={"run_results": {}}) if flow_run else nullcontext():
            return travel(*args, **kwargs)

    return call


@lru_cache(maxsize=64)
def _refreshing(task: Task[..., Reference]) -> Task[..., Reference]:
    """The same task, never answered from the cache. Made once: Prefect reads its source file each time."""
    return task.with_options(refresh_cache=True)
