"""Captions: natural, in a closed vocabulary, and readable back."""

import dataclasses

import numpy as np
import pytest

from pipeline_core.props.captions import SYNONYMS, VOCABULARY, caption, parse_caption
from pipeline_core.props.props import CATEGORIES, COLOURS, PropSpec, parts_of, sample_spec


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        (PropSpec("mushroom", "red", "white", "spots"), "a red mushroom with white spots"),
        (PropSpec("mushroom", "red", "white"), "a red mushroom with white spots"),
        (PropSpec("chest", "blue", material="wooden"), "a blue wooden chest"),
        (PropSpec("key", "yellow", material="golden"), "a golden key"),
        (PropSpec("lamp", "orange"), "an orange lamp"),
        (PropSpec("house", "white", "blue", "roof"), "a white house with blue roof"),
        (PropSpec("book", "red", on=PropSpec("table", "brown")), "a red book on a brown table"),
        (PropSpec("vase", "white", material="glass"), "a white glass vase"),
        (
            PropSpec("mug", "red", "white", "stripes", on=PropSpec("pedestal", "grey", material="stone")),
            "a red mug with white stripes on a grey stone pedestal",
        ),
    ],
)
def test_canonical_captions(spec, text):
    assert caption(spec) == text


def unseeded(spec):
    return dataclasses.replace(spec, seed=0, on=spec.on and unseeded(spec.on))


def test_every_caption_stays_in_the_vocabulary_and_reads_back():
    rng = np.random.default_rng(0)
    known, seen = set(VOCABULARY), set()
    assert len(known) == len(VOCABULARY)
    for _ in range(8000):
        spec = sample_spec(rng, split="all")
        for text in (caption(spec), caption(spec, rng)):
            assert text == " ".join(text.split()).lower()
            assert set(text.split()) <= known, text
            assert parse_caption(text) == unseeded(spec), text
            seen.add(text)
    assert len(seen) > 8000


def test_paraphrases_vary_and_repeat_with_the_generator():
    spec = PropSpec("mug", "red", "white", "stripes")
    texts = {caption(spec, np.random.default_rng(s)) for s in range(200)}
    assert len(texts) > 15
    assert {"a red mug with white stripes", "red mug with white stripes"} <= texts
    assert any("striped" in t for t in texts)
    assert caption(spec, np.random.default_rng(3)) == caption(spec, np.random.default_rng(3))


def test_vocabulary_holds_every_name_and_the_view_words():
    parts = {p for c in CATEGORIES for p in parts_of(c)}
    views = {"front", "back", "left", "right", "side", "top", "view", "overhead", "low", "high"}
    assert set(VOCABULARY) >= {*CATEGORIES, *COLOURS, *parts, *views}
    assert all(w.isalnum() and w == w.lower() for w in VOCABULARY)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("A rusty red Barrel with black bands, game asset", PropSpec("barrel", "red", "black", "bands")),
        ("a wooden chair", PropSpec("chair", "brown", material="wooden")),
        ("a stone well with a red roof", PropSpec("well", "grey", "red", "roof", "stone")),
        ("gold coin", PropSpec("coin", "yellow", material="golden")),
        ("a blue mug", PropSpec("mug", "blue")),
        ("a red and white striped mug", PropSpec("mug", "red", "white", "stripes")),
        ("the lantern is green", PropSpec("lantern", "green")),
        ("a gray gravestone", PropSpec("tombstone", "grey")),
        ("a red mushroom house with blue roof", PropSpec("house", "red", "blue", "roof")),
        ("a green chest with golden bands", PropSpec("chest", "green", "yellow", "bands")),
        ("a green table with a red lamp on it", PropSpec("table", "green")),
        ("a blue gem, front view", PropSpec("gem", "blue")),
        ("a golden crown on a stone pedestal",
         PropSpec("crown", "yellow", material="golden", on=PropSpec("pedestal", "grey", material="stone"))),
        ("a red apple on top of the blue crate", PropSpec("apple", "red", on=PropSpec("crate", "blue"))),
        ("a red house on a brown table", PropSpec("house", "red")),
        ("a red mug on a table", PropSpec("mug", "red")),
        ("a red house with a green door", PropSpec("house", "red", "green", "door")),
        ("a golden ring with a red gem", PropSpec("ring", "yellow", "red", "gem", "golden")),
        ("a pair of blue spades", None),
        ("a brown bookcase with red books", PropSpec("shelf", "brown", "red", "books")),
        ("a ceramic urn", PropSpec("vase", "orange", material="clay")),
        ("a corgi astronaut", None),
        ("a chair", None),
        ("", None),
    ],
)  # fmt: skip
def test_free_text_is_understood(text, spec):
    assert parse_caption(text) == spec


def test_the_words_of_before_are_still_words():
    """A network goes on from an older one's embeddings, word by word."""
    before = {"stool", "flag", "box", "cup", "tree", "sign", "crystal", "dots", "banner", "wooden", "stripes", "single"}
    assert before <= {*VOCABULARY, *SYNONYMS}
    assert set(SYNONYMS) & set(VOCABULARY) == {"striped", "spotted", "checkered"}
    assert set(SYNONYMS.values()) <= set(VOCABULARY)
