"""The recipe table: complete, distinct, and true to the papers where it says so."""

import pytest

from pipeline_core.config import RECIPES, Recipe
from pipeline_core.guidance.schedules import linear, log_linear, resolution


def test_every_recipe_is_named_and_different():
    assert list(RECIPES)[:4] == ["draft", "factory", "dreamgaussian", "gsgen"]
    assert all(recipe.name == name for name, recipe in RECIPES.items())
    assert len({recipe.fingerprint() for recipe in RECIPES.values()}) == len(RECIPES)


@pytest.mark.parametrize("name", ["draft", "factory"])
def test_the_default_recipes_need_nothing_that_is_not_shipped(name):
    assert RECIPES[name].image_prior == RECIPES[name].init.point_prior == "starter"
    for stage in (RECIPES[name].geometry, RECIPES[name].appearance):
        assert stage.fovy == 40.0 and stage.distance == 2.5  # the cameras that the starter prior was trained on
        assert stage.resolution == ((1.0, 128),)


def test_dreamgaussian_has_its_published_schedule():
    """configs/text.yaml and gs_renderer.py: values at step 250 of 500, and the ends."""
    stage = RECIPES["dreamgaussian"].geometry
    assert stage.steps == 500 and stage.views == 1 and stage.guidance_scale == 100
    assert linear(stage.t_max, 0.5) == pytest.approx(0.5) and stage.t_max == stage.t_min
    assert [resolution(stage.resolution, p) for p in (0.0, 0.29, 0.3, 0.59, 0.6, 1.0)] == [128, 128, 256, 256, 512, 512]
    rates = [
        log_linear(stage.lr.means, stage.lr.means_final, step / 500, stage.lr.decay_until)
        for step in (50, 100, 200, 400)
    ]
    assert rates == pytest.approx([0.00521, 0.00271, 0.000737, 0.0002], rel=2e-3)
    assert (stage.lr.sh0, stage.lr.opacities, stage.lr.scales, stage.lr.quats) == (0.01, 0.05, 0.005, 0.005)
    assert (stage.densify.every, stage.densify.grad_threshold, stage.densify.split_scale) == (50, 0.01, 0.04)


def test_gsgen_has_its_published_schedule():
    """base.yaml: 15000 steps of batch 4; t below 0.5 and no point prior after 2000; rates decay over all of them."""
    recipe = RECIPES["gsgen"]
    first, second = recipe.geometry, recipe.appearance
    assert first.steps == 2000 and first.steps + second.steps == 15_000
    assert first.views == second.views == 4
    assert (first.point_weight, second.point_weight) == (0.01, 0.0)
    assert (first.t_max[1], second.t_max[0]) == (0.98, 0.5)
    at_2000 = log_linear(0.005, 3e-5, 2000 / 15_000)
    assert first.lr.means_final == second.lr.means == pytest.approx(at_2000, rel=0.02)
    assert second.densify.compactness and second.densify.every == 1000


def test_defaults_are_a_valid_recipe():
    assert Recipe().geometry.steps == 500
