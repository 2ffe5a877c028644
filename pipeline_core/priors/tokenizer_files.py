"""Whether a tokenizer's files are there and whole: one that is cut short misreads prompts, in silence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

TOKENIZER_SETS = (("tokenizer.json",), ("vocab.json", "merges.txt"), ("spiece.model",))
"""Any one is enough; the first that is there is read."""
LARGE = 1 << 22
"""Bytes above which JSON is looked at from its end only: a plan must not wait for it."""
UNMERGED = 1000
"""At most so many words of a vocabulary come of no merge: bytes, bytes that end a word, special tokens."""


def tokenizer_problems(folder: Path, name: str) -> list[str]:
    """One sentence for each file of ``folder/name`` that is missing or damaged."""
    part, place = folder / name, f"{name}/" if name else ""
    files = next((files for files in TOKENIZER_SETS if all((part / file).is_file() for file in files)), None)
    if files is None:
        sets = f"{place}vocab.json with {place}merges.txt, or {place}spiece.model"
        return [f"{place}tokenizer.json is missing (or {sets})"]
    beside = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
    read = [*files, *(file for file in beside if (part / file).is_file())]
    problems = [f"{place}{file} {problem}" for file in read if (problem := CHECKS.get(file, _json)(part / file))]
    return problems or _chat_problems(part, place)


def _chat_problems(part: Path, place: str) -> list[str]:
    """Where the tokenizer is a language model's (Qwen), whose prompts are put into the frame of a chat."""
    config = part / "tokenizer_config.json"
    told = json.loads(config.read_text(encoding="utf-8")) if config.is_file() else {}
    if (part / "chat_template.jinja").is_file() or told.get("chat_template"):
        return []
    chats = str(told.get("tokenizer_class", "")).startswith("Qwen")
    return [f"{place}chat_template.jinja is missing, and {place}tokenizer_config.json has none"] if chats else []


def _json(path: Path) -> str | None:
    if path.stat().st_size > LARGE:
        with path.open("rb") as file:
            file.seek(-64, 2)
            return None if file.read().rstrip().endswith(b"}") else "is cut short: it does not end as JSON does"
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        return f"is not readable JSON: {error}; it is cut short or damaged"
    return None


def _merges(path: Path) -> str | None:
    """The last line may be half, and lines may lack: each makes one word of the vocabulary beside it."""
    if _json(path.with_name("vocab.json")):
        return None  # that is told already
    words = json.loads(path.with_name("vocab.json").read_text(encoding="utf-8"))
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    merges = [line.split() for line in lines if line.strip() and not line.startswith("#version")]
    wrong = next((pair for pair in merges if len(pair) != 2 or "".join(pair) not in words), None)
    if wrong:
        return f"is cut short or of another vocabulary: {' '.join(wrong)!r} makes no word of vocab.json"
    if len(words) - len(merges) > UNMERGED:
        return f"is cut short: {len(merges)} merges cannot make the {len(words)} words of vocab.json"
    return None


def _pieces(path: Path) -> str | None:
    """A sentencepiece model is a protocol buffer: fields that say their own length."""
    data, at = path.read_bytes(), 0
    while at < len(data):
        key, at = _number(data, at)
        if key & 7 == 0:
            _, at = _number(data, at)
        elif key & 7 == 2:
            length, at = _number(data, at)
            at += length
        else:
            at += {1: 8, 5: 4}.get(key & 7, len(data))
    return None if data and at == len(data) else f"is cut short or is no sentencepiece model ({len(data)} bytes)"


def _number(data: bytes, at: int) -> tuple[int, int]:
    """The variable-length number at ``at``, and where it ends; past the end where the data does not hold it whole."""
    value, shift = 0, 0
    while at < len(data):
        value |= (data[at] & 127) << shift
        at, shift = at + 1, shift + 7
        if data[at - 1] < 128:
            return value, at
    return value, len(data) + 1


CHECKS: dict[str, Callable[[Path], str | None]] = {"merges.txt": _merges, "spiece.model": _pieces}
