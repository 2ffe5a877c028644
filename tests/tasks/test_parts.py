"""An asset of several parts on its journey: whose each Gaussian is goes along, and the mesh is that of the whole."""

from __future__ import annotations

import json

import pytest

from pipeline_core import models
from pipeline_core.config import RECIPES
from pipeline_core.io.gltf import load_glb
from pipeline_core.io.ply import load_points, load_splat
from pipeline_core.spec import AssetSpec
from pipeline_core.storage import Library
from tasks.journey import plan_journey
from tasks.policy import task_of
from tasks.start import PARTS, control_of, splat_of, start_of
from tests.flows.tiny import TINY

DESK = [
    {"prompt": "a brown table", "size": [1, 0.7, 0.7]},
    {"prompt": "a red book", "position": [0, 0.7, 0], "size": 0.4},
]
DISTILLED = ("init_points", "optimize_gaussians", "densify_prune")


@pytest.fixture
def travel(tmp_path):
    """The journey without Prefect, as far as some stages."""

    def go(name, stages, **changes):
        recipe = RECIPES["draft"].override(TINY | {"geometry.views": 2, "geometry.densify.every": 2} | changes)
        spec = AssetSpec(asset_id="desk", prompt="a red book on a brown table", seed=1, recipe=recipe, parts=DESK)
        Library(str(tmp_path / name)).create()
        journey, made = plan_journey(str(tmp_path / name), "r", spec), {}
        for stage in stages:
            above = [made[each] for each in list(made)[-1:]]
            made[stage] = task_of(stage).fn(journey, *above)
        return journey, made

    yield go
    models.close_engines()


def test_the_parts_of_an_asset_go_from_stage_to_stage_and_one_mesh_is_made_of_all(travel):
    journey, made = travel("one", (*DISTILLED, "extract_mesh"))
    wholes = [start_of(journey, made["init_points"]), *(splat_of(journey, made[stage]) for stage in DISTILLED[1:])]
    for whole in wholes:
        assert set(whole.part.tolist()) == {0, 1} and whole.layout.prompts == ("a brown table", "a red book")
        assert whole.layout.to_json() == wholes[0].layout.to_json()
    begun = wholes[0]
    assert len(begun) == 2 * TINY["init.num_points"] == len(control_of(journey, made["init_points"]))
    height = [begun.means[begun.part == k][:, 1] for k in range(2)]
    assert height[1].quantile(0.05) > height[0].quantile(0.9)  # the book stands on the table
    library = Library(journey.library)
    folder = library.stage_dir("init_points", journey.keys["init_points"])
    assert len(load_points(folder / "points.ply")) == len(load_splat(folder / "start.ply")) == len(begun)
    assert PARTS not in made["extract_mesh"]["outputs"]
    mesh = load_glb(library.stage_dir("extract_mesh", journey.keys["extract_mesh"]) / "mesh.glb")
    assert mesh.vertices[:, 1].max() > height[1].quantile(0.5)

    again, same = travel("two", DISTILLED)
    assert again.keys == journey.keys
    assert [each["outputs"] for each in same.values()] == [made[stage]["outputs"] for stage in DISTILLED]
    settings = json.loads((folder / "record.json").read_bytes())
    assert {each["path"].rpartition("/")[2] for each in settings["artifacts"]} == {"points.ply", "start.ply", PARTS}


def test_an_asset_of_parts_without_steps_is_its_start(travel):
    journey, made = travel("three", DISTILLED, **{"geometry.steps": 0, "appearance.steps": 0})
    begun, left = start_of(journey, made["init_points"]), splat_of(journey, made["densify_prune"])
    assert begun.part.tolist() == left.part.tolist()
