"""fsck names what is wrong and mends what can be mended; rebuild brings a lost catalogue back."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from catalog import compact, query, rebuild, snapshot, views
from catalog.compact import Policy
from catalog.fsck import fsck
from catalog.schema import Artifact, StageRun, model, request, review
from catalog.store import open_store
from catalog.writer import append, encode
from pipeline_core.errors import RequestError


def kinds(library: Path, **options: bool) -> list[str]:
    """Kinds of all findings, sorted."""
    return sorted(finding.kind for finding in fsck(library, **options))


def put_record(library: Path, run: StageRun) -> None:
    """record.json where the stage would have left it."""
    folder = library / "stages" / run.stage / run.stage_key
    folder.mkdir(parents=True)
    (folder / "record.json").write_text(json.dumps(run.to_json()))


def test_nothing_wrong(tmp_path, make_run) -> None:
    append(tmp_path, [make_run(artifacts=())])
    compact.compact(tmp_path)
    assert fsck(tmp_path) == []
    assert fsck(tmp_path / "nowhere") == []


def test_a_foreign_file_is_passed_over_and_quarantined(tmp_path, make_run, seen_ids) -> None:
    append(tmp_path, [run := make_run(artifacts=())])
    pq.write_table(pa.table({"price": [1.0]}), tmp_path / "catalog" / "live" / "sales.parquet")
    (tmp_path / "catalog" / "live" / ".nfs0001").write_text("")
    assert seen_ids(tmp_path) == [run.event_id]
    assert kinds(tmp_path) == ["foreign", "foreign"]
    assert all(finding.done for finding in fsck(tmp_path, repair=True))
    assert fsck(tmp_path) == []
    assert sorted(os.listdir(tmp_path / "catalog" / "quarantine")) == [".nfs0001", "sales.parquet"]


def test_a_foreign_schema_under_our_name_stops_readers_with_a_clear_message(tmp_path, make_run, seen_ids) -> None:
    append(tmp_path, [run := make_run(artifacts=())])
    table = pa.table({"event_id": [1.5], "asset_id": ["x"], "stage": ["x"], "status": ["x"], "finished_at": ["then"]})
    open_store(tmp_path).create(f"live/{run.event_id[:-4]}ffff.1.parquet", encode(table))
    with pytest.raises(query.CatalogueDamaged, match="fsck --repair"):
        query.assets(tmp_path)
    (finding,) = fsck(tmp_path)
    assert finding.kind == "drift"
    assert "event_id is double, not string" in finding.detail
    assert kinds(tmp_path, repair=True) == ["drift", "restored"]
    assert seen_ids(tmp_path) == [run.event_id]


@pytest.mark.parametrize("where", ["live", "sealed"])
def test_a_truncated_file_goes_to_quarantine_and_its_rows_come_back(tmp_path, make_run, seen_ids, where) -> None:
    runs = [make_run(f"asset-{number}", stage_key=f"{number:032x}", artifacts=()) for number in range(4)]
    for run in runs:
        put_record(tmp_path, run)
        append(tmp_path, [run])
    if where == "sealed":
        compact.compact(tmp_path, Policy(grace_s=-1.0))
        shutil.rmtree(tmp_path / "catalog" / "trash")
    victim = next((tmp_path / "catalog" / where).iterdir())
    os.truncate(victim, victim.stat().st_size // 2)
    for reader in (query.assets, snapshot.build):
        with pytest.raises(query.CatalogueDamaged, match=victim.name):
            reader(tmp_path)
    assert "torn" in kinds(tmp_path)
    found = {finding.kind: finding for finding in fsck(tmp_path, repair=True)}
    assert found["torn"].done == "moved to quarantine/"
    assert found["restored"].done == f"{1 if where == 'live' else 4} events added"
    assert seen_ids(tmp_path) == [run.event_id for run in runs]
    assert not [finding for finding in fsck(tmp_path) if finding.kind == "torn"]


def test_a_sealed_file_that_is_gone_comes_back_from_the_trash(tmp_path, make_run, seen_ids) -> None:
    append(tmp_path, [run := make_run(artifacts=())])
    compact.compact(tmp_path, Policy(grace_s=-1.0))
    store = open_store(tmp_path)
    (name,) = store.names("sealed")
    store.discard(f"sealed/{name}")
    with pytest.raises(query.CatalogueDamaged):
        query.assets(tmp_path)
    assert kinds(tmp_path) == ["missing-sealed"]
    assert kinds(tmp_path, repair=True) == ["missing-sealed", "restored"]
    assert seen_ids(tmp_path) == [run.event_id]


def test_a_sealed_file_that_is_lost_is_forgotten_and_rebuilt(tmp_path, make_run, seen_ids) -> None:
    put_record(tmp_path, run := make_run(stage_key="0" * 32, artifacts=()))
    append(tmp_path, [run])
    compact.compact(tmp_path, Policy(grace_s=-1.0))
    shutil.rmtree(tmp_path / "catalog" / "trash")
    for path in (tmp_path / "catalog" / "sealed").iterdir():
        path.unlink()
    fsck(tmp_path, repair=True)
    assert seen_ids(tmp_path) == [run.event_id]
    assert fsck(tmp_path) == []


def test_events_stored_twice_are_stored_once_again(tmp_path, make_run, seen_ids) -> None:
    twice, once = make_run(artifacts=()), make_run("vase", artifacts=())
    append(tmp_path, [twice])
    append(tmp_path, [twice, once])
    assert len(seen_ids(tmp_path)) == 3
    assert kinds(tmp_path) == ["doubled"]
    fsck(tmp_path, repair=True)
    assert seen_ids(tmp_path) == sorted([twice.event_id, once.event_id])
    assert fsck(tmp_path) == []


def test_orphans_and_left_overs_go_when_they_are_old(tmp_path, make_run) -> None:
    append(tmp_path, [run := make_run(artifacts=())])
    store = open_store(tmp_path)
    store.create(f"sealed/{run.event_id}.1.parquet", b"")
    shutil.copy(
        next((tmp_path / "catalog" / "live").iterdir()), tmp_path / "catalog" / "sealed" / f"{run.event_id}.1.parquet"
    )
    (tmp_path / "catalog" / "tmp" / "x.part").write_bytes(b"half")
    assert fsck(tmp_path) == []
    for path in (
        tmp_path / "catalog" / "sealed" / f"{run.event_id}.1.parquet",
        tmp_path / "catalog" / "tmp" / "x.part",
    ):
        os.utime(path, (0, 0))
    assert kinds(tmp_path) == ["left-over", "orphan"]
    assert all(finding.done for finding in fsck(tmp_path, repair=True))
    assert fsck(tmp_path) == []


def test_artifacts_are_looked_at(tmp_path, make_run) -> None:
    def artifact(name: str, content: bytes, **wrong) -> Artifact:
        (tmp_path / name).write_bytes(content)
        return Artifact(
            **(
                {"role": name, "path": name, "sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
                | wrong
            )
        )

    files = (
        artifact("fine", b"fine"),
        artifact("longer", b"longer", bytes=3),
        artifact("other", b"other", sha256="00" * 32),
        Artifact("gone", "gone", "ab" * 32, 1),
        Artifact("escape", "../outside", "ab" * 32, 1),
    )
    append(tmp_path, [make_run(artifacts=files)])
    found = {finding.where.rsplit(": ", 1)[1]: (finding.kind, finding.detail) for finding in fsck(tmp_path)}
    assert set(found) == {"longer", "other", "gone", "../outside"}
    assert found["gone"][0] == "lost-artifact"
    assert "6 bytes, recorded were 3" in found["longer"][1]
    assert "sha256" in found["other"][1]
    assert kinds(tmp_path, hashes=False) == ["bad-artifact", "bad-artifact", "lost-artifact"]


def test_files_that_rows_named_are_looked_at_and_set_aside(tmp_path, make_run) -> None:
    def asked(asset: str, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        spec = {"prompt": "a mug", "init_file": {"name": "starts/mug.glb", "sha256": digest}}
        append(tmp_path, [make_run(asset, "request", spec_json=json.dumps(spec), artifacts=(), stage_key=None)])
        return f"inputs/{digest}.glb"

    whole, bad, lost = asked("whole", b"whole"), asked("bad", b"bad"), asked("lost", b"lost")
    (tmp_path / "inputs").mkdir()
    (tmp_path / whole).write_bytes(b"whole")
    (tmp_path / bad).write_bytes(b"damaged")
    found = {finding.where: finding.kind for finding in fsck(tmp_path)}
    assert found == {f"bad / init_file: {bad}": "bad-input", f"lost / init_file: {lost}": "lost-input"}
    assert kinds(tmp_path, hashes=False) == ["lost-input"]
    done = {finding.kind: finding.done for finding in fsck(tmp_path, repair=True)}
    assert "moved to quarantine/" in done["bad-input"] and done["lost-input"] == ""
    assert (tmp_path / "catalog" / "quarantine" / bad.replace("/", "~")).read_bytes() == b"damaged"
    assert kinds(tmp_path) == ["lost-input", "lost-input"]


def test_artifacts_are_copied_from_their_twins_or_set_aside(tmp_path, make_run) -> None:
    def artifact(path: str) -> Artifact:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(b"gaussians")
        return Artifact("splat", path, hashlib.sha256(b"gaussians").hexdigest(), 9)

    twins = artifact("stages/densify_prune/k/splat.ply"), artifact("assets/chair-07/splat.ply")
    for stage, twin in zip(("densify_prune", "record"), twins):
        append(tmp_path, [make_run(stage=stage, artifacts=(twin,))])
    assert fsck(tmp_path) == []
    (tmp_path / twins[1].path).unlink()
    (finding,) = fsck(tmp_path, repair=True)
    assert (finding.kind, finding.done) == ("lost-artifact", f"copied from {twins[0].path}")
    assert fsck(tmp_path) == []
    for twin in twins:
        (tmp_path / twin.path).write_bytes(b"scribbled")
    found = fsck(tmp_path, repair=True)
    assert [finding.kind for finding in found] == ["bad-artifact", "bad-artifact"]
    assert all(finding.done.startswith("moved to quarantine/") for finding in found)
    assert sorted(os.listdir(tmp_path / "catalog" / "quarantine")) == [
        "assets~chair-07~splat.ply",
        "stages~densify_prune~k~splat.ply",
    ]
    assert kinds(tmp_path, repair=True) == ["lost-artifact", "lost-artifact"]


@pytest.mark.parametrize("lost", ["first", "last", "all"])
def test_a_torn_index_is_named_and_written_again_from_the_sealed_files(tmp_path, random_runs, seen_ids, lost) -> None:
    runs = random_runs(random.Random(8), 6)
    for run in runs:
        append(tmp_path, [run])
        compact.compact(tmp_path, Policy(grace_s=600.0 if lost == "all" else -1.0, fan_in=3, checkpoint_every=4))
    append(tmp_path, [late := random_runs(random.Random(9), 1)[0]])
    index = sorted((tmp_path / "catalog" / "index").iterdir())
    victims = {"first": index[:1], "last": index[-1:], "all": index}[lost]
    for victim in victims:
        os.truncate(victim, 10)
    assert kinds(tmp_path) == ["torn-index"] * len(victims)
    with pytest.raises(RequestError, match=victims[0].name):
        query.assets(tmp_path)
    findings = fsck(tmp_path, repair=True, artifacts=False)
    assert all(finding.done for finding in findings)
    assert seen_ids(tmp_path) == sorted(run.event_id for run in [*runs, late])
    assert fsck(tmp_path, artifacts=False) == []


def every_view(library: Path) -> dict[str, list[dict]]:
    """All rows of all relations; ``batch_id`` names the transaction, which a rebuild makes anew."""
    with query.connect(library) as con:
        sql = "select columns(lambda c: c <> 'batch_id') from {} order by all"
        return {name: con.sql(sql.format(name)).to_arrow_table().to_pylist() for name in views.VIEWS}


def test_rebuild_from_the_records_alone(tmp_path, make_run, seen_ids) -> None:
    runs = [make_run(f"asset-{number % 3}", "evaluate", stage_key=f"{number:032x}") for number in range(7)]
    for run in runs:
        put_record(tmp_path, run)
        append(tmp_path, [run])
    asked = [request("night-1", "vase", {"prompt": "a vase"}), model("starter@abc", kind="image", licence="MIT")]
    append(tmp_path, asked, keep=True)
    append(tmp_path, [make_run("vase", status="failed"), make_run("vase", status="timeout")], keep=True)
    append(tmp_path, [review("asset-1", True, by="ana")], keep=True)
    (tmp_path / "stages" / "evaluate" / "bad").mkdir()
    (tmp_path / "stages" / "evaluate" / "bad" / "record.json").write_text("{}")
    before = every_view(tmp_path)
    shutil.rmtree(tmp_path / "catalog")
    report = rebuild.rebuild(tmp_path)
    assert (report.records, report.added, len(report.unreadable)) == (12, 12, 1)
    assert "event_id" in report.unreadable[0]
    assert every_view(tmp_path) == before
    assert rebuild.rebuild(tmp_path).added == 0
    assert len(seen_ids(tmp_path)) == 12


def test_a_disk_that_cannot_keep_the_record_gets_no_row_either(tmp_path, make_run, seen_ids) -> None:
    (tmp_path / "records").write_text("in the way")
    with pytest.raises(OSError):
        append(tmp_path, [make_run(status="failed")], keep=True)
    assert seen_ids(tmp_path) == []
