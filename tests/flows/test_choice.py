"""Candidates: the best of several beginnings is finished; and the start in place of what distillation made worse."""

import json
import threading
from concurrent.futures import CancelledError
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from catalog import query
from catalog.schema import StageRun
from catalog.writer import append
from flows import choice
from flows.asset import make_asset
from flows.batch import from_start
from flows.choice import choose, is_worse, keep_start
from flows.farm.shards import measured
from flows.live import share_done
from flows.summary import Summary, markdown
from pipeline_core import models, stages
from pipeline_core.acceptance import Verdict
from pipeline_core.config import RECIPES, Choice
from pipeline_core.errors import DataError, DivergedError, TransientError
from pipeline_core.spec import AssetSpec
from pipeline_core.storage import Library
from tasks import policy
from tasks.journey import in_place_of, plan_journey
from tasks.policy import task_of
from tasks.progress import board
from tasks.rules import candidate_seeds, candidates, to_quarantine
from tasks.stage import stage_run


def plan(library, overrides=(), prompt="a red mug", **fields):
    recipe = RECIPES["draft"].override(dict(overrides))
    return plan_journey(
        str(library), "run-1", AssetSpec(prompt=prompt, asset_id="mug", seed=3, recipe=recipe, **fields)
    )


@pytest.fixture
def planned(tmp_path, tiny):
    """A function that plans the tiny asset with more overrides, in a library of its own."""

    def get(name="library", **more):
        return plan(tmp_path / name, tiny | {key.replace("__", "."): value for key, value in more.items()})

    return get


@pytest.fixture
def without_prefect(monkeypatch):
    """Tasks are called as they are."""
    monkeypatch.setattr("tasks.policy.ask", lambda task, journey, *upstream, anew=False: task.fn(journey, *upstream))


def travelled(journey):
    """The asset, as its flow makes it once its journey is chosen."""
    made = {}
    for stage in stages.STAGES:
        made[stage.name] = task_of(stage.name).fn(journey, *(made[name] for name in stage.upstream))
    return json.loads((Library(journey.library).asset_dir("mug") / "asset.json").read_text())


def test_seeds_of_candidates_are_a_stream_that_begins_with_the_assets_own():
    four = candidate_seeds(3, 4)
    assert four[0] == 3 and len(set(four)) == 4 and four[:2] == candidate_seeds(3, 2) and candidate_seeds(3, 1) == [3]
    assert len({seed for own in range(100) for seed in candidate_seeds(own, 8)}) == 800


def test_one_candidate_changes_no_key_and_four_share_what_the_first_has_made(planned):
    alone, four = planned(), planned(choice__candidates=4)
    same = [name for name in stages.names() if alone.keys[name] == four.keys[name]]
    assert same == [name for name in stages.names() if name not in ("validate", "accept", "record")]
    assert set(four.keys) - set(alone.keys) == {"audition"}
    first, *others = candidates(four)
    assert first is four and {each.keys["record"] for each in others} == {four.keys["record"]}
    assert len({each.keys["audition"] for each in (first, *others)}) == 4
    assert planned(choice__candidates=2).keys["audition"] == four.keys["audition"]
    assert planned(choice__candidates=4, choice__audition=0).keys["audition"] != four.keys["audition"]
    assert choose(alone) == (alone, {})


@pytest.fixture
def one_at_a_time(monkeypatch):
    """Assets do not share the engine's batches, where several threads round otherwise (docs/REPRODUCING.md)."""
    monkeypatch.setenv(models.MAX_ACTIVE, "1")
    models.close_engines()
    yield
    models.close_engines()


