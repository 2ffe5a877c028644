"""``splatmill export``: what is chosen, what is written, what is told, and how it ends."""

from __future__ import annotations

import csv
import json
import shutil

import pytest
from typer.testing import CliRunner

from catalog.schema import Artifact, StageRun, request
from catalog.writer import append
from flows.cli import app
from pipeline_core.files import lock
from tests.finished_asset import HOSTILE, finished


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Three finished assets, one with a broken GLB, in a catalogue that also knows one that was never made."""
    folder = tmp_path_factory.mktemp("library")
    names = {"mug": "a mug", "chair": HOSTILE, "broken": "a vase", "never": "a boat"}
    for name, prompt in names.items():
        spec = {"prompt": prompt, "tags": {"category": "cup" if name == "mug" else "other"}}
        append(folder, [request("night", name, spec)])
        if name == "never":
            continue
        place = finished(folder / "assets", name, prompt=prompt)
        artifact = Artifact("glb", f"assets/{name}/asset.glb", "0" * 64, 1, "model/gltf-binary")
        append(folder, [StageRun(run_id="night", asset_id=name, stage="record", status="ok", artifacts=(artifact,))])
        if name == "broken":
            (place / "asset.glb").write_bytes(b"not a GLB")
    return folder


def splatmill(*words):
    return CliRunner().invoke(app, ["export", *map(str, words)])


def written(target):
    return sorted(path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file())


def test_a_query_chooses_and_the_manifest_lists_with_sha256(library, tmp_path):
    query = "select asset_id from assets where prompt like '%mug' or asset_id = 'chair' order by 1"
    done = splatmill(query, "--to", tmp_path, "--library", library, "--profile", "godot", "--format", "glb,stl")
    assert done.exit_code == 0, done.output
    assert "2 assets in" in done.output
    told = json.loads((tmp_path / "export.json").read_text())
    with (tmp_path / "export.csv").open() as file:
        rows = list(csv.DictReader(file))
    files = [each["file"] for each in told["files"]]
    assert files == [row["file"] for row in rows] and "chair/chair.stl" in files and "mug/mug_LOD1.glb" in files
    assert sorted([*files, ".export.lock", "export.csv", "export.json"]) == written(tmp_path)
    assert {(row["profile"], len(row["sha256"])) for row in rows} == {("godot", 64)}
    assert told["failed"] == {} and told["without"] == {}


def test_one_bad_asset_is_told_and_the_others_are_written(library, tmp_path):
    words = ("--to", tmp_path, "--library", library, "--format", "stl", "--json")
    done = splatmill("broken", "mug", "never", *words)
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert list(told["written"]) == ["mug"] and set(told["failed"]) == {"broken", "never"}
    assert "broken: not exported: " in done.stderr and "run the asset again" in done.stderr
    assert "holds no finished asset" in told["failed"]["never"]
    assert written(tmp_path) == [".export.lock", "export.csv", "export.json", "mug/mug.stl"]
    assert splatmill("mug", *words).exit_code == 0  # the same files are there already
    (tmp_path / "mug" / "mug.stl").write_text("mine")
    again = splatmill("mug", *words)
    assert again.exit_code == 1 and "is another file: --overwrite" in json.loads(again.stdout)["failed"]["mug"]
    assert splatmill("mug", *words, "--overwrite").exit_code == 0
    assert [each["file"] for each in json.loads((tmp_path / "export.json").read_text())["files"]] == ["mug/mug.stl"]


def test_all_and_tags_choose_what_is_delivered(library, tmp_path):
    done = splatmill("--tag", "category=cup", "--to", tmp_path / "a", "--library", library, "--format", "stl")
    assert done.exit_code == 0 and written(tmp_path / "a")[-1] == "mug/mug.stl"
    done = splatmill("--all", "--to", tmp_path / "b", "--library", library, "--format", "stl")
    assert done.exit_code == 1 and "2 assets in" in done.output  # broken is delivered too
    saved = tmp_path / "selection.json"
    for text in ('{"asset_ids": ["mug"]}', "mug\n"):
        saved.write_text(text)
        words = ("--ids-from", saved, "--to", tmp_path / "c", "--library", library, "--format", "stl")
        assert splatmill(*words).exit_code == 0 and written(tmp_path / "c")[-1] == "mug/mug.stl"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "asset ids, a query in quotes"),
        (["mug", "--all"], "asset ids, a query in quotes"),
        (["select 1 as one"], "must answer with a column asset_id; it has one"),
        (["select asset_id from assets where false"], "no asset of"),
        (["copy assets to 'x.csv'"], "only queries are allowed"),
        (["mug", "../etc"], "'../etc' is no asset id"),
        (["mug", "--format", "glb,doc"], "--format doc: some of glb"),
        (["mug", "--profile", "maya"], "--profile maya: one of unreal"),
        (["mug", "--compress", "zip"], "--compress zip: none, or some of"),
        (["--tag", "cup"], "--tag cup: name=value"),
        (["--ids-from", "none.json"], "--ids-from none.json: cannot be read"),
        (["--ids-from", "/dev/null"], "--ids-from /dev/null: no ids"),
    ],
)
def test_a_wrong_request_is_told_and_nothing_is_written(library, tmp_path, words, said):
    done = splatmill(*words, "--to", tmp_path / "out", "--library", library)
    assert done.exit_code == 2 and said in done.stderr, done.stderr
    assert not (tmp_path / "out").exists()


def test_a_missing_tool_is_told_before_anything_is_written(library, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv("SPLATMILL_BLENDER", "nowhere")
    done = splatmill("mug", "--to", tmp_path / "out", "--library", library, "--profile", "web", "--format", "glb,fbx")
    assert done.exit_code == 2 and "npm install" in done.stderr and "SPLATMILL_BLENDER" in done.stderr
    assert not (tmp_path / "out").exists()
    plain = ("--profile", "web", "--compress", "none")
    assert splatmill("mug", "--to", tmp_path / "out", "--library", library, *plain).exit_code == 0


def test_bad_targets_are_refused(library, tmp_path):
    assert "inside of the library" in splatmill("mug", "--to", library / "out", "--library", library).stderr
    (tmp_path / "file").write_text("")
    assert "that is a file" in splatmill("mug", "--to", tmp_path / "file", "--library", library).stderr
    assert "no library at" in splatmill("mug", "--to", tmp_path / "out", "--library", tmp_path / "none").stderr
    with lock(tmp_path / ".export.lock"):
        assert "another export is writing" in splatmill("mug", "--to", tmp_path, "--library", library).stderr


def test_it_reads_an_object_store(library, tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.put(str(library / "assets" / "mug"), "/bucket/props/assets/mug", recursive=True)
    done = splatmill("mug", "--to", tmp_path, "--library", "memory://bucket/props", "--format", "stl")
    assert done.exit_code == 0, done.output + done.stderr
    assert "mug/mug.stl" in written(tmp_path)
    shutil.rmtree(tmp_path)
