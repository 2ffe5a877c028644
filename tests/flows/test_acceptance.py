"""Three tiny assets and a contract: one is accepted, one rejected from two seeds, one before any work."""

import json

import pytest

from catalog import query, snapshot
from catalog.gc import gc
from flows.account import account
from flows.asked import keep
from flows.asset import make_asset
from flows.batch import BatchRequest, prepare, run_batch
from flows.export import choose
from flows.show import show_status
from flows.summary import markdown
from flows.watch import Watch
from pipeline_core import models
from pipeline_core.storage import Library
from tasks.rules import seeds

ROWS = ["id,prompt,seed,tags", "mug,a blue mug,1,", "mushroom,a red mushroom,2,strict", "odd,a blue mug 杯,3,"]
NOTHING = {"geometry.steps": 0, "appearance.steps": 0, "texture.steps": 0, "evaluate.turntable_frames": 0}


def accept(folder, text):
    path = folder / "contract.yaml"
    path.write_text(text)
    return str(path)


def run(request):
    """Make what is missing, without Prefect; the stages that were made, and the summary."""
    plan, made = prepare(request), []
    keep(request, plan)

    def make(journey):
        made.append(journey.asset_id)
        make_asset(journey)

    return made, run_batch(request, make, plan=plan)


@pytest.fixture(scope="module")
def three(tmp_path_factory, tiny):
    """The request of the three, with its contract; and what its first run came to."""
    folder = tmp_path_factory.mktemp("three")
    (folder / "props.csv").write_text("\n".join(ROWS))
    contract = "unreadable_words: 0\nfaces: 300\nattempts: 2\ntags: {strict: {faces: 1}}\n"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.policy.ask", lambda task, journey, *up, anew=False: task.fn(journey, *up))
        request = BatchRequest(
            manifest=str(folder / "props.csv"), library=str(folder / "library"), recipe="draft",
            overrides=tiny | NOTHING, accept=accept(folder, contract),
        )  # fmt: skip
        yield request, *run(request)
    models.close_engines()


def again(request, **changes):
    """The same request as a run of its own."""
    return BatchRequest(**request.model_dump(exclude={"run_id"}) | changes)


def rows(request, sql):
    return query.rows(request.library, sql)


def test_a_verdict_is_a_status_a_row_a_reason_and_no_success(three, capsys):
    request, made, summary = three
    assert made == ["mug", "mushroom"] and summary.made == ["mug"] and not summary.ok and summary.asked == 3
    why = {each["asset_id"]: each["why"] for each in summary.rejected}
    assert why == {"mushroom": why["mushroom"], "odd": "unreadable_words 1 (at most 0)"}
    assert why["mushroom"].startswith("faces ") and why["mushroom"].endswith(" (at most 1)")
    assert "rejected" in markdown(summary) and why["mushroom"] in markdown(summary)
    assert any("odd" not in line and "'杯'" in line and "row 4" in line for line in summary.warnings)
    sql = "select asset_id, status, accepted, failed_clauses, glb_path is not null as there from assets order by all"
    standing = {row.pop("asset_id"): tuple(row.values()) for row in rows(request, sql)}
    assert standing == {
        "mug": ("ok", True, None, True),
        "mushroom": ("rejected", False, ["faces"], True),
        "odd": ("rejected", False, ["unreadable_words"], False),
    }
    show_status(request.library, as_json=False)
    assert "mushroom        faces" in capsys.readouterr().out
    told = account(request.library, request.run_id)
    assert (told.asked, told.made, told.rejected, told.failed) == (3, 1, 2, 0)
    seen = Watch(request.library).look()["assets"]
    assert seen == {"ok": 1, "rejected": 2}


def test_both_attempts_are_kept_and_the_better_one_s_rows_are_the_latest(three):
    request, _, _ = three
    library = Library(request.library)
    told = json.loads((library.asset_dir("mushroom") / "asset.json").read_text())
    assert sorted(each["seed"] for each in told["attempts"]) == sorted(seeds(2)[:2])
    assert told["verdict"] == "rejected" and all(each["verdict"] == "rejected" for each in told["attempts"])
    for each in told["attempts"]:
        assert each["failed"][0].startswith("faces ")
        for stage, key in each["stages"].items():
            assert stage == "record" or library.has(stage, key)
    latest = "select distinct seed from stage_runs where asset_id = 'mushroom' and is_latest and stage <> 'request'"
    assert rows(request, latest) == [{"seed": told["attempts"][-1]["seed"]}]
    assert gc(request.library, min_age_s=0).outputs == []
    assert "attempts" not in json.loads((library.asset_dir("mug") / "asset.json").read_text())


def test_running_again_makes_nothing_and_says_the_same(three):
    request, _, first = three
    events = rows(request, "select count(*) as n from stage_runs")
    made, summary = run(again(request))
    assert made == [] and summary.cached == ["mug"] and summary.made == [] and not summary.ok
    assert sorted(map(str, summary.rejected)) == sorted(map(str, first.rejected))
    assert rows(request, "select count(*) as n from stage_runs") == events


def test_a_selection_takes_what_is_accepted_unless_told_otherwise(three, capsys):
    request, _, _ = three
    snapshot.build(request.library)
    sql = ["select asset_id from assets where glb_path is not null order by asset_id"]
    assert choose(request.library, sql) == ["mug"] and "1 assets are left out" in capsys.readouterr().err
    assert choose(request.library, sql, rejected=True) == ["mug", "mushroom"]
    assert choose(request.library, ["mushroom"]) == ["mushroom"]


def test_an_edit_of_the_contract_judges_again_and_makes_nothing_anew(three, tmp_path):
    request, _, _ = three
    looser = again(request, accept=accept(tmp_path, "faces: 300\n"), only=("mug", "mushroom"))
    before = rows(request, "select max(event_id) as last from stage_runs")[0]["last"]
    made, summary = run(looser)
    assert made == ["mug", "mushroom"] and sorted(summary.made) == made and summary.ok
    worked = "select distinct stage from stage_runs where status = 'ok' and stage not in ('request', 'model') "
    found = rows(request, f"{worked} and event_id > '{before}' order by all")
    assert [row["stage"] for row in found] == ["accept", "record"]
