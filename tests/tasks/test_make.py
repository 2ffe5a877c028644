"""Tasks and notebooks call the same functions: from the same inputs they make the same bytes."""

from __future__ import annotations

from pathlib import Path

import pytest

import pipeline_core as sm
from pipeline_core import models
from pipeline_core.spec import AssetSpec
from tasks.densify_prune import densify_prune
from tasks.extract_mesh import extract_mesh
from tasks.init_points import init_points
from tasks.journey import plan_journey
from tasks.optimize_gaussians import optimize_gaussians
from tasks.refine_texture import refine_texture
from tests.pipeline_core.test_face import PROMPT, QUICK


@pytest.fixture
def spec():
    yield AssetSpec(prompt=PROMPT, seed=7, recipe=sm.RECIPES["draft"].override(QUICK))
    models.close_engines()


def test_a_notebook_makes_what_a_batch_makes(spec, tmp_path):
    library = tmp_path / "library"
    journey = plan_journey(str(library), "run", spec)
    made = [init_points.fn(journey)]
    for task in (optimize_gaussians, densify_prune, extract_mesh, refine_texture):
        made.append(task.fn(journey, made[-1]))
    points, coarse, fine, mesh, textured = (library / reference["dir"] for reference in made)

    def same(path: Path, save, *value, **options) -> bool:
        save(tmp_path / "here", *value, **options)
        return (tmp_path / "here").read_bytes() == path.read_bytes()

    recipe = spec.recipe
    assert same(points / "points.ply", sm.save_points, sm.points(PROMPT, recipe, seed=7))
    cloud = sm.load_points(points / "points.ply")
    alone = sm.distill(cloud, PROMPT, recipe, stage=recipe.geometry, seed=7)
    assert same(coarse / "splat.ply", sm.save_splat, alone)
    splat = sm.distill(cloud, PROMPT, recipe, seed=7)
    assert same(fine / "splat.ply", sm.save_splat, splat)
    assert same(mesh / "mesh.glb", sm.save_glb, sm.extract_mesh(splat, recipe), name="mesh")
    refined = sm.refine_texture(sm.load_glb(mesh / "mesh.glb"), PROMPT, recipe, seed=7)
    assert same(textured / "asset.glb", sm.save_glb, refined, name="asset")
