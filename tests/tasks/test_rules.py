"""What is done about errors: rules by class, another seed, quarantine."""

from dataclasses import replace

import pytest

from catalog import query
from catalog.writer import append
from flows.asset import make_asset
from pipeline_core.acceptance import Contract
from pipeline_core.config import RECIPES
from pipeline_core.errors import DamagedInput, DataError, DivergedError
from pipeline_core.spec import AssetSpec
from pipeline_core.stages import names
from tasks.journey import plan_journey
from tasks.rules import MENDED, RESEEDS, RULES, quarantined, reseeded, seeds, to_quarantine
from tasks.stage import run_stage


def plan(library, run_id="run-1", **changes):
    spec = AssetSpec(prompt="a blue mug", asset_id="mug", seed=3, recipe=RECIPES["draft"].override(changes))
    return plan_journey(str(library), run_id, spec, lambda ref, kind: f"{ref}@{kind}")


def test_another_seed_renews_every_stage_and_still_counts_as_what_was_asked_for(tmp_path):
    journey = plan(tmp_path)
    others = [reseeded(journey, attempt) for attempt in range(3)]
    assert others[0] is journey and len({each.spec.seed for each in others}) == 3
    for stage in names()[:-1]:
        assert len({each.keys[stage] for each in others}) == 3
    assert len({each.keys["record"] for each in others}) == 1
    assert reseeded(journey, 1) == others[1]  # the same other seed in every process


def outcomes(monkeypatch, errors):
    """Let the journey end with one error after the other; seeds it was travelled with."""
    seeds, errors = [], iter(errors)

    def travel(journey, made, others=(), finally_=False):
        seeds.append(journey.spec.seed)
        error = next(errors, None)
        if error:
            raise error
        return {"record": {}}

    monkeypatch.setattr("flows.asset.travel", travel)
    return seeds


def test_a_diverged_asset_is_made_from_other_seeds_twice(tmp_path, monkeypatch):
    seeds = outcomes(monkeypatch, [DivergedError("nan"), DivergedError("nan")])
    assert make_asset(plan(tmp_path)) == {} and len(set(seeds)) == 3 and seeds[0] == 3
    seeds = outcomes(monkeypatch, [DivergedError("nan")] * 9)
    with pytest.raises(DivergedError):
        make_asset(plan(tmp_path))
    assert len(seeds) == RESEEDS + 1


def test_what_is_rejected_is_made_from_the_next_seeds_and_the_best_of_them_delivered(tmp_path, monkeypatch):
    travelled, asked = [], plan(tmp_path)
    best = seeds(3)[1]

    def travel(journey, made, others=(), finally_=False):
        travelled.append((journey.spec.seed, list(others), finally_))
        return {"accept": journey.spec.seed, "record": {"seed": best}} if finally_ else {"accept": journey.spec.seed}

    monkeypatch.setattr("flows.asset.travel", travel)
    monkeypatch.setattr("flows.asset.rank", lambda journey, made: journey.spec.seed != best)
    held = replace(asked, spec=asked.spec.model_copy(update={"accept": Contract(attempts=2)}))
    assert make_asset(held) == {"seed": best}
    first, second = seeds(3)[:2]
    assert travelled == [(first, [], False), (second, [first], False), (second, [first], True)]
    travelled.clear()
    make_asset(replace(held, further=2))  # asked for by name after two attempts
    assert [seed for seed, _, last in travelled if not last] == seeds(3)[:4]


def test_a_damaged_input_is_mended_with_the_same_seed_and_not_for_ever(tmp_path, monkeypatch):
    seeds = outcomes(monkeypatch, [DamagedInput("x")] * MENDED)
    assert make_asset(plan(tmp_path)) == {} and seeds == [3] * (MENDED + 1)
    outcomes(monkeypatch, [DamagedInput("x")] * 99)
    with pytest.raises(DamagedInput):
        make_asset(plan(tmp_path))


def test_other_errors_are_raised_at_once(tmp_path, monkeypatch):
    seeds = outcomes(monkeypatch, [DataError("x")])
    with pytest.raises(DataError):
        make_asset(plan(tmp_path))
    assert seeds == [3]


def fail(journey, error):
    """The asset fails in a stage, and its run ends: is it put into quarantine?"""

    def work(folder):
        raise error

    with pytest.raises(type(error)):
        run_stage(journey, "extract_mesh", work)
    failure = {"asset_id": "mug", "stage": "extract_mesh", "error_type": type(error).__name__, "message": str(error)}
    failure["error_class"] = getattr(error, "error_class", "transient")
    rows = to_quarantine(journey.library, journey.run_id, [journey], [failure])
    if rows:
        append(journey.library, rows)
    return bool(quarantined(journey.library, [journey]))


@pytest.mark.parametrize("error", [DataError("bad"), DivergedError("nan"), OSError("disk"), MemoryError("x")])
def test_an_asset_goes_into_quarantine_after_as_many_failed_runs_as_its_class_is_given(tmp_path, error):
    if isinstance(error, MemoryError):
        error.error_class = "oom"
    given = RULES[getattr(error, "error_class", "transient")].runs or 99
    for run in range(1, 5):
        assert fail(plan(tmp_path, f"run-{run}"), error) is (run >= given)


def test_what_is_quarantined_is_what_sql_shows_and_a_changed_input_frees_it(tmp_path):
    journey = plan(tmp_path)
    assert fail(journey, DataError("no surface"))
    (row,) = query.assets(str(tmp_path))
    assert (row["status"], row["error_stage"], row["error_class"]) == ("quarantined", "extract_mesh", "data")
    assert row["error_type"] == "DataError" and row["error_message"] == "no surface"
    assert quarantined(journey.library, [plan(tmp_path, **{"evaluate.resolution": 64})]) == {"mug"}
    assert quarantined(journey.library, [plan(tmp_path, **{"mesh.grid": 64})]) == set()
    run_stage(journey, "extract_mesh", lambda folder: {})  # asked for by name, and it worked
    assert quarantined(journey.library, [journey]) == set()
