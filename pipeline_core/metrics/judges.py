"""Which judge scores a prompt: the starter's inside its words, outside them the one that the recipe names, or none.

    judge_of("a red mug", recipe.evaluate)          # "starter"
    caption_of("a mug in crimson")                  # None: a word that the starter's judge never met

Nothing here loads torch: the plan of an asset says who will judge it. The starter's grammar is loaded at first use.
"""

from __future__ import annotations

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_core.config import Evaluate
from pipeline_core.priors.wording import plain

if TYPE_CHECKING:
    from pipeline_core.props.props import PropSpec

WEIGHTS = Path(__file__).parent / "weights" / "judge"


@lru_cache(maxsize=1)
def judged_words() -> frozenset[str]:
    """The words that the starter's judge was trained on; the captions' where there is no judge."""
    from pipeline_core.props.captions import VOCABULARY

    file = WEIGHTS / "config.json"
    return frozenset(json.loads(file.read_text())["words"]) if file.is_file() else frozenset(VOCABULARY)


@lru_cache(maxsize=1)
def judged_categories() -> tuple[str, ...]:
    """The categories that the starter's judge was trained on, in their order."""
    from pipeline_core.props.props import CATEGORIES

    return tuple(name for name in CATEGORIES if name in judged_words())


def caption_of(prompt: str) -> PropSpec | None:
    """What ``prompt`` says in the grammar of the starter's judge, all of it; None where a word is none of its words,
    where more than one thing is named, or where the thing or its colour is not."""
    from pipeline_core.props.captions import SYNONYMS, parse_caption

    text = plain(prompt)
    words = [SYNONYMS.get(word, word) for word in re.findall(r"[^\W_]+", text.lower())]
    if not judged_words().issuperset(words):
        return None
    spec = parse_caption(text)
    if spec is None or spec.on is not None or spec.category not in judged_categories():
        return None
    things = [i for i, word in enumerate(words) if word in judged_categories() and word != spec.part]
    return None if things[-1] - things[0] >= len(things) else spec


def judge_of(prompt: str, settings: Evaluate) -> str | None:
    """``starter``, ``evaluate.judge``, or None where nobody can tell whether an asset shows ``prompt``."""
    if caption_of(prompt) is not None and (WEIGHTS / "model.safetensors").is_file():
        return "starter"
    return settings.judge


@lru_cache(maxsize=1)
def starter_id() -> str:
    """Name and content of the starter's judge."""
    return judge_id("starter", WEIGHTS)


def judge_id(name: str, folder: Path) -> str:
    """Name and content of a judge of splatmill's own."""
    return f"judge-{name}@{hashlib.sha256((folder / 'model.safetensors').read_bytes()).hexdigest()[:16]}"
