"""Shards: all assets once, in order, long at first and short at the end; their size follows from the catalogue."""

import heapq
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from catalog.schema import StageRun
from catalog.writer import append
from flows.farm.shards import LONGEST_S, SHORTEST_S, START_S, UNKNOWN_S, measured, split
from pipeline_core.stages import names


@given(st.integers(0, 400), st.integers(1, 9), st.floats(0.01, 5000))
def test_every_asset_is_in_exactly_one_shard_and_sizes_shrink(count, workers, each_s):
    assets = [f"a{i}" for i in range(count)]
    shards = split(assets, workers=workers, asset_s=each_s)
    assert [name for shard in shards for name in shard] == assets
    sizes = [len(shard) for shard in shards]
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True) and 0 not in sizes
    assert all(size == 1 or size * each_s <= max(LONGEST_S, SHORTEST_S + each_s) for size in sizes)


def finish_times(shards, speeds, each_s):
    """When each worker falls idle, taking shards from one queue."""
    free = [(0.0, i) for i in range(len(speeds))]
    for shard in shards:
        now, i = heapq.heappop(free)
        heapq.heappush(free, (now + START_S + len(shard) * each_s / speeds[i], i))
    return sorted(now for now, _ in free)


@pytest.mark.parametrize("speeds", [(1, 1, 1), (1, 0.5, 0.25), (1, 1, 1, 1, 1, 1, 1, 0.3)])
def test_workers_of_different_speeds_finish_together(speeds):
    assets, each_s = [str(i) for i in range(400)], 90.0
    ours = finish_times(split(assets, workers=len(speeds), asset_s=each_s), speeds, each_s)
    share = len(assets) // len(speeds)
    equal = finish_times([assets[i : i + share] for i in range(0, len(assets), share)], speeds, each_s)
    assert ours[-1] - ours[0] < each_s / min(speeds) + START_S + SHORTEST_S  # one asset of the slowest
    assert ours[-1] < 1.06 * equal[-1]  # what starting costs, where speeds are equal
    if len(set(speeds)) > 1:
        assert ours[-1] < 0.7 * equal[-1]


def journey(library, asset, pid, began, stage_s, recipe="draft"):
    rows = []
    for i, stage in enumerate(names()):
        start = began + timedelta(seconds=i * stage_s)
        rows.append(
            StageRun(
                run_id="r", asset_id=asset, stage=stage, status="ok", recipe=recipe, worker_pid=pid, host="h",
                started_at=start, finished_at=start + timedelta(seconds=stage_s),
            )
        )  # fmt: skip
    append(library, rows)


def test_times_are_those_of_the_catalogue(tmp_path):
    library, began = str(tmp_path), datetime.now(UTC) - timedelta(hours=1)
    assert measured(library, "draft").worker_s == UNKNOWN_S and measured(library, "draft").asset_s == 0
    journey(library, "a", 1, began, 1.0)
    journey(library, "b", 1, began + timedelta(seconds=1), 1.0)  # beside the first, in the same process
    journey(library, "c", 2, began, 2.0)
    journey(library, "d", 3, began, 100.0, recipe="factory")
    timing = measured(library, "draft")
    assert timing.assets == 3
    n = len(names())  # seconds of the first and of the second asset, which began a second later
    assert timing.worker_s == pytest.approx((n + 1 + 2 * n) / 3)  # n + 1 seconds for two, 2 n for one
    assert timing.asset_s == pytest.approx(n + 0.8 * n)  # nine tenths between n, n and 2 n
    assert measured(library, "factory").worker_s == pytest.approx(100 * n)
