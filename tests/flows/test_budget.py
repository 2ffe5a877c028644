"""The gate: nothing begins that would not be done by the deadline or within the budget."""

import threading
import time
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from flows.batch import BatchRequest, run_batch
from flows.budget import Admission, next_time
from flows.summary import markdown
from pipeline_core.errors import RequestError
from tests.flows.test_batch import finish, write

NOON = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)


@pytest.mark.parametrize("text, expected", [
    ("12:30", NOON.replace(minute=30)), ("06:00", NOON.replace(day=23, hour=6)), ("12:00", NOON.replace(day=23)),
    ("06:00:30", NOON.replace(day=23, hour=6, second=30)), ("2026-11-24T01:00+00:00", NOON.replace(day=24, hour=1)),
])  # fmt: skip
def test_a_clock_time_is_the_next_such_moment(text, expected):
    assert next_time(text, NOON) == expected


@pytest.mark.parametrize("text", ["6 o'clock", "25:00", "2026-11-21T01:00+00:00", "", "tomorrow"])
def test_a_deadline_that_is_none_is_refused(text):
    with pytest.raises(RequestError, match="--deadline"):
        next_time(text, NOON)


def test_an_asset_is_refused_when_one_like_nine_in_ten_before_it_would_be_late():
    gate = Admission(deadline=NOON + timedelta(seconds=100))
    for seconds in (10, 20, 30, 40, 50, 60, 70, 80, 90, 500):
        gate.note(seconds)
    assert gate.expected_s() == 500
    gate.measured.remove(500)
    assert gate.expected_s() == 90
    assert gate.refusal(NOON + timedelta(seconds=9)) == ""
    assert "the deadline" in gate.refusal(NOON + timedelta(seconds=11))


def test_until_five_are_measured_the_catalogue_counts_too():
    gate = Admission(asset_s=60.0)
    assert gate.expected_s() == 60
    gate.note(5)
    assert gate.expected_s() == 60
    for _ in range(4):
        gate.note(5)
    assert gate.expected_s() == 5


def test_a_budget_counts_what_all_processes_will_still_hold():
    spent = [3000.0]
    gate = Admission(gpu_s=3600, asset_s=100, spent=lambda: spent[0], processes=lambda: 4)
    assert gate.refusal() == ""
    spent[0] = 3201
    assert "0.89 are spent" in gate.refusal()


def test_without_limits_everything_may_begin():
    assert Admission(asset_s=1e9).refusal() == ""


def test_a_run_stops_admitting_in_time_finishes_what_runs_and_says_what_is_left(tmp_path, tiny):
    request = write(tmp_path, 12, tiny).model_copy(update={"in_flight": 2, "gpu_hours": 1.8 / 3600})
    lock, begun = threading.Lock(), []

    def make(journey):
        with lock:
            begun.append(journey.asset_id)
        time.sleep(0.3)
        finish(journey)

    summary = run_batch(request, make)
    assert sorted(summary.made) == sorted(begun) and 2 <= len(begun) < 12  # nothing that began was cut short
    assert sorted(summary.made + summary.left) == [f"mug-{i:04d}" for i in range(12)]
    assert not summary.stopped and not summary.ok and "the budget of" in summary.left_why
    assert "Not begun because of the budget" in markdown(summary) and summary.left[0] in markdown(summary)
    again = run_batch(request.model_copy(update={"gpu_hours": None, "run_id": "again"}), finish)
    assert sorted(again.made) == sorted(summary.left) and again.ok


def test_a_deadline_that_has_come_admits_nothing(tmp_path, tiny):
    request = write(tmp_path, 2, tiny)
    request = BatchRequest(**request.model_dump() | {"deadline": datetime.now(UTC) - timedelta(seconds=1)})
    summary = run_batch(request, lambda journey: pytest.fail(journey.asset_id))
    assert len(summary.left) == 2 and not summary.made


def test_the_wall_clock_counts_when_summer_time_ends():
    berlin = ZoneInfo("Europe/Berlin")
    evening = datetime(2026, 10, 24, 22, 0, tzinfo=berlin)
    assert next_time("06:00", evening).replace(tzinfo=None).hour in (5, 6)
