"""Specs of procedural game props: what may be asked for, what is held out of training, and how a spec is built.

Example: `prop = build(sample_spec(np.random.default_rng(0)))` is a `Prop`, for `raycast.render` and
`raycast.sample_points`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pipeline_core.props.look import SURFACES, Look
from pipeline_core.props.materials import MATERIALS as SUBSTANCES
from pipeline_core.props.primitives import OBJECT_RADIUS, Prop, Row, blend, pack, place, vec
from pipeline_core.props.table import FRONTED, SMALL, STANDS, TABLE

__all__ = [
    "CATEGORIES", "COLOURS", "FRONTED", "MATERIALS", "OBJECT_RADIUS", "PATTERNS", "SMALL", "STANDS", "Prop", "PropSpec",
    "build", "is_heldout", "may_stand", "parts_of", "sample_spec", "size_of",
]  # fmt: skip

CATEGORIES: tuple[str, ...] = tuple(TABLE)

COLOURS: dict[str, tuple[float, float, float]] = {
    "red":    (0.83, 0.13, 0.12),
    "orange": (0.96, 0.50, 0.08),
    "yellow": (0.97, 0.86, 0.17),
    "green":  (0.18, 0.62, 0.20),
    "teal":   (0.08, 0.62, 0.62),
    "blue":   (0.14, 0.29, 0.82),
    "purple": (0.50, 0.19, 0.70),
    "pink":   (0.97, 0.52, 0.72),
    "brown":  (0.47, 0.27, 0.13),
    "white":  (0.88, 0.88, 0.87),
    "grey":   (0.51, 0.52, 0.54),
    "black":  (0.11, 0.11, 0.13),
}  # fmt: skip
"""Named colours, sRGB in [0, 1]; white stays below 0.9 so that light and shade show it on a white background."""

MATERIALS: tuple[str, ...] = tuple(SUBSTANCES)
"""`golden` comes in yellow only: gold is a colour and a material at once."""

PATTERNS: tuple[str, ...] = ("plain", "planks", "bricks", "noise", *SURFACES)


@dataclass(frozen=True)
class PropSpec:
    """What a prop looks like; `build` is a function of it.

    Attributes:
        category: one of `CATEGORIES`
        colour: one of `COLOURS`, of the body
        colour2: one of `COLOURS`, of `part`
        part: one of `parts_of(category)`; None with a colour2 means the first of them
        material: one of `MATERIALS`
        pattern: one of `PATTERNS`, forced on the body; None leaves it to category, material and part
        seed: proportions and variants; the same seed keeps its shape in every colour
        on: what it stands on, one of `STANDS`; things that stand on something are of `SMALL`
    """

    category: str
    colour: str
    colour2: str | None = None
    part: str | None = None
    material: str | None = None
    pattern: str | None = None
    seed: int = 0
    on: PropSpec | None = None


def size_of(category: str) -> float:
    """How tall such a thing usually is, metres."""
    return TABLE[category].height_m


def parts_of(category: str) -> tuple[str, ...]:
    """Parts and patterns that may take the second colour."""
    return TABLE[category].parts


def is_heldout(category: str, colour: str) -> bool:
    """Whether the pair is kept out of training: (5 * category index + 3 * colour index) mod 8 = 0.

    One pair in eight; every category loses one or two of its colours and every colour four or five of its categories,
    so a model has seen both words often, never together.
    """
    return (5 * CATEGORIES.index(category) + 3 * list(COLOURS).index(colour)) % 8 == 0


_PAIRS: dict[str, dict[str, list[str]]] = {
    split: {
        c: [k for k in COLOURS if split == "all" or is_heldout(c, k) == (split == "heldout")] for c in CATEGORIES
    }
    for split in ("train", "heldout", "all")
}  # fmt: skip


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]


COMPOSED = 0.08
"""Share of the drawn specs that are of a thing on another."""
MATERIAL, MATERIAL_OF_MANY = 0.45, 0.6
"""Chance of a material for what comes in one or two of them, and in three or more."""


def may_stand(category: str, on: str, *, split: str = "all") -> bool:
    """Whether the first can stand on the second, in a split: one pair in eight is kept out of training, those whose
    indices add up to a multiple of eight."""
    if category not in SMALL or on not in STANDS or category == on:
        return False
    heldout = (CATEGORIES.index(category) + CATEGORIES.index(on)) % 8 == 0
    return split == "all" or heldout == (split == "heldout")


def sample_spec(
    rng: np.random.Generator, *, split: str = "train", category: str | None = None, composed: float = COMPOSED
) -> PropSpec:
    """Draw a spec.

    Args:
        split: "train", "heldout" (pairs for which `is_heldout`) or "all"
        category: None draws it uniformly
        composed: chance of a thing on another one; in training neither is of a pair that is held out, nor are they
            one together (`may_stand`)

    Raises:
        ValueError: unknown split or category
    """
    if split not in _PAIRS:
        raise ValueError(f"split={split!r} must be one of {', '.join(_PAIRS)}")
    if category is not None and category not in TABLE:
        raise ValueError(f"category={category!r} must be one of {', '.join(CATEGORIES)}")
    if composed and rng.random() < composed and (category is None or category in SMALL):
        small = category or _pick(rng, SMALL)
        pairing = "train" if split == "train" else "all"
        bases = [name for name in STANDS if may_stand(small, name, split=pairing)]
        if bases:
            spec = _draw(rng, split, small, 0.25)
            base = _draw(rng, pairing, _pick(rng, bases), 0.0)
            return replace(spec, on=base)
    return _draw(rng, split, category or _pick(rng, CATEGORIES), 0.6)


def _draw(rng: np.random.Generator, split: str, category: str, with_part: float) -> PropSpec:
    """A spec of one thing, with a second colour as often as is said."""
    colour = _pick(rng, _PAIRS[split][category])
    entry = TABLE[category]
    material = None
    options = [m for m in entry.materials if m != "golden" or colour == "yellow"]
    if options and rng.random() < (MATERIAL if len(options) < 3 else MATERIAL_OF_MANY):
        material = _pick(rng, options)
    colour2 = part = None
    if rng.random() < with_part:
        part = _pick(rng, entry.parts)
        colour2 = _pick(rng, [c for c in COLOURS if c != colour])
        if part in SURFACES and material not in (None, "metal", "golden"):
            material = None  # a painted pattern hides planks, grain and weave
    return PropSpec(category, colour, colour2, part, material, None, int(rng.integers(2**31)))


def build(spec: PropSpec) -> Prop:
    """Build a prop, deterministically: equal specs give equal props.

    Raises:
        ValueError: a field of the spec is not one of the known names, or it cannot stand on what it says
    """
    if spec.on is None:
        return pack(_rows(spec))
    if spec.on.on is not None or not may_stand(spec.category, spec.on.category):
        raise ValueError(f"a {spec.category} does not stand on a {spec.on.category}, or on what stands on something")
    shape = random.Random(f"{spec.category}/{spec.seed}/{spec.on.category}/{spec.on.seed}")
    top = place(pack(_rows(spec)), pack(_rows(spec.on)), STANDS[spec.on.category], shape.uniform(0.7, 0.95))
    return pack(top)


def _rows(spec: PropSpec) -> list[Row]:
    """Primitives of one thing, in its builder's units."""
    for field, value, known in (
        ("category", spec.category, CATEGORIES),
        ("colour", spec.colour, tuple(COLOURS)),
        ("colour2", spec.colour2, (None, *COLOURS)),
        ("material", spec.material, (None, *MATERIALS)),
        ("pattern", spec.pattern, (None, *PATTERNS)),
    ):
        if value not in known:
            raise ValueError(f"{field}={value!r} must be one of {', '.join(str(v) for v in known)}")
    entry = TABLE[spec.category]
    part = spec.part
    if spec.colour2 is None:
        part = None
    elif part is None:
        part = entry.parts[0]
    elif part not in entry.parts:
        raise ValueError(f"part={part!r} of a {spec.category} must be one of {', '.join(entry.parts)}")
    shape = random.Random(f"{spec.category}/{spec.seed}")
    main = COLOURS[spec.colour]
    substance = SUBSTANCES.get(spec.material or "")
    if substance is not None and substance.tint is not None:
        main = substance.tint if substance.share == 1.0 else blend(main, substance.tint, substance.share)
    gain = shape.uniform(0.93, 1.05)
    main = vec(min(1.0, c * gain) for c in main)
    other = COLOURS[spec.colour2] if spec.colour2 else None
    return entry.build(Look(main, part, other, spec.material, spec.pattern, shape, entry.nature))
