"""Captions that are nearly right: what a judge must tell a true caption from.

    texts, kinds = candidates(parse_caption("a red mushroom with white spots"))   # 32 captions, the true one first
    texts, kinds = candidates(spec, 128, HARDER)                                  # what benchmarks ask
    texts, kinds = free_candidates("a brass kraken with ruby eyes")               # of any text

The kinds: the same category in another colour; the same colour of another category; the two colours swapped between
the parts; another second colour; the second colour on another part; and captions of other things. Of any text, by its
words as SugarCrepe (Hsieh et al. 2023) does it: another colour, two of them swapped, another material or quality,
another thing in the place of the one that is named.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipeline_core.metrics.judges import judged_categories
from pipeline_core.props.captions import caption
from pipeline_core.props.props import COLOURS, PropSpec, parts_of, sample_spec

CANDIDATES = 32
"""Captions an asset is ranked against, the true one included."""
SHARES = (("colour", 11), ("swapped", 1), ("colour2", 4), ("category", 9))
"""Most of each kind among the candidates; captions of other things fill up."""

HARDER = (("colour", 11), ("swapped", 1), ("part", 3), ("colour2", 20), ("category", 71))
"""The same among 128: every other colour, every other category in its colour, and four times the second colours."""


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


def other_part(spec: PropSpec, rng: np.random.Generator) -> PropSpec | None:
    """The same thing with its second colour on another part; None without one, or another part."""
    if spec.colour2 is None:
        return None
    others = [part for part in parts_of(spec.category) if part != full(spec).part]
    return replace(spec, part=_pick(rng, others)) if others else None


def other_category(spec: PropSpec, rng: np.random.Generator, among: Sequence[str] | None = None) -> PropSpec:
    """Another category in the same colour, or colours, ``among`` those, else among what the judge knows."""
    category = _pick(rng, [c for c in among or judged_categories() if c != spec.category])
    part = None if spec.colour2 is None else _pick(rng, list(parts_of(category)))
    return PropSpec(category, spec.colour, spec.colour2, part)


def swapped(spec: PropSpec) -> PropSpec | None:
    """Body and part with their colours exchanged; None without a second colour."""
    if spec.colour2 is None:
        return None
    other, spec = spec.colour2, full(spec)
    material = None if spec.material == "golden" else spec.material
    return replace(spec, colour=other, colour2=spec.colour, material=material)


def draw(kind: str, spec: PropSpec, rng: np.random.Generator, among: Sequence[str] | None = None) -> PropSpec | None:
    """One negative of ``kind``: colour, colour2, part, category, swapped or other; None where there is none.

    Other things are ``among`` those, else those that the judge knows.
    """
    if kind == "swapped":
        return swapped(spec)
    if kind == "other":
        return sample_spec(rng, split="all", category=_pick(rng, list(among or judged_categories())), composed=0.0)
    if kind == "category":
        return other_category(spec, rng, among)
    kinds = {"colour": other_colour, "colour2": other_colour2, "part": other_part}
    return kinds[kind](spec, rng)


def candidates(
    spec: PropSpec, count: int = CANDIDATES, shares: Sequence[tuple[str, int]] = SHARES
) -> tuple[list[str], list[str]]:
    """``count`` canonical captions and their kinds; the true one is the first, none of the others is true as well.

    They depend on the spec's caption alone, so every asset of a prompt faces the same ones.
    """
    truth = caption(spec)
    rng = _drawn_for(truth)
    texts, kinds = [truth], ["truth"]
    for kind, most in (*shares, ("other", count)):
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


def _drawn_for(text: str) -> np.random.Generator:
    return np.random.default_rng(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))


# --- of any text ------------------------------------------------------------------------------------------------------

# fmt: off
ALIKE: tuple[tuple[str, ...], ...] = (
    # words of one row stand for each other, and a picture of the one is none of the other
    (*COLOURS, "turquoise", "gold", "silver"),
    ("wooden", "stone", "metal", "glass", "marble", "paper", "leather", "plastic", "brass", "velvet"),
    ("small", "huge"), ("old", "brand-new"), ("round", "square"), ("tall", "squat"), ("smooth", "spiky"),
    ("happy", "angry"), ("open", "closed"), ("broken", "intact"), ("empty", "full"), ("thick", "thin"),
    ("striped", "spotted", "checkered", "plain"), ("two", "five"), ("three", "seven"),
)
MEANT = {"gray": "grey", "golden": "gold", "silvery": "silver", "wood": "wooden", "iron": "metal", "steel": "metal",
         "little": "small", "tiny": "small", "big": "huge", "large": "huge", "giant": "huge", "ancient": "old",
         "new": "brand-new", "cubic": "square", "polished": "smooth", "shattered": "broken"}
"""Words that mean one of those."""
THINGS: tuple[str, ...] = (
    # narrow words: hardly anything that a prompt may name is a kind of one of these
    "accordion", "anchor", "beehive", "binoculars", "blender", "broccoli", "cactus", "canoe", "castle", "chessboard",
    "corkscrew", "cuckoo clock", "drum kit", "escalator", "fire hydrant", "giraffe", "guillotine", "hammock",
    "hedgehog", "helicopter", "igloo", "jellyfish", "kangaroo", "lighthouse", "mailbox", "octopus", "parachute",
    "penguin", "piano", "pineapple", "saxophone", "scarecrow", "snail", "snowman", "submarine", "teapot", "telescope",
    "tractor", "trombone", "typewriter", "umbrella", "violin", "washing machine", "wheelbarrow", "windmill", "zebra",
)
ENDS = frozenset("""with of on in at by from for and or that which who wearing holding riding sitting standing made
carved covered under over beside near next inside between against as like to while is has having carrying""".split())
"""Words behind which no noun of a prompt's first thing stands any more."""
FRAME = re.compile(r"^.*?\b(photo|photograph|picture|render|rendering|model|drawing|painting|image|statue) of ", re.I)
"""What a prompt may begin with before it names its thing."""
# fmt: on


