"""Assets are made again from their records: the same bytes, or the first stage that differs and what differed."""

from __future__ import annotations

import hashlib
import json
import shutil
import tracemalloc

import pytest

from flows import verify as module
from flows.verify import _circumstances, recorded_threads, show_verified, verify
from pipeline_core import models, stages
from pipeline_core.config import RECIPES
from pipeline_core.device import made_with
from pipeline_core.errors import RequestError
from pipeline_core.metrics.tolerance import beyond
from pipeline_core.spec import AssetSpec
from pipeline_core.storage import Library
from tasks.journey import plan_journey
from tasks.policy import task_of
from tasks.rules import reseeded


@pytest.fixture(scope="module")
def made(tmp_path_factory, tiny):
    """The journey of a finished asset, made without Prefect from another seed than its row's."""
    root = Library(tmp_path_factory.mktemp("made") / "library").create().root
    spec = AssetSpec(prompt="a blue mug", asset_id="mug", seed=1, recipe=RECIPES["draft"].override(tiny))
    journey = reseeded(plan_journey(str(root), "run-1", spec), 1)
    done = {}
    for stage in stages.STAGES:
        done[stage.name] = task_of(stage.name).fn(journey, *(done[name] for name in stage.upstream))
    assert journey.spec.seed != 1
    yield journey
    models.close_engines()


@pytest.fixture
def library(made, tmp_path):
    """A copy of its library."""
    shutil.copytree(made.library, tmp_path / "library")
    return tmp_path / "library"


