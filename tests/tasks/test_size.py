"""An asset of ``size_m``: every deliverable has exactly that box, and is what it would be had it been made so."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import trimesh

from flows.batch import BatchRequest, prepare, run_batch
from pipeline_core import models
from pipeline_core.frame import Frame, frame_of
from pipeline_core.io.gltf import load_glb, load_meshes
from pipeline_core.io.levels import load_bodies
from pipeline_core.io.ply import load_splat
from pipeline_core.storage import Library
from pipeline_core.validation.asset import MOST_APART
from tasks.stage import path_of
from tests.flows.tiny import TINY
from tests.tasks.test_starts import travel

SIZE = (0.6, 0.4, 0.5)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A box of 1 by 2 by 1 that is asked for as 0.6 by 0.4 by 0.5 m: its journey, what the stages made, its folder."""
    place = tmp_path_factory.mktemp("size")
    trimesh.creation.box((1, 2, 1)).export(place / "box.glb")
    (place / "m.jsonl").write_text(
        json.dumps({"id": "box", "prompt": "a blue mug", "init_file": "box.glb", "size_m": SIZE})
    )
    nothing = {"geometry.steps": 0, "appearance.steps": 0, "texture.steps": 0, "evaluate.turntable_frames": 0}
    nothing |= {"mesh.face_budget": 1500, "levels.max_error": 0.2}
    request = BatchRequest(
        manifest=str(place / "m.jsonl"), library=str(place / "library"), overrides=TINY | nothing, recipe="draft"
    )
    done = []
    run_batch(request, lambda journey: done.append((journey, travel(journey))), plan=prepare(request))
    [(journey, outputs)] = done
    yield journey, outputs, Library(request.library).asset_dir("box")
    models.close_engines()


def box(vertices):
    return np.stack([vertices.min(axis=0), vertices.max(axis=0)])


WANTED = np.array([[-SIZE[0] / 2, 0, -SIZE[2] / 2], [SIZE[0] / 2, SIZE[1], SIZE[2] / 2]])


def test_mesh_and_levels_have_the_box_and_bodies_hold_it(made):
    _, _, folder = made
    levels = load_meshes(folder / "lods.glb", object_units=False)
    for whole in (load_glb(folder / "asset.glb", object_units=False), levels["SM_box_LOD0"]):
        np.testing.assert_allclose(box(whole.vertices), WANTED, atol=1e-6)
    assert len(levels) > 1 and all(np.abs(box(each.vertices) - WANTED).max() < 0.02 for each in levels.values())
    bodies = load_bodies(folder / "collision.glb")
    assert np.abs(box(np.concatenate([vertices for _, vertices, _ in bodies])) - WANTED).max() < 0.02


def test_the_splat_stands_where_the_mesh_does_and_asset_json_tells_the_frame(made):
    journey, outputs, folder = made
    work = load_glb(path_of(journey, outputs["dress"], "asset.glb"))
    splat = load_splat(path_of(journey, outputs["dress"], "splat.ply"))
    told = json.loads((folder / "asset.json").read_bytes())
    frame = Frame.from_json(told["frame"])
    assert frame == frame_of(work.vertices, 0.4, SIZE) and not frame.uniform
    assert told["spec"]["size_m"] == list(SIZE) and told["spec"]["height_m"] == SIZE[1]
    in_metres, wanted = load_splat(folder / "splat.ply", frame="metres"), frame.gaussians(splat)
    delivered = load_glb(folder / "asset.glb", object_units=False)
    np.testing.assert_allclose(delivered.normals, frame.normals(work.normals), atol=1e-5)
    for name, values in in_metres.tensors().items():
        torch.testing.assert_close(values, wanted.tensors()[name], atol=1e-5, rtol=0)
    assert np.abs(box(in_metres.means.numpy()) - WANTED).max() < MOST_APART * max(SIZE)


def test_validation_finds_nothing_and_numbers_are_of_the_shape_as_delivered(made):
    journey, outputs, _ = made
    found = json.loads(path_of(journey, outputs["validate"], "validation.json").read_bytes())["findings"]
    assert {each["code"] for each in found if each["severity"] != "info"} <= {"MESH_UNLIKE_SPLAT"}  # so small a thing
    metrics = json.loads(path_of(journey, outputs["evaluate"], "metrics.json").read_bytes())
    sizes = np.array([metrics[f"size_{axis}"] for axis in "xyz"])
    np.testing.assert_allclose(sizes / sizes[0], np.array(SIZE) / SIZE[0], rtol=1e-4)
