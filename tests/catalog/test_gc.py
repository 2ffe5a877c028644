"""gc removes what nothing current needs, and only when told to."""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import pytest

from catalog import gc, query
from catalog.schema import Artifact, StageRun
from catalog.writer import append
from pipeline_core.errors import RequestError

OLD = -1.0  # younger than this is kept: nothing is


@pytest.fixture
def library(tmp_path: Path, make_run) -> Path:
    """chair-07 made twice: points p1 -> mesh m1, then with another recipe p2 -> m2; and things of other kinds."""

    def put(run: StageRun, *, known: bool = True) -> None:
        folder = tmp_path / "stages" / run.stage / run.stage_key
        folder.mkdir(parents=True)
        (folder / "record.json").write_text(json.dumps(run.to_json()))
        (folder / "mesh.glb").write_bytes(b"x" * 1000)
        if known:
            append(tmp_path, [run])

    def stage(stage: str, key: str, *upstream: str, asset: str = "chair-07", **columns) -> StageRun:
        given = {"artifacts": (), "metrics": {}} | columns
        return make_run(asset, stage, stage_key=key, upstream_keys=upstream, **given)

    put(stage("init_points", "p1"))
    put(stage("extract_mesh", "m1", "p1"))
    put(stage("init_points", "p2"))
    put(stage("extract_mesh", "m2", "p2"))
    append(tmp_path, [stage("record", "r2", "m2")])
    put(stage("extract_mesh", "unknown"), known=False)
    put(stage("init_points", "deep", asset="vase"))
    put(stage("optimize_gaussians", "middle", "deep", asset="vase"))
    append(tmp_path, [stage("init_points", "newer", asset="vase"), stage("record", "rv", "middle", asset="vase")])
    named = Artifact("glb", "stages/evaluate/named/mesh.glb", "ab" * 32, 1000)
    put(stage("evaluate", "named", asset="lamp"))
    append(
        tmp_path, [stage("evaluate", "other", asset="lamp"), stage("record", "rl", asset="lamp", artifacts=(named,))]
    )
    (tmp_path / "stages" / "evaluate" / "torn").mkdir()
    (tmp_path / "stages" / "evaluate" / "torn" / "record.json").write_text("{")
    (tmp_path / "stages" / "evaluate" / "bare").mkdir()
    return tmp_path


def there(library: Path) -> set[str]:
    """Keys of all outputs."""
    return {path.name for path in library.glob("stages/*/*")}


def test_a_dry_run_says_what_would_go_and_touches_nothing(library) -> None:
    before = there(library)
    report = gc.gc(library, min_age_s=OLD)
    assert [output[1] for output in report.outputs] == ["bare", "m1", "p1"]
    assert report.bytes > 2000
    assert there(library) == before


def test_nothing_that_is_referred_to_goes(library) -> None:
    report = gc.gc(library, delete=True, min_age_s=OLD)
    assert there(library) == {"p2", "m2", "unknown", "deep", "middle", "named", "torn"}
    assert sorted(line.split(":")[0] for line in report.unknown) == [
        "stages/evaluate/torn",
        "stages/extract_mesh/unknown",
    ]
    assert (library / "catalog" / "trash" / "stages~extract_mesh~m1" / "mesh.glb").exists(), "for a week, in case"
    assert gc.gc(library, min_age_s=OLD).outputs == []


def test_going_back_to_the_older_recipe_keeps_what_it_needs(library, make_run) -> None:
    """All stages were found, so only the record event is new: its ancestry decides."""
    append(library, [make_run(stage="record", status="skipped", stage_key="r1", upstream_keys=("m1",), artifacts=())])
    assert {"m1", "p1"}.isdisjoint(output[1] for output in gc.gc(library, min_age_s=OLD).outputs)


def test_what_is_young_stays(library) -> None:
    assert gc.gc(library).outputs == []
    for path in (library / "stages" / "extract_mesh" / "m1").iterdir():
        os.utime(path, (0, 0))
    assert [output[1] for output in gc.gc(library).outputs] == ["m1"]


def asked(make_run, stage: str, sha256: str, asset: str = "chair-07", **columns):
    """The event of a request or of a delivery whose row named a file."""
    spec = {"prompt": "a chair", "init_file": {"name": "starts/chair.ply", "sha256": sha256}}
    return make_run(asset, stage, spec_json=json.dumps(spec), artifacts=(), stage_key=None, **columns)


