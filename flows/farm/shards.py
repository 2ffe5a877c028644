"""Divides a manifest over the workers of a farm: how long assets take, and which go together.

    timing = measured("library", "factory")                     # seconds, from the catalogue
    parts = split(asset_ids, workers=4, asset_s=timing.worker_s)

A shard is one process: it loads the models once and keeps them for all its assets. Shards wait in one queue, and a
worker that is done takes the next, so slow workers take fewer. Their sizes shrink towards the end of the queue (guided
self-scheduling, Polychronopoulos and Kuck 1987; in rounds of equal shards, factoring, Hummel, Schonberg and Flynn
1992): the first are long, so that little time goes into loading, the last short, so that all workers end together.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from catalog import query
from pipeline_core.errors import RequestError
from pipeline_core.stages import DELIVERY, all_names, names, sql_list

START_S = 20.0
"""A worker needs so many seconds from taking a shard to its first stage, for the process, imports and models."""
SHORTEST_S = 3 * START_S
"""A shorter shard would spend more than a quarter of its time on starting."""
LONGEST_S = 3600.0
"""A longer shard would save next to nothing more."""
UNKNOWN_S = 60.0
"""An asset is expected to take so many seconds while nothing is measured."""

TIMING_SQL = f"""
with recent as (
    select *, max(finished_at) over (
        partition by asset_id, run_id order by started_at, event_id rows between unbounded preceding and 1 preceding
    ) as busy_until
    from stage_runs
    where status = 'ok' and recipe = ? and stage in {sql_list(all_names())} and finished_at > now() - interval 60 days
),
per_asset as (  -- candidates are at work at the same time, which counts once
    select asset_id, run_id, max(finished_at) as ended,
        sum(greatest(0, epoch(finished_at) - greatest(epoch(started_at), coalesce(epoch(busy_until), 0)))) as seconds
    from recent group by all having count(distinct stage) filter (stage in {sql_list(names())}) = {len(names())}
),
per_process as (
    select (epoch(max(finished_at)) - epoch(min(started_at))) / count(*) filter (stage = '{DELIVERY}') as seconds,
        count(*) filter (stage = '{DELIVERY}') as assets
    from recent group by run_id, host, worker_pid having assets > 0
)
select
    (select count(*) from per_asset) as assets,
    (select quantile_cont(seconds, 0.9) from (from per_asset order by ended desc limit 500)) as asset_s,
    (select sum(seconds * assets) / sum(assets) from per_process) as worker_s
"""


@dataclass(frozen=True)
class Timing:
    """How long assets take, in seconds, by the catalogue.

    Nine in ten assets take less than ``asset_s`` from their first stage to their last. A worker takes ``worker_s`` for
    each asset that it delivers, which is less when assets share a batch. ``assets`` were measured.
    """

    assets: int
    asset_s: float
    worker_s: float


def measured(library: str, recipe: str) -> Timing:
    """What the catalogue knows of a recipe's assets: zero assets and :data:`UNKNOWN_S` when it knows nothing."""
    try:
        (row,) = query.rows(library, TIMING_SQL, [recipe])
    except RequestError:
        row = {"assets": 0}
    if not row["assets"]:
        return Timing(0, 0.0, UNKNOWN_S)
    return Timing(row["assets"], row["asset_s"], max(row["worker_s"], 1e-3))


def split(asset_ids: Sequence[str], *, workers: int, asset_s: float) -> list[tuple[str, ...]]:
    """Divide ``asset_ids`` into shards, in order. Each round gives every worker a quarter of its share of the rest.

    It is a quarter so that a worker of a quarter of the mean speed is not the last to finish with its first shard.
    """
    rest, shards = list(asset_ids), []
    shortest = max(1, math.ceil(SHORTEST_S / asset_s))
    longest = max(1, math.floor(LONGEST_S / asset_s))
    while rest:
        size = math.ceil(len(rest) / (4 * max(1, workers)))
        size = min(longest, max(shortest, size))
        for _ in range(max(1, workers)):
            if rest:
                shards.append(tuple(rest[:size]))
                rest = rest[size:]
    return shards


def cut(asset_ids: Sequence[str], *, shards: int, asset_s: float, longest_s: float) -> list[tuple[str, ...]]:
    """Divide ``asset_ids`` into equal shards, in order: at least so many, none of which takes much longer."""
    size = max(1, min(math.floor(longest_s / asset_s), math.ceil(len(asset_ids) / max(1, shards))))
    return [tuple(asset_ids[at : at + size]) for at in range(0, len(asset_ids), size)]
