"""Rows that their image prior cannot use are told by field before anything is loaded."""

import re
import shutil
import subprocess
import sys

import pytest

from pipeline_core.config import RECIPES
from pipeline_core.errors import RequestError
from pipeline_core.manifest import load_manifest
from pipeline_core.priors.takes import misfit, takes
from pipeline_core.spec import AssetSpec

IMAGE = {"name": "mug.png", "sha256": "0" * 64}


@pytest.fixture
def row(checkpoint):
    """A row with the tiny checkpoint ``kind`` as its image prior."""

    def make(kind, changes=None, recipe="dreamgaussian", **spec):
        whole = RECIPES[recipe].override({"image_prior": str(checkpoint(kind))} | (changes or {}))
        return AssetSpec(**({"prompt": "a mug", "recipe": whole} | spec))

    return make


def test_what_fits_is_left_alone(row):
    assert misfit(row("sd")) is None and misfit(row("mvdream", recipe="mvdream")) is None
    assert misfit(row("zero123-xl", image=IMAGE)) is None and misfit(row("starter-image")) is None
    assert misfit(row("sd", {"geometry.perp_neg": True, "texture.perp_neg": True})) is None
    assert misfit(row("sd", {"geometry.shown": "lit", "appearance.shown": "normals"})) is None  # of no steps
    assert misfit(row("mvdream", {"texture.steps": 0}, recipe="mvdream")) is None


@pytest.mark.parametrize(
    ("kind", "changes", "spec", "field", "said"),
    [
        ("zero123-xl", {}, {}, "image", "needed: image_prior .* is shown a picture and reads no prompt"),
        ("sd", {}, {"image": IMAGE}, "image", "none, since image_prior .* reads prompts alone; .* dreamgaussian-image"),
        ("zero123-xl", {}, {"image": IMAGE, "negative_prompt": "dust"}, "negative_prompt", "none: .* reads no prompt"),
        ("mvdream", {"geometry.views": 6}, {}, "geometry.views", "a multiple of 4: .* looks at 4 views together"),
        ("mvdream", {"geometry.views": 8}, {}, "texture.views", "a multiple of 4"),
        ("starter-image", {"geometry.perp_neg": True}, {}, "geometry.perp_neg", "false: it needs view words, and"),
        ("starter-image", {"texture.perp_neg": True}, {}, "texture.perp_neg", "false: it needs view words, and"),
        ("starter-image", {"geometry.view_prompts": True}, {}, "geometry.view_prompts", "false: it needs view words"),
        ("starter-image", {"geometry.front_words": ["face"]}, {}, "geometry.front_words", "none: .* told the camera"),
        ("sd", {"geometry.front_words": ["face"], "geometry.view_prompts": False}, {}, "geometry.front_words",
         "none: they need view words, and geometry.view_prompts is off"),
        ("sd", {"geometry.shown": "normals"}, {}, "geometry.shown", "unlit or lit, which are all that"),
        ("sd", {"geometry.shown": "lit", "init.sh_degree": 1}, {}, "init.sh_degree", "0: geometry.shown is lit"),
    ],
)
def test_what_does_not_fit_is_told_by_field(row, kind, changes, spec, field, said):
    found = misfit(row(kind, changes, **spec))
    assert found is not None and found[0] == field and re.match(said, found[2]), found


def test_view_words_are_refused_where_somebody_asks_for_them_and_are_nothing_by_default(checkpoint, tmp_path):
    path, prior = tmp_path / "props.csv", {"image_prior": str(checkpoint("starter-image"))}
    path.write_text("prompt,geometry.view_prompts\na mug,true\na cup,\na jug,false\n")
    asked, *others = load_manifest(path, overrides=prior).specs
    assert misfit(asked)[:2] == ("geometry.view_prompts", True) and not any(map(misfit, others))
    swapped = prior | {"geometry.view_prompts": False, "texture.view_prompts": True}
    for spec in load_manifest(path, recipe="draft", overrides=swapped).specs:
        assert misfit(spec)[0] == "texture.view_prompts"
    assert misfit(asked.model_copy(update={"recipe": asked.recipe.override({"geometry.steps": 0})})) is None


def test_a_name_that_does_not_tell_which_training_it_is_is_asked_before_it_is_loaded(checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint("zero123-xl"), tmp_path / "novel-views")
    with pytest.raises(RequestError, match="the name does not say whether this is Zero-1-to-3 or Stable Zero123"):
        takes(str(folder))


def test_asking_loads_no_torch():
    code = "import pipeline_core.priors.takes, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
