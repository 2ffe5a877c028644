"""``import pipeline_core as sm``: quick to import, whole, and what the README shows of it runs."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pipeline_core as sm
from pipeline_core import models
from pipeline_core.io.gltf import load_glb
from pipeline_core.io.ply import load_splat

ROOT = Path(__file__).parents[2]
PROMPT = "a red mushroom with white spots"
QUICK = {
    "init.sampler_steps": 4,
    "init.num_points": 400,
    "geometry.steps": 2,
    "geometry.views": 1,
    "geometry.resolution": ((1.0, 32),),
    "appearance.steps": 1,
    "appearance.views": 1,
    "appearance.resolution": ((1.0, 32),),
    "mesh.grid": 32,
    "mesh.face_budget": 300,
    "mesh.texture_size": 64,
    "mesh.bake_views": 6,
    "mesh.bake_resolution": 64,
    "texture.steps": 1,
    "texture.views": 1,
    "texture.resolution": 64,
    "texture.denoise_steps": 2,
}


@pytest.fixture(scope="module")
def recipe():
    yield sm.RECIPES["draft"].override(QUICK)
    models.close_engines()


@pytest.fixture(scope="module")
def cloud(recipe):
    return sm.points(PROMPT, recipe, seed=7)


def test_every_public_name_is_there_sorted_and_explained():
    assert sm.__all__ == sorted(set(sm.__all__)) and set(sm.__all__) <= set(dir(sm))
    for name in sm.__all__:
        value = getattr(sm, name)
        assert not callable(value) or (value.__doc__ and value.__name__ == name), name
        assert not (ROOT / "pipeline_core" / name).exists() and not (ROOT / "pipeline_core" / f"{name}.py").exists()


def test_an_unknown_name_is_told_as_python_does():
    with pytest.raises(AttributeError, match=r"^module 'pipeline_core' has no attribute 'distil'$"):
        sm.distil  # noqa: B018


def test_the_import_loads_neither_torch_nor_the_library():
    code = "import sys, pipeline_core as sm; dir(sm); print([m for m in sys.modules if m.split('.')[0] in "
    code += "('torch', 'numpy', 'numba', 'pydantic') or m.startswith('pipeline_core.')])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert found.stdout.strip() == "[]"


def test_the_readme_makes_a_glb_and_changes_one_stage(recipe, tmp_path, monkeypatch):
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    [code] = re.findall(r"^### From Python\n.*?^```python\n(.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    monkeypatch.setitem(sm.RECIPES, "draft", recipe)
    monkeypatch.chdir(tmp_path)
    assert '"steps": 60' in code
    scope: dict[str, object] = {}
    exec(code.replace('"steps": 60', '"steps": 3'), scope)
    assert len(load_glb("mushroom.glb").faces) == len(scope["mesh"].faces) <= 300
    assert len(load_splat("coarse.ply")) > 0
    assert not torch.equal(load_splat("coarse.ply").means[:100], scope["splat"].means[:100])


def test_without_a_stage_both_stages_run_one_after_the_other(recipe, cloud):
    whole = sm.distill(cloud, PROMPT, recipe, seed=7)
    coarse = sm.distill(sm.start(cloud, recipe, seed=7), PROMPT, recipe, stage=recipe.geometry, seed=7)
    fine = sm.distill(coarse, PROMPT, recipe, stage=recipe.appearance, seed=7)
    for name, value in fine.tensors().items():
        assert torch.equal(value, whole.tensors()[name]), name


def test_a_notebook_hears_of_progress(recipe, cloud):
    heard = []
    sm.distill(cloud, PROMPT, recipe, stage=recipe.geometry, on_progress=lambda *told: heard.append(told))
    step, steps, report = heard[-1]
    assert step <= steps == recipe.geometry.steps and "loss" in report


def test_a_ball_needs_no_prior(recipe):
    ball = sm.points("anything", recipe.override({"init.start": "ball", "init.point_prior": "not/there"}), seed=1)
    assert len(ball) == 400 and ball.rgb.unique().tolist() == [0.5]


def test_without_rounds_the_texture_stays_as_it_is(recipe, cloud):
    textured = sm.extract_mesh(sm.start(cloud, recipe), recipe)
    assert sm.refine_texture(textured, PROMPT, recipe.override({"texture.steps": 0})) is textured
