"""What builders of props share: the `Look` of one prop (colours, material, seeded proportions) and paints of parts."""

from __future__ import annotations

import random
from dataclasses import dataclass

from pipeline_core.props import materials as stuff
from pipeline_core.props import textures as tx
from pipeline_core.props.primitives import Finish, Paint, Row, Vec, blend, box, darker, plain, rotation

WOOD = (0.55, 0.36, 0.19)
DARK = (0.23, 0.22, 0.24)
STEEL = (0.66, 0.68, 0.72)
GOLD = (0.90, 0.66, 0.16)
CREAM = (0.90, 0.84, 0.70)
CLAY = (0.72, 0.38, 0.24)
FLAME = (1.0, 0.72, 0.18)
LEAF = (0.25, 0.55, 0.22)
WATER = (0.25, 0.52, 0.78)

SURFACES = ("stripes", "spots", "checks")
"""Part names that are not a piece of geometry but a pattern of the second colour on the main body."""


def luminance(c: Vec) -> float:
    return 0.3 * c[0] + 0.59 * c[1] + 0.11 * c[2]


def shadow_of(c: Vec, strength: float = 0.45) -> Vec:
    """A clearly different tone of the same colour: darker, or lighter where the colour is already dark."""
    return darker(c, 1 - strength) if luminance(c) > 0.2 else blend(c, (1, 1, 1), strength * 0.6)


