"""Captions of prop specs: a small grammar, its closed vocabulary, and the way back from text to a spec.

    caption(PropSpec("mushroom", "red", "white", "spots"))      # "a red mushroom with white spots"
    parse_caption("old wooden chest with golden bands game asset")

A material may carry a colour: golden is yellow, and a wooden thing without a colour word is brown, a stone or metal
one grey. Captions use that now and then, so that "a wooden chest" means something.
"""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np

from pipeline_core.props.look import SURFACES
from pipeline_core.props.materials import MATERIALS as SUBSTANCES
from pipeline_core.props.props import CATEGORIES, COLOURS, MATERIALS, PropSpec, may_stand, parts_of
from pipeline_core.props.table import TABLE

IMPLIED = {name: material.colour for name, material in SUBSTANCES.items()}
"""Colour of a material that is named without one."""

SURFACE_ADJECTIVES = {"stripes": "striped", "spots": "spotted", "checks": "checkered"}

FILLERS = (
    "a", "an", "the", "with", "and", "of", "in", "on", "for", "its", "this", "one", "single", "small", "large", "old",
    "new", "simple", "little", "big", "tiny", "nice", "game", "video", "fantasy", "medieval", "cartoon", "stylized",
    "asset", "prop", "3d", "model", "object", "item", "render", "picture", "image", "photo",
)  # fmt: skip
VIEWS = (
    "view", "front", "back", "left", "right", "side", "top", "bottom", "overhead", "above", "below", "low", "high",
    "angle", "from", "seen",
)  # fmt: skip

SYNONYMS = {
    "gray": "grey", "cyan": "teal", "turquoise": "teal", "violet": "purple", "gold": "golden", "wood": "wooden",
    "metallic": "metal", "iron": "metal", "steel": "metal", "box": "crate", "cup": "mug", "cottage": "house",
    "fir": "pine", "tree": "pine", "toadstool": "mushroom", "flask": "potion", "gravestone": "tombstone",
    "sign": "signpost",
    "flag": "banner", "desk": "table", "pillar": "column", "boulder": "rock", "jewel": "gem",
    "diamond": "gem", "crystal": "gem", "ship": "boat", "castle": "tower", "dots": "spots", "polka": "spots",
    "stripe": "stripes", "spot": "spots", "checkerboard": "checks", "checkered": "checks", "striped": "stripes",
    "spotted": "spots", "band": "bands", "eyes": "face", "loaf": "bread", "mattress": "bed", "bookshelf": "shelf",
    "bookcase": "shelf", "shrub": "bush", "daisy": "flower", "rose": "flower", "spade": "shovel", "pick": "pickaxe",
    "archway": "arch", "gateway": "gate", "handcart": "cart", "automobile": "car", "spaceship": "rocket",
    "tiara": "crown", "grenade": "bomb", "pail": "bucket", "plinth": "pedestal", "urn": "vase", "amphora": "vase",
    "kettle": "teapot", "ceramic": "clay", "terracotta": "clay", "fabric": "cloth", "linen": "cloth",
    "crystalline": "glass",
}  # fmt: skip
"""Words that `parse_caption` understands beside the vocabulary."""

PARTS: tuple[str, ...] = tuple(sorted({p for entry in TABLE.values() for p in entry.parts}))

VOCABULARY: tuple[str, ...] = tuple(
    dict.fromkeys([*CATEGORIES, *COLOURS, *MATERIALS, *PARTS, *SURFACE_ADJECTIVES.values(), *FILLERS, *VIEWS])
)
"""Every word that a caption can contain, and the view words that callers append to one."""


def _noun_phrase(spec: PropSpec, rng: np.random.Generator | None) -> tuple[str, str]:
    """-> (adjectives and noun, tail): "red wooden chest", " with yellow bands"."""
    part = spec.part or (parts_of(spec.category)[0] if spec.colour2 else "")
    words = [spec.colour]
    if spec.material == "golden" and spec.colour == IMPLIED["golden"]:
        words = ["golden"]
    elif spec.material is not None:
        words = [spec.colour, spec.material]
        if rng is not None:
            if spec.colour == IMPLIED[spec.material] and rng.random() < 0.6:
                words = [spec.material]
            elif rng.random() < 0.3:
                words.reverse()
    tail = ""
    if spec.colour2 is not None:
        tail = f" with {spec.colour2} {part}"
        if part in SURFACES and rng is not None and rng.random() < 0.25 and words != [spec.material]:
            words = [*words[:-1], words[-1], "and", spec.colour2, SURFACE_ADJECTIVES[part]]
            tail = ""
        elif rng is not None and rng.random() < 0.12:
            if part.endswith("s"):
                tail = f" with its {spec.colour2} {part}"
            elif part != "moss":
                tail = f" with {_article(f'{spec.colour2} {part}')}"
    return " ".join([*words, spec.category]), tail


