"""Which judge scores a prompt: the starter's inside its words, outside them the one that the recipe names, or none.

    judge_of("a red mug", recipe.evaluate)          # "starter"
    caption_of("a mug in crimson")                  # None: a word that the starter's judge never met

Nothing here loads torch: the plan of an asset says who will judge it. The starter's grammar is loaded at first use.
"""

from __future__ import annotations

import hashlib
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline_core.config import Evaluate
from pipeline_core.priors.wording import plain

if TYPE_CHECKING:
    from pipeline_core.props.props import PropSpec

WEIGHTS = Path(__file__).parent / "weights" / "judge"


def caption_of(prompt: str) -> PropSpec | None:
    """What ``prompt`` says in the starter's grammar, all of it; None where a word is none of its words, where more than
    one thing is named, or where the thing or its colour is not."""
    from pipeline_core.props.captions import SYNONYMS, VOCABULARY, parse_caption
    from pipeline_core.props.props import CATEGORIES

    text = plain(prompt)
    words = [SYNONYMS.get(word, word) for word in re.findall(r"[^\W_]+", text.lower())]
    things = [i for i, word in enumerate(words) if word in CATEGORIES]
    if not set(VOCABULARY).issuperset(words) or (things and things[-1] - things[0] >= len(things)):
        return None
    return parse_caption(text)


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
