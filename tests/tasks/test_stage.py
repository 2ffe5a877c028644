"""What all stages have in common: found or made, one row for each attempt, errors recorded and raised."""

import json
import logging
from concurrent.futures import CancelledError
from types import SimpleNamespace

import pytest

from catalog import query
from flows.local import _warm_up
from pipeline_core import models
from pipeline_core.config import RECIPES
from pipeline_core.errors import DataError, DivergedError, TransientError
from pipeline_core.spec import AssetSpec
from pipeline_core.stages import DELIVERY
from pipeline_core.storage import Library
from tasks import halt
from tasks.journey import plan_journey
from tasks.policy import stage_task
from tasks.record import IN_ASSETS
from tasks.stage import IN_STAGES, path_of, run_stage


@pytest.fixture
def journey(tmp_path):
    spec = AssetSpec(prompt="a blue mug", asset_id="mug", recipe=RECIPES["draft"], tags={"set": "x"})
    return plan_journey(str(tmp_path), "run-1", spec, lambda ref, kind: f"{ref}@{kind}")


def attempts(journey):
    return query.rows(journey.library, "select * exclude (spec_json) from stage_runs order by event_id")


def test_a_stage_is_made_once_and_then_found(journey):
    calls = []

    def work(folder):
        calls.append(folder)
        (folder / "points.ply").write_text("ply")
        return {"points": 3}

    first = run_stage(journey, "init_points", work)
    again = run_stage(journey, "init_points", work)
    assert first == again and len(calls) == 1 and json.loads(json.dumps(first)) == first
    assert path_of(journey, first, "points.ply").read_text() == "ply" and not first["dir"].startswith("/")
    made, found = attempts(journey)
    assert (made["status"], found["status"]) == ("ok", "skipped")
    assert made["stage_key"] == found["stage_key"] == journey.keys["init_points"]
    assert made["model_ids"] == ["starter@points"] and dict(made["tags"]) == {"set": "x"}
    metrics = query.rows(journey.library, "select value from metrics where name = 'points'")
    assert [row["value"] for row in metrics] == [3, 3]


def test_scipy_is_whole_before_a_stage_begins_and_before_models_are_loaded_beside_it(journey, monkeypatch):
    """Two threads that met within its circle of imports lost a stage to Python's _DeadlockError."""
    done = []
    monkeypatch.setattr("tasks.stage.import_scipy", lambda: done.append("scipy"))
    run_stage(journey, "init_points", lambda folder: done.append("work") or {})
    monkeypatch.setattr(models, "import_scipy", lambda: done.append("scipy"))
    monkeypatch.setattr(models, "point_prior", lambda ref: done.append("points"))
    monkeypatch.setattr(models, "engine", lambda recipe: done.append("engine"))
    monkeypatch.setattr("flows.local.threading.Thread", lambda target, **_: SimpleNamespace(start=target))
    _warm_up(journey)
    assert done == ["scipy", "work", "scipy", "points", "engine"]


