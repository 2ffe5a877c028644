"""Every word the starter prior's tokenizers know, and small changes of a caption that should change nothing."""

from __future__ import annotations

import numpy as np

from pipeline_core.props.captions import SYNONYMS, VOCABULARY

PUNCTUATION = (",",)
INVERSE: dict[str, list[str]] = {}
for _other, _word in SYNONYMS.items():
    INVERSE.setdefault(_word, []).append(_other)


def words() -> list[str]:
    """The captions' vocabulary, its synonyms and the comma, without repeats, sorted."""
    return sorted({*VOCABULARY, *SYNONYMS, *PUNCTUATION})


def vary(caption: str, rng: np.random.Generator, *, synonyms: float, nonsense: float) -> str:
    """``caption`` with each word replaced by a synonym with probability ``synonyms`` (where it has one), and with
    probability ``nonsense`` a made-up word of 3 to 8 letters somewhere, so that unknown words come to mean nothing."""
    parts = [
        INVERSE[w][int(rng.integers(len(INVERSE[w])))] if w in INVERSE and rng.random() < synonyms else w
        for w in caption.split()
    ]
    if rng.random() < nonsense:
        letters = rng.integers(97, 123, int(rng.integers(3, 9)))
        parts.insert(int(rng.integers(len(parts) + 1)), "".join(map(chr, letters)))
    return " ".join(parts)
