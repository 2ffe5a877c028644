"""Starts from files on their journey: what distillation is given, what is kept of it, and what a bad file costs."""

from __future__ import annotations

import json

import pytest
import torch
import trimesh

import pipeline_core as sm
from catalog import query
from flows.batch import BatchRequest, prepare, run_batch
from pipeline_core import models, stages
from pipeline_core.io.gltf import load_glb
from pipeline_core.io.ply import load_points, load_splat
from pipeline_core.starts import DENSE
from pipeline_core.storage import Library
from tasks.policy import task_of
from tasks.stage import path_of
from tests.flows.tiny import TINY
from tests.pipeline_core.test_starts import splat

CONTROL = """
select asset_id, max(value) filter (name = 'f_score') - max(value) filter (name = 'control_f_score') as gain
from metrics where is_latest and stage = 'evaluate' group by all order by asset_id
"""


def travel(journey):
    """The journey without Prefect."""
    made = {}
    for stage in stages.STAGES:
        made[stage.name] = task_of(stage.name).fn(journey, *(made[name] for name in stage.upstream))
    return made


@pytest.fixture
def request_(tmp_path):
    """A mesh, a splat, points and a file that is none of these; nothing is optimised, so that starts can be seen."""
    folder = tmp_path / "starts"
    folder.mkdir()
    trimesh.creation.box((1, 2, 1)).export(folder / "box.glb")
    sm.save_splat(folder / "splat.ply", splat(degree=1, count=150))
    generator = torch.Generator().manual_seed(0)
    sm.save_points(folder / "points.ply", sm.PointCloud(torch.rand(90, 3, generator=generator), torch.rand(90, 3)))
    (folder / "half.glb").write_bytes((folder / "box.glb").read_bytes()[:-9])
    rows = [
        {"id": name.partition(".")[0], "prompt": "a blue mug", "seed": 1, "height_m": 2, "init_file": f"starts/{name}"}
        for name in ("box.glb", "splat.ply", "points.ply", "half.glb")
    ]
    (tmp_path / "props.jsonl").write_text("\n".join(map(json.dumps, rows)))
    overrides = TINY | {"geometry.steps": 0, "appearance.steps": 0, "texture.steps": 0, "dress.splat": "optimised"}
    yield BatchRequest(
        manifest=str(tmp_path / "props.jsonl"), library=str(tmp_path / "library"), overrides=overrides, recipe="draft"
    )
    models.close_engines()


def test_a_batch_starts_from_what_its_rows_name_and_a_bad_file_fails_alone(request_, tmp_path):
    plan = prepare(request_)
    keys = {each.asset_id: each.keys for each in plan.todo.missing}
    made = {}

    def make(journey):
        made[journey.asset_id] = journey, travel(journey)

    summary = run_batch(request_, make, plan=plan)
    assert sorted(summary.made) == ["box", "points", "splat"]
    [failure] = summary.failures
    assert (failure["asset_id"], failure["stage"], failure["error_class"]) == ("half", "init_points", "data")
    assert failure["message"].startswith("init_file starts/half.glb: GLB version 2")
    library = Library(request_.library)
    for name, frame in (("box", "y_up"), ("points", "z_up"), ("splat", "y_down")):
        journey, outputs = made[name]
        kind = {"box": "mesh"}.get(name, name)
        rows = query.rows(library.root, "select name from metrics where asset_id = ? and stage = 'init_points'", [name])
        assert {row["name"] for row in rows} == {"points", f"start_{kind}", f"start_{frame}"}
        coarse = load_splat(path_of(journey, outputs["optimize_gaussians"], "splat.ply"))
        if name == "splat":  # its Gaussians go on, with their harmonics; its points are there for who looks for points
            begun = load_splat(path_of(journey, outputs["init_points"], "start.ply"))
            assert all(torch.equal(v, coarse.tensors()[k]) for k, v in begun.tensors().items())
            assert len(begun) == 150 and begun.sh_degree == 1
            points = load_points(path_of(journey, outputs["init_points"], "points.ply"))
            assert torch.allclose(points.xyz, begun.means)
        else:
            assert sorted(outputs["init_points"]["outputs"]) == ["control.ply", "points.ply"]
            control = load_splat(path_of(journey, outputs["init_points"], "control.ply"))
            assert len(control) == (DENSE if name == "box" else 90)
            assert len(coarse) == request_.overrides["init.num_points"]
    # distillation did nothing, so nothing was lost; the judge sees the mesh of the result, and the start as it was
    scores = query.rows(library.root, "select asset_id, value from metrics where name = 'start_psnr'")
    stayed = {row["asset_id"]: row["value"] for row in scores}
    assert stayed["splat"] > 60 and stayed["box"] > 15 and sorted(stayed) == ["box", "points", "splat"]
    assert [row["asset_id"] for row in query.rows(library.root, CONTROL)] == ["box", "points", "splat"]
    inputs = "select input_sha256 from stage_runs where asset_id = 'box' and stage = 'init_points'"
    [row] = query.rows(library.root, inputs)
    assert row["input_sha256"] == [plan.manifest.specs[0].init_file.sha256]
    told = json.loads((library.asset_dir("box") / "asset.json").read_bytes())
    assert told["spec"]["init_file"] == plan.manifest.specs[0].init_file.model_dump()

    # splat and mesh of one asset stand in one frame
    for name in ("box", "splat"):
        folder, stage = library.asset_dir(name), made[name][1]["densify_prune"]
        at_work = path_of(made[name][0], stage, "splat.ply")
        textured = load_glb(folder / "asset.glb", object_units=False)
        assert abs(textured.vertices[:, 1].max() - 2.0) < 1e-6 and abs(textured.vertices[:, 1].min()) < 1e-6
        torch.testing.assert_close(load_splat(folder / "splat.ply").means, load_splat(at_work).means, atol=1e-6, rtol=0)
        assert b"comment frame y-down\n" in (folder / "splat.ply").read_bytes()[:200]
    told = json.loads((library.asset_dir("box") / "asset.json").read_bytes())["frame"]
    assert (told["units"], told["up"], told["front"], told["pivot"]) == ("metres", "+Y", "+Z", "centre-bottom")

    # another day, another host: the files are gone, and the library has what it needs
    for path in (tmp_path / "starts").iterdir():
        path.unlink()
    again = request_.model_copy(update={"run_id": "again", "kept": {r.name: r.sha256 for r in plan.manifest.sources}})
    planned = prepare(again)
    todo = planned.todo
    assert {each.asset_id: each.keys for each in [*todo.made, *todo.missing, *todo.held]} == keys
    assert sorted(each.asset_id for each in todo.made) == ["box", "points", "splat"]
    library.discard("init_points", keys["box"]["init_points"])
    assert task_of("init_points").fn(made["box"][0])["outputs"] == made["box"][1]["init_points"]["outputs"]
