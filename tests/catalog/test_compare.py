"""Two runs side by side, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from catalog.compare import compare
from catalog.writer import append
from pipeline_core.acceptance import Held
from pipeline_core.errors import RequestError


@pytest.fixture
def library(tmp_path, make_run):
    """Night a and night b make two assets each; in b the chair fails, the vase has twice the faces and takes longer."""
    for asset, faces in (("chair", 100.0), ("vase", 200.0), ("lamp", 300.0)):
        append(tmp_path, [make_run(asset, "record", run_id="a-1", metrics={"faces": faces}, duration_s=2.0)])
    append(tmp_path, [make_run("chair", "extract_mesh", "failed", run_id="b-2", duration_s=1.0)])
    append(
        tmp_path, [make_run("vase", "record", run_id="b-2", metrics={"faces": 400.0}, duration_s=4.0, recipe="hero")]
    )
    append(
        tmp_path, [make_run("lamp", "record", run_id="b-2", metrics={"faces": 310.0}, duration_s=4.0, recipe="hero")]
    )
    return tmp_path


def test_two_nights(library) -> None:
    tables = compare(library, "a-1", "b-2")
    a, b = tables["overview"].to_pylist()
    assert (a["assets"], a["delivered"], a["failed"]) == (3, 3, 0)
    assert (b["assets"], b["delivered"], b["failed"]) == (3, 2, 1)
    stages = {row["stage"]: row for row in tables["stages"].to_pylist()}
    assert (stages["record"]["p50_s_a"], stages["record"]["p50_s_b"], stages["record"]["ratio"]) == (2.0, 4.0, 2.0)
    assert (stages["extract_mesh"]["ok_a"], stages["extract_mesh"]["failed_b"]) == (None, 1)
    (faces,) = tables["metrics"].to_pylist()
    assert (faces["n_a"], faces["n_b"], faces["mean_a"], faces["mean_b"], faces["change"]) == (
        3,
        2,
        200.0,
        355.0,
        155.0,
    )
    # standard errors: 100 / sqrt(3) and sqrt(2 * 45^2) / sqrt(2) = 45
    assert faces["in_errors"] == pytest.approx(155 / (100**2 / 3 + 45**2) ** 0.5)
    changed = tables["assets"].to_pylist()
    assert [row["asset_id"] for row in changed] == ["chair", "vase", "lamp"]
    assert (changed[0]["outcome_a"], changed[0]["outcome_b"]) == ("ok", "failed")
    assert (changed[1]["metric"], changed[1]["value_a"], changed[1]["value_b"]) == ("faces", 200.0, 400.0)


def test_what_record_repeats_is_shown_once(library, make_run) -> None:
    for stage in ("evaluate", "record"):
        append(library, [make_run("jug", stage, run_id="c-3", metrics={"faces": 7.0, f"of_{stage}": 1.0})])
    found = [(row["stage"], row["name"]) for row in compare(library, "c-3", "c-3")["metrics"].to_pylist()]
    assert found == [("evaluate", "faces"), ("evaluate", "of_evaluate"), ("record", "of_record")]


@pytest.mark.parametrize(("a", "b"), [("last~1", "last"), ("a", "b"), ("recipe:draft", "recipe:hero")])
def test_ways_to_name_a_side(library, a, b) -> None:
    sides = compare(library, a, b)["overview"].to_pylist()
    assert [row["assets"] for row in sides] == ([3, 2] if a.startswith("recipe") else [3, 3])


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("c", "no run is called 'c'"),
        ("", "more than one run"),
        ("last~9", "has 2 runs"),
        ("recipe:x", "has: draft, hero"),
    ],
)
def test_unknown_sides_say_what_there_is(library, name, says) -> None:
    with pytest.raises(RequestError, match=says):
        compare(library, name, "last")


def test_what_an_accepted_asset_cost_with_its_interval(tmp_path, make_run) -> None:
    """Half of forty are accepted, at 10 s an attempt; on the other night none is."""

    def work(run_id, number, judged, **columns):
        charged = {"run_id": run_id, "share_s": 10.0, "gpu_s": None, "price_per_hour": 36.0}
        return make_run(f"{run_id}-{number}", "record", metrics={"judged": judged}, **charged | columns)

    def unjudged(run_id, number):
        charged = {"run_id": run_id, "share_s": 0.0, "gpu_s": None, "price_per_hour": 36.0}
        return make_run(f"{run_id}-{number}", "accept", clauses=(Held("judged", 1.0),), **charged)

    append(tmp_path, [work("a", n, 1.0) for n in range(20)] + [work("a", n, 0.0) for n in range(20, 40)])
    append(tmp_path, [unjudged("a", n) for n in range(20, 40)])
    append(tmp_path, [work("b", n, 0.0) for n in range(3)] + [unjudged("b", n) for n in range(3)])
    a, b = compare(tmp_path, "a", "b")["accepted"].to_pylist()
    assert (a["assets"], a["accepted"], a["accepted_share"], a["s_each"], a["cost_each"]) == (40, 20, 0.5, 20.0, 0.2)
    assert 13 < a["s_each_low"] < 17 and 24 < a["s_each_high"] < 34 and a["gpu_s_each"] is None
    assert (b["assets"], b["accepted"], b["accepted_share"]) == (3, 0, 0.0)
    assert b["s_each"] is b["s_each_low"] is b["s_each_high"] is b["cost_each"] is None
    assert compare(tmp_path, "a", "b")["accepted"].to_pylist()[0] == a  # drawn by names: the same at every look


def test_sides_of_a_sweep_are_pairs_of_the_same_but_for_the_tag(tmp_path, make_run) -> None:
    for prop, budget, guidance, faces in (
        ("mug", "2000", "5", 1990.0), ("mug", "5000", "5", 4800.0), ("chair", "2000", "5", 1980.0),
        ("chair", "5000", "5", 2980.0), ("mug", "5000", "9", 4000.0),
    ):  # fmt: skip
        tags = {"mesh.face_budget": budget, "geometry.guidance_scale": guidance, "sweep": prop}
        append(tmp_path, [make_run(f"{prop}-{budget}-{guidance}", "record", metrics={"faces": faces}, tags=tags)])
    tables = compare(tmp_path, "tag:mesh.face_budget=2000", "tag:mesh.face_budget=5000")
    assert [row["assets"] for row in tables["overview"].to_pylist()] == [2, 3]
    assert [(row["asset_id"], row["value_a"], row["value_b"]) for row in tables["assets"].to_pylist()] == [
        ("mug-2000-5", 1990.0, 4800.0), ("chair-2000-5", 1980.0, 2980.0),
    ]  # fmt: skip
    with pytest.raises(RequestError, match=r"has: tag:mesh\.face_budget=2000, tag:mesh\.face_budget=5000"):
        compare(tmp_path, "tag:mesh.face_budget=9", "last")
    with pytest.raises(RequestError, match="no asset with a tag of that name"):
        compare(tmp_path, "tag:hero", "last")