@dataclass
class Look:
    """What a builder knows about the spec: resolved colours, and a generator for proportions.

    Attributes:
        main: sRGB of the body
        part: name of the part or pattern that takes `other`, or None
        other: sRGB of the second colour, or None
        material: None, or one of `materials.MATERIALS`
        pattern: forced texture of the body, or None for the category's own
        nature: how such a thing reflects where no material is named
        random: seeded; drives proportions only, so that one seed keeps its shape in every colour
    """

    main: Vec
    part: str | None
    other: Vec | None
    material: str | None
    pattern: str | None
    random: random.Random
    nature: Finish = stuff.PAINTED

    @property
    def finish(self) -> Finish:
        """How the body reflects."""
        return stuff.finish_of(self.material, self.nature)

    @property
    def hard(self) -> Finish:
        """How a blade or an iron head reflects: as its material, else as steel."""
        return stuff.finish_of(self.material, stuff.STEELY)

    def u(self, a: float, b: float) -> float:
        return self.random.uniform(a, b)

    def seed(self) -> int:
        return self.random.randrange(1000)

    def has(self, part: str) -> bool:
        return self.part == part

    def of(self, part: str, *defaults: Vec) -> Vec:
        """Colour of a part: the second colour if it was asked for here, else the default farthest from the body."""
        if self.part == part and self.other is not None:
            return self.other
        return max(defaults, key=self.apart)

    def apart(self, colour: Vec) -> float:
        """Squared distance of a colour from the body's."""
        return sum((a - b) ** 2 for a, b in zip(colour, self.main, strict=True))

    def sheen(self) -> float:
        return 0.9 if self.material in ("metal", "golden") else 0.0

    def flat(self, gain: float = 1.0) -> Paint:
        """The body's colour without a pattern, for small pieces of the body."""
        return self.piece(darker(self.main, gain))

    def piece(self, colour: Vec) -> Paint:
        """A colour without a pattern, of the body's material."""
        return plain(colour, metal=self.sheen(), finish=self.finish)

    def body(
        self, default: str = "plain", *, axis: int = 1, cell: float = 0.3, turn: int = 0, sphere: int = 0,
        stripe: int = 1, spread: float = 0.16,
    ) -> Paint:  # fmt: skip
        """Paint of the body, with its finish.

        Args:
            default: the category's own pattern: plain, planks, bricks or noise
            axis: axis across the planks (0 x, 1 y, 2 z, `textures.ANGLE` around)
            cell: size of one texture cell in the builder's units
            turn: cells per turn for a body of revolution about its local y (0: a box)
            sphere: rows of spots for a ball (0: a grid)
            stripe: axis along which stripes alternate
            spread: brightness variation between planks or bricks
        """
        c, sheen, seed = self.main, self.sheen(), self.seed()
        if self.part in SURFACES and self.other is not None:
            kind = self.part
        elif self.pattern is not None:
            kind = self.pattern
        elif self.material == "wooden":
            kind = "planks"
        elif self.material == "stone":
            kind = "bricks" if default == "bricks" else "noise"
        elif self.material in ("glass", "cloth", "leather", "clay"):
            return self._stuff(cell, seed)
        elif sheen > 0 and default in ("noise", "planks"):
            kind = "plain"
        else:
            kind = default
        two = self.other if self.part in SURFACES and self.other is not None else shadow_of(c)
        if kind == "stripes":
            per_turn = float(max(4, turn))
            frequency = 0.5 / cell if stripe != tx.ANGLE else 1.0
            return Paint(c, two, tx.STRIPES, frequency, (stripe, 0.5, 0, per_turn), sheen, 0, seed, self.finish)
        if kind == "spots":
            return Paint(c, two, tx.SPOTS, 0.75 / cell, (sphere, 0.34, 0, float(turn)), sheen, 0, seed, self.finish)
        if kind == "checks":
            return Paint(c, two, tx.CHECKER, 0.9 / cell, (0, 0, 0, float(turn + turn % 2)), sheen, 0, seed, self.finish)
        if kind == "planks":
            planks = (axis, 0.09, spread + 0.06, float(max(8, turn)))
            return Paint(c, shadow_of(c), tx.PLANKS, 1 / cell, planks, sheen, 0, seed, self.finish)
        if kind == "bricks":
            bricks = (0, 0.17, spread + 0.08, float(turn))
            cells = (0.6 / cell, 1 / cell, 0.6 / cell)
            return Paint(c, shadow_of(c, 0.38), tx.BRICKS, cells, bricks, sheen, 0, seed, self.finish)
        if kind == "noise":
            return Paint(c, shadow_of(c, 0.30), tx.NOISE, 0.8 / cell, (0.5, 0.5, 0.2, 0), sheen, 0, seed, self.finish)
        return self.piece(c)

    def _stuff(self, cell: float, seed: int) -> Paint:
        """What shows the body's material without a light: glass paler above, a weave of cloth, worn leather, rings of
        thrown clay."""
        c, white = self.main, (1.0, 1.0, 1.0)
        if self.material == "glass":
            pale = blend(c, white, 0.55)
            return Paint(c, pale, tx.GRADIENT, 1.0, (0.0, 1.0, 0, 0), 0.45, 0, seed, self.finish)
        if self.material == "cloth":
            return Paint(c, shadow_of(c, 0.16), tx.CHECKER, 2.6 / cell, (0, 0, 0, 0), 0, 0, seed, self.finish)
        if self.material == "leather":
            return Paint(c, shadow_of(c, 0.3), tx.NOISE, 1.1 / cell, (0.52, 0.35, 0.16, 0), 0, 0, seed, self.finish)
        return Paint(c, shadow_of(c, 0.2), tx.STRIPES, 1.5 / cell, (1, 0.4, 0, 6), 0, 0, seed, self.finish)


def planked(colour: Vec, axis: int, cell: float = 0.3, turn: int = 8) -> Paint:
    """Planks of a fixed colour, for parts that are always wood or tiles."""
    planks = (axis, 0.09, 0.14, float(turn))
    return Paint(colour, shadow_of(colour, 0.35), tx.PLANKS, 1 / cell, planks, finish=stuff.WOOD)


def star(centre: Vec, size: float, depth: float, paint: Paint) -> list[Row]:
    """Eight-pointed star facing +Z: two crossed squares."""
    half = (size * 0.7, size * 0.7, depth)
    return [box(centre, half, paint), box(centre, half, paint, rot=rotation("z", 45))]


def cross(centre: Vec, size: float, depth: float, paint: Paint, *, low: float = 0.0) -> list[Row]:
    """Cross facing +Z; `low` > 0 lengthens its foot."""
    x, y, z = centre
    arm = size * 0.24
    return [
        box((x, y - low * 0.5, z), (arm, size + low * 0.5, depth), paint),
        box((x, y + size * 0.15, z), (size * 0.75, arm, depth), paint),
    ]
