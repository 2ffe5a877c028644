"""A tokenizer that is cut short is named: its libraries would read prompts as other tokens and say nothing."""

import json

import pytest

from pipeline_core.priors import tokenizer_files
from pipeline_core.priors.tokenizer_files import tokenizer_problems


@pytest.fixture
def clip(tmp_path):
    """A byte-pair tokenizer of 1500 merges, in CLIP's layout."""
    letters = [chr(ord("a") + i) for i in range(26)]
    merges = [(a, b) for a in letters for b in letters] + [(a + b, c) for a in letters for b in letters for c in "xy"]
    merges = merges[:1500]
    words = [*letters, *(a + b for a, b in merges), "<|startoftext|>", "<|endoftext|>"]
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(map(" ".join, merges)) + "\n")
    (folder / "tokenizer_config.json").write_text("{}")
    return folder


def test_a_whole_tokenizer_has_no_problems(clip):
    assert tokenizer_problems(clip.parent, "tokenizer") == []
    assert tokenizer_problems(clip, "") == []


@pytest.mark.parametrize(
    "file, keep, message",
    [
        ("vocab.json", 900, "tokenizer/vocab.json is not readable JSON"),
        ("tokenizer_config.json", 1, "tokenizer/tokenizer_config.json is not readable JSON"),
        ("merges.txt", 14 + 4 * 400 + 1, "tokenizer/merges.txt is cut short or of another vocabulary: 'p'"),
        ("merges.txt", 14 + 4 * 300, "tokenizer/merges.txt is cut short: 300 merges cannot make the 1528 words"),
        ("merges.txt", 0, "tokenizer/merges.txt is cut short: 0 merges"),
    ],
)
def test_each_file_that_is_cut_short_is_named(clip, file, keep, message):
    (clip / file).write_bytes((clip / file).read_bytes()[:keep])
    [problem] = tokenizer_problems(clip.parent, "tokenizer")
    assert problem.startswith(message)


def test_a_large_file_is_looked_at_from_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_files, "LARGE", 100)
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({"model": {"vocab": list(range(100))}}) + "\n")
    assert tokenizer_problems(tmp_path, "") == []
    path.write_bytes(path.read_bytes()[:200])
    assert tokenizer_problems(tmp_path, "") == ["tokenizer.json is cut short: it does not end as JSON does"]


def piece(text, score=b"\x15\0\0\0\0"):
    field = b"\x0a" + bytes([len(text)]) + text + score
    return b"\x0a" + bytes([len(field)]) + field


def test_sentencepiece_models_say_their_own_length(tmp_path):
    whole = b"".join(piece(text) for text in (b"<unk>", b"a", b"red", b"mug")) + b"\x12\x02\x18\x01"
    path = tmp_path / "spiece.model"
    path.write_bytes(whole)
    assert tokenizer_problems(tmp_path, "") == []
    for cut in (0, 3, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        [problem] = tokenizer_problems(tmp_path, "")
        assert problem.startswith("spiece.model is cut short or is no sentencepiece model"), cut


def test_what_is_missing_is_named_with_what_would_do(tmp_path):
    [problem] = tokenizer_problems(tmp_path, "tokenizer_2")
    assert problem.startswith(
        "tokenizer_2/tokenizer.json is missing (or tokenizer_2/vocab.json with tokenizer_2/merges"
    )
