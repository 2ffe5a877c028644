"""docs/METHODS.md names what there is: every choice of a field, and no field that no recipe has."""

import re
from typing import get_args

import pytest

from pipeline_core.config import RECIPES, Distill, Dress, Init, Texture, leaf_names
from pipeline_core.guidance.variants import VARIANTS
from pipeline_core.manifest import FIELDS as COLUMNS
from pipeline_core.manifest import load_manifest
from pipeline_core.spec import Part
from pipeline_core.stages import names
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "METHODS.md").read_text()
SPANS = set(re.findall(r"`([^`]+)`", PAGE))
FIELDS = dict.fromkeys(("guidance", "shown", "t_schedule", "weighting"), Distill)
FIELDS |= {"start": Init, "method": Texture, "splat": Dress}
CHOICES = {name: get_args(section.model_fields[name].annotation) for name, section in FIELDS.items()}
OTHERS = {"janus_score", "optimised_iou", "splatmill.json", "asset.json", "assets.part_prompts", "spec"}
THEIRS = {"base.yaml", "corgi.yaml", "regular.yaml", "mean_only", "depth_detach", "center_weighted"}  # GSGen's
ROWS = {*COLUMNS, *Part.model_fields, *names()}


@pytest.mark.parametrize("field", CHOICES)
def test_every_choice_is_on_the_page(field):
    assert {field, *CHOICES[field]} <= SPANS | {span.rpartition(".")[2] for span in SPANS}


def test_every_word_in_code_is_a_field_or_a_choice_of_one():
    known = {part for name in leaf_names() for part in (name, name.rpartition(".")[2], name.partition(".")[0])}
    known |= {name.rpartition(".")[0] for name in leaf_names()} | OTHERS | ROWS
    known |= {choice for choices in CHOICES.values() for choice in choices} | set(CHOICES) | set(RECIPES)
    named = {span.partition("=")[0] for span in SPANS if re.fullmatch(r"[a-z_.]+(=.*)?", span)}
    assert {name for name in named if name not in known and not (ROOT / name).exists()} <= THEIRS


def test_defaults_are_as_the_page_has_them():
    told = Distill()
    assert set(VARIANTS) == set(CHOICES["guidance"]) and f"| `{told.guidance}` (default) |" in PAGE
    for field in ("ism_interval", "inversion_noise", "target_steps"):
        assert f"`{field}` ({getattr(told, field):g})" in PAGE


def test_the_row_of_parts_is_one_that_is_read(tmp_path):
    (text,) = re.findall(r"^    - id: .*\n(?:    .*\n)+", PAGE, re.MULTILINE)
    (tmp_path / "desk.yaml").write_text(text)
    (spec,) = load_manifest(tmp_path / "desk.yaml").specs
    assert [part.told for part in spec.parts] == [
        "a brown table, size 1 x 0.7 x 0.7, at 0, 0, 0", "a red book, size 0.4, at 0, 0.7, 0, turned 0, 20, 0",
    ]  # fmt: skip
    assert all(f"| `{name}` |" in PAGE for name in Part.model_fields)
    assert f"`part_views` of the cameras ({Distill().part_views:g})" in PAGE


def test_the_front_page_links_to_it():
    assert "](docs/METHODS.md)" in (ROOT / "README.md").read_text()
