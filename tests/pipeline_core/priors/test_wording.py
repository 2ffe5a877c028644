"""Weights as image tools write them, and the cut that leaves the view word alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline_core.priors.wording import VIEW_WORDS, cut, plain, read_literally, view_prompt, weighted, without


@pytest.mark.parametrize(
    "text, parts",
    [
        ("a (red:1.3) mug", [("a ", 1), ("red", 1.3), (" mug", 1)]),
        ("(a red mug:1.3), [handle]", [("a red mug", 1.3), (", [handle]", 1)]),
        ("((a:1.5) mug:0.5)", [("a", 0.75), (" mug", 0.5)]),
        ("(a (red) mug: .5 )", [("a (red) mug", 0.5)]),
        (r"a \(red:1.3\) mug", [("a (red:1.3) mug", 1)]),
        ("(a (b:2)", [("(a ", 1), ("b", 2)]),
    ],
)
def test_weights_are_read(text, parts):
    assert weighted(text) == parts and plain(text) == "".join(part for part, _ in parts)


@pytest.mark.parametrize(
    "text", ["a mug (red)", "((masterpiece))", "a) (b", "[handle]", "a mug, 16:9", "C:\\mug", "(:1)"]
)
def test_what_is_no_weight_stays_as_it_is(text):
    assert weighted(text) == [(text, 1)]


@pytest.mark.parametrize(
    "text, parts",
    [("(a mug:abc) (b:1e9)", ["(a mug:abc)", "(b:1e9)"]), ("(16:9)", ["(16:9)"]), ("(a:-1)", ["(a:-1)"]),
     ("(a:1.2), [handle]", ["[handle]"]), ("a mug (red) (note: by hand)", [])],
)  # fmt: skip
def test_what_looks_like_a_weight_and_is_none_is_told(text, parts):
    assert read_literally(text) == parts and all(part in plain(text) for part in parts)


@given(st.text(max_size=40))
def test_any_text_is_read(text):
    assert plain(text) in (text, "".join(part for part, _ in weighted(text)))
    if not set("()") & set(text):
        assert weighted(text) == [(text, 1)] and plain(text) == text


def tokens(text):
    return len(text.replace(",", " ,").split())


@given(st.lists(st.sampled_from(["a", "red", "mug,", "table"]), min_size=1, max_size=30), st.sampled_from(VIEW_WORDS))
def test_the_prompt_is_cut_and_never_its_view_word(words, view):
    prompt = " ".join(words)
    text = cut(view_prompt(prompt, view), 8, tokens)
    assert tokens(text) <= 8 and text.endswith(f"{view} view")
    assert prompt.startswith(text.removesuffix(f", {view} view"))
    if tokens(view_prompt(prompt, view)) <= 8:
        assert text == view_prompt(prompt, view)
    assert cut(prompt, 8, tokens) == prompt  # without a view word the tokenizer cuts


def test_a_prompt_without_spaces_is_cut_within():
    assert cut("红色的杯子, side view", 13, len) == "红色, side view"
    assert cut("mug, side view", 1, tokens) == "side view"


@pytest.mark.parametrize(
    ("prompt", "words", "rest"),
    [
        ("a Smiling cat with a red hat", ["smiling"], "a cat with a red hat"),
        ("a cat, smiling, on a mat", ["smiling"], "a cat, on a mat"),
        ("a (smiling:1.3) cat with (big eyes:1.2)", ["smiling", "big eyes"], "a cat with"),
        ("a clock face", ["face", "surface"], "a clock"),
        ("a surface", ["face"], "a surface"),
        ("smiling face", ["face", "smiling"], "smiling face"),
        ("a cat (sitting), smiling", [], "a cat (sitting), smiling"),
    ],
)
def test_words_are_left_out(prompt, words, rest):
    assert without(prompt, words) == rest
