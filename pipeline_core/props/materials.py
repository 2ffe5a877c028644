"""What props are made of: the materials of the captions, and how each reflects.

    MATERIALS["golden"].finish          # metallic 1, roughness 0.3
    finish_of("metal", CLOTH)           # a thing of cloth, asked for in metal: metal

Roughness is as `pipeline_core.texturing.materials` has it for the words of any prompt.
"""

from __future__ import annotations

from dataclasses import dataclass

from pipeline_core.props.primitives import PAINTED, STEELY, Finish, Vec

WOOD = Finish(0.0, 0.75)
STONE = Finish(0.0, 0.85)
GOLD = Finish(1.0, 0.3)
GLASS = Finish(0.0, 0.08)
CLOTH = Finish(0.0, 0.95)
LEATHER = Finish(0.0, 0.6)
CLAY = Finish(0.0, 0.85)
PAPER = Finish(0.0, 0.9)
WAX = Finish(0.0, 0.5)
PLANT = Finish(0.0, 0.7)
"""Leaves, fruit, what grows and what is baked."""


@dataclass(frozen=True)
class Material:
    """A material that captions name.

    Attributes:
        finish: how it reflects
        colour: the colour of a thing that is named with the material and without a colour
        tint: sRGB that a body's colour is drawn towards, None = it stays
        share: how far
    """

    finish: Finish
    colour: str
    tint: Vec | None = None
    share: float = 0.0


MATERIALS: dict[str, Material] = {
    "wooden":  Material(WOOD, "brown"),
    "stone":   Material(STONE, "grey", (0.55, 0.55, 0.55), 0.25),
    "metal":   Material(STEELY, "grey", (0.64, 0.66, 0.70), 0.25),
    "golden":  Material(GOLD, "yellow", (0.90, 0.66, 0.16), 1.0),
    "glass":   Material(GLASS, "white", (0.86, 0.94, 0.97), 0.30),
    "cloth":   Material(CLOTH, "white", (0.80, 0.76, 0.70), 0.10),
    "leather": Material(LEATHER, "brown", (0.40, 0.24, 0.15), 0.25),
    "clay":    Material(CLAY, "orange", (0.72, 0.38, 0.24), 0.25),
}  # fmt: skip
"""`golden` comes in yellow only: gold is a colour and a material at once."""

__all__ = [
    "CLAY", "CLOTH", "GLASS", "GOLD", "LEATHER", "MATERIALS", "PAINTED", "PAPER", "PLANT", "STEELY", "STONE", "WAX",
    "WOOD", "Material", "finish_of",
]  # fmt: skip


def finish_of(material: str | None, nature: Finish) -> Finish:
    """Finish of a body: its material's, or what such things are made of where none is named."""
    return nature if material is None else MATERIALS[material].finish
