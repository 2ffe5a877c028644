"""What the relations say, and that every column of every one is described."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from catalog import query, questions, snapshot, views
from catalog.schema import Artifact, model, request, review
from catalog.writer import append
from pipeline_core.acceptance import Held

DOCS = Path(__file__).parents[2] / "docs" / "CATALOGUE.md"


def test_every_column_is_described_and_documented(tmp_path) -> None:
    page = DOCS.read_text(encoding="utf-8")
    with query.connect(tmp_path) as con:
        for name, view in views.VIEWS.items():
            columns = [row[0] for row in con.execute(f"describe {name}").fetchall()]
            assert columns == list(view.columns), f"{name}: a column lacks its description, or the order differs"
            assert all(len(text) > 3 for text in view.columns.values())
    assert views.markdown() in page, "docs/CATALOGUE.md is old: python -m catalog.docs docs/CATALOGUE.md"
    assert questions.markdown() in page


def test_the_ten_questions_run_on_an_empty_and_on_a_full_catalogue(one_asset, tmp_path_factory) -> None:
    for library in (tmp_path_factory.mktemp("empty"), one_asset):
        with query.connect(library) as con:
            answers = [con.execute(question.sql).fetchall() for question in questions.QUESTIONS]
    assert len(answers) == 10
    failed, cost, _, used, stages, over, stopped, nights, retries, licences = answers
    assert failed[0][:5] == ("extract_mesh", "data", "DataError", 1, 1)
    assert [row[:3] for row in cost] == [("draft", 2, 1)]
    assert {row[0] for row in used} == {"chair-07"}
    assert {row[0] for row in stages} == {"extract_mesh", "record"}
    assert [(row[0], row[2], row[3]) for row in over] == [("chair-07", 9800, 5000)]
    assert stopped[0][:2] == ("failed", "extract_mesh")
    assert nights[0][2:5] == (2, 1, 1)
    assert retries == [("draft", "furniture", 2, 1, 1, 0.0)]
    assert licences[0][:4] == ("starter@abc", None, None, 1)


def test_one_row_for_each_asset_through_its_life(tmp_path, make_run) -> None:
    def now() -> dict:
        (row,) = query.assets(tmp_path)
        return row

    spec = {
        "prompt": "an oak chair",
        "seed": 7,
        "tags": {"category": "seats"},
        "recipe": {"mesh": {"face_budget": 5000}},
        "judge": "judge-starter@12",
    }
    append(tmp_path, [request("night-1", "chair-07", spec)])
    assert now()["part_prompts"] is None
    assert (now()["status"], now()["prompt"], now()["category"]) == ("requested", "an oak chair", "seats")
    assert now()["judge"] == "judge-starter@12"
    append(tmp_path, [make_run(stage="init_points", metrics={}, artifacts=())])
    assert (now()["status"], now()["last_stage"]) == ("running", "init_points")
    append(tmp_path, [make_run(status="failed")])
    assert (now()["status"], now()["error_stage"], now()["error_type"]) == ("failed", "extract_mesh", "DataError")
    append(tmp_path, [make_run(attempt=2, metrics={"faces": 10.0})])
    assert (now()["status"], now()["error_message"], now()["faces"]) == ("running", None, 10)
    append(tmp_path, [make_run(stage="record", metrics={"faces": 20.0})])
    done = now()
    assert (done["status"], done["faces"], done["face_budget"]) == ("ok", 20, 5000)
    assert (done["glb_path"], done["glb_bytes"]) == ("assets/chair-07/asset.glb", 123)
    assert (done["attempts"], done["failed_attempts"], done["machine_s"]) == (4, 1, 10.0)
    append(tmp_path, [make_run(status="timeout", run_id="night-2")])
    again = now()
    assert (again["status"], again["error_stage"], again["run_id"]) == ("timeout", "extract_mesh", "night-2")
    assert again["glb_path"] == done["glb_path"], "what was delivered stays delivered"
    append(tmp_path, [make_run(stage="record", status="skipped", run_id="night-2")])
    append(tmp_path, [review("chair-07", False, by="ana"), review("chair-07", True, by="bo", note="fine")])
    last = now()
    assert (last["status"], last["verdict"], last["reviewed_by"]) == ("ok", "accepted", "bo")


def test_the_parts_that_an_asset_was_put_together_from_are_told(tmp_path) -> None:
    parts = [{"prompt": "a brown table"}, {"prompt": 'a "red" book', "size": 0.4}]
    append(tmp_path, [request("night-1", "desk", {"prompt": "a book on a table", "parts": parts})])
    (row,) = query.assets(tmp_path)
    assert row["part_prompts"] == ["a brown table", 'a "red" book']


def test_metrics_artifacts_lineage_and_models(tmp_path, make_run) -> None:
    files = (Artifact("splat", "stages/x/a.ply", "cd" * 32, 5), Artifact("curves", "stages/x/c.json", "ef" * 32, 6))
    append(tmp_path, [make_run(metrics={"faces": 1.0}, artifacts=())])
    append(tmp_path, [make_run(metrics={"faces": 2.0, "holes": 0.0}, artifacts=files, model_ids=("a@1", "b@2"))])
    append(tmp_path, [make_run("vase", "evaluate", model_ids=(), metrics={}, artifacts=())])
    append(
        tmp_path,
        [model("a@1", kind="image", licence="MIT", commercial_use=True), model("c", kind="judge", licence=None)],
    )
    with query.connect(tmp_path) as con:
        found = con.execute("select name, value, is_latest from metrics order by event_id, name").fetchall()
        assert found == [("faces", 1.0, False), ("faces", 2.0, True), ("holes", 0.0, True)]
        assert con.execute("select role, bytes from artifacts order by role").fetchall() == [
            ("curves", 6),
            ("splat", 5),
        ]
        found = con.execute("select asset_id, model_id from lineage order by all").fetchall()
        assert found == [("chair-07", "a@1"), ("chair-07", "b@2"), ("vase", None)]
        found = con.execute(
            "select model_id, reference, revision, kind, licence, assets from models order by 1"
        ).fetchall()
        assert found == [
            ("a@1", "a", "1", "image", "MIT", 1),
            ("b@2", "b", "2", None, None, 1),
            ("c", "c", None, "judge", None, 0),
        ]
        assert con.execute("select count(*) from assets").fetchone() == (2,), "a model is no asset"


def test_common_licences_say_whether_assets_may_be_sold(tmp_path) -> None:
    licences = ("Apache-2.0", "MIT", "cc-by-nc-4.0", "somebody's own", "unknown", None)
    append(tmp_path, [model(f"m{i}", kind="image", licence=licence) for i, licence in enumerate(licences)])
    found = query.rows(tmp_path, "select licence, commercial_use from models order by model_id")
    assert [row["licence"] for row in found] == ["Apache-2.0", "MIT", "cc-by-nc-4.0", "somebody's own", None, None]
    assert [row["commercial_use"] for row in found] == [True, True, False, None, None, None]


def test_runs_and_failures(tmp_path, make_run) -> None:
    append(tmp_path, [make_run(status="failed"), make_run("vase", status="failed"), make_run("vase", status="ok")])
    append(tmp_path, [make_run("vase", "record", run_id="night-2", duration_s=7.5)])
    with query.connect(tmp_path) as con:
        found = con.execute(
            "select run_id, assets, delivered, failed, attempts, failed_attempts, machine_s from runs order by 1"
        )
        assert found.fetchall() == [("night-1", 2, 0, 1, 3, 2, 7.5), ("night-2", 1, 1, 0, 1, 0, 7.5)]
        found = con.execute(
            "select stage, error_type, attempts, assets, unresolved_assets, sample_asset_id from failures"
        )
        assert found.fetchall() == [("extract_mesh", "DataError", 2, 2, 1, "vase")]


def test_what_a_run_failed_at_stays_failed_in_its_history(tmp_path, make_run) -> None:
    append(tmp_path, [make_run(status="failed"), make_run("vase", status="failed"), make_run("vase", status="ok")])
    append(tmp_path, [make_run(status="ok", run_id="night-2")])
    assert query.rows(tmp_path, "select run_id, failed from runs order by 1") == [
        {"run_id": "night-1", "failed": 1},
        {"run_id": "night-2", "failed": 0},
    ]


def test_what_a_run_rejected_stays_rejected_in_its_history(tmp_path, make_run) -> None:
    """The last verdict of each run counts, whatever another run says; an attempt that was better before does not."""
    good, bad, unknown = Held("faces", 9.0, 5.0, True), Held("kb", 1.0, 2.0, False), Held("judged", 1.0)

    def accept(run_id, asset, *clauses):
        return make_run(asset, "accept", run_id=run_id, clauses=clauses)

    append(tmp_path, [accept("one", "a", bad, unknown), accept("one", "b", bad), accept("one", "c", good, unknown)])
    append(tmp_path, [accept("one", "a", good, bad, unknown), accept("one", "b", good), make_run("d", run_id="one")])
    snapshot.build(tmp_path)
    append(tmp_path, [accept("two", "a", good), accept("two", "c", bad), make_run("a", run_id="three")])
    snapshot.build(tmp_path)
    sql = "select run_id, assets, rejected, unjudged from runs order by all"
    for live in (True, False):
        found = [tuple(row.values()) for row in query.rows(tmp_path, sql, live=live)]
        assert found == [("one", 4, 1, 1), ("three", 1, 0, 0), ("two", 2, 1, 0)]


def test_a_query_never_loads_the_learned_parts_or_the_orchestrator() -> None:
    modules = [path.stem for path in Path(views.__file__).parent.glob("*.py") if path.stem != "__init__"]
    heavy = ("torch", "prefect", "diffusers", "transformers", "numba")
    wanted = ", ".join(f"catalog.{each}" for each in modules)
    code = f"import sys, {wanted}; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout == "[]\n", done.stderr


def test_costs_by_tag_run_and_user_are_the_same_in_files_and_snapshot(tmp_path, make_run) -> None:
    def work(run_id, asset_id, price, **columns):
        charged = {"run_id": run_id, "share_s": 1800.0, "gpu_s": None, "price_per_hour": price}
        return make_run(asset_id, tags={"set": asset_id[0]}, **charged | columns)

    append(tmp_path, [request("night", name, {"prompt": "x"}, asked_by="ana") for name in ("a1", "b1")])
    snapshot.build(tmp_path)  # the request is known before any work
    append(tmp_path, [work("night", "a1", 2.0, gpu_s=1800.0), work("night", "a1", 4.0, status="failed")])
    snapshot.build(tmp_path)
    append(tmp_path, [request("day", "a1", {"prompt": "x"}, asked_by="ben"), work("day", "a1", 10.0)])
    append(tmp_path, [work("night", "b1", None)])
    snapshot.build(tmp_path)
    sql = "select run_id, tags['set'] as tag, asked_by, cost, share_s, gpu_s from costs order by all"
    told = [tuple(row.values()) for row in query.rows(tmp_path, sql)]
    assert told == [
        ("day", "a", "ben", 5.0, 1800.0, None),
        ("night", "a", "ana", 3.0, 3600.0, 1800.0),
        ("night", "b", "ana", None, 1800.0, None),
    ]
    assert [tuple(row.values()) for row in query.rows(tmp_path, sql, live=False)] == told


def test_what_an_accepted_asset_costs_counts_all_attempts_and_each_asset_once(tmp_path, make_run) -> None:
    """A person's verdict counts before the contract's; who nobody judged counts as neither; nothing is divided by 0."""

    def work(run_id, asset_id, stage="record", status="ok", judged=1.0, **columns):
        charged = {"run_id": run_id, "share_s": 100.0, "price_per_hour": 3.6, "model_ids": ("m@1", "p@1")}
        return make_run(asset_id, stage, status, metrics={"judged": judged}, **charged | columns)

    append(tmp_path, [work("one", "a1"), work("one", "a2"), work("one", "a2", "evaluate")])
    append(tmp_path, [work("one", "a2", "optimize_gaussians", seed=8)])
    unjudged = {"clauses": (Held("judged", 1.0),), "metrics": {}, "share_s": 0.0, "model_ids": ()}
    append(tmp_path, [work("one", "u"), make_run("u", "accept", run_id="one", **unjudged), review("u", True, by="ana")])
    snapshot.build(tmp_path)
    append(tmp_path, [work("two", "a1", status="skipped", share_s=None), work("two", "v")])
    append(tmp_path, [make_run("v", "accept", run_id="two", **unjudged)])
    append(tmp_path, [work("two", "w", "evaluate", "failed")])
    snapshot.build(tmp_path)
    append(tmp_path, [review("a2", False, by="ana")])  # of a night that is over
    snapshot.build(tmp_path)
    told = {
        "select asset_id, run_id, accepted from costs order by all": [
            ("a1", "one", True), ("a1", "two", False), ("a2", "one", False), ("u", "one", True), ("v", "two", None),
            ("w", "two", False),
        ],
        "select run_id, sum(share_s) / nullif(count(*) filter (accepted), 0), round(sum(cost) / nullif(count(*) filter "
        "(accepted), 0), 6) from costs group by 1 order by 1": [("one", 250.0, 0.25), ("two", None, None)],
        "select distinct models from costs where run_id = 'one'": [(["m@1", "p@1"],)],
    }  # fmt: skip
    for sql, rows in told.items():
        for live in (True, False):
            assert [tuple(row.values()) for row in query.rows(tmp_path, sql, live=live)] == rows, sql
