"""Sweeps: the manifest that is written is one that is read, and what is wrong is told before anything is written."""

from __future__ import annotations

import json

import pytest

from pipeline_core.config import RECIPES
from pipeline_core.errors import ManifestError, RequestError
from pipeline_core.manifest import load_manifest
from pipeline_core.sweep import split_values, sweep


@pytest.fixture
def props(tmp_path):
    path = tmp_path / "props.csv"
    path.write_text("id,prompt,seed,face_budget,tags\nmug,a red mug,3,4000,set=a\n,a blue chair,4,,\n")
    return path


def test_every_row_with_every_combination_is_a_manifest(props, tmp_path):
    out = tmp_path / "sweep.yaml"
    count, _ = sweep(props, ["geometry.guidance_scale=5,7.5", "face_budget=2000,5000"], out)
    specs = load_manifest(out).specs
    assert count == len(specs) == 8
    assert [spec.asset_id for spec in specs[:4]] == [
        "mug-guidance_scale-5-face_budget-2000", "mug-guidance_scale-5-face_budget-5000",
        "mug-guidance_scale-7-5-face_budget-2000", "mug-guidance_scale-7-5-face_budget-5000",
    ]  # fmt: skip
    assert specs[3].tags == {
        "set": "a", "sweep": "mug", "geometry.guidance_scale": "7.5", "mesh.face_budget": "5000",
    }  # fmt: skip
    assert (specs[3].seed, specs[3].recipe.geometry.guidance_scale, specs[3].face_budget) == (3, 7.5, 5000)
    chair = load_manifest(props).specs[1].asset_id
    assert {spec.tags["sweep"] for spec in specs[4:]} == {chair} and specs[4].asset_id.startswith(chair)


def test_recipes_seeds_lists_and_contracts(tmp_path):
    props, out = tmp_path / "props.yaml", tmp_path / "out.yml"
    props.write_text(
        "accept: {fidelity: 0.1, recipes: {draft: {fidelity: 0.02}}}\n"
        "assets: [{prompt: 'a {colour} mug', matrix: {colour: [red, blue]}}]\n"
    )
    resolutions = "geometry.resolution=[[0.5,64],[1.0,128]],[[1.0,128]]"
    sweep(props, ["recipe=draft,factory", "seed=1,2", resolutions], out)
    specs = load_manifest(out).specs
    assert len(specs) == len({spec.asset_id for spec in specs}) == 16
    first, last = specs[0], specs[-1]
    assert (first.recipe.name, first.seed, first.prompt) == ("draft", 1, "a red mug")
    assert first.recipe.geometry.resolution == ((0.5, 64), (1.0, 128)) and last.prompt == "a blue mug"
    assert last.recipe == RECIPES["factory"].override({"geometry.resolution": ((1.0, 128),)})
    assert [spec.accept.bounds["fidelity"] for spec in (first, last)] == [0.02, 0.1]


def test_ids_stay_within_bounds_and_apart(tmp_path):
    props, out = tmp_path / "props.jsonl", tmp_path / "out.yaml"
    props.write_text('{"prompt": "a red mug", "id": "%s"}' % ("m" * 90))
    sweep(props, ["geometry.t_max=[0.8,0.1],[0.8,0.01]", "image_prior=a b,a-b"], out)
    rows = out.read_text()
    assert rows.count('"id": "' + "m" * 85 + "-") == 4
    assert len({spec.asset_id for spec in load_manifest(out).specs}) == 4
    assert all(len(spec.tags["sweep"]) == 64 for spec in load_manifest(out).specs)


def test_files_of_rows_keep_their_place(tmp_path):
    (tmp_path / "start.ply").write_bytes(b"ply\n")
    props, elsewhere = tmp_path / "props.csv", tmp_path / "elsewhere"
    props.write_text("prompt,init_file\na mug,start.ply\n")
    elsewhere.mkdir()
    with pytest.raises(RequestError, match="must lie beside it"):
        sweep(props, ["geometry.steps=1,2"], elsewhere / "out.yaml")
    sweep(props, ["geometry.steps=1,2"], tmp_path / "out.yaml")
    assert load_manifest(tmp_path / "out.yaml").specs[1].init_file.name == "start.ply"
    with pytest.raises(ManifestError, match=r"init\.start"):
        sweep(props, ["init.start=ball,file"], tmp_path / "wrong.yaml")
    assert not (tmp_path / "wrong.yaml").exists()


@pytest.mark.parametrize(("over", "said"), [
    (["geometry.steps=a,3"], "--over geometry.steps=a: an integer from 0"),
    (["steps=3"], "did you mean geometry.steps"),
    (["geometry.elevation=-15,50"], "--over geometry.elevation=-15: a list of a number"),
    (["recipe=fast"], "--over recipe=fast: one of draft, factory"),
    (["seed=-1"], "--over seed=-1: an integer from 0"),
    (["geometry.steps=3,3"], "3 is there twice"),
    (["geometry.steps"], "name=value,value is needed"),
    (["geometry.steps=1", "geometry.steps=2"], "is given 2 times"),
    (["face_budget=100", "mesh.face_budget=200"], "is given 2 times"),
    ([f"geometry.steps={','.join(map(str, range(200)))}", f"seed={','.join(map(str, range(200)))}"],
     "2 rows x 200 of geometry.steps x 200 of seed are more than 10000 assets"),
])  # fmt: skip
def test_what_set_would_refuse_is_refused_and_nothing_is_written(over, said, props, tmp_path):
    with pytest.raises(ManifestError, match=said.replace("(", "\\(")):
        sweep(props, over, tmp_path / "out.yaml")
    assert [path.name for path in tmp_path.iterdir()] == ["props.csv"]


def test_a_file_that_is_there_is_not_replaced(props, tmp_path):
    for name, said in (("props.csv", "YAML file"), ("there.yaml", "is there already")):
        (tmp_path / "there.yaml").write_text("")
        with pytest.raises(RequestError, match=said):
            sweep(props, ["seed=1,2"], tmp_path / name)


def test_values_are_split_at_commas_outside_of_brackets():
    assert split_values("5, 7.5,") == ["5", "7.5"]
    assert split_values("[[0.5,64],[1,128]],[[1,64]]") == ["[[0.5,64],[1,128]]", "[[1,64]]"]
    assert split_values('[{"path": "a", "scale": 1}],[]') == ['[{"path": "a", "scale": 1}]', "[]"]


def test_parts_go_with_their_row(tmp_path):
    parts = [{"prompt": "a table"}, {"prompt": "a book", "size": 0.4}]
    (tmp_path / "props.jsonl").write_text(json.dumps({"prompt": "a book on a table", "parts": parts}))
    sweep(tmp_path / "props.jsonl", ["geometry.part_views=0.25,0.75"], tmp_path / "swept.yaml")
    specs = load_manifest(tmp_path / "swept.yaml").specs
    assert [spec.recipe.geometry.part_views for spec in specs] == [0.25, 0.75]
    assert all(spec.parts[1].size == 0.4 for spec in specs)
