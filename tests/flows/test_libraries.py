"""A library that an earlier version made is read as it is: two assets, their catalogue, snapshot and records.

``libraries/<schema version>.zip`` was made by that version with ``tests/flows/tiny.py``; it is kept for ever.
"""

import json
import shutil
import zipfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from catalog import compact, query, snapshot
from catalog.fsck import fsck
from catalog.gallery import write_gallery
from catalog.store import open_store
from flows.farm.shards import measured
from pipeline_core.spec import AssetSpec
from pipeline_core.stages import DELIVERY, names
from pipeline_core.storage import Library
from tasks.journey import finished, plan_journey
from tests.tables import renewed_with

FOLDER = Path(__file__).parent / "libraries"
RAISED = {"init_points", "optimize_gaussians", "densify_prune", "extract_mesh", "refine_texture", "record"}
"""Stages whose version was raised since: they and what is made of them are owed again."""


@pytest.fixture(params=sorted(path.stem for path in FOLDER.glob("*.zip")))
def library(request, tmp_path):
    """A library of an earlier version, unpacked."""
    with zipfile.ZipFile(FOLDER / f"{request.param}.zip") as archive:
        archive.extractall(tmp_path / "library")
    return tmp_path / "library"


def made_then(library):
    """The keys that the stages of one of its assets had."""
    return json.loads((library / "assets" / "mug" / "asset.json").read_text(encoding="utf-8"))["stages"]


def test_its_journeys_are_in_todays_order_live_compacted_and_in_the_snapshot(library):
    sql = "select asset_id, stage, stage_idx from stage_runs where status = 'ok' order by asset_id, stage_idx, event_id"
    then = {"request", *made_then(library)}
    places = [(name, place) for place, name in enumerate(("request", *names())) if name in then]
    want = [(asset, name, place) for asset in ("gem", "mug") for name, place in places]

    def told(live=True):
        rows = query.rows(library, sql, live=live)
        return [tuple(row.values()) for row in rows if row["stage_idx"] is not None]

    assert told() == want
    assert snapshot.build(library).how == "full"  # its own snapshot has the places that it stored
    compact.compact(library, compact.Policy(grace_s=-1))
    assert told() == told(live=False) == want


def test_migrated_files_hold_no_place(library):
    compact.compact(library, compact.Policy(grace_s=-1))
    store = open_store(library)
    assert store.names("live") == []
    for name in store.names("sealed"):
        assert "stage_idx" not in pq.read_schema(library / "catalog" / "sealed" / name).names


def test_its_assets_are_whole_and_shown(library):
    assert {row["asset_id"]: row["status"] for row in query.assets(library)} == {"gem": "ok", "mug": "ok"}
    assert [finding for finding in fsck(library) if finding.kind != "fixed"] == []
    page = write_gallery(library).read_text(encoding="utf-8")
    data = page.split('<script id="data" type="application/json">')[1].split("</script>")[0]
    for card in json.loads(data)["assets"]:
        assert [file["label"] for file in card["files"]] == ["GLB", "splat", "provenance"] and card["preview"]
    assert measured(str(library), "factory").assets == (2 if set(names()) == set(made_then(library)) else 0)


def test_what_it_finished_is_finished_and_its_stages_are_found(library):
    told = json.loads((library / "assets" / "mug" / "asset.json").read_text(encoding="utf-8"))
    spec = AssetSpec.from_json(told["spec"])
    models = {kind: each["id"] for kind, each in told["models"].items()}
    journey = plan_journey(str(library), "again", spec, lambda ref, kind: models[kind])
    kept = [name for name in names() if name not in renewed_with(set(names()) - set(told["stages"]) | RAISED)]
    assert [journey.keys[name] for name in kept] == [told["stages"][name] for name in kept]
    assert finished(journey) == (DELIVERY in kept)  # a stage that was put before the last since then is owed
    made = Library(library)
    assert all(made.find(name, journey.keys[name]) for name in kept)
    shutil.rmtree(library / "assets" / "mug")
    assert made.find(DELIVERY, journey.keys[DELIVERY]) is None
