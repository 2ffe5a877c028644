"""How the chaos test counts: what worked at the same time, on made-up rows."""

import json

from flows.farm.standing import WORKER_LOST
from tests.chaos.farm import engine_overlaps, overlaps, workers_of


def row(process, start, end, status="ok", asset="mug", error=None):
    return {
        "asset_id": asset, "host": "h", "worker_pid": process, "prefect_flow_run_id": f"run-{process}",
        "status": status, "started_at": start, "finished_at": end, "error_type": error,
    }  # fmt: skip


WORKERS = {"run-1": "gpu-0", "run-2": "gpu-0", "run-3": "gpu-1"}


def test_engines_of_one_worker_overlap_where_one_outlives_its_worker():
    begun = [row(1, 0, 5), row(1, 5, 9), row(3, 2, 12, asset="key")]
    assert engine_overlaps([*begun, row(2, 9, 14)], WORKERS) == 0
    assert engine_overlaps([*begun, row(2, 8, 14)], WORKERS) == 1
    stopped = row(1, 9, 11, "cancelled")  # the last that the one without a worker did
    assert engine_overlaps([*begun, stopped, row(2, 10, 14, asset="key")], WORKERS) == 1
    lost = row(1, 9, 30, "failed", error=WORKER_LOST)  # reconcile tells of it long after the process was killed
    assert engine_overlaps([*begun, lost, row(2, 10, 14)], WORKERS) == 0
    assert engine_overlaps([*begun, row(4, 0, 20)], WORKERS) == 0  # a run of one machine has no worker


def test_one_asset_is_worked_on_by_one_process_at_a_time():
    assert overlaps([row(1, 0, 5), row(2, 5, 9)]) == 0
    assert overlaps([row(1, 0, 5), row(2, 4, 9)]) == 1
    assert overlaps([row(1, 0, 5), row(2, 4, 9, asset="key")]) == 0


def test_workers_are_told_by_signs_of_life(tmp_path):
    folder = tmp_path / "runs" / "r" / "beats"
    folder.mkdir(parents=True)
    for name, worker in (("a.done", "gpu-0"), ("b.dead", ""), (".c.live.tmp", "gpu-1")):
        (folder / name).write_text(json.dumps({"worker": worker}))
    assert workers_of(tmp_path) == {"a": "gpu-0"}
