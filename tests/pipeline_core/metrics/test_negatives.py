"""Hard negatives: what they are called is what they are, and none of them is true as well."""

import numpy as np
import pytest

from pipeline_core.metrics.negatives import (
    HARDER,
    also_true,
    candidates,
    free_candidates,
    full,
    other_category,
    other_colour,
    swapped,
)
from pipeline_core.props.captions import caption, parse_caption
from pipeline_core.props.props import PropSpec, sample_spec

SPOTTED = PropSpec("mushroom", "red", "white", "spots")


@pytest.mark.parametrize(
    ("said", "thing", "verdict"),
    [
        (PropSpec("mushroom", "red"), SPOTTED, True),  # says less
        (SPOTTED, PropSpec("mushroom", "red"), False),
        (PropSpec("mushroom", "white", "red", "spots"), SPOTTED, False),
        (PropSpec("mushroom", "red", "white"), SPOTTED, True),  # spots are a mushroom's first part
        (PropSpec("mug", "red", "white", "checks"), PropSpec("mug", "white", "red", "checks"), True),
        (PropSpec("chest", "red", material="wooden"), PropSpec("chest", "red"), True),
        (PropSpec("crate", "red"), PropSpec("chest", "red"), False),
    ],
)
def test_which_captions_are_true_as_well(said, thing, verdict):
    assert also_true(said, thing) is verdict


@pytest.mark.parametrize("text", ["a red mushroom with white spots", "a teal mug", "a blue table with yellow checks"])
def test_the_harder_ones_are_128_that_are_not_true(text):
    spec = full(parse_caption(text))
    texts, kinds = candidates(spec, 128, HARDER)
    assert texts[0] == caption(spec) and len(set(texts)) == len(kinds) == 128
    assert not any(also_true(full(parse_caption(other)), spec) for other in texts[1:])
    assert kinds.count("colour") >= 10 and kinds.count("category") >= 60
    two = spec.colour2 is not None
    assert ("swapped" in kinds) == (two and spec.part != "checks") and ("part" in kinds) <= two


def test_candidates_are_what_their_kinds_say():
    rng = np.random.default_rng(0)
    for _ in range(60):
        spec = full(sample_spec(rng, split="all"))
        texts, kinds = candidates(spec)
        assert len(texts) == len(kinds) == len(set(texts)) == 32
        assert texts[0] == caption(spec) and kinds[0] == "truth" and kinds.count("truth") == 1
        assert kinds.count("colour") >= 10 and kinds.count("category") == 9
        assert kinds.count("swapped") == (spec.colour2 is not None and spec.part != "checks")
        for text, kind in zip(texts[1:], kinds[1:]):
            negative = full(parse_caption(text))
            assert not also_true(negative, spec), (texts[0], text)
            same = (negative.category == spec.category, negative.colour == spec.colour)
            if kind in ("colour", "swapped"):
                assert same == (True, False)
            if kind == "category":
                assert same == (False, True) and negative.colour2 == spec.colour2
            if kind == "colour2":
                assert same == (True, True) and negative.part == spec.part and negative.colour2 != spec.colour2


def test_candidates_depend_on_the_caption_alone():
    assert candidates(SPOTTED) == candidates(PropSpec("mushroom", "red", "white", "spots", seed=9))
    assert candidates(SPOTTED)[0][1:] != candidates(PropSpec("mushroom", "red"))[0][1:]


def test_no_negative_asks_for_something_impossible():
    rng = np.random.default_rng(1)
    golden = PropSpec("key", "yellow", material="golden")
    assert other_colour(golden, rng).material is None  # gold is yellow
    assert swapped(PropSpec("key", "red")) is None
    assert caption(swapped(SPOTTED)) == "a white mushroom with red spots"
    assert {other_category(SPOTTED, rng).colour2 for _ in range(20)} == {"white"}


@pytest.mark.parametrize(
    ("prompt", "among"),
    [
        ("a photo of a red dragon with blue wings", {"a photo of a blue dragon with red wings"}),
        ("a photo of a red dragon with blue wings", {"a photo of a red zebra with blue wings"}),
        ("an old, rusty iron gate", {"an old, rusty glass gate", "a brand-new, rusty iron gate"}),
        ("a corgi wearing a beret", {"an octopus wearing a beret", "a teapot wearing a beret"}),
        ("two wooden owls", {"five wooden owls"}),
        ("teapot", {"violin"}),
        ("一只红色的龙", {"violin"}),
    ],
)
def test_any_text_has_negatives_of_its_own_words(prompt, among):
    for count in (32, 200):
        texts, kinds = free_candidates(prompt, count)
        assert texts[0] == prompt and kinds[0] == "truth" and len(texts) == len(set(texts)) == len(kinds) >= 32
        assert (texts, kinds) == free_candidates(prompt, count)
    assert among <= {text.replace("an brand", "a brand") for text in texts}


def test_a_word_is_never_replaced_by_one_that_means_the_same():
    texts, _ = free_candidates("a tiny gray golden teapot", 200)
    assert not {"a small gray golden teapot", "a tiny grey golden teapot", "a tiny gray gold teapot"} & {*texts}
    assert "a tiny golden gray teapot" in texts and "a huge gray golden teapot" in texts