def test_the_best_goes_on_from_its_audition_and_becomes_what_its_seed_alone_would(
    planned, without_prefect, one_at_a_time, monkeypatch
):
    """Bytes and all; the rows and asset.json tell of the others."""
    from pipeline_core.metrics import fidelity

    begin, score, seen = threading.Barrier(3), fidelity.score_gaussians, []

    def judged(gaussians, prompt, **options):
        seen.append(float(gaussians.means[0, 0]))
        if len(seen) > 3:  # no candidate, but what the asset is compared with
            return score(gaussians, prompt, **options)
        begin.wait(300)  # all three are on their way at once
        return {"judged": 1.0, "caption_margin": float(gaussians.means[0, 0]), "janus_score": 0.0}

    monkeypatch.setattr(fidelity, "score_gaussians", judged)
    journey = planned(choice__candidates=3, choice__audition=0.5)
    library = Library(journey.library)
    chosen, _ = choose(journey)
    assert len(set(seen[:3])) == 3
    margins = {each["seed"]: each["margin"] for each in chosen.chosen["candidates"]}
    best = max(margins, key=margins.get)
    assert [each["seed"] for each in chosen.chosen["candidates"] if each["taken"]] == [best] == [chosen.spec.seed]
    assert chosen.spec.recipe.choice == Choice() and chosen.keys["record"] == journey.keys["record"]
    asset = travelled(chosen)
    assert asset["seed"] == best and asset["candidates"] == chosen.chosen["candidates"]
    assert not list((library.local / "checkpoints").iterdir())

    alone = in_place_of(planned("alone"), seed=best)
    plain = travelled(alone)
    assert {n: f for n, f in plain["files"].items() if n != "asset.json"} == asset["files"]

    rows = query.rows(journey.library, "select seed, taken, margin from candidates order by margin")
    assert {row["seed"]: row["margin"] for row in rows} == pytest.approx(margins)
    assert [row["taken"] for row in rows] == [False, False, True]
    (row,) = query.rows(journey.library, "select delivered_from, seed from assets")
    assert row == {"delivered_from": "distilled", "seed": best}
    (kept,) = query.rows(journey.library, "select upstream_keys from stage_runs where stage = 'record'")
    assert {each.keys["audition"] for each in candidates(journey)} <= set(kept["upstream_keys"])


@pytest.fixture
def heard(monkeypatch):
    """Candidates whose auditions are told: a function that takes what each is worth, or what it fails with."""

    def tell(outcomes):
        outcomes = dict(outcomes)

        def hear(candidate, stage):
            candidate.made[stage] = {"stage": stage, "key": candidate.journey.keys[stage]}

        def audition(candidate):
            hear(candidate, "audition")
            outcome = outcomes[candidate.journey.spec.seed]
            if isinstance(outcome, BaseException):
                raise outcome
            margin, janus = outcome
            candidate.scores = {"judged": float(margin is not None)}
            if margin is not None:
                candidate.scores |= {"caption_margin": margin, "janus_score": janus}

        monkeypatch.setattr(choice, "hear", hear)
        monkeypatch.setattr(choice, "audition", audition)
        monkeypatch.setattr(choice, "go_on", lambda _: None)
        monkeypatch.setattr(choice, "measured", lambda journey, **_: finishing(journey))
        monkeypatch.setattr(policy, "task_of", lambda name: name)
        monkeypatch.setattr(policy, "ask", made)

    def finishing(journey):
        finished.append(journey.spec.seed)
        if journey.spec.seed in fails:
            raise fails[journey.spec.seed]
        return {}

    def made(stage, journey, *_, anew):
        assert anew  # the rows of the one that is taken are the latest
        return {"stage": stage, "key": journey.keys[stage]}

    finished, fails = [], {}
    tell.finished, tell.fails = finished, fails
    return tell


FOUR = candidate_seeds(3, 4)


def four(library):
    return plan(library, {"choice.candidates": 4})


def test_the_largest_margin_is_taken_and_janus_decides_between_near_ones(tmp_path, heard):
    heard(zip(FOUR, [(0.10, 0.0), (0.30, 0.8), (0.29, 0.1), (-0.2, 0.0)], strict=True))
    assert choose(four(tmp_path))[0].spec.seed == FOUR[2]
    heard(zip(FOUR, [(0.10, 0.0), (0.30, 0.8), (0.20, 0.1), (-0.2, 0.0)], strict=True))
    assert choose(four(tmp_path))[0].spec.seed == FOUR[1]


def test_where_nothing_can_judge_the_first_is_taken_and_that_is_said(tmp_path, heard, caplog):
    heard(zip(FOUR, [(None, None)] * 4, strict=True))
    assert choose(four(tmp_path))[0].spec.seed == 3 and "nothing can judge the prompt" in caplog.text


