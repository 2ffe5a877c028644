"""docs/METHODS.md names what there is: every choice of a field, and no field that no recipe has."""

import re
from typing import get_args

import pytest

from pipeline_core.config import RECIPES, Distill, Init, Texture, leaf_names
from pipeline_core.guidance.variants import VARIANTS
from tests.docs.pages import ROOT

PAGE = (ROOT / "docs" / "METHODS.md").read_text()
SPANS = set(re.findall(r"`([^`]+)`", PAGE))
FIELDS = dict.fromkeys(("guidance", "shown", "t_schedule", "weighting"), Distill) | {"start": Init, "method": Texture}
CHOICES = {name: get_args(section.model_fields[name].annotation) for name, section in FIELDS.items()}
OTHERS = {"janus_score", "splatmill.json"}


@pytest.mark.parametrize("field", CHOICES)
def test_every_choice_is_on_the_page(field):
    assert {field, *CHOICES[field]} <= SPANS | {span.rpartition(".")[2] for span in SPANS}


def test_every_word_in_code_is_a_field_or_a_choice_of_one():
    known = {part for name in leaf_names() for part in (name, name.rpartition(".")[2], name.partition(".")[0])}
    known |= {name.rpartition(".")[0] for name in leaf_names()}
    known |= {choice for choices in CHOICES.values() for choice in choices} | set(CHOICES) | OTHERS | set(RECIPES)
    named = {span.partition("=")[0] for span in SPANS if re.fullmatch(r"[a-z_.]+(=.*)?", span)}
    assert {name for name in named if name not in known and not (ROOT / name).exists()} <= {"corgi.yaml"}


def test_defaults_are_as_the_page_has_them():
    told = Distill()
    assert set(VARIANTS) == set(CHOICES["guidance"]) and f"| `{told.guidance}` (default) |" in PAGE
    for field in ("ism_interval", "inversion_noise"):
        assert f"`{field}` ({getattr(told, field):g})" in PAGE


def test_the_front_page_links_to_it():
    assert "](docs/METHODS.md)" in (ROOT / "README.md").read_text()
