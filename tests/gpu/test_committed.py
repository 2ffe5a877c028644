"""What is said of a GPU is what was measured and committed."""

import json

import pytest

from tests.bench.committed import figures, newest
from tests.gpu.sections import BATCH_S, batch_s


def row(active, geometry, texture, peak, fraction, fits=True):
    return {
        "active": active, "geometry_s": geometry, "texture_s": texture, "peak_gb": peak, "fraction_of_peak": fraction,
        "out_of_memory": not fits, "ms_per_asset_step": geometry * 10 / active,
    }  # fmt: skip


NOTES = {
    "card": "a card", "baseline, ms a step": 60.0, "geometry steps": [100, 500], "texture rounds": [5, 50],
    "16 at once": row(16, 20.0, 4.0, 26.0, 0.4), "1 at once": row(1, 3.0, 0.5, 5.8, 0.2),
    "16 at once, compiled": row(16, 16.0, 4.0, 26.0, 0.5),
    "16 at once, compiled, distilled encoder": row(16, 8.0, 4.0, 11.0, 0.4),
    "8 at once": row(8, 1.0, 1.0, 9.0, 0.9, fits=False),
}  # fmt: skip


def test_figures_are_of_the_published_steps_and_the_best_of_each_number():
    found = figures(NOTES, "2026-11-26")
    assert found["assets_per_hour"] == {"1": 180.0, "16": 480.0}
    assert found["ms_per_asset_step_16"] == 10.0 and found["peak_gb_at_1"] == 5.8
    assert found["vs_dreamgaussian"] == 6.0 and found["vs_sequential"] == 2.67 and found["fraction_of_peak"] == 0.5
    assert found["vs_dreamgaussian_distilled"] == 12.0
    assert found["name"] == "a card" and found["date"] == "2026-11-26"


def test_the_newest_day_counts_whatever_the_card(tmp_path):
    assert newest(tmp_path) is None
    for card, date in (("h200", "2026-11-26"), ("a100", "2026-12-01"), ("h100", "2026-11-30")):
        (tmp_path / f"{card}-{date}-bench.json").write_text(json.dumps(NOTES | {"card": card}))
    assert newest(tmp_path)["name"] == "a100" and newest(tmp_path)["date"] == "2026-12-01"


def without(*names):
    return {name: value for name, value in NOTES.items() if name not in names}


def test_what_was_left_out_is_none():
    found = figures(without("1 at once"), "2026-11-26")
    assert found["peak_gb_at_1"] is None and found["vs_sequential"] is None and found["ms_per_asset_step_16"] == 10.0
    found = figures(without("16 at once", "16 at once, compiled"), "2026-11-26")
    assert found["ms_per_asset_step_16"] is None and found["vs_sequential"] == 1.0 and found["vs_dreamgaussian"] == 2.0
    found = figures({name: value for name, value in NOTES.items() if " at once" not in name}, "2026-11-26")
    assert found.pop("assets_per_hour") == {} and found.pop("name") == "a card" and found.pop("date")
    assert set(found.values()) == {None}


def test_what_a_day_s_last_run_left_out_is_of_the_one_before(tmp_path):
    """But no ratio is of two hosts: the later run's rate at 16 is not divided by the rate at 1 of the one before."""
    faster = {"16 at once, compiled": row(16, 8.0, 2.0, 26.0, 0.5), "baseline, ms a step": 70.0}
    for which, notes in (("", NOTES), ("-later", without("1 at once") | faster)):
        (tmp_path / f"h200-2026-12-01{which}-bench.json").write_text(json.dumps(notes))
    (tmp_path / "a100-2026-12-01-bench.json").write_text(json.dumps(NOTES | {"baseline, ms a step": 90.0}))
    found = newest(tmp_path)
    assert found["peak_gb_at_1"] == 5.8 and found["vs_dreamgaussian"] == 14.0 and found["date"] == "2026-12-01"
    assert found["assets_per_hour"] == {"1": 180.0, "16": 960.0} and found["vs_sequential"] == 2.67


def test_the_committed_result_says_everything():
    found = newest()
    assert found is not None and found["ms_per_asset_step_16"] == pytest.approx(9.59, abs=0.01)
    assert set(found["assets_per_hour"]) == {"1", "16"} and None not in found.values()


def test_time_is_kept_for_the_batch_only_where_it_can_run(monkeypatch):
    for only, left, kept in (
        ("", 400, BATCH_S), ("bench,batch", 301, BATCH_S), ("", 299, 0), ("bench", 400, 0), ("bench,batches", 400, 0)
    ):  # fmt: skip
        monkeypatch.setenv("ONLY", only)
        assert batch_s(left) == kept