def test_a_candidate_that_fails_is_dropped_while_one_remains(tmp_path, heard, caplog):
    heard(zip(FOUR, [DivergedError("nan"), (0.1, 0.0), DataError("x"), (0.2, 0.0)], strict=True))
    heard.fails[FOUR[3]] = DataError("no surface")
    chosen, _ = choose(four(tmp_path))
    assert chosen.spec.seed == FOUR[1] and heard.finished == [FOUR[3], FOUR[1]]
    told = {each["seed"]: each.get("dropped") for each in chosen.chosen["candidates"]}
    assert told == {3: "DivergedError: nan", FOUR[1]: None, FOUR[2]: "DataError: x", FOUR[3]: "DataError: no surface"}
    assert f"the candidate of seed {FOUR[3]} is dropped: no surface" in caplog.text
    heard.fails[FOUR[1]] = DataError("no surface")
    with pytest.raises(DivergedError, match="nan"):
        choose(four(tmp_path))


@pytest.mark.parametrize("error", [TransientError("disk"), CancelledError("stopped"), KeyboardInterrupt()])
def test_what_is_no_candidates_fault_stops_them_all(tmp_path, heard, error):
    heard(zip(FOUR, [(0.1, 0.0), error, (0.3, 0.0), (0.2, 0.0)], strict=True))
    with pytest.raises(type(error)):
        choose(four(tmp_path))
    assert heard.finished == []


def test_a_winner_that_fails_in_two_runs_is_put_into_quarantine_whichever_seed_it_had(tmp_path):
    journey = four(tmp_path)
    failure = {"asset_id": "mug", "stage": "extract_mesh", "error_type": "ValueError", "message": "x"}
    failure["error_class"] = "permanent"
    for run, winner in (("run-1", candidates(journey)[2]), ("run-2", candidates(journey)[2])):
        assert not to_quarantine(str(tmp_path), run, [journey], [failure])
        row = stage_run(
            replace(winner, run_id=run), "extract_mesh", "failed", datetime.now(UTC), error_class="permanent"
        )
        append(str(tmp_path), [row])
    (row,) = to_quarantine(str(tmp_path), "run-2", [journey], [failure])
    assert row.stage_key == journey.keys["extract_mesh"]


def test_progress_counts_the_work_of_all_candidates(monkeypatch):
    recipe = RECIPES["draft"].override({"choice.candidates": 4, "choice.audition": 0.3, "geometry.steps": 100})
    board.clear()
    board.choosing("mug", stages.share_aside(recipe))
    reports = [board.among("mug", seed, recipe) for seed in FOUR]
    shares = []
    for each in reports:
        each(30, 100, {"loss": 1.0})
        (position,) = board.positions()
        shares.append(share_done(position))
    assert (position.stage, position.step, position.steps) == ("audition", 30, 100)
    assert shares == sorted(shares)
    board.follow("mug", "optimize_gaussians")(30, 100, {})
    assert share_done(board.positions()[0]) == pytest.approx(shares[-1])  # the winner goes on from there
    alone = stages.share_before("optimize_gaussians") + 0.3 * stages.share_of("optimize_gaussians")
    aside = 3 * (stages.share_of("init_points") + 0.3 * stages.share_of("optimize_gaussians"))
    assert shares[-1] == pytest.approx((alone + aside) / (1 + aside))
    board.update("mug", state="done")
    assert share_done(board.positions()[0]) == 1


def test_estimates_count_the_time_of_candidates_that_work_at_once_once(tmp_path):
    rows, begin = [], datetime.now(UTC) - timedelta(hours=1)

    def row(stage, seed, since, until):
        started, finished = (begin + timedelta(seconds=each) for each in (since, until))
        told = {"run_id": "night", "asset_id": "mug", "recipe": "factory", "status": "ok", "worker_pid": 1}
        rows.append(StageRun(stage=stage, seed=seed, started_at=started, finished_at=finished, **told))

    for seed in FOUR:
        row("init_points", seed, 0, 10)
        row("audition", seed, 10, 40)
    for place, stage in enumerate(stages.names()[1:]):  # after a pause
        row(stage, FOUR[1], 60 + 5 * place, 65 + 5 * place)
    append(str(tmp_path), rows)
    assert measured(str(tmp_path), "factory").asset_s == pytest.approx(40 + 5 * (len(stages.names()) - 1))


# --- the start -------------------------------------------------------------------------------------------------------