def test_the_same_bytes_and_no_scratch_is_left(library, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    before = {path: path.read_bytes() for path in library.rglob("*") if path.is_file()}
    assert show_verified(str(library), ["mug"], keep=False, as_json=False) == 0
    assert capsys.readouterr().out.startswith("mug: the same bytes")
    assert not any((tmp_path / "scratch").iterdir())
    assert {path: path.read_bytes() for path in library.rglob("*") if path.is_file()} == before
    assert recorded_threads(str(library), ["mug"]) > 0


def test_what_the_outputs_no_longer_tell_the_catalogue_does(library):
    record = json.loads((library / "assets/mug/asset.json").read_bytes())
    told = module._rows(Library(library), record)
    shutil.rmtree(library / "stages")
    rows = module._rows(Library(library), record)
    assert rows.keys() == told.keys() == set(stages.names())
    for stage in rows:
        assert module._outputs(rows[stage]) == module._outputs(told[stage])
        assert dict(_circumstances(told[stage], rows[stage])) == {}


def test_the_first_stage_that_differs_and_what_differed(library, monkeypatch, capsys):
    from pipeline_core.meshing import extract

    original, grid = extract.extract_surfaces, {"grid": 23}
    monkeypatch.setattr(extract, "extract_surfaces", lambda splat, mesh: original(splat, mesh.model_copy(update=grid)))
    monkeypatch.setattr("tasks.stage.code_version", lambda: "0.2.0+src.other")
    assert show_verified(str(library), ["mug"], keep=True, as_json=True) == 1
    [told] = json.loads(capsys.readouterr().out)["assets"]
    assert (told["verdict"], told["stage"]) == ("differs", "extract_mesh")
    assert told["differs"][0] == "bytes: mesh.glb, surface.npz"
    assert [line.split(":")[0] for line in told["differs"][1:]] == ["code"] and "0.2.0+src.other" in told["differs"][1]
    assert (Library(told["kept"]).asset_dir("mug") / "asset.glb").is_file()
    shutil.rmtree(told["kept"])


def test_with_other_threads_metrics_are_held_to_their_tolerance(library, tmp_path, monkeypatch):
    from pipeline_core.io import ply

    save = ply.save_splat
    monkeypatch.setattr(ply, "save_splat", lambda path, splat, **more: save(path, splat, comment="other bytes"))
    monkeypatch.setattr("tasks.stage.made_with", lambda: made_with() | {"threads": "63"})
    told = verify(str(library), "mug", tmp_path / "scratch")
    assert (told.verdict, told.stage, told.metrics) == ("within", "optimize_gaussians", [])
    assert told.differs[1].startswith("threads: was ") and told.differs[1].endswith("is 63")
    monkeypatch.setattr(module, "beyond", lambda was, now: beyond(was, now | {"mesh_psnr": now["mesh_psnr"] + 9.0}))
    record = json.loads((library / "assets/mug/asset.json").read_bytes())
    again = module._plan(Library(library), record, tmp_path / "scratch")
    told = module.Verified("mug")
    module._compare(told, record, module._rows(Library(library), record), again)
    assert told.verdict == "differs" and [each.name for each in told.metrics] == ["mesh_psnr"]


def test_damage_is_told_and_nothing_is_made(library, tmp_path, made):
    key = made.keys["densify_prune"]
    splat = library / "stages" / "densify_prune" / key / "splat.ply"
    splat.write_bytes(splat.read_bytes() + b"\0")
    told = verify(str(library), "mug", tmp_path / "scratch")
    assert told.verdict == "damaged"
    assert told.differs == [f"stages/densify_prune/{key}/splat.ply is not what densify_prune made"]
    (library / "assets/mug/asset.glb").write_bytes(b"glTF")
    [line] = verify(str(library), "mug", tmp_path / "scratch").differs
    assert line == "assets/mug/asset.glb is not the file that was delivered"
    (library / "assets/mug/asset.json").write_text("{}")
    assert "asset.json cannot be read" in verify(str(library), "mug", tmp_path / "scratch").differs[0]
    assert splat.is_file() and not (tmp_path / "scratch").exists()
    with pytest.raises(RequestError, match=r"nobody: .* has no such asset"):
        verify(str(library), "nobody", tmp_path / "scratch")


def test_a_large_file_is_not_held_in_memory(tmp_path):
    (tmp_path / "large").write_bytes(bytes(1 << 23))
    tracemalloc.start()
    digest, peak = module._sha256(tmp_path / "large"), tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert digest == hashlib.sha256(bytes(1 << 23)).hexdigest() and peak < 1 << 20
    assert module._sha256(tmp_path / "gone") is None


def test_a_library_in_a_bucket(made, bucket, tmp_path, monkeypatch):
    import s3fs

    s3fs.S3FileSystem().put(f"{made.library}/", "farm/verify/", recursive=True)
    monkeypatch.setattr(module, "_travel", lambda to: shutil.copytree(made.library, to.library, dirs_exist_ok=True))
    assert verify(f"{bucket}/verify", "mug", tmp_path / "scratch").verdict == "same"
    key = made.keys["dress"]
    s3fs.S3FileSystem().pipe(f"farm/verify/stages/dress/{key}/asset.glb", b"glTF")
    told = verify(f"{bucket}/verify", "mug", tmp_path / "again")
    assert told.differs == [f"stages/dress/{key}/asset.glb is not what dress made"]


def test_a_model_that_is_gone_is_named(library, tmp_path, tiny_prior):
    record = library / "assets/mug/asset.json"
    record.write_text(record.read_text().replace(str(tiny_prior), str(tiny_prior / "gone")))
    told = verify(str(library), "mug", tmp_path / "scratch")
    assert told.verdict == "failed" and "gone" in told.differs[0]


ROW = {
    "code_version": "1", "config_hash": "a", "model_ids": ["m@1"], "device": "cpu", "input_sha256": ["ab" * 32],
    "made_with": json.dumps({"torch": "2.9", "threads": "2", "cpu": "x", "at_once": "1"}),
}  # fmt: skip


@pytest.mark.parametrize(("change", "name", "says"), [
    ({"code_version": "2"}, "code_version", "code: was 1, is 2"),
    ({"config_hash": "b"}, "config_hash", "settings: was a, is b"),
    ({"model_ids": ("m@2",)}, "model_ids", "models: was m@1, is m@2"),
    ({"device": "cuda", "gpu_name": "H100"}, "device", "device: was cpu, is cuda"),
    ({"input_sha256": ()}, "inputs", "input files: what it read had the sha256 abababababab"),
    ({"made_with": '{"torch": "2.9", "threads": "1", "cpu": "x", "at_once": "1"}'}, "threads", "threads: was 2, is 1"),
    ({"made_with": '{"torch": "2.9", "threads": "2", "cpu": "y", "at_once": "1"}'}, "cpu", "processor: was x, is y"),
    ({"made_with": '{"torch": "3.0", "threads": "2", "cpu": "x", "at_once": "1"}'}, "torch", "torch: was 2.9, is 3.0"),
    ({"made_with": '{"torch": "2.9", "threads": "2", "cpu": "x", "at_once": "4"}'}, "at_once",
     "stages at once in the process: was 1, is 4"),
    ({"made_with": '{"torch": "2.9", "threads": "2", "cpu": "x", "at_once": "1", "threads_beside": "2"}'},
     "threads_beside", "threads beside a GPU: was none, is 2"),
])  # fmt: skip
def test_what_differed_is_named(change, name, says):
    assert dict(_circumstances(ROW, ROW)) == {}
    assert dict(_circumstances(ROW, ROW | change))[name] == says


def test_what_was_not_recorded_is_said():
    assert "not recorded" in dict(_circumstances(ROW | {"made_with": None}, ROW))["made_with"]
    assert "not known any more" in dict(_circumstances({}, ROW))["record"]
    alone, beside = (ROW | {"made_with": json.dumps({"threads": "1", "at_once": n})} for n in "14")
    assert dict(_circumstances(beside, alone)) == {}  # with one thread, company changes nothing
