"""Every known word is one token; unknown ones fall apart without failing."""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from transformers import CLIPTokenizer

from pipeline_core.training.tokenizer import build_tokenizer, learn_merges, tokenize
from pipeline_core.training.words import words

# "potion" comes before "spots" in merge order: naive chains would split the latter into s, pot, s.
TRICKY = ["potion", "pot", "spots", "spot", "stop", "post", "pots", ",", "a", "an", "anvil"]


def one_token_each(tokenizer: CLIPTokenizer, known: list[str]) -> bool:
    return all(len(tokenizer(word).input_ids) == 3 for word in known)


def test_words_sharing_pieces_stay_whole():
    assert one_token_each(build_tokenizer(TRICKY), TRICKY)


def test_every_word_of_the_captions_is_one_token():
    tokenizer = build_tokenizer(words())
    known = [w for w in words() if not any(c.isdigit() for c in w)]  # CLIP takes digits one by one
    assert one_token_each(tokenizer, known)
    assert len({tuple(tokenizer(word).input_ids) for word in known}) == len(known)


def test_a_caption_is_its_words():
    tokenizer = build_tokenizer(words(), max_length=24)
    text = "a red mushroom with white spots, left side view"
    assert tokenizer.convert_ids_to_tokens(tokenizer(text).input_ids)[1:-1] == [
        f"{w}</w>" for w in text.replace(",", " ,").split()
    ]


def test_unknown_words_and_scripts_do_not_fail():
    tokenizer = build_tokenizer(TRICKY, max_length=8)
    ids = tokenize(tokenizer, ["Zorblax née 猫!", "", "a " * 50])
    assert ids.shape == (3, 8)
    assert int(ids.max()) < len(tokenizer)
    assert ids[1, 1] == tokenizer.eos_token_id


def test_merges_do_not_depend_on_the_order_of_words():
    assert learn_merges(TRICKY) == learn_merges(reversed(TRICKY))


def test_round_trip(tmp_path):
    tokenizer = build_tokenizer(TRICKY, max_length=8)
    tokenizer.save_pretrained(tmp_path)
    twin = CLIPTokenizer.from_pretrained(tmp_path)
    assert twin.model_max_length == 8
    assert twin("spots potion zorb").input_ids == tokenizer("spots potion zorb").input_ids


def test_threads_that_share_a_tokenizer_do_not_take_each_others_padding():
    tokenizer, interval = build_tokenizer(words(), max_length=24), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(4) as pool:
            texts = ["", "a red mushroom, front view"] * 300
            shapes = pool.map(lambda text: tuple(tokenize(tokenizer, [text]).shape), texts)
        assert set(shapes) == {(1, 24)}
    finally:
        sys.setswitchinterval(interval)
