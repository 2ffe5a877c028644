"""Verdicts: recorded once however often they come, whole or not at all; the one that was made later counts."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from catalog import query, snapshot
from catalog.cli import reviews
from catalog.ids import _format, new_id
from catalog.rebuild import rebuild
from catalog.review import Decision, record


def asset(library, asset_id="chair-07"):
    return next(row for row in query.assets(library) if row["asset_id"] == asset_id)


def run(*words, code=0):
    done = CliRunner().invoke(reviews, [str(word) for word in words])
    assert done.exit_code == code, (done.output, done.exception)
    return done.stdout if code == 0 else str(done.exception)


def test_many_at_once_with_stars_and_a_reason(one_asset) -> None:
    words = ("--accept", "--stars", "4", "--reason", "clean shape", "--by", "ana", "--library", one_asset)
    assert run("set", "chair-07", "vase-01", "chair-07", *words) == "2 verdicts recorded\n"
    for asset_id in ("chair-07", "vase-01"):
        found = asset(one_asset, asset_id)
        told = [found[name] for name in ("verdict", "stars", "review_reason", "reviewed_by", "review_note")]
        assert told == ["accepted", 4, "clean shape", "ana", None]


def test_a_file_is_recorded_once_and_a_longer_one_adds_what_is_new(one_asset, tmp_path_factory) -> None:
    file = tmp_path_factory.mktemp("saved") / "reviews.json"
    first = {"id": new_id(), "asset_id": "chair-07", "verdict": "rejected", "reason": "two faces", "by": "ana"}
    second = {"id": new_id(), "asset_id": "vase-01", "verdict": None, "stars": 2, "note": "so so", "by": "ana"}
    library = ("--library", one_asset)
    for rows, recorded, known in (([first], 1, 0), ([first], 0, 1), ([first, second], 1, 1), ([first, second], 0, 2)):
        file.write_text(json.dumps({"decisions": rows}))
        told = json.loads(run("import", file, *library, "--json"))
        assert told == {"recorded": recorded, "known": known, "newer": []}
    kept = query.rows(one_asset, "select event_id from reviews order by 1")
    assert [row["event_id"] for row in kept] == [first["id"], second["id"]]
    assert (asset(one_asset)["verdict"], asset(one_asset)["review_reason"]) == ("rejected", "two faces")
    assert (asset(one_asset, "vase-01")["verdict"], asset(one_asset, "vase-01")["stars"]) == (None, 2)
    assert rebuild(one_asset).added == 0, "each has its record"


def test_what_was_decided_later_stands_and_is_told(one_asset, tmp_path_factory) -> None:
    earlier = Decision(asset_id="chair-07", verdict="rejected", by="ana")
    snapshot.build(one_asset)
    record(one_asset, [Decision(asset_id="chair-07", verdict="accepted", by="ben")])
    file = tmp_path_factory.mktemp("saved") / "reviews.json"
    file.write_text(json.dumps({"decisions": [dict(earlier)]}))
    told = run("import", file, "--library", one_asset)
    assert told.startswith("1 verdicts recorded, 0 were known\nchair-07: ben decided later (")
    assert asset(one_asset)["verdict"] == "accepted"
    snapshot.build(one_asset)
    kept = query.rows(one_asset, "select reviewed_by, verdict, is_latest from reviews order by 1", live=False)
    assert [tuple(row.values()) for row in kept] == [("ana", "rejected", False), ("ben", "accepted", True)]
    record(one_asset, [Decision(asset_id="chair-07", by="ana")])
    assert asset(one_asset)["verdict"] is None, "a verdict can be taken back"


@pytest.mark.parametrize(("change", "says"), [
    ({"stars": 9}, "reviews.json, decision 2: stars='9': Input should be less than or equal to 5"),
    ({"verdict": "fine"}, "decision 2: verdict='fine'"),
    ({"id": "../../etc"}, "decision 2: id='../../etc': Value error, must be a UUIDv7"),
    ({"id": _format(1 << 59, 7)}, "is of a time to come: set the clock"),
    ({"script": "<script>"}, "decision 2: script="),
    ({"by": ""}, "decision 2: by=''"),
    ({"asset_id": "nobody"}, "there is no asset 'nobody'"),
    ({"asset_id": 7}, "decision 2: asset_id='7'"),
])  # fmt: skip
def test_a_file_with_one_bad_decision_changes_nothing(one_asset, tmp_path_factory, change, says) -> None:
    file = tmp_path_factory.mktemp("saved") / "reviews.json"
    good = {"id": new_id(), "asset_id": "chair-07", "verdict": "accepted", "by": "ana"}
    file.write_text(json.dumps({"decisions": [good, good | {"id": new_id()} | change]}))
    told = run("import", file, "--library", one_asset, code=1)
    assert says in told
    assert "Nothing was recorded" in told
    assert query.rows(one_asset, "select * from reviews") == []


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"decisions": {}}', "\udcff"])
def test_what_is_no_file_of_decisions(one_asset, tmp_path_factory, text) -> None:
    file = tmp_path_factory.mktemp("saved") / "reviews.json"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert str(file) in run("import", file, "--library", one_asset, code=1)
    assert "cannot be read" in run("import", file.with_name("none.json"), "--library", one_asset, code=1)