def test_files_that_rows_named_stay_while_an_asset_is_asked_for_or_delivered_with_them(tmp_path, make_run) -> None:
    append(tmp_path, [asked(make_run, "request", "0" * 64), asked(make_run, "record", "1" * 64)])
    append(tmp_path, [asked(make_run, "request", "2" * 64)])
    for digit in "0123":
        (tmp_path / "inputs").mkdir(exist_ok=True)
        (tmp_path / "inputs" / f"{digit * 64}.ply").write_bytes(b"ply")
    assert gc.gc(tmp_path).inputs == [], "all are young"
    report = gc.gc(tmp_path, delete=True, min_age_s=OLD)
    assert report.inputs == [(f"{digit * 64}.ply", 3) for digit in "03"] and report.bytes == 6
    assert sorted(path.name[0] for path in (tmp_path / "inputs").iterdir()) == ["1", "2"]
    assert (tmp_path / "catalog" / "trash" / f"inputs~{'0' * 64}.ply").exists()


def test_without_every_output_s_record_all_files_that_rows_named_stay(library) -> None:
    (library / "inputs").mkdir()
    (library / "inputs" / f"{'0' * 64}.ply").write_bytes(b"ply")
    assert gc.gc(library, min_age_s=OLD).inputs == [], "an output is unknown, and so may be its asset's request"


def test_without_its_catalogue_nothing_is_garbage(library) -> None:
    shutil.rmtree(library / "catalog")
    assert [output[1] for output in gc.gc(library, min_age_s=OLD).outputs] == ["bare"]
    assert query.assets(library) == []


def test_a_bound_takes_the_longest_unchanged_first_and_no_more_than_needed(library) -> None:
    for age, key in enumerate(("m1", "p1", "bare")):
        for path in library.glob(f"stages/*/{key}/*"):
            os.utime(path, (1e9 - age, 1e9 - age))
    size = gc.gc(library, min_age_s=OLD, max_bytes=10**12).size
    assert size == sum(path.stat().st_size for path in library.rglob("*") if path.is_file())
    told = gc.gc(library, min_age_s=OLD, max_bytes=size - 900)
    assert [key for _, key, _ in told.outputs] == ["p1"] and told.over == 0 and not told.deleted
    assert gc.gc(library, delete=True, min_age_s=OLD, max_bytes=size - 900).outputs == told.outputs
    assert not (library / "catalog" / "trash" / "stages~init_points~p1").exists(), "it is to make room now"
    assert "m1" in there(library) and "p1" not in there(library)
    gc.gc(library, delete=True, min_age_s=OLD)
    assert (library / "catalog" / "trash" / "stages~extract_mesh~m1").exists()
    last = gc.gc(library, delete=True, min_age_s=OLD, max_bytes=1)
    assert [name for name, _ in last.trash] == ["stages~evaluate~bare", "stages~extract_mesh~m1"] and last.over > 0
    assert there(library) == {"p2", "m2", "unknown", "deep", "middle", "named", "torn"}


@pytest.mark.parametrize("farm", [True, False])
def test_what_an_open_run_was_planned_with_stays(library, farm) -> None:
    run = library / "runs" / "r1"
    run.mkdir(parents=True)
    (run / gc.KEYS).write_text(f"{0.0 if farm else time.time()}\nm1\np1\n")
    (run / ("request.json" if farm else "asked.json")).touch()
    assert [key for _, key, _ in gc.gc(library, min_age_s=OLD, max_bytes=1).outputs] == ["bare"]
    (run / "summary.json").touch()
    assert len(gc.gc(library, min_age_s=OLD).outputs) == 3
    (run / "summary.json").unlink()
    (run / gc.KEYS).write_text("0.0\nm1\np1\n")  # asked for long ago: a run of one machine was broken off
    assert len(gc.gc(library, min_age_s=OLD).outputs) == (1 if farm else 3)


def test_sizes_are_numbers_with_a_unit() -> None:
    assert [gc.size_of(text) for text in ("500G", "1.5 TiB", "800mb")] == [500 * 2**30, 3 * 2**39, 800 * 2**20]
    for text in ("500", "many", "-1G", "1P"):
        with pytest.raises(RequestError, match="--max-size"):
            gc.size_of(text)
