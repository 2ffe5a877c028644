"""Recipes: frozen, strict, fingerprinted per section."""

import pytest
from pydantic import ValidationError

from pipeline_core.config import Recipe, leaf_names


def test_unknown_fields_are_refused():
    with pytest.raises(ValidationError, match="stepz"):
        Recipe.model_validate({"geometry": {"stepz": 3}})


def test_override_replaces_one_leaf_and_validates_it():
    recipe = Recipe().override({"geometry.steps": 7, "geometry.densify.every": 3})
    assert recipe.geometry.steps == 7 and recipe.geometry.densify.every == 3
    assert recipe.appearance == Recipe().appearance
    with pytest.raises(ValidationError, match="guidance_scale"):
        Recipe().override({"geometry.guidance_scale": -3})
    with pytest.raises(KeyError, match=r"geometry\.stepz"):
        Recipe().override({"geometry.stepz": 3})


def test_every_leaf_can_be_overridden_with_its_own_value():
    tree = Recipe().model_dump()
    for dotted in leaf_names():
        node = tree
        for part in dotted.split("."):
            node = node[part]
        assert Recipe().override({dotted: node}) == Recipe(), dotted


def test_fingerprints_follow_the_section_that_changed_and_no_other():
    before, after = Recipe(), Recipe().override({"texture.steps": 3})
    assert before.texture.fingerprint() != after.texture.fingerprint()
    assert before.geometry.fingerprint() == after.geometry.fingerprint()
