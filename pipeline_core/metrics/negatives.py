"""Captions that are nearly right: what a judge must tell a true caption from.

    texts, kinds = candidates(parse_caption("a red mushroom with white spots"))   # 32 captions, the true one first

The kinds: the same category in another colour; the same colour of another category; the two colours swapped between
the parts; another second colour; and captions of other things.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np

from pipeline_core.props.captions import caption
from pipeline_core.props.props import CATEGORIES, COLOURS, PropSpec, parts_of, sample_spec

CANDIDATES = 32
"""Captions an asset is ranked against, the true one included."""
SHARES = (("colour", 11), ("swapped", 1), ("colour2", 4), ("category", 9))
"""Most of each kind among the candidates; captions of other things fill up."""


def _pick(rng: np.random.Generator, options: list[str]) -> str:
    return options[int(rng.integers(len(options)))]


def full(spec: PropSpec) -> PropSpec:
    """The spec with its second colour's part named."""
    if spec.colour2 is not None and spec.part is None:
        return replace(spec, part=parts_of(spec.category)[0])
    return spec


def also_true(caption_of: PropSpec, thing: PropSpec) -> bool:
    """Whether the caption of the first spec describes the second: it is the same, or says less.

    Materials are not held against a caption (a red chest and a red wooden chest look alike), nor is which of its two
    colours a chequered pattern starts with.
    """
    a, b = full(caption_of), full(thing)
    if a.category != b.category:
        return False
    if a.part == b.part == "checks" and {a.colour, a.colour2} == {b.colour, b.colour2}:
        return True
    return a.colour == b.colour and (a.colour2 is None or (a.colour2, a.part) == (b.colour2, b.part))


def other_colour(spec: PropSpec, rng: np.random.Generator) -> PropSpec:
    """The same thing with another body colour."""
    colour = _pick(rng, [c for c in COLOURS if c not in (spec.colour, spec.colour2)])
    return replace(spec, colour=colour, material=None if spec.material == "golden" else spec.material)


def other_colour2(spec: PropSpec, rng: np.random.Generator) -> PropSpec:
    """The same thing with another second colour, or with one where it has none."""
    spec = full(spec)
    part = spec.part or _pick(rng, list(parts_of(spec.category)))
    return replace(spec, colour2=_pick(rng, [c for c in COLOURS if c not in (spec.colour, spec.colour2)]), part=part)


def other_category(spec: PropSpec, rng: np.random.Generator) -> PropSpec:
    """Another category in the same colour, or colours."""
    category = _pick(rng, [c for c in CATEGORIES if c != spec.category])
    part = None if spec.colour2 is None else _pick(rng, list(parts_of(category)))
    return PropSpec(category, spec.colour, spec.colour2, part)


def swapped(spec: PropSpec) -> PropSpec | None:
    """Body and part with their colours exchanged; None without a second colour."""
    if spec.colour2 is None:
        return None
    other, spec = spec.colour2, full(spec)
    material = None if spec.material == "golden" else spec.material
    return replace(spec, colour=other, colour2=spec.colour, material=material)


def draw(kind: str, spec: PropSpec, rng: np.random.Generator) -> PropSpec | None:
    """One negative of ``kind``: colour, colour2, category, swapped or other; None where there is none."""
    if kind == "swapped":
        return swapped(spec)
    if kind == "other":
        return sample_spec(rng, split="all")
    return {"colour": other_colour, "colour2": other_colour2, "category": other_category}[kind](spec, rng)


def candidates(spec: PropSpec, count: int = CANDIDATES) -> tuple[list[str], list[str]]:
    """``count`` canonical captions and their kinds; the true one is the first, none of the others is true as well.

    They depend on the spec's caption alone, so every asset of a prompt faces the same ones.
    """
    truth = caption(spec)
    rng = np.random.default_rng(int.from_bytes(hashlib.sha256(truth.encode()).digest()[:8], "little"))
    texts, kinds = [truth], ["truth"]
    for kind, most in (*SHARES, ("other", count)):
        found = 0
        for _ in range(20 * most):
            if found == most or len(texts) == count:
                break
            negative = draw(kind, spec, rng)
            if negative is None:
                break
            text = caption(negative)
            # a thing with two colours answers to the caption that names the first only, so neither direction is fair
            if text in texts or also_true(negative, spec) or also_true(spec, negative):
                continue
            texts.append(text)
            kinds.append(kind)
            found += 1
    return texts, kinds
