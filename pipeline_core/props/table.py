"""The table of categories: builder, parts, materials, how each reflects, how tall it is, what stands on what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from pipeline_core.props import builders as first
from pipeline_core.props import kit
from pipeline_core.props.look import Look
from pipeline_core.props.materials import CLAY, CLOTH, GLASS, GOLD, PAINTED, PAPER, PLANT, STEELY, STONE, WAX, WOOD
from pipeline_core.props.primitives import Finish, Row


@dataclass(frozen=True)
class Category:
    """How a category may vary.

    Attributes:
        build: its builder
        parts: what the second colour may apply to, the usual one first; names in `SURFACES` are patterns of the body
        materials: what it may be made of
        nature: how it reflects where no material is named
        height_m: how tall such a thing usually is, metres
    """

    build: Callable[[Look], list[Row]]
    parts: tuple[str, ...]
    materials: tuple[str, ...]
    nature: Finish
    height_m: float


def _row(build: Callable[[Look], list[Row]], parts: str, materials: str, nature: Finish, height_m: float) -> Category:
    return Category(build, tuple(parts.split()), tuple(materials.split()), nature, height_m)


# Order matters: the held-out rule counts categories. Append only.
TABLE: dict[str, Category] = {
    "crate":     _row(first.crate,      "frame",                      "wooden metal stone",              WOOD,    0.6),
    "barrel":    _row(first.barrel,     "bands stripes",              "wooden metal",                    WOOD,    0.9),
    "chest":     _row(first.chest,      "bands lid",                  "wooden metal golden leather",     WOOD,    0.6),
    "mushroom":  _row(first.mushroom,   "spots stem",                 "",                                PLANT,   0.15),
    "pine":      _row(first.pine,       "trunk spots",                "",                                PLANT,   5),
    "potion":    _row(first.potion,     "cork label",                 "glass",                           GLASS,   0.2),
    "sword":     _row(first.sword,      "handle guard",               "metal wooden golden",             STEELY,  1),
    "shield":    _row(first.shield,     "emblem rim stripes checks",  "wooden metal golden leather",     PAINTED, 0.8),
    "axe":       _row(first.axe,        "handle edge",                "metal stone golden",              STEELY,  0.8),
    "column":    _row(first.column,     "base stripes",               "stone golden wooden",             STONE,   3),
    "lamp":      _row(first.lamp,       "base stripes spots",         "cloth glass",                     CLOTH,   0.5),
    "lantern":   _row(first.lantern,    "light",                      "metal wooden golden",             STEELY,  0.35),
    "chair":     _row(first.chair,      "cushion legs",               "wooden metal",                    WOOD,    1),
    "table":     _row(first.table,      "legs checks stripes",        "wooden stone metal",              WOOD,    0.75),
    "mug":       _row(first.mug,        "stripes handle spots checks","wooden metal golden clay glass",  CLAY,    0.12),
    "house":     _row(first.house,      "roof door",                  "wooden stone clay",               CLAY,    6),
    "well":      _row(first.well,       "roof",                       "stone wooden",                    STONE,   2.2),
    "rock":      _row(first.rock,       "moss",                       "",                                STONE,   0.8),
    "gem":       _row(first.gem,        "base",                       "glass",                           GLASS,   0.1),
    "coin":      _row(first.coin,       "emblem",                     "metal golden wooden",             GOLD,    0.03),
    "key":       _row(first.key,        "handle",                     "metal golden wooden",             STEELY,  0.1),
    "book":      _row(first.book,       "emblem pages",               "leather cloth",                   PAPER,   0.25),
    "candle":    _row(first.candle,     "flame base stripes",         "",                                WAX,     0.25),
    "anvil":     _row(first.anvil,      "base",                       "metal stone golden",              STEELY,  0.4),
    "wheel":     _row(first.wheel,      "spokes hub",                 "wooden metal golden",             WOOD,    0.9),
    "fence":     _row(first.fence,      "rails",                      "wooden metal",                    WOOD,    1),
    "signpost":  _row(first.signpost,   "post",                       "wooden metal",                    WOOD,    1.8),
    "tombstone": _row(first.tombstone,  "cross moss base",            "stone",                           STONE,   1),
    "cactus":    _row(first.cactus,     "pot flower spots",           "",                                PLANT,   0.5),
    "banner":    _row(first.banner,     "emblem pole stripes checks", "cloth",                           CLOTH,   2.2),
    "cannon":    _row(first.cannon,     "wheels",                     "metal golden",                    STEELY,  1),
    "boat":      _row(first.boat,       "sail stripes",               "wooden",                          WOOD,    3),
    "hammer":    _row(first.hammer,     "handle",                     "metal wooden stone golden",       STEELY,  0.4),
    "tent":      _row(first.tent,       "door stripes",               "cloth leather",                   CLOTH,   1.6),
    "pumpkin":   _row(first.pumpkin,    "face stem",                  "",                                PLANT,   0.35),
    "tower":     _row(first.tower,      "roof door",                  "stone wooden",                    STONE,   10),
    "bed":       _row(kit.bed,          "blanket pillow",             "wooden metal",                    WOOD,    1.1),
    "bench":     _row(kit.bench,        "legs stripes",               "wooden stone metal",              WOOD,    0.85),
    "shelf":     _row(kit.shelf,        "books",                      "wooden metal",                    WOOD,    1.8),
    "stool":     _row(kit.stool,        "legs cushion",               "wooden metal",                    WOOD,    0.5),
    "apple":     _row(kit.apple,        "leaf stem spots",            "golden",                          PLANT,   0.09),
    "bread":     _row(kit.bread,        "cuts",                       "",                                PLANT,   0.12),
    "cheese":    _row(kit.cheese,       "rind holes",                 "",                                PLANT,   0.1),
    "carrot":    _row(kit.carrot,       "leaves",                     "",                                PLANT,   0.25),
    "cake":      _row(kit.cake,         "icing cherries",             "",                                PLANT,   0.15),
    "pickaxe":   _row(kit.pickaxe,      "handle",                     "metal stone golden wooden",       STEELY,  0.8),
    "shovel":    _row(kit.shovel,       "handle",                     "metal wooden golden",             STEELY,  1.1),
    "saw":       _row(kit.saw,          "handle",                     "metal golden",                    STEELY,  0.6),
    "bush":      _row(kit.bush,         "berries flowers",            "",                                PLANT,   0.8),
    "flower":    _row(kit.flower,       "middle stem",                "",                                PLANT,   0.4),
    "palm":      _row(kit.palm,         "trunk nuts",                 "",                                PLANT,   6),
    "stump":     _row(kit.stump,        "moss rings",                 "",                                WOOD,    0.5),
    "bridge":    _row(kit.bridge,       "rails",                      "wooden stone",                    WOOD,    1.6),
    "door":      _row(kit.door,         "frame hinges",               "wooden metal stone",              WOOD,    2.1),
    "arch":      _row(kit.arch,         "base keystone",              "stone wooden golden clay",        STONE,   3),
    "window":    _row(kit.window,       "shutters panes",             "wooden stone metal",              WOOD,    1.2),
    "ladder":    _row(kit.ladder,       "rungs",                      "wooden metal",                    WOOD,    2.5),
    "gate":      _row(kit.gate,         "posts",                      "metal wooden golden",             STEELY,  2),
    "cart":      _row(kit.cart,         "wheels stripes",             "wooden metal",                    WOOD,    1),
    "car":       _row(kit.car,          "wheels roof stripes",        "metal golden",                    PAINTED, 1.5),
    "wagon":     _row(kit.wagon,        "cover wheels",               "wooden metal",                    WOOD,    2.2),
    "rocket":    _row(kit.rocket,       "fins nose stripes checks",   "metal golden",                    PAINTED, 8),
    "crown":     _row(kit.crown,        "jewels stripes",             "golden metal",                    GOLD,    0.2),
    "bomb":      _row(kit.bomb,         "spark fuse stripes",         "metal golden",                    STEELY,  0.25),
    "bucket":    _row(kit.bucket,       "bands handle",               "wooden metal golden leather",     WOOD,    0.4),
    "bell":      _row(kit.bell,         "bands clapper stripes",      "metal golden",                    STEELY,  0.4),
    "helmet":    _row(kit.helmet,       "plume visor",                "metal golden leather",            STEELY,  0.35),
    "drum":      _row(kit.drum,         "skin ropes stripes checks",  "wooden metal leather",            WOOD,    0.4),
    "ring":      _row(kit.finger_ring,  "gem stripes",                "golden metal wooden",             STEELY,  0.03),
    "pedestal":  _row(kit.pedestal,     "base panels",                "stone wooden golden clay",        STONE,   1),
    "vase":      _row(kit.vase,         "stripes handles spots checks", "clay glass golden metal stone",   CLAY, 0.35),
    "teapot":    _row(kit.teapot,       "lid handle spots stripes",   "clay metal golden glass",         CLAY,    0.2),
}  # fmt: skip

FRONTED = frozenset({
    "chest", "potion", "shield", "chair", "house", "book", "signpost", "tombstone", "banner", "cannon", "boat",
    "tent", "pumpkin", "tower", "bed", "bench", "shelf", "flower", "door", "window", "cart", "car", "rocket",
    "helmet",
})  # fmt: skip
"""Categories whose front clearly differs from their back."""

STANDS: dict[str, float] = {
    "table": 0.9,
    "crate": 0.92,
    "column": 1.0,
    "barrel": 0.8,
    "stool": 0.85,
    "stump": 0.6,
    "pedestal": 1.0,
    "drum": 0.8,
}  # fmt: skip
"""Categories with a flat top that something can stand on, and how much of their breadth that top has."""

SMALL: tuple[str, ...] = (
    "mushroom", "potion", "lamp", "lantern", "mug", "gem", "book", "candle", "cactus", "pumpkin", "apple", "bread",
    "cheese", "cake", "flower", "crown", "bomb", "bucket", "bell", "helmet", "drum", "vase", "teapot", "anvil", "key",
    "ring", "chest",
)  # fmt: skip
"""Categories that stand on those."""
