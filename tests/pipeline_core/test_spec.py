"""AssetSpec: ids from prompt and seed, text clean-up, JSON round trip."""

import json
import re
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline_core.config import RECIPES
from pipeline_core.spec import DEVICE_NAMES, ID_PATTERN, MAX_SEED, AssetSpec, clean_text, derive_id


def test_ids_follow_prompt_negative_prompt_and_seed_and_nothing_else():
    one = AssetSpec(prompt="a red mug", seed=1)
    assert one.asset_id == AssetSpec(prompt="a  red\tmug ", seed="1", height_m=3).asset_id
    others = [AssetSpec(prompt="a red mug", seed=2), AssetSpec(prompt="a red mug", negative_prompt="blue", seed=1)]
    assert len({one.asset_id, *(each.asset_id for each in others)}) == 3
    assert one.asset_id.startswith("a-red-mug-")


@given(st.text(), st.text(), st.integers(0, MAX_SEED))
def test_derived_ids_are_always_safe_path_parts(prompt, negative, seed):
    asset_id = derive_id(prompt, negative, seed)
    assert re.fullmatch("[a-z0-9-]+", asset_id) and re.fullmatch(ID_PATTERN, asset_id)
    assert asset_id not in DEVICE_NAMES


@pytest.mark.parametrize(
    "asset_id", ["../up", "a/b", "a\\b", ".hidden", "-x", "CON", "con", "lpt1", "a" * 97, "a b", "é"]
)
def test_ids_that_could_be_taken_for_paths_are_refused(asset_id):
    with pytest.raises(ValidationError):
        AssetSpec(asset_id=asset_id, prompt="a mug")


@pytest.mark.parametrize("prompt", ["", "   ", "a\x00b", "a\x1b[31mred", "\ud800", "x" * 2001])
def test_prompts_that_no_model_can_read_are_refused(prompt):
    with pytest.raises(ValidationError):
        AssetSpec(prompt=prompt)


@given(st.text(min_size=1, max_size=50), st.integers(0, MAX_SEED), st.sampled_from(sorted(RECIPES)))
def test_json_round_trip(prompt, seed, recipe):
    try:
        spec = AssetSpec(prompt=prompt, seed=seed, recipe=RECIPES[recipe], tags={"set": "forest"})
    except ValidationError:
        return
    assert AssetSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


JOINED = ["\U0001f469\u200d\U0001f3a4", "\U0001f3f3\ufe0f\u200d\U0001f308", "\U0001f469\U0001f3fd\u200d\U0001f680"]


@pytest.mark.parametrize("emoji", JOINED)
def test_what_nobody_sees_is_no_part_of_a_prompt(emoji):
    assert AssetSpec(prompt=f"a\u200d {emoji}\u200d mug", negative_prompt="e\u0301\u00ad").prompt == f"a {emoji} mug"
    assert AssetSpec(prompt="x", negative_prompt="e\u0301\u00ad").negative_prompt == "\u00e9"
    with pytest.raises(ValidationError):
        AssetSpec(prompt="\u200b\ufeff")


@given(st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20))
def test_a_clean_text_stays_as_it_is(text):
    assert clean_text(clean_text(text)) == clean_text(text)


def test_a_size_decides_the_height_and_is_not_written_where_there_is_none():
    sized = AssetSpec(prompt="a mug", size_m="0.6,0.4,0.5")
    assert sized.size_m == (0.6, 0.4, 0.5) and sized.height_m == 0.4
    assert AssetSpec.from_json(json.loads(json.dumps(sized.to_json()))) == sized
    assert "size_m" not in AssetSpec(prompt="a mug").to_json()
    with pytest.raises(ValueError, match="size_m and height_m"):
        AssetSpec(prompt="a mug", size_m=(1, 2, 3), height_m=1)


def test_specs_and_manifests_load_no_torch():
    code = "import sys, pipeline_core.manifest, pipeline_core.storage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_a_recipe_may_have_a_negative_prompt_for_rows_that_give_none():
    recipe = RECIPES["mvdream"]
    spec = AssetSpec(prompt="a mug", recipe=recipe)
    assert spec.negative_prompt == recipe.default_negative_prompt and AssetSpec.from_json(spec.to_json()) == spec
    assert AssetSpec(prompt="a mug", negative_prompt="dust", recipe=recipe).negative_prompt == "dust"
    assert AssetSpec(prompt="a mug", recipe=recipe.override({"default_negative_prompt": ""})).negative_prompt == ""
    assert AssetSpec(prompt="a mug").negative_prompt == ""