def test_a_row_that_a_kill_kept_from_the_catalogue_is_added_later(journey, monkeypatch):
    def work(folder):
        (folder / "points.ply").write_text("ply")
        return {}

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("tasks.stage.append", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
        run_stage(journey, "init_points", work)
    assert Library(journey.library).has("init_points", journey.keys["init_points"])
    run_stage(journey, "init_points", work)
    assert [row["status"] for row in attempts(journey)] == ["ok", "skipped"]


@pytest.mark.parametrize("error, status, klass", [
    (DataError("no"), "failed", "data"), (DivergedError("nan"), "failed", "permanent"),
    (TransientError("busy"), "failed", "transient"), (MemoryError(), "failed", "oom"),
    (TimeoutError("slow"), "timeout", "transient"), (KeyboardInterrupt(), "cancelled", "permanent"),
    (ZeroDivisionError("x / 0"), "failed", "permanent"),
])  # fmt: skip
def test_errors_are_recorded_and_raised_and_leave_no_output(journey, error, status, klass):
    def work(folder):
        (folder / "half").write_text("")
        raise error

    with pytest.raises(type(error)):
        run_stage(journey, "init_points", work)
    (row,) = attempts(journey)
    assert (row["status"], row["error_class"], row["error_type"]) == (status, klass, type(error).__name__)
    assert row["error_message"]
    library = Library(journey.library)
    assert not library.has("init_points", journey.keys["init_points"]) and not any((library.root / "tmp").iterdir())


def test_a_stage_that_ends_while_the_run_is_stopped_is_cancelled_whichever_it_is(journey, monkeypatch):
    """An engine that is closed under a stage makes it fail in many ways; none is the asset's fault."""

    def work(folder):
        halt.pull()
        raise RuntimeError("the engine is closed")

    for stage in ("extract_mesh", DELIVERY):
        with pytest.raises(CancelledError, match="stopped"):
            run_stage(journey, stage, work, (), IN_ASSETS if stage == DELIVERY else IN_STAGES)
        halt.release()
    assert [(row["stage"], row["status"]) for row in attempts(journey)] == [
        ("extract_mesh", "cancelled"), (DELIVERY, "cancelled"),
    ]  # fmt: skip


def test_a_row_promises_what_its_task_writes(journey, monkeypatch):
    @stage_task
    def init_points(journey, folder):
        (folder / "other.ply").write_text("ply")
        return {}

    with pytest.raises(AssertionError, match=r"points\.ply"):
        init_points.fn(journey)


def test_a_log_for_machines_tells_when_a_stage_begins_ends_is_found_and_fails(journey, monkeypatch):
    from pipeline_core import logs

    def work(folder):
        (folder / "points.ply").write_text("ply")
        return {}

    def fail(folder):
        raise DataError("empty at iso=1")

    records = []
    monkeypatch.setattr(logs.stages, "handle", records.append)
    monkeypatch.setattr(logs.stages, "level", logging.INFO)
    run_stage(journey, "init_points", work)
    assert not records  # people have the panel
    monkeypatch.setattr(logs.stages, "propagate", True)
    run_stage(journey, "init_points", work)
    run_stage(journey, "extract_mesh", work)
    with pytest.raises(DataError):
        run_stage(journey, "evaluate", fail)
    told = [(each.event, each.stage, each.asset, each.run) for each in records]
    assert told == [("found", "init_points", "mug", "run-1"), ("begin", "extract_mesh", "mug", "run-1"),
                    ("end", "extract_mesh", "mug", "run-1"), ("begin", "evaluate", "mug", "run-1"),
                    ("failed", "evaluate", "mug", "run-1")]  # fmt: skip
    assert records[2].seconds >= 0 and records[-1].error_class == "data"
    assert records[-1].levelname == "ERROR" and "empty at iso=1" in records[-1].getMessage()


def test_every_attempt_keeps_its_seconds_and_the_price_of_its_hour(journey, monkeypatch):
    def work(folder):
        (folder / "points.ply").write_text("ply")
        return {}

    def fail(folder):
        raise DataError("no")

    monkeypatch.setenv("SPLATMILL_PRICE_PER_HOUR", "2.50")
    run_stage(journey, "init_points", work)
    with pytest.raises(DataError):
        run_stage(journey, "evaluate", fail)
    monkeypatch.setenv("SPLATMILL_PRICE_PER_HOUR", "9")
    run_stage(journey, "init_points", work)  # found: it costs nothing, and the price of then stays
    made, failed, found = attempts(journey)
    assert made["price_per_hour"] == failed["price_per_hour"] == 2.5 and found["price_per_hour"] is None
    assert 0 < made["share_s"] <= made["duration_s"] + 0.1 and failed["share_s"] > 0 and made["gpu_s"] is None
    [cost] = query.rows(journey.library, "select * from costs")
    assert cost["cost"] == pytest.approx((made["share_s"] + failed["share_s"]) * 2.5 / 3600)
