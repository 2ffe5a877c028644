"""What a prompt says of an asset's materials: words, and what they mean for metallic and roughness.

    found = materials_of("a wooden chest with golden bands")        # [WOOD, GOLD]

Metallic is 1 for conductors and 0 for everything else (glTF 2.0, appendix B; Burley 2012): nothing in between is a
material. Roughness (perceptual, its square is GGX's alpha) is ours: what makes a used prop of that material look
right. ``colour`` is how the material looks, in sRGB; it tells two named materials of one asset apart.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Material:
    """One row: the ``words`` that name it, metallic, roughness, and its usual colour."""

    name: str
    words: tuple[str, ...]
    metallic: float
    roughness: float
    colour: tuple[float, float, float]


# fmt: off
MATERIALS: tuple[Material, ...] = (
    Material("gold",    ("gold", "golden", "gilded"),                          1.0, 0.30, (0.86, 0.70, 0.22)),
    Material("silver",  ("silver", "silvery", "chrome"),                       1.0, 0.25, (0.80, 0.80, 0.82)),
    Material("copper",  ("copper", "bronze", "brass"),                         1.0, 0.40, (0.75, 0.48, 0.28)),
    Material("metal",   ("iron", "steel", "metal", "metallic", "tin"),         1.0, 0.50, (0.48, 0.49, 0.51)),
    Material("wood",    ("wood", "wooden", "oak", "oaken", "timber", "bamboo"), 0.0, 0.75, (0.48, 0.32, 0.18)),
    Material("stone",   ("stone", "rock", "granite", "concrete", "cobblestone"), 0.0, 0.85, (0.52, 0.51, 0.49)),
    Material("marble",  ("marble",),                                           0.0, 0.30, (0.88, 0.87, 0.85)),
    Material("brick",   ("brick", "bricks", "clay", "terracotta"),             0.0, 0.85, (0.65, 0.33, 0.24)),
    Material("glass",   ("glass", "crystal", "crystalline"),                   0.0, 0.08, (0.75, 0.85, 0.88)),
    Material("ceramic", ("ceramic", "porcelain", "glazed"),                    0.0, 0.25, (0.90, 0.89, 0.86)),
    Material("leather", ("leather",),                                          0.0, 0.60, (0.40, 0.24, 0.15)),
    Material("cloth",   ("cloth", "fabric", "wool", "woollen", "cotton", "velvet", "linen"),
                                                                               0.0, 0.95, (0.70, 0.66, 0.60)),
    Material("paper",   ("paper", "cardboard", "parchment"),                   0.0, 0.90, (0.85, 0.80, 0.68)),
    Material("plastic", ("plastic", "rubber"),                                 0.0, 0.45, (0.60, 0.60, 0.60)),
    Material("wax",     ("wax",),                                              0.0, 0.50, (0.92, 0.86, 0.72)),
)
# fmt: on

PLAIN = Material("plain", (), 0.0, 0.9, (0.5, 0.5, 0.5))
"""What an asset is made of where the prompt names nothing: the constant that the catalogue calls ``constant``."""

GLOWING = (
    "candle", "candles", "lantern", "lanterns", "lamp", "lamps", "torch", "torches", "campfire", "bonfire", "fire",
    "flame", "flames", "burning", "glowing", "lit",
)  # fmt: skip
"""Words of things that give light."""


def words_of(prompt: str) -> list[str]:
    """The words of ``prompt`` in lower case, in order."""
    return re.findall(r"[a-z]+", prompt.lower())


def materials_of(prompt: str) -> list[Material]:
    """The materials that ``prompt`` names, each once, in its order."""
    by_word = {word: material for material in MATERIALS for word in material.words}
    return list(dict.fromkeys(by_word[word] for word in words_of(prompt) if word in by_word))


def glow_of(prompt: str) -> str | None:
    """The first word of ``prompt`` that names something which gives light."""
    return next((word for word in words_of(prompt) if word in GLOWING), None)


def nearest_material(colours: np.ndarray, materials: list[Material]) -> np.ndarray:
    """Number [T] of the one of ``materials`` whose usual colour is most like each of ``colours`` [T, 3] in hue and
    saturation, and a little in brightness: light and shadow change that."""
    target = _opponent(np.array([material.colour for material in materials]))
    return ((_opponent(colours)[:, None] - target) ** 2).sum(axis=2).argmin(axis=1)


def _opponent(rgb: np.ndarray) -> np.ndarray:
    """Brightness (weighed 0.3), red-green and yellow-blue [..., 3] of sRGB colours."""
    r, g, b = np.moveaxis(np.asarray(rgb, dtype=np.float64), -1, 0)
    return np.stack([0.3 * (r + g + b) / 3, r - g, (r + g) / 2 - b], axis=-1)
