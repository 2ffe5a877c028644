"""What models cannot read is said before anything is made: rows refused, words told, and kept with the run."""

import json
from importlib import import_module

import pytest

from catalog import query
from flows.batch import BatchRequest, plan_batch, prepare, run_batch
from flows.prompts import shorten
from flows.show import show_plan, show_status
from pipeline_core.errors import ManifestError
from pipeline_core.storage import Library
from tasks.record import record
from tasks.stage import run_stage
from tests.flows.test_replaced import measured

ROWS = [
    "id,prompt",
    "mug,a red mug",
    "zh1,红色的杯子",
    "dragon,a red mug with a dragon",
    "again,a blue mug with a dragon",
]


def test_a_row_of_which_nothing_can_be_read_is_refused(request_of):
    request = request_of(*ROWS)
    with pytest.raises(
        ManifestError, match=r"^1 problem\n\S+props.csv, row 3, prompt, '红色的杯子': words that starter"
    ):
        prepare(request)
    manifest, journeys = plan_batch(request.model_copy(update={"skip_invalid": True}))
    assert [each.asset_id for each in journeys] == ["mug", "dragon", "again"]
    assert [(problem.row, problem.field) for problem in manifest.problems] == [(3, "prompt")]
    with pytest.raises(ManifestError, match="2 problems"):  # nothing is left to make
        plan_batch(request_of("prompt", "红色的杯子", "蓝色的桌子", skip_invalid=True))


def test_unknown_words_are_told_with_their_rows_and_kept_with_the_run(request_of):
    request = request_of(*ROWS, skip_invalid=True)
    plan = prepare(request)
    said = [f"{request.manifest}, rows 4, 5, prompt: starter does not know 'dragon' of the prompt"]
    assert plan.warnings == said
    summary = run_batch(request, lambda journey: None, plan=plan)
    assert summary.warnings == said and len(summary.refused) == 1 and len(summary.made) == 3
    assert json.loads((request.folder / "summary.json").read_text())["warnings"] == said
    assert f"- `warning: {said[0]}`" in (request.folder / "report.md").read_text()


def test_plan_shows_them(request_of, capsys):
    request = request_of(*ROWS, skip_invalid=True)
    show_plan(request, as_json=False)
    text = capsys.readouterr().out
    assert "refused: " in text and "row 3, prompt" in text
    assert "warning: " in text and "rows 4, 5, prompt: starter does not know 'dragon'" in text
    show_plan(request, as_json=True)
    told = json.loads(capsys.readouterr().out)
    readings = [each["prompt_reading"] for each in told["assets"]]
    assert readings[0] == {} and readings[1]["unknown_words"] == ["dragon"] and len(told["warnings"]) == 1


def test_a_part_of_which_nothing_can_be_read_is_refused_by_its_place_and_plan_shows_parts(tmp_path, capsys):
    def asked(*parts):
        path = tmp_path / "props.yaml"
        path.write_text(json.dumps([{"id": "desk", "prompt": "a red book", "parts": [*parts]}]))
        return BatchRequest(manifest=str(path), library=str(tmp_path / "library"), recipe="draft")

    table, book = {"prompt": "a brown table", "size": [1, 0.7, 0.7]}, {"prompt": "a red book", "position": [0, 0.7, 0]}
    with pytest.raises(ManifestError, match=r"props.yaml, row 1, parts\[1\].prompt, 'zzz': words that starter"):
        plan_batch(asked(table, {"prompt": "zzz"}))
    show_plan(asked(table, book | {"size": 0.4, "rotation": [0, 20, 0]}), as_json=False)
    shown = capsys.readouterr().out
    assert "\n  parts[0] a brown table, size 1 x 0.7 x 0.7, at 0, 0, 0\n" in shown
    assert "\n  parts[1] a red book, size 0.4, at 0, 0.7, 0, turned 0, 20, 0\n" in shown


def test_of_many_warnings_the_first_are_shown():
    assert shorten(["a"], "x") == ["warning: a"]
    shown = shorten([str(i) for i in range(50)], "splatmill plan --json")
    assert len(shown) == 21 and shown[-1] == "warning: 30 more; splatmill plan --json has all"


def test_what_was_not_read_is_kept_with_the_asset_and_asked_in_sql(request_of, capsys):
    request = request_of(*ROWS[:2], "dragon,a red mug with a dragon " + "and a red mug " * 10)
    plain, told = plan_batch(request)[1]
    reading = {"unknown_words": ["dragon"], "tokens_dropped": 26, "warnings": list(told.reading.warnings)}
    for journey in (plain, told):
        Library(journey.library).create()
        record.fn(journey, run_stage(journey, "evaluate", measured))
        document = json.loads((Library(journey.library).asset_dir(journey.asset_id) / "asset.json").read_text())
        assert document.get("prompt_reading") == (reading if journey is told else None)
        assert document["spec"] == journey.spec.to_json()
    columns = "asset_id, prompt_unknown_words, prompt_tokens_dropped, prompt_warnings"
    rows = query.rows(request.library, f"select {columns} from assets order by asset_id desc")
    assert [list(row.values()) for row in rows] == [["mug", None, None, None], ["dragon", *reading.values()]]
    show_status(request.library, as_json=False)
    assert "\n1 assets whose prompt was not read whole" in capsys.readouterr().out


def test_a_request_keeps_it_before_anything_is_made(request_of):
    request = request_of(*ROWS[:2], ROWS[3])
    run_batch(request, lambda journey: pytest.fail("stop"))
    rows = query.rows(request.library, "select asset_id, prompt_unknown_words from assets order by asset_id")
    assert [list(row.values()) for row in rows] == [["dragon", ["dragon"]], ["mug", None]]


@pytest.mark.parametrize(
    "command, next_step",
    [("local.run_here", "local.keep"), ("farm.commands.submit_batch", "farm.commands.point_at_farm")],
)
def test_run_and_submit_tell_before_they_begin(request_of, capsys, monkeypatch, command, next_step):
    def stop(*_):
        raise InterruptedError

    monkeypatch.setattr(f"flows.{next_step}", stop)
    module, _, name = f"flows.{command}".rpartition(".")
    options = {"as_json": True} if name == "run_here" else {}
    with pytest.raises(InterruptedError):
        getattr(import_module(module), name)(request_of(*ROWS[:2], ROWS[3]), **options)
    out, err = capsys.readouterr()
    assert not out and err.startswith("warning: ") and "row 3, prompt: starter does not know 'dragon'" in err