def _article(phrase: str) -> str:
    return ("an " if phrase[0] in "aeio" else "a ") + phrase  # no word of ours starts with a vowel u


def caption(spec: PropSpec, rng: np.random.Generator | None = None) -> str:
    """A caption of the spec: lower case, words and single spaces only, every word in `VOCABULARY`.

    Args:
        rng: None gives the canonical caption; else a paraphrase is drawn (the canonical form is the commonest)
    """
    phrase, tail = _noun_phrase(spec, rng)
    if spec.on is not None:
        below, has = _noun_phrase(spec.on, rng)
        where = "on top of" if rng is not None and rng.random() < 0.15 else "on"
        tail = f"{tail} {where} {_article(below)}{has}"
    if rng is None:
        return _article(phrase) + tail
    draw = rng.random()
    if draw < 0.45:
        return _article(phrase) + tail
    if draw < 0.65:
        return phrase + tail
    if draw < 0.80:
        sizes = ("small", "large", "old", "simple", "little", "big", "nice", "new", "tiny", "single")
        return _article(f"{sizes[int(rng.integers(len(sizes)))]} {phrase}") + tail
    styles = ("3d model", "game asset", "game prop", "3d render", "3d object", "cartoon picture", "stylized image")
    style = styles[int(rng.integers(len(styles)))]
    if draw < 0.92:
        return f"a {style} of {_article(phrase)}{tail}"
    return f"{phrase}{tail} {style}"


def parse_caption(text: str) -> PropSpec | None:
    """Best-effort reading of free text, for the ground truth of evaluations; seed 0, pattern None.

    Returns:
        None unless a category and a colour, or a material that implies one, are named. A second colour is kept only
        where the text also names a part of that category; a material only where the category comes in it; what it
        stands on only where that has a colour of its own and both go together (`may_stand`).
    """
    words = [SYNONYMS.get(w, w) for w in re.findall(r"[a-z0-9]+", text.lower())]
    for at in (i for i, word in enumerate(words) if word == "on"):
        thing, base = _read(words[:at]), _read(words[at + 1 :])
        if thing and base and may_stand(thing.category, base.category):
            return replace(thing, on=base)
    return _read(words)


def _read(words: list[str]) -> PropSpec | None:
    """One thing of `parse_caption`, from its words."""
    # the head noun is the first category that is not the thing after "with": "a table with a lamp"
    nouns = [i for i, w in enumerate(words) if w in TABLE]
    if not nouns:
        return None
    # neighbouring nouns form a compound whose last word is the head: "mushroom house"
    head = nouns[0]
    while head + 1 < len(words) and words[head + 1] in TABLE:
        head += 1
    category = words[head]
    before, after = words[:head], words[head + 1 :]
    material = next((w for w in before if w in MATERIALS), None)
    colours = [w for w in before if w in COLOURS]
    if material is not None and (not colours or (material == "golden" and "yellow" not in colours)):
        colours = [IMPLIED[material], *colours]
    elif material == "golden":
        colours = ["yellow", *(c for c in colours if c != "yellow")]
    known = parts_of(category)
    colour2 = part = None
    surface = next((w for w in before if w in SURFACES), None)
    if surface in known and len(colours) >= 2:  # "red and white striped mug"
        colour2, part, colours = colours[-1], surface, colours[:-1]
    colour = colours[0] if colours else None
    for i, word in enumerate(after):
        if word in known and part is None:
            tint = next((w for w in reversed(after[:i]) if w in COLOURS or w in IMPLIED), None)
            if tint is not None:
                part, colour2 = word, IMPLIED.get(tint, tint)
    if colour is None and part is None:
        colour = next((w for w in after if w in COLOURS), None)  # "the mug is red"
    if colour is None:
        return None
    if material not in TABLE[category].materials or (material == "golden" and colour != IMPLIED["golden"]):
        material = None
    return PropSpec(category, colour, colour2, part, material)
