"""No two stages of an asset, and no retry of one, are distilled from the same random numbers."""

from __future__ import annotations

import pytest

from pipeline_core import make, models
from pipeline_core.config import RECIPES
from pipeline_core.engine import distill as engine
from pipeline_core.spec import AssetSpec
from tasks.journey import plan_journey
from tasks.policy import task_of
from tasks.rules import RESEEDS, reseeded


@pytest.fixture
def seeds(monkeypatch):
    """Seeds that the engine's ``distill`` is handed; it hands the Gaussians back, and no model is loaded."""
    handed: list[int] = []

    def distill(gaussians, *rest, seed, **options):
        handed.append(seed)
        return gaussians, {}

    monkeypatch.setattr(engine, "distill", distill)
    monkeypatch.setattr(models, "engine", lambda recipe: None)
    return handed


def test_every_stage_and_every_retry_is_distilled_from_a_seed_of_its_own(seeds, tmp_path):
    recipe = RECIPES["draft"].override({"init.start": "ball", "init.num_points": 64, "appearance.steps": 1})
    asked = plan_journey(str(tmp_path), "run", AssetSpec(prompt="a mug", seed=3, recipe=recipe))
    for attempt in range(RESEEDS + 1):
        journey = reseeded(asked, attempt)
        made = task_of("init_points").fn(journey)
        for stage in ("optimize_gaussians", "densify_prune"):
            made = task_of(stage).fn(journey, made)
    assert len(set(seeds)) == len(seeds) == 2 * (RESEEDS + 1)
    first = seeds[:2]
    seeds.clear()
    cloud = make.points("a mug", recipe, seed=3)
    make.distill(cloud, "a mug", recipe, seed=3)
    assert seeds == first
    make.distill(cloud, "a mug", recipe, stage=recipe.appearance, seed=3)
    assert seeds[2] == first[1]
