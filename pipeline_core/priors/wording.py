"""What prompts are written in: view words at their end, weights in them, and the cut where a prior's window ends.

    view_prompt("a mug", "front")                   # 'a mug, front view'
    without("a smiling cat", ["smiling"])           # 'a cat'
    weighted("a (red:1.3) mug")                     # [('a ', 1.0), ('red', 1.3), (' mug', 1.0)]
    cut("a mug on a table, front view", 4, len_of)  # 'a, front view': the prompt is cut, never the view word

A weight is written as users of image tools write it, ``(words:1.3)``, nested if need be. All other brackets are
characters like others: ``(red)`` and ``[red]`` have no weight. ``\\(`` and ``\\)`` are never part of a weight.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Collection

VIEW_WORDS = ("front", "side", "back", "overhead")
LONGEST_VIEW = "overhead"
MAX_WEIGHT = 4.0

_VIEW = re.compile(rf", (?:{'|'.join(VIEW_WORDS)}) view$")
_MARKS = re.compile(r"\\[()]|[()]|(?:[^\\()]|\\(?![()]))+")
_WEIGHT = re.compile(r":\s*(\d*\.?\d+)\s*$")
_LIKE_A_WEIGHT = re.compile(r":\s*[^\s:]+\s*$")


def view_prompt(prompt: str, word: str) -> str:
    """``prompt`` with its view word, in the wording of DreamFusion's successors."""
    return f"{prompt}, {word} view"


def without(prompt: str, words: Collection[str]) -> str:
    """``prompt`` without these words, whatever their case, and without brackets that held nothing else. A prompt of
    which nothing would be left stays whole."""
    if not words:
        return prompt
    named = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    rest = re.sub(rf"(?<!\w)(?:{named})(?!\w)", "", prompt, flags=re.IGNORECASE)
    rest = re.sub(r"\(\s*(?::\s*\d*\.?\d+\s*)?\)", "", rest)
    rest = re.sub(r"\s+(?=[,.;)\s])", "", rest)
    rest = re.sub(r",{2,}", ",", rest).strip(" ,")
    return rest if re.search(r"\w", rest) else prompt


def cut(text: str, room: int, count: Callable[[str], int]) -> str:
    """``text`` without the last words of its prompt, so that its view word is among the ``room`` tokens that ``count``
    counts. A text without view word stays as it is: tokenizers cut the end by themselves."""
    view = _VIEW.search(text)
    if view is None or count(text) <= room:
        return text
    prompt, tail = text[: view.start()], view[0]
    words = [match.end() for match in re.finditer(r"\S+", prompt)]
    for ends in (words, range(1, words[0] if words else 0)):  # one word alone may be too long: Chinese has no spaces
        low, high = 0, len(ends)
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if count(prompt[: ends[middle - 1]] + tail) <= room else (low, middle - 1)
        if low:
            return prompt[: ends[low - 1]] + tail
    return tail.removeprefix(", ")


def weighted(text: str) -> list[tuple[str, float]]:
    """The parts of ``text`` with their weights; ``[(text, 1.0)]`` where no weight is written."""
    return _read(text)[0]


def plain(text: str) -> str:
    """``text`` without its weights: the words alone."""
    return "".join(part for part, _ in weighted(text))


def read_literally(text: str) -> list[str]:
    """What looks like a weight in ``text`` and is none: ``(a mug:abc)``, ``(a mug:99)``, ``[handle]``."""
    return _read(text)[1] + re.findall(r"\[[^\[\]]*\]", text)


def _read(text: str) -> tuple[list[tuple[str, float]], list[str]]:
    """The parts with their weights, and the brackets that look like a weight and are none."""
    if "(" not in text and ")" not in text:
        return [(text, 1.0)], []
    parts: list[tuple[str, float]] = []
    opened: list[int] = []
    literal: list[str] = []
    for mark in _MARKS.findall(text):
        if mark == ")" and opened:
            start = opened.pop()
            inside = parts[start + 1 :]
            words = "".join(part for part, _ in inside)
            found = _WEIGHT.search(inside[-1][0]) if inside else None
            if found and words[: -len(found[0])].strip() and float(found[1]) <= MAX_WEIGHT:
                inside[-1] = inside[-1][0][: found.start()], inside[-1][1]
                parts[start:] = [(part, weight * float(found[1])) for part, weight in inside if part]
                continue
            if inside and _LIKE_A_WEIGHT.search(inside[-1][0]):
                literal.append(f"({words})")
        if mark == "(":
            opened.append(len(parts))
        parts.append((mark[1:] if mark in ("\\(", "\\)") else mark, 1.0))
    runs = itertools.groupby(parts, key=lambda part: part[1])
    return [("".join(part for part, _ in run), weight) for weight, run in runs], literal
