"""Recipes: frozen, strict, fingerprinted per section."""

import pytest
from pydantic import Field, ValidationError

from pipeline_core.config import LATER, RECIPES, Lora, ModelRef, Recipe, Section, leaf_names


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
    for dotted in leaf_names():
        node = Recipe()
        for part in dotted.split("."):
            node = getattr(node, part)
        assert Recipe().override({dotted: node}) == Recipe(), dotted


def test_fingerprints_follow_the_section_that_changed_and_no_other():
    before, after = Recipe(), Recipe().override({"texture.steps": 3})
    assert before.texture.fingerprint() != after.texture.fingerprint()
    assert before.geometry.fingerprint() == after.geometry.fingerprint()


def test_fingerprints_of_the_recipes_outlive_fields_that_came_later():
    """What a library holds was made under these keys: a new field must be LATER, or everything is made again."""
    known = {
        "draft": "a18a1459602c05b7",
        "factory": "46865d2869dcae6a",
        "dreamgaussian": "4bb625fbbc57270a",
        "gsgen": "b727b95f6449d486",
    }
    since = {
        "draft": {
            "dress.splat": "optimised", "dress.splat_resolution": 512, "mesh.sharpen": 0.0, "init.sampler_steps": 16,
            "geometry.steps": 30, "geometry.t_max": (0.8, 0.1), "geometry.t_min": (0.6, 0.05),
            "geometry.lr.sh0": 0.05, "geometry.lr.means": 0.0002, "geometry.lr.means_final": 0.00005,
            "geometry.lr.scales": 0.0005, "init.tidy_neighbours": 32,
        },
        "factory": {
            "dress.splat": "optimised", "mesh.sharpen": 0.0, "texture.steps": 12, "geometry.steps": 100,
            "init.tidy_neighbours": 48, "geometry.carve": 0.0, "geometry.destain": False, "init.scale_limit": 3.0,
            "init.num_points": 8192,
            "init.scale_factor": 0.9, "mesh.smooth": 12, "appearance.steps": 30,
            "geometry.guidance_scale": 5.0, "init.sampler_steps": 16, "geometry.t_max": (0.8, 0.1),
            "geometry.t_min": (0.6, 0.05), "geometry.lr.sh0": 0.05, "geometry.lr.means": 0.0002,
            "geometry.lr.means_final": 0.00005, "geometry.lr.scales": 0.0005,
        },
        "gsgen": {"geometry.lr.sh0": 0.035, "appearance.lr.sh0": 0.035, "geometry.point_colours": True},
    }
    then = {name: RECIPES[name].override(since.get(name, {})) for name in known}
    assert {name: recipe.fingerprint() for name, recipe in then.items()} == known


def test_a_later_field_is_written_only_where_it_is_used():
    class Old(Section):
        steps: int = 3

    class New(Old):
        style: str | None = Field(None, json_schema_extra=LATER)

    class Whole(Section):
        part: New = New()

    assert New().fingerprint() == Old().fingerprint() and Whole().model_dump() == {"part": {"steps": 3}}
    assert New(style="clay").model_dump() == {"steps": 3, "style": "clay"}
    assert New.model_validate(New(style="clay").model_dump()) == New(style="clay")


@pytest.mark.parametrize(
    "given, want",
    [
        ("clay.safetensors", (Lora(path="clay.safetensors"),)),
        ({"path": "clay.safetensors", "scale": 0.8}, (Lora(path="clay.safetensors", scale=0.8),)),
        (["a.safetensors", {"path": "b", "scale": -1}], (Lora(path="a.safetensors"), Lora(path="b", scale=-1))),
        ([], ()),
    ],
)
def test_loras_are_paths_with_scales(given, want):
    recipe = RECIPES["draft"].override({"image_lora": given})
    assert recipe.image_lora == want and Recipe.model_validate(recipe.model_dump(mode="json")) == recipe
    assert (recipe.fingerprint() == RECIPES["draft"].fingerprint()) is (not want)


@pytest.mark.parametrize(
    "bad", [3, [3], [{"scale": 1}], {"path": "a", "scale": "much"}, {"path": "a", "weight": 1}, ""]
)
def test_other_words_for_a_lora_are_refused(bad):
    with pytest.raises(ValidationError):
        RECIPES["draft"].override({"image_lora": bad})


def test_a_size_of_its_own_is_of_the_image_model():
    recipe = RECIPES["dreamgaussian"].override({"image_size": 512})
    assert str(recipe.model_refs()["image"]).endswith(", at 512 pixels") and recipe.model_refs()["points"].size is None
    assert recipe.fingerprint() != RECIPES["dreamgaussian"].fingerprint()


def test_what_a_recipe_says_of_its_image_model_is_one_value():
    added = {"image_lora": {"path": "s/clay.safetensors", "scale": 0.8}, "image_encoder": "madebyollin/taesd"}
    model = RECIPES["dreamgaussian"].override({**added, "image_prior": "m.safetensors"}).model_refs()["image"]
    assert str(model) == "m.safetensors + s/clay.safetensors * 0.8, encoded by madebyollin/taesd"
    assert model.parts("image") == [
        ("image", "m.safetensors"),
        ("lora", "s/clay.safetensors"),
        ("encoder", "madebyollin/taesd"),
    ]
    assert RECIPES["draft"].model_refs()["image"] == ModelRef.of("starter") and len({model, model}) == 1