def free_candidates(prompt: str, count: int = CANDIDATES) -> tuple[list[str], list[str]]:
    """As :func:`candidates` for a prompt in any words: ``count`` texts and their kinds, the prompt the first."""
    rng = _drawn_for(prompt)
    texts, kinds = [prompt], ["truth"]
    words, things = _reworded(prompt), [("category", each) for each in _other_things(prompt)]
    words, things = ([options[i] for i in rng.permutation(len(options))] for options in (words, things))
    near = [*(("swapped", each) for each in _exchanged(prompt)), *words]
    for kind, text in [*near[: count // 2], *things]:
        if len(texts) < count and text not in texts:
            texts.append(text)
            kinds.append(kind)
    return texts, kinds


def _words(prompt: str) -> list[tuple[str, int, int]]:
    """The words of ``prompt`` in lower case, and where each begins and ends."""
    return [(match[0].lower(), *match.span()) for match in re.finditer(r"[^\W_]+(?:-[^\W_]+)*", prompt)]


def _row_of(word: str) -> tuple[str, ...]:
    return next((row for row in ALIKE if MEANT.get(word, word) in row), ())


def _reworded(prompt: str) -> list[tuple[str, str]]:
    """``prompt`` with one of its colours, materials or qualities replaced by another of its row."""
    found = _words(prompt)
    named = {MEANT.get(word, word) for word, _, _ in found}
    return [
        ("colour" if row is ALIKE[0] else "quality", prompt[:start] + other + prompt[end:])
        for word, start, end in found
        if (row := _row_of(word))
        for other in row
        if other not in named
    ]


def _exchanged(prompt: str) -> list[str]:
    """``prompt`` with two different words of one row in each other's places."""
    found = [(word, start, end) for word, start, end in _words(prompt) if _row_of(word)]
    return [
        prompt[:a] + prompt[c:d] + prompt[b:c] + prompt[a:b] + prompt[d:]
        for i, (one, a, b) in enumerate(found)
        for other, c, d in found[i + 1 :]
        if _row_of(one) is _row_of(other) and MEANT.get(one, one) != MEANT.get(other, other)
    ]


def _other_things(prompt: str) -> list[str]:
    """``prompt`` with another thing in the place of the noun that it is about; that alone where it has no such word."""
    frame = FRAME.match(prompt)
    begin = frame.end() if frame else 0
    head: tuple[int, int] | None = None
    quality = False  # of the last word: one that more words about the thing may follow, behind a comma
    for word, start, end in _words(prompt[begin:]):
        apart = head is not None and "," in prompt[begin + head[1] : begin + start] and not quality
        if head and (apart or word in ENDS):
            break
        if word not in ENDS:
            head, quality = (start, end), bool(_row_of(word))
    here = {word for word, _, _ in _words(prompt)}
    others = [thing for thing in THINGS if not here & {*thing.split(), f"{thing}s"}]
    if head is None:
        return [f"a {thing}" for thing in others]
    before, after = prompt[: begin + head[0]], prompt[begin + head[1] :]
    return [re.sub(r"\b[Aa]n? $", "an " if thing[0] in "aeiou" else "a ", before) + thing + after for thing in others]