GOOD = {"judged": 1.0, "r_precision": 1.0, "control_r_precision": 1.0, "start_gain": -0.02, "fidelity": 0.2}


@pytest.mark.parametrize("scores, worse", [
    ({}, False), ({"start_gain": -0.04}, True), ({"r_precision": 0.0}, True),
    ({"r_precision": 0.0, "control_r_precision": 0.0}, False), ({"judged": 0.0}, False),
])  # fmt: skip
def test_what_is_worse_than_its_start(scores, worse):
    assert is_worse(GOOD | scores, margin=0.03) is worse


@pytest.fixture
def measuring(monkeypatch):
    """Scores by whether an asset is distilled; what was travelled, and whether anew."""
    travelled = []

    def tell(distilled, start):
        def measured(journey, anew=False):
            travelled.append((bool(journey.spec.recipe.geometry.steps), anew))
            scores = distilled if journey.spec.recipe.geometry.steps else start
            if isinstance(scores, Exception):
                raise scores
            return {"evaluate": {"key": journey.keys["evaluate"], "scores": scores}}

        monkeypatch.setattr(choice, "measured", measured)
        monkeypatch.setattr(choice, "read", lambda journey, made: made["evaluate"]["scores"])
        return travelled

    return tell


def test_the_start_is_delivered_where_it_is_the_better_one(tmp_path, measuring, caplog):
    journey = plan(tmp_path, {"choice.start_margin": 0.03})
    assert measuring(GOOD | {"start_gain": -0.2}, GOOD | {"fidelity": 0.3}) == []
    taken, _ = choose(journey)
    assert taken.spec.recipe.geometry.steps == taken.spec.recipe.appearance.steps == 0
    assert taken.keys["init_points"] == journey.keys["init_points"] and taken.keys["record"] == journey.keys["record"]
    assert taken.chosen == {"delivered_from": "start", "fidelity_distilled": 0.2, "fidelity_start": 0.3}
    assert taken.kept == (journey.keys["evaluate"],) and "the start is delivered" in caplog.text


def test_the_distilled_one_is_delivered_where_its_start_makes_no_better_mesh_or_none(tmp_path, measuring):
    journey = plan(tmp_path, {"choice.start_margin": 0.03})
    travelled = measuring(GOOD | {"start_gain": -0.2}, GOOD | {"fidelity": 0.1})
    taken, _ = choose(journey)
    assert taken.keys == journey.keys and taken.chosen["delivered_from"] == "distilled"
    assert travelled == [(True, False), (False, False), (True, True)]  # its rows are the latest
    measuring(GOOD | {"start_gain": -0.2}, DataError("no surface"))
    assert choose(journey)[0] is journey
    measuring(GOOD, DataError("not asked for"))
    assert choose(journey)[0] is journey
    still = plan(tmp_path, {"choice.start_margin": 0.03, "geometry.steps": 0})
    assert keep_start(still, 0.03) == (still, {})


def test_an_asset_that_is_compared_with_its_start_is_asked_for_each_stage_once(tmp_path, monkeypatch):
    asked = []

    def ask(task, journey, *upstream, anew=False):
        asked.append(task.name)
        return {"stage": task.name}

    monkeypatch.setattr("tasks.policy.ask", ask)
    monkeypatch.setattr(choice, "read", lambda journey, made: GOOD)
    monkeypatch.setattr("flows.asset.verdict_of", lambda journey, accepted: Verdict(()))
    make_asset(plan(tmp_path, {"choice.start_margin": 0.03}))
    assert asked == list(stages.names())


def test_a_report_names_the_starts_that_are_delivered(tmp_path):
    row = {"run_id": "night", "status": "ok", "stage": "record", "recipe": "draft"}
    for asset_id, steps in (("mug", 0), ("bowl", 30)):
        recipe = {"geometry": {"steps": steps}, "appearance": {"steps": 0}}
        append(str(tmp_path), [StageRun(asset_id=asset_id, spec_json=json.dumps({"recipe": recipe}), **row)])
    names = from_start(str(tmp_path), ["bowl", "mug"])
    assert names == ["mug"] and from_start(str(tmp_path), ["bowl"]) == from_start(str(tmp_path), []) == []
    told = markdown(Summary("night", str(tmp_path), "props.csv", from_start=names))
    assert "Distillation made 1 worse; their starts are delivered: mug" in told
