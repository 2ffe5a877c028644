"""A row whose id was delivered for another request is told before it replaces that, with both requests."""

import json
from importlib import import_module

import pytest

from flows import replaced as module
from flows.batch import prepare
from flows.show import show_plan
from pipeline_core.storage import Library
from tasks.record import record
from tasks.rules import reseeded
from tasks.stage import run_stage

ROWS = ["id,prompt,seed,tags", "mug,a red mug,1,a", "bowl,a blue bowl,1,a", "chair,a wooden chair,1,a"]


def deliver(request, seeds=0):
    """Deliver what a request misses; ``seeds``: of how many seeds the optimisation diverged."""
    Library(request.library).create()
    for journey in (reseeded(each, seeds) for each in prepare(request).todo.missing):
        record.fn(journey, run_stage(journey, "evaluate", measured))


def measured(folder):
    """What the last stage reads of those before it."""
    for name in ("metrics.json", "material.json"):
        (folder / name).write_text("{}")
    (folder / "levels.json").write_text('{"metrics": {}}')
    (folder / "verdict.json").write_text('{"clauses": []}')
    return {}


def of(request):
    return {each.asset_id: each.changed for each in prepare(request).replaced}


def test_what_is_new_or_the_same_replaces_nothing(request_of):
    assert of(request_of(*ROWS)) == {}
    deliver(request_of(*ROWS), seeds=1)  # from other seeds than were asked for
    assert of(request_of(*ROWS)) == {}
    again = [ROWS[0], *(row.removesuffix(",a") + ",b" for row in ROWS[1:])]
    assert len(prepare(request_of(*again)).todo.missing) == 3 and of(request_of(*again)) == {}  # another tag


def test_another_request_under_a_delivered_id_is_told_with_both(request_of, monkeypatch):
    deliver(request_of(*ROWS))
    request = request_of(ROWS[0], "mug,a green dragon,1,a", ROWS[2], "chair,a wooden chair,7,a", "new,a lamp,1,a")
    with monkeypatch.context() as now:
        now.setattr(module, "_told_by", lambda *_: pytest.fail("the catalogue knows"))
        plan = prepare(request)
    head, *each = plan.warnings[:3]
    assert head == (
        f"{request.manifest}: 2 delivered assets would be replaced: mug, chair. Rows with ids of their own keep both"
    )
    assert each == [
        f"{request.manifest}, row 2, id, 'mug': replaces a delivered asset: prompt 'a red mug' by 'a green dragon'",
        f"{request.manifest}, row 4, id, 'chair': replaces a delivered asset: seed 1 by 7",
    ]
    for path in (Library(request.library).root / "catalog" / "live").iterdir():
        path.unlink()
    assert prepare(request).replaced == plan.replaced, "the files know, too"
    assert of(request.model_copy(update={"recipe": "factory"}))["mug"]["recipe"] == ("draft", "factory")
    steps = of(request.model_copy(update={"overrides": {"geometry.steps": 3}}))["chair"]
    assert steps["geometry.steps"][1] == 3 and set(steps) == {"seed", "geometry.steps"}


def test_another_size_is_told(request_of):
    deliver(request_of(ROWS[0], *ROWS[1:2]))
    sized = request_of("id,prompt,seed,size_m", 'mug,a red mug,1,"1,2,3"')
    assert of(sized) == {"mug": {"height_m": (1.0, 2.0), "size_m": (None, [1.0, 2.0, 3.0])}}


def test_plan_tells_it_in_words_and_all_of_it_in_json(request_of, capsys):
    deliver(request_of("id,prompt", *(f"mug-{i},a red mug" for i in range(12))))
    request = request_of("id,prompt", *(f"mug-{i},a blue mug" for i in range(12)))
    show_plan(request, as_json=False)
    text = capsys.readouterr().out
    assert "12 delivered assets would be replaced: mug-0, mug-1, mug-2, mug-3, mug-4 ...." in text
    assert "row 11, id, 'mug-9'" in text and "row 12, id, 'mug-10'" not in text
    show_plan(request, as_json=True)
    told = json.loads(capsys.readouterr().out)["replaced"]
    assert len(told) == 12 and told[11] == {
        "asset_id": "mug-11", "row": 13, "changed": {"prompt": ["a red mug", "a blue mug"]}
    }  # fmt: skip


@pytest.mark.parametrize(
    "command, next_step",
    [("local.run_here", "local.keep"), ("farm.commands.submit_batch", "farm.commands.point_at_farm")],
)
def test_run_and_submit_tell_before_they_begin(request_of, capsys, monkeypatch, command, next_step):
    def stop(*_):
        raise InterruptedError

    deliver(request_of(*ROWS[:2]))
    monkeypatch.setattr(f"flows.{next_step}", stop)
    where, _, name = f"flows.{command}".rpartition(".")
    options = {"as_json": True} if name == "run_here" else {}
    with pytest.raises(InterruptedError):
        getattr(import_module(where), name)(request_of(ROWS[0], "mug,a green mug,1,a"), **options)
    out, err = capsys.readouterr()
    assert not out and "row 2, id, 'mug': replaces a delivered asset: prompt 'a red mug' by 'a green mug'" in err
