"""Builders of the first props: a `Look` (colours, material, pattern, seeded variation) in, primitive rows out.

Builders work in any convenient units, about two units high, standing anywhere: `pack` centres and scales. Up is +Y,
the front faces +Z, the one-sided part of a symmetric thing (a mug's handle, an axe's blade) points to +X. Parts are
kept at least 6 % of the diameter thick, so that they cover three pixels of a 64-pixel image.
"""

from __future__ import annotations

import math

from pipeline_core.props import materials as stuff
from pipeline_core.props import textures as tx
from pipeline_core.props.look import (
    CLAY,
    CREAM,
    DARK,
    FLAME,
    GOLD,
    LEAF,
    STEEL,
    WATER,
    WOOD,
    Look,
    cross,
    luminance,
    planked,
    shadow_of,
    star,
)
from pipeline_core.props.primitives import (
    Paint,
    Row,
    Vec,
    ball,
    blend,
    bowl,
    box,
    cylinder,
    darker,
    dome,
    plain,
    ring,
    rod,
    rotation,
    turned,
)

# ---- containers ---------------------------------------------------------------------------------


def crate(k: Look) -> list[Row]:
    h, w = k.u(0.8, 1.05), k.u(0.9, 1.05)
    frame = k.of("frame", shadow_of(k.main, 0.42))
    brace = 0.14 if k.u(0, 1) < 0.6 else 0.0
    inside = Paint(k.main, frame, tx.FRAME, 1.0, (1, 0.22, brace, 0), k.sheen(), 0, k.seed())
    e = 0.09
    posts = [box((x * w, 0, z * w), (e, h + e, e), k.piece(frame)) for x in (-1, 1) for z in (-1, 1)]
    return [box((0, 0, 0), (w, h, w), inside), *posts]


def barrel(k: Look) -> list[Row]:
    h, r = k.u(0.95, 1.2), k.u(0.62, 0.72)
    belly = r * k.u(1.2, 1.32)
    wall = k.body("planks", axis=tx.ANGLE, turn=12, cell=0.3)
    band = plain(k.of("bands", DARK, STEEL), metal=0.7)
    y = h * 0.62
    at = r + (belly - r) * (1 - y / h)
    rows = [
        cylinder((0, -h, 0), (0, 0, 0), r, wall, radius2=belly),
        cylinder((0, 0, 0), (0, h, 0), belly, wall, radius2=r, inner=0.84, floor=0.78),
        cylinder((0, y - 0.1, 0), (0, y + 0.1, 0), at + 0.06, band),
        cylinder((0, -y - 0.1, 0), (0, -y + 0.1, 0), at + 0.06, band),
    ]
    if k.u(0, 1) < 0.5:
        rows.append(cylinder((0, -0.09, 0), (0, 0.09, 0), belly + 0.04, band))
    return rows


def chest(k: Look) -> list[Row]:
    w, d, h = k.u(0.95, 1.15), k.u(0.58, 0.7), k.u(0.38, 0.48)
    rise = k.u(0.75, 1.0)
    wall = k.body("planks", axis=1, cell=0.28, stripe=0)
    lid = planked(k.of("lid", k.main), tx.ANGLE, turn=10)
    if not k.has("lid"):
        lid = wall if wall.texture != tx.PLANKS else lid
    lid = lid._replace(metal=k.sheen(), finish=k.finish)
    band = plain(k.of("bands", DARK, GOLD), metal=0.7)
    golden = k.apart(GOLD) < 0.12  # its lock would not show
    top = 2 * h
    rows = [
        box((0, h, 0), (w, h, d), wall),
        cylinder((-w, top, 0), (w, top, 0), d, lid, flat=rise),
        box((0, top, 0), (w + 0.03, 0.06, d + 0.04), band),
        box((0, top - 0.1, d + 0.05), (0.17, 0.23, 0.08), plain(DARK if golden else GOLD, metal=0.8)),
        box((0, top - 0.14, d + 0.12), (0.05, 0.09, 0.04), plain(GOLD if golden else (0.08, 0.07, 0.07))),
    ]
    for x in (-0.68 * w, 0.68 * w):
        rows.append(box((x, h, 0), (0.11, h + 0.01, d + 0.04), band))
        rows.append(cylinder((x - 0.11, top, 0), (x + 0.11, top, 0), d + 0.045, band, flat=rise * 1.02))
    return rows


def mug(k: Look) -> list[Row]:
    r, h = k.u(0.62, 0.75), k.u(0.7, 0.9)
    wall = k.body("plain", axis=tx.ANGLE, turn=8, cell=0.34)
    handle = k.piece(k.of("handle", k.main))
    return [
        cylinder((0, -h, 0), (0, h, 0), r * k.u(0.88, 1.0), wall, radius2=r, inner=0.84, floor=-0.85),
        cylinder((0, 0.3 * h, 0), (0, 0.62 * h, 0), r * 0.83, plain((0.33, 0.2, 0.12))),
        ring((r * 0.98, -0.02, 0), (0, 0, 1), 0.4 * h + 0.08, 0.125, handle, flat=(0.95, 1, 1.1)),
    ]


def potion(k: Look) -> list[Row]:
    shape = k.random.randrange(3)
    glass = (0.80, 0.88, 0.90)
    liquid = k.body("plain", turn=8, cell=0.3, sphere=5)
    liquid = liquid._replace(metal=max(liquid.metal, 0.45), finish=stuff.GLASS)
    rim = plain(darker(glass, 0.85), metal=0.4, finish=stuff.GLASS)
    cork = plain(k.of("cork", WOOD, DARK), finish=stuff.WOOD)
    label = plain(k.of("label", CREAM, DARK), finish=stuff.PAPER)
    neck, r = k.u(0.22, 0.28), k.u(0.72, 0.82)
    if shape == 0:
        body, top, front, tilt = [ball((0, 0, 0), r, liquid)], r * 0.92, r * 0.93, 0
    elif shape == 1:
        body, top, front, tilt = [cylinder((0, -0.7, 0), (0, 0.7, 0), r, liquid, radius2=neck)], 0.66, 0.57, -20
    else:
        body = [
            cylinder((0, -0.75, 0), (0, 0.45, 0), r * 0.8, liquid),
            dome((0, 0.45, 0), (r * 0.8, 0.3, r * 0.8), liquid),
        ]
        top, front, tilt = 0.7, r * 0.8, 0
    patch = (0.34, 0.26, 0.10) if shape else (0.36, 0.3, 0.10)
    return [
        *body,
        ball((0, -0.12, front - 0.02), patch, label, rot=rotation("x", tilt)),
        cylinder((0, top - 0.1, 0), (0, top + 0.3, 0), neck, plain(glass, metal=0.4, finish=stuff.GLASS)),
        cylinder((0, top + 0.24, 0), (0, top + 0.36, 0), neck + 0.1, rim),
        cylinder((0, top + 0.3, 0), (0, top + 0.6, 0), neck * 0.8, cork, radius2=neck * 0.98),
    ]


# ---- plants and minerals ------------------------------------------------------------------------


def mushroom(k: Look) -> list[Row]:
    stem, h, r = k.u(0.26, 0.4), k.u(0.7, 1.1), k.u(0.85, 1.05)
    cap = k.body("plain", sphere=5, cell=0.3, turn=8)
    pale = k.of("stem", CREAM, (0.62, 0.5, 0.4))
    y = h * 0.9
    return [
        cylinder((0, 0, 0), (0, y + 0.1, 0), stem * 1.25, plain(pale), radius2=stem * 0.9),
        cylinder((0, y - 0.05, 0), (0, y + 0.1, 0), r * 0.55, plain(darker(pale, 0.85)), radius2=r * 0.93),
        dome((0, y + 0.06, 0), (r, k.u(0.6, 0.95), r), cap),
        ring((0, h * 0.5, 0), (0, 1, 0), stem * 1.02, 0.09, plain(darker(pale, 0.92))),
    ]


def pine(k: Look) -> list[Row]:
    tiers, r = 3 + k.random.randrange(2), k.u(0.72, 0.9)
    trunk = plain(k.of("trunk", WOOD, DARK), finish=stuff.WOOD)
    rows = [cylinder((0, -0.62, 0), (0, 0.3, 0), 0.21, trunk)]
    leaf = k.body("plain", turn=7, cell=0.26)
    if leaf.texture == tx.PLAIN:  # tiers stay apart in every colour: darker under the skirt of the next one
        leaf = leaf._replace(texture=tx.GRADIENT, colour2=shadow_of(k.main, 0.5), params=(0.0, 1.0, 0, 0))
    y = 0.0
    for i in range(tiers):
        a = r * (1 - 0.72 * i / tiers)
        height = 0.95 - 0.08 * i
        rows.append(cylinder((0, y, 0), (0, y + height, 0), a, leaf, radius2=a * 0.12))
        y += height * 0.52
    return rows


def cactus(k: Look) -> list[Row]:
    r, h = k.u(0.24, 0.3), k.u(1.2, 1.5)
    c = shadow_of(k.main, 0.3)
    skin = Paint(k.main, c, tx.PLANKS, 1.0, (tx.ANGLE, 0.16, 0.0, 10.0), k.sheen(), finish=k.finish)
    if k.has("spots"):
        skin = k.body("plain", turn=5, cell=0.26)
    pot = plain(k.of("pot", CLAY, STEEL), finish=stuff.CLAY)
    rows = [
        cylinder((0, -0.55, 0), (0, 0.1, 0), 0.4, pot, radius2=0.55),
        cylinder((0, 0.0, 0), (0, 0.16, 0), 0.61, plain(darker(pot.colour, 0.9))),
        rod((0, 0, 0), (0, h, 0), r, skin),
    ]
    for side in (-1, 1):
        y, reach, up = k.u(0.4, 0.75), k.u(0.48, 0.6), k.u(0.35, 0.55)
        rows.append(rod((0, y, 0), (side * reach, y, 0), 0.15, skin))
        rows.append(rod((side * reach, y, 0), (side * reach, y + up, 0), 0.16, skin))
    rows.append(
        ball((0, h + r + 0.02, 0), (0.2, 0.14, 0.2), plain(k.of("flower", (0.95, 0.45, 0.65), (0.97, 0.8, 0.2))))
    )
    return rows


def pumpkin(k: Look) -> list[Row]:
    lobes, squash, r = 8, k.u(0.7, 0.85), 0.62
    face = plain(k.of("face", (1.0, 0.82, 0.22), (0.12, 0.1, 0.1)), glow=0.5)
    rows = []
    for i in range(lobes):
        a = 2 * math.pi * (i + 0.5) / lobes
        tone = plain(
            darker(k.main, 1.0 if i % 2 else 0.9)
            if luminance(k.main) > 0.2
            else blend(k.main, (1, 1, 1), 0.05 * (i % 2)),
            metal=k.sheen(),
            finish=k.finish,
        )
        rows.append(ball((0.38 * math.sin(a), 0, 0.38 * math.cos(a)), (r, squash, r), tone))
    rows.append(
        cylinder((0, squash * 0.8, 0), (0.1, squash + 0.38, 0), 0.19, plain(k.of("stem", LEAF, WOOD)), radius2=0.12)
    )
    for x in (-0.36, 0.36):
        rows.append(box((x, 0.22, 0.84), (0.19, 0.17, 0.12), face, taper=(0.0, 1.0)))
    grin = k.u(0.3, 0.42)
    rows.append(box((0, -0.26, 0.88), (grin, 0.1, 0.13), face))
    for x in (-1, 1):
        rows.append(box((x * (grin + 0.02), -0.18, 0.84), (0.11, 0.14, 0.12), face, rot=rotation("z", -25 * x)))
    return rows


def rock(k: Look) -> list[Row]:
    stone = k.body("noise", cell=0.35)
    rows = []
    for i in range(4):
        turn = turned(rotation("y", k.u(0, 360)), rotation("x", k.u(-22, 22)), rotation("z", k.u(-22, 22)))
        size = k.u(0.72, 0.9) if i == 0 else k.u(0.42, 0.62)
        a = 2.1 * i + k.u(0, 1)
        at = (0, 0.1, 0) if i == 0 else (0.55 * math.cos(a), -0.18 + k.u(-0.1, 0.1), 0.55 * math.sin(a))
        half = (size, size * k.u(0.62, 0.9), size * k.u(0.75, 1.0))
        paint = stone._replace(
            colour=darker(stone.colour, 1.0 - 0.05 * i), colour2=darker(stone.colour2, 1.0 - 0.05 * i)
        )
        rows.append(box(at, half, paint, taper=(k.u(0.5, 0.75), k.u(0.5, 0.75)), rot=turn))
    if k.has("moss"):
        moss = Paint(k.of("moss"), shadow_of(k.of("moss"), 0.25), tx.NOISE, 3.0, (0.5, 0.6, 0.2, 0))
        rows.append(ball((0, 0.62, 0), (0.62, 0.26, 0.6), moss))
        rows.append(ball((0.5, 0.25, 0.35), (0.32, 0.22, 0.3), moss))
        rows.append(ball((-0.5, 0.2, 0.3), (0.3, 0.2, 0.32), moss))
    return rows


def gem(k: Look) -> list[Row]:
    sides, tall = (6, 8)[k.random.randrange(2)], k.u(0, 1) < 0.35
    paint = k.body("plain")._replace(metal=0.75, finish=k.finish)
    table = plain(blend(k.main, (1, 1, 1), 0.35), metal=0.3, finish=k.finish)
    if tall:
        h, r = k.u(0.45, 0.6), k.u(0.52, 0.6)
        rows = [
            cylinder((0, -h, 0), (0, h, 0), r, paint, sides=6),
            cylinder((0, h, 0), (0, h + 0.6, 0), r, table, radius2=0.04, sides=6),
            cylinder((0, -h, 0), (0, -h - 0.6, 0), r, paint, radius2=0.04, sides=6),
        ]
        low = -h - 0.6
    else:
        below = plain(shadow_of(k.main, 0.22), metal=0.75, finish=k.finish)
        crown, depth, top = k.u(0.28, 0.4), k.u(0.8, 1.0), k.u(0.5, 0.62)
        rows = [
            cylinder((0, 0, 0), (0, crown, 0), 1.0, paint, radius2=top, sides=sides),
            cylinder((0, crown - 0.04, 0), (0, crown + 0.03, 0), top, table, radius2=top * 0.9, sides=sides),
            cylinder((0, 0, 0), (0, -depth, 0), 1.0, below, radius2=0.05, sides=sides),
        ]
        low = -depth
    if k.has("base"):
        base = plain(k.of("base"))
        rows.append(cylinder((0, low - 0.2, 0), (0, low + 0.02, 0), 0.55, base, radius2=0.45))
        rows.append(cylinder((0, low, 0), (0, low + 0.35, 0), 0.16, base, radius2=0.34))
    return rows


# ---- weapons and tools --------------------------------------------------------------------------


def sword(k: Look) -> list[Row]:
    length, wide, guard = k.u(1.4, 1.8), k.u(0.23, 0.31), k.u(0.5, 0.65)
    blade = k.body("plain", axis=0, cell=0.2)
    blade = blade._replace(metal=max(blade.metal, 0.35), finish=k.hard)
    tone = blend(k.main, (1, 1, 1), 0.35) if luminance(k.main) < 0.7 else darker(k.main, 0.78)
    ridge = plain(tone, metal=0.3, finish=k.hard)
    handle = plain(k.of("handle", WOOD, DARK), finish=stuff.LEATHER)
    hilt = plain(k.of("guard", GOLD, DARK), metal=0.7)
    return [
        box((0, length / 2, 0), (wide, length / 2, 0.09), blade),
        box((0, length + 0.17, 0), (wide, 0.17, 0.09), blade, taper=(0.1, 0.6)),
        box((0, length * 0.45, 0), (0.075, length * 0.45, 0.115), ridge),
        box((0, 0, 0), (guard, 0.1, 0.15), hilt),
        ball((-guard, 0, 0), 0.15, hilt),
        ball((guard, 0, 0), 0.15, hilt),
        rod((0, -0.05, 0), (0, -0.55, 0), 0.12, handle),
        ball((0, -0.68, 0), 0.19, hilt),
    ]


def axe(k: Look) -> list[Row]:
    h, flare, reach = k.u(1.0, 1.25), k.u(1.8, 2.2), k.u(0.36, 0.44)
    handle = planked(k.of("handle", WOOD, DARK), 1, 0.5)
    head = k.body("plain", axis=1, cell=0.25)
    head = head._replace(metal=max(head.metal, 0.35), finish=k.hard)
    edge = plain(k.of("edge", (0.85, 0.86, 0.9), (0.3, 0.3, 0.33)), metal=0.6)
    y, a = h * 0.72, 0.3
    sideways = rotation("z", -90)
    return [
        rod((0, -h, 0), (0, h, 0), 0.125, handle),
        box((0, y, 0), (0.2, a, 0.19), head),
        box((0.15 + reach, y, 0), (a, reach, 0.17), head, taper=(flare, 0.6), rot=sideways),
        box((0.15 + 2 * reach + 0.06, y, 0), (a * flare, 0.08, 0.1), edge, taper=(0.92, 0.8), rot=sideways),
        box((-0.32, y, 0), (a * 0.8, 0.16, 0.15), head, taper=(0.6, 0.8), rot=rotation("z", 90)),
    ]


def hammer(k: Look) -> list[Row]:
    h, w, s = k.u(0.9, 1.15), k.u(0.62, 0.8), k.u(0.32, 0.4)
    head = k.body("plain", axis=1, cell=0.25, stripe=0)
    head = head._replace(metal=max(head.metal, 0.35), finish=k.hard)
    cap = plain(shadow_of(k.main, 0.3), metal=head.metal, finish=k.hard)
    return [
        rod((0, -h, 0), (0, h * 0.9, 0), 0.13, planked(k.of("handle", WOOD, DARK), 1, 0.5)),
        box((0, h * 0.85, 0), (w, s, s), head),
        box((w, h * 0.85, 0), (0.1, s + 0.07, s + 0.07), cap),
        box((-w, h * 0.85, 0), (0.1, s + 0.07, s + 0.07), cap),
    ]


def shield(k: Look) -> list[Row]:
    shape, z = k.random.randrange(3), 0.0
    face = k.body("plain", axis=0, cell=0.3, stripe=0)
    rim = plain(k.of("rim", STEEL, DARK), metal=0.7)
    mark = plain(k.of("emblem", GOLD, (0.86, 0.86, 0.86), DARK), metal=0.4)
    back = planked(WOOD, 0, 0.3)
    rows: list[Row] = []
    if shape == 0:
        rows += [
            cylinder((0, 0, -0.12), (0, 0, 0.06), 1.0, rim),
            cylinder((0, 0, 0), (0, 0, 0.12), 0.84, face, radius2=0.78),
            cylinder((0, 0, -0.16), (0, 0, -0.06), 0.84, back),
        ]
    else:
        w, down = k.u(0.76, 0.86), k.u(1.05, 1.25)
        flip = rotation("z", 180)
        point = 0.05 if shape == 1 else 0.3
        for s, a, b, paint in ((1.0, -0.12, 0.06, rim), (0.82, 0.0, 0.13, face), (0.82, -0.17, -0.05, back)):
            mid, half = (a + b) / 2, (b - a) / 2
            inset = (1 - s) * 0.8
            high, low = 0.78 - inset, -down - 0.06 + 1.6 * inset
            rows.append(box((0, (high - 0.1) / 2, mid), (w * s, (high + 0.1) / 2, half), paint))
            rows.append(
                box((0, (low - 0.1) / 2, mid), (w * s, (-0.1 - low) / 2, half), paint, taper=(point, 1), rot=flip)
            )
        z = 0.01
    kind = k.random.randrange(3)
    if kind == 0:
        rows += cross((0, 0.12, 0.16 + z), 0.42, 0.07, mark)
    elif kind == 1:
        rows += star((0, 0.1, 0.16 + z), 0.42, 0.07, mark)
    else:
        rows.append(ball((0, 0.1, 0.12 + z), (0.34, 0.34, 0.2), mark))
    rows.append(ring((0, 0, -0.17), (1, 0, 0), 0.26, 0.08, plain(DARK)))
    return rows


def anvil(k: Look) -> list[Row]:
    w, d = k.u(0.72, 0.85), k.u(0.34, 0.42)
    iron = k.body("plain", axis=1, cell=0.25)
    iron = iron._replace(metal=max(iron.metal, 0.35), finish=k.hard)
    base = plain(k.of("base", k.main), metal=0.35, finish=k.hard) if k.has("base") else iron
    return [
        box((0, -0.62, 0), (0.78, 0.16, d + 0.14), base, taper=(0.85, 0.85)),
        box((0, -0.25, 0), (0.5, 0.28, d), iron, taper=(0.75, 0.75)),
        box((0, 0.2, 0), (w * 0.8, 0.16, d * 0.9), iron, taper=(1.2, 1.15)),
        box((0, 0.46, 0), (w, 0.14, d), iron),
        cylinder((w - 0.05, 0.42, 0), (w + 0.75, 0.5, 0), 0.24, iron, radius2=0.07),
        box((-w - 0.15, 0.5, 0), (0.2, 0.1, d * 0.8), iron),
    ]


def key(k: Look) -> list[Row]:
    h, r = k.u(0.95, 1.15), k.u(0.36, 0.44)
    metal = k.body("plain", axis=1, cell=0.2)
    metal = metal._replace(metal=max(metal.metal, 0.45), finish=k.hard)
    bow = plain(k.of("handle", k.main), metal=0.45, finish=k.hard)
    shape = k.random.randrange(2)
    rows = [
        rod((0, -h, 0), (0, h - r, 0), 0.13, metal),
        ring((0, h, 0), (0, 0, 1), r, 0.145, bow),
        cylinder((0, h - r - 0.22, 0), (0, h - r - 0.08, 0), 0.2, bow),
        box((0.28, -h + 0.06, 0), (0.24, 0.11, 0.11), metal),
        box((0.24, -h + 0.42, 0), (0.19, 0.1, 0.11), metal),
    ]
    if shape:
        rows += [
            ring((-0.36, h - 0.02, 0), (0, 0, 1), 0.2, 0.12, bow),
            ring((0.36, h - 0.02, 0), (0, 0, 1), 0.2, 0.12, bow),
        ]
    return rows


def cannon(k: Look) -> list[Row]:
    tilt, length, r = math.radians(k.u(8, 20)), k.u(1.1, 1.3), k.u(0.3, 0.36)
    c, s = math.cos(tilt), math.sin(tilt)
    tube = k.body("plain", axis=1, cell=0.3, turn=8)
    tube = tube._replace(metal=max(tube.metal, 0.4), finish=k.hard)

    def at(t: float) -> Vec:
        return (0, 0.15 + s * t, c * t)

    wheel_ = k.of("wheels", WOOD, DARK)
    trim = plain(shadow_of(k.main, 0.3), metal=0.5, finish=k.hard)
    rows = [
        cylinder(at(-0.7), at(length), r * 1.15, tube, radius2=r * 0.85, inner=0.62, floor=0.3),
        ball(at(-0.72), r * 1.15, tube),
        ball(at(-1.08), 0.13, tube),
        cylinder(at(length - 0.16), at(length + 0.06), r * 1.12, trim, inner=0.66, floor=-1),
        cylinder(at(length - 0.12), at(length - 0.02), r * 0.8, plain((0.05, 0.05, 0.06))),
        cylinder(at(-0.05), at(0.1), r * 1.16, trim),
        box(
            (0, -0.22, -0.35),
            (0.22, 0.14, 0.75),
            planked(WOOD if not k.has("wheels") else darker(wheel_, 0.8), 2, 0.4),
            rot=rotation("x", -12),
        ),
        cylinder((-0.6, -0.15, 0.1), (0.6, -0.15, 0.1), 0.1, plain(DARK)),
    ]
    for x in (-0.56, 0.56):
        rows.append(ring((x, -0.15, 0.1), (1, 0, 0), 0.48, 0.12, plain(wheel_)))
        rows.append(cylinder((x - 0.09, -0.15, 0.1), (x + 0.09, -0.15, 0.1), 0.15, plain(darker(wheel_, 0.8))))
        for a in (0.0, 60.0, 120.0):
            half = (0.05, 0.45, 0.07)
            rows.append(box((x, -0.15, 0.1), half, plain(darker(wheel_, 0.9)), rot=rotation("x", a)))
    return rows


# ---- furniture and household --------------------------------------------------------------------


def chair(k: Look) -> list[Row]:
    w, leg, back = k.u(0.52, 0.62), k.u(0.7, 0.9), k.u(0.85, 1.15)
    t = 0.1
    wood = k.body("plain", axis=0, cell=0.25)
    legs = k.piece(k.of("legs", k.main)) if k.has("legs") else k.flat(0.92)
    rows = [box((0, 0, 0), (w + 0.06, 0.1, w + 0.06), wood)]
    for x in (-w, w):
        for z in (-w, w):
            rows.append(box((x * 0.95, -leg / 2, z * 0.95), (t, leg / 2, t), legs))
    if k.random.randrange(2):
        rows.append(box((0, back * 0.62, -w), (w, back * 0.42, 0.09), wood))
    else:
        for y in (0.42, 0.82):
            rows.append(box((0, back * y, -w), (w, 0.12, 0.08), wood))
    for x in (-w, w):
        rows.append(box((x * 0.92, back / 2, -w), (t, back / 2 + 0.06, t), k.flat()))
    if k.has("cushion"):
        soft = plain(k.of("cushion"), finish=stuff.CLOTH)
        rows.append(box((0, 0.15, 0.04), (w * 0.95, 0.1, w * 0.9), soft, taper=(0.92, 0.92)))
        rows.append(box((0, back * 0.62, -w + 0.1), (w * 0.72, back * 0.34, 0.06), soft))
    return rows


def table(k: Look) -> list[Row]:
    round_, w, h = k.u(0, 1) < 0.35, k.u(0.95, 1.15), k.u(0.75, 0.95)
    d = k.u(0.65, 0.85)
    top = k.body("planks", axis=2, cell=0.33, stripe=0)
    leg = k.piece(k.of("legs", k.main)) if k.has("legs") else k.flat(0.88)
    if round_:
        return [
            cylinder((0, -0.1, 0), (0, 0.1, 0), w, top),
            cylinder((0, -h, 0), (0, 0, 0), 0.16, leg),
            cylinder((0, -h - 0.08, 0), (0, -h + 0.1, 0), 0.55, leg, radius2=0.35),
        ]
    rows = [box((0, 0, 0), (w, 0.1, d), top), box((0, -0.16, 0), (w * 0.86, 0.1, d * 0.82), leg)]
    for x in (-w, w):
        for z in (-d, d):
            rows.append(box((x * 0.84, -h / 2, z * 0.8), (0.11, h / 2, 0.11), leg, taper=(1.15, 1.15)))
    return rows


def lamp(k: Look) -> list[Row]:
    h, r, top = k.u(0.55, 0.8), k.u(0.7, 0.85), k.u(0.5, 0.66)
    shade = k.body("plain", turn=8, cell=0.28)._replace(glow=0.35)
    base = plain(k.of("base", WOOD, STEEL, DARK))
    foot = k.u(0.4, 0.5)
    rows = [
        cylinder((0, -0.75, 0), (0, -0.58, 0), foot, base, radius2=foot * 0.85),
        cylinder((0, -0.62, 0), (0, h, 0), 0.11, base),
        cylinder((0, 0.15, 0), (0, 0.15 + h, 0), r, shade, radius2=r * top, inner=0.88, floor=-1),
        ball((0, 0.45, 0), 0.24, plain((1.0, 0.95, 0.75), glow=1.0)),
    ]
    if k.random.randrange(2):
        rows.append(ball((0, -0.3, 0), (0.3, 0.3, 0.3), base))
    return rows


def lantern(k: Look) -> list[Row]:
    w, h = k.u(0.5, 0.6), k.u(0.55, 0.72)
    frame = k.body("plain", axis=1, cell=0.3)
    frame = frame._replace(metal=max(frame.metal, 0.3), finish=k.hard)
    light = k.of("light", (1.0, 0.86, 0.42), (0.75, 0.92, 1.0))
    glass = Paint(blend(light, (1, 1, 1), 0.25), light, tx.GRADIENT, 1.0, (0.0, 1.0, 0, 0), 0.0, 0.8, 0, stuff.GLASS)
    rows = [
        box((0, -h - 0.1, 0), (w + 0.1, 0.12, w + 0.1), frame),
        box((0, 0, 0), (w - 0.1, h, w - 0.1), glass),
        box((0, h + 0.08, 0), (w + 0.12, 0.08, w + 0.12), frame),
        box((0, h + 0.36, 0), (w + 0.06, 0.22, w + 0.06), frame, taper=(0.3, 0.3)),
        ring((0, h + 0.76, 0), (0, 0, 1), 0.2, 0.085, frame),
    ]
    for x in (-1, 1):
        for z in (-1, 1):
            rows.append(box((x * (w - 0.06), 0, z * (w - 0.06)), (0.1, h, 0.1), frame))
    return rows


def candle(k: Look) -> list[Row]:
    h, r = k.u(0.8, 1.15), k.u(0.27, 0.36)
    wax = k.body("plain", turn=4, cell=0.22)
    if wax.texture == tx.STRIPES:
        wax = wax._replace(params=(1, 0.5, 1.0, 4.0))  # twisted, like a festive candle
    flame = k.of("flame", FLAME, (0.45, 0.7, 1.0))
    fire = plain(flame, glow=1.0)
    base = plain(k.of("base", GOLD, STEEL), metal=0.6)
    top = h
    return [
        cylinder((0, 0, 0), (0, h, 0), r, wax, inner=0.8, floor=0.9),
        cylinder((0, h * 0.85, 0), (0, h + 0.16, 0), 0.07, plain((0.15, 0.13, 0.12))),
        ball((0, top + 0.28, 0), (0.17, 0.2, 0.17), fire),
        cylinder((0, top + 0.3, 0), (0, top + 0.68, 0), 0.16, fire, radius2=0.02),
        ball((0, top + 0.25, 0), (0.09, 0.12, 0.18), plain(blend(flame, (1, 1, 0.9), 0.6), glow=1.0)),
        bowl((0, 0.1, 0), (0.68, 0.26, 0.68), base, cut=0.0, inner=0.86),
        cylinder((0, -0.2, 0), (0, 0.02, 0), 0.42, base, radius2=0.36),
        ring((0.78, 0.08, 0), (0, 0, 1), 0.19, 0.085, base),
    ]


def book(k: Look) -> list[Row]:
    w, h, d = k.u(0.72, 0.85), k.u(0.95, 1.1), k.u(0.22, 0.34)
    cover = k.body("plain", axis=1, cell=0.3)
    paper = k.of("pages", CREAM)
    pages = Paint(paper, darker(paper, 0.8), tx.STRIPES, 7.0, (2, 0.3, 0, 0), finish=stuff.PAPER)
    mark = plain(k.of("emblem", GOLD, CREAM, DARK), metal=0.3)
    t = 0.09
    rows = [
        box((0, 0, d), (w, h, t), cover),
        box((0, 0, -d), (w, h, t), cover),
        cylinder((-w, -h, 0), (-w, h, 0), d + t, k.piece(shadow_of(k.main, 0.18)), flat=1.0),
        box((-0.04, 0, 0), (w - 0.06, h - 0.1, d), pages),
    ]
    kind = k.random.randrange(3)
    front = d + t + 0.02
    if kind == 0:
        rows.append(box((0.04, 0.05, front), (0.32, 0.32, 0.06), mark, rot=rotation("z", 45)))
    elif kind == 1:
        rows += star((0.04, 0.1, front), 0.38, 0.06, mark)
    else:
        rows.append(cylinder((0.04, 0.1, front - 0.06), (0.04, 0.1, front + 0.06), 0.36, mark))
    for y in (-h + 0.14, h - 0.14):
        rows.append(box((0.02, y, front - 0.02), (w - 0.06, 0.06, 0.04), mark))
    return rows


# ---- buildings and outdoor ----------------------------------------------------------------------


def house(k: Look) -> list[Row]:
    w, h, d = k.u(0.75, 0.9), k.u(0.5, 0.68), k.u(0.7, 0.95)
    rise = k.u(0.38, 0.52)
    wall = k.body("bricks" if k.material == "stone" else "plain", axis=1, cell=0.25, stripe=1)
    tile = k.of("roof", (0.55, 0.24, 0.16), (0.30, 0.33, 0.40))
    roof = planked(tile, 1, 0.26)
    door = plain(k.of("door", (0.42, 0.25, 0.13), (0.22, 0.2, 0.2)))
    pane = plain((0.62, 0.84, 0.95), glow=0.3)
    top = 2 * h
    a = w + 0.2
    rows = [
        box((0, h, 0), (w, h, d), wall),
        box((0, top + rise, 0), (a, rise + 0.04, d + 0.14), roof, taper=(0.06, 1.0)),
        box((0, top + rise * 0.72, 0), (a * 0.70, rise * 0.72, d + 0.17), wall, taper=(0.06, 1.0)),
        box((0, 0.37, d), (0.23, 0.37, 0.06), door),
        ball((0.12, 0.36, d + 0.07), 0.05, plain(GOLD)),
        box((w * 0.5, top + rise * 1.35, -d * 0.4), (0.13, rise * 0.75, 0.13), plain((0.5, 0.38, 0.34))),
    ]
    y = h * 1.15
    for x in (-w, w):
        for z in (-0.45 * d, 0.45 * d):
            rows.append(box((x, y, z), (0.05, 0.19, 0.17), pane))
    for x in (-0.58 * w, 0.58 * w):
        rows.append(box((x, y, d), (0.15, 0.17, 0.05), pane))
    rows.append(cylinder((0, top + rise * 0.5, d), (0, top + rise * 0.5, d + 0.22), 0.14, pane))
    return rows


def tower(k: Look) -> list[Row]:
    r, h = k.u(0.5, 0.6), k.u(1.0, 1.2)
    wall = k.body("bricks", turn=9, cell=0.26, spread=0.12)
    tile = k.of("roof", (0.55, 0.24, 0.16), (0.25, 0.33, 0.5))
    door = plain(k.of("door", (0.42, 0.25, 0.13), (0.2, 0.18, 0.18)))
    top = r * 1.28
    rows = [
        cylinder((0, -h, 0), (0, h * 0.72, 0), r * 1.1, wall, radius2=r),
        cylinder((0, h * 0.6, 0), (0, h, 0), top, wall),
        cylinder((0, h + 0.02, 0), (0, h + k.u(0.75, 1.0), 0), top * 1.02, planked(tile, 1, 0.3), radius2=0.05),
        box((0, -h + 0.34, r), (0.2, 0.34, 0.12), door),
        cylinder((0, -h + 0.66, r - 0.12), (0, -h + 0.66, r + 0.12), 0.2, door),
        box((0, 0.15, r), (0.11, 0.2, 0.09), plain((0.16, 0.15, 0.18))),
    ]
    for i in range(8):
        a = 2 * math.pi * (i + 0.5) / 8
        x, z = top * 0.92 * math.sin(a), top * 0.92 * math.cos(a)
        turn = rotation("y", math.degrees(a))
        rows.append(box((x, h + 0.08, z), (0.15, 0.14, 0.12), k.piece(k.main), rot=turn))
    return rows


def well(k: Look) -> list[Row]:
    r, h, post = k.u(0.75, 0.9), k.u(0.36, 0.46), k.u(1.3, 1.5)
    wall = k.body("bricks", turn=9, cell=0.25)
    wood = k.of("roof", (0.58, 0.32, 0.18), (0.33, 0.36, 0.42))
    beam = plain(WOOD, finish=stuff.WOOD)
    rows = [
        cylinder((0, -h, 0), (0, h, 0), r, wall, inner=0.74, floor=-0.5),
        cylinder((0, -h, 0), (0, h * 0.3, 0), r * 0.76, plain(WATER, finish=stuff.GLASS)),
        box((-r * 0.86, 0.5 * post, 0), (0.1, 0.5 * post + 0.1, 0.1), beam),
        box((r * 0.86, 0.5 * post, 0), (0.1, 0.5 * post + 0.1, 0.1), beam),
        box((0, post + 0.24, 0), (r + 0.18, 0.28, 0.62), planked(wood, 0, 0.32), taper=(1.0, 0.06)),
        rod((-r * 0.85, post * 0.72, 0), (r * 0.85, post * 0.72, 0), 0.09, beam),
        cylinder((0, h * 0.9 + 0.1, 0), (0, h * 0.9 + 0.42, 0), 0.18, plain(darker(WOOD, 0.8)), radius2=0.22),
        rod((0, h + 0.4, 0), (0, post * 0.72, 0), 0.05, plain(CREAM)),
    ]
    return rows


def tent(k: Look) -> list[Row]:
    w, h, d = k.u(0.9, 1.05), k.u(0.6, 0.72), k.u(0.9, 1.15)
    cloth = k.body("plain", axis=2, cell=0.28, stripe=2)
    flap = plain(k.of("door", (0.16, 0.13, 0.12), (0.85, 0.8, 0.68)))
    pole = plain(WOOD, finish=stuff.WOOD)
    return [
        box((0, h, 0), (w, h, d), cloth, taper=(0.05, 1.0)),
        box((0, h * 0.72, d), (w * 0.45, h * 0.72, 0.05), flap, taper=(0.06, 1.0)),
        box((0, 0.05, 0), (w + 0.1, 0.06, d + 0.08), plain(shadow_of(k.main, 0.3))),
        rod((0, h, d - 0.02), (0, 2 * h + 0.22, d - 0.02), 0.085, pole),
        rod((0, h, -d + 0.02), (0, 2 * h + 0.22, -d + 0.02), 0.085, pole),
    ]


def fence(k: Look) -> list[Row]:
    n, h = 4 + k.random.randrange(2), k.u(0.62, 0.78)
    wood = k.body("plain", axis=0, cell=0.5)
    rail = k.piece(k.of("rails", k.main)) if k.has("rails") else k.flat(0.82)
    span = 1.15
    rows = []
    for i in range(n):
        x = -span + 2 * span * i / (n - 1)
        rows.append(box((x, 0, 0), (0.17, h, 0.09), wood))
        rows.append(box((x, h + 0.11, 0), (0.17, 0.11, 0.09), wood, taper=(0.08, 1.0)))
    for y in (-0.45 * h, 0.45 * h):
        rows.append(box((0, y, -0.1), (span + 0.2, 0.12, 0.09), rail))
    return rows


def signpost(k: Look) -> list[Row]:
    h, w, b = k.u(1.1, 1.35), k.u(0.7, 0.85), k.u(0.3, 0.38)
    post = planked(k.of("post", WOOD, DARK), 1, 0.6)
    board = k.body("plain", axis=1, cell=0.22)
    ink = plain((0.16, 0.12, 0.1) if luminance(k.main) > 0.22 else (0.85, 0.83, 0.78))
    y = h * 0.55
    rows = [
        box((0, 0, -0.06), (0.13, h, 0.12), post),
        box((0, h + 0.08, -0.06), (0.13, 0.08, 0.12), post, taper=(0.1, 0.1)),
        box((0, y, 0.14), (w, b, 0.1), board),
        box((w + 0.16, y, 0.14), (b * 1.35, 0.18, 0.1), board, taper=(0.05, 1.0), rot=rotation("z", -90)),
        cylinder((0, -h - 0.06, -0.06), (0, -h + 0.1, -0.06), 0.36, plain(LEAF), radius2=0.2),
    ]
    for i, s in enumerate((0.78, 0.6)):
        rows.append(box((-0.1 * w - (0.78 - s) * w * 0.6, y + 0.13 - 0.27 * i, 0.23), (w * s, 0.06, 0.03), ink))
    return rows


def tombstone(k: Look) -> list[Row]:
    w, h, d = k.u(0.58, 0.7), k.u(0.55, 0.75), k.u(0.16, 0.22)
    stone = k.body("noise", axis=1, cell=0.3)
    base = plain(k.of("base", shadow_of(k.main, 0.22)))
    mark = plain(k.of("cross", shadow_of(k.main, 0.65) if luminance(k.main) > 0.25 else blend(k.main, (1, 1, 1), 0.45)))
    rows = [
        box((0, -h - 0.12, 0), (w + 0.25, 0.15, d + 0.22), base),
        box((0, 0, 0), (w, h, d), stone),
        cylinder((0, h, -d), (0, h, d), w, stone),
        *cross((0, h * 0.55 + 0.12, d), 0.36, 0.06, mark, low=0.12),
        box((0, -h * 0.45, d), (w * 0.62, 0.065, 0.05), mark),
    ]
    if k.has("moss"):
        moss = plain(k.of("moss"))
        rows.append(ball((-w * 0.5, h + w * 0.8, 0), (0.34, 0.2, d + 0.1), moss))
        rows.append(ball((w * 0.75, -h + 0.1, d * 0.6), (0.32, 0.24, 0.25), moss))
    return rows


def column(k: Look) -> list[Row]:
    r, h = k.u(0.34, 0.44), k.u(1.0, 1.25)
    stone = k.body("plain", turn=8, cell=0.35)
    if stone.texture == tx.PLAIN:  # fluting
        stone = stone._replace(colour2=shadow_of(k.main, 0.28), texture=tx.PLANKS, params=(tx.ANGLE, 0.16, 0, 10.0))
    end = k.piece(k.of("base", k.main)) if k.has("base") else k.flat()
    return [
        cylinder((0, -h, 0), (0, h, 0), r, stone, radius2=r * 0.86),
        box((0, -h - 0.14, 0), (r * 1.75, 0.15, r * 1.75), end),
        cylinder((0, -h, 0), (0, -h + 0.16, 0), r * 1.45, end, radius2=r * 1.15),
        cylinder((0, h - 0.18, 0), (0, h, 0), r * 1.0, end, radius2=r * 1.45),
        box((0, h + 0.12, 0), (r * 1.65, 0.13, r * 1.65), end),
    ]


def banner(k: Look) -> list[Row]:
    w, h = k.u(0.62, 0.78), k.u(0.75, 0.9)
    cloth = k.body("plain", axis=0, cell=0.3, stripe=k.random.randrange(2))
    pole = plain(k.of("pole", WOOD, DARK), finish=stuff.WOOD)
    mark = plain(k.of("emblem", GOLD, CREAM, DARK), metal=0.2, finish=stuff.CLOTH)
    rows = [
        box((0, 0.2, 0.1), (w, h, 0.085), cloth),
        rod((0, -1.15, -0.1), (0, h + 0.42, -0.1), 0.1, pole),
        rod((-w - 0.14, h + 0.2, 0.04), (w + 0.14, h + 0.2, 0.04), 0.11, pole),
        ball((0, h + 0.5, -0.1), 0.17, plain(GOLD, metal=0.6)),
        cylinder((0, -1.24, -0.1), (0, -1.08, -0.1), 0.4, pole, radius2=0.25),
    ]
    for x in (-0.5 * w, 0.5 * w):
        rows.append(
            box((x, 0.2 - h - 0.16, 0.1), (0.5 * w, 0.17, 0.085), cloth, taper=(0.05, 1.0), rot=rotation("z", 180))
        )
    kind = k.random.randrange(3)
    if kind == 0:
        rows += cross((0, 0.22, 0.19), 0.36, 0.05, mark)
    elif kind == 1:
        rows += star((0, 0.22, 0.19), 0.4, 0.05, mark)
    else:
        rows.append(box((0, 0.22, 0.19), (0.3, 0.3, 0.05), mark, rot=rotation("z", 45)))
    return rows


# ---- round things -------------------------------------------------------------------------------


def coin(k: Look) -> list[Row]:
    metal = k.body("plain", cell=0.3)
    metal = metal._replace(metal=max(metal.metal, 0.4), finish=k.hard)
    mark = plain(k.of("emblem", shadow_of(k.main, 0.35)), metal=0.3, finish=k.hard)
    edge = plain(shadow_of(k.main, 0.18), metal=0.5, finish=k.hard)
    t = k.u(0.13, 0.18)
    rows = [
        cylinder((0, 0, -t), (0, 0, t), 0.95, metal),
        ring((0, 0, 0), (0, 0, 1), 0.9, 0.2, edge, flat=(1, 1.0, 1)),
    ]
    kind = k.random.randrange(3)
    if kind == 0:
        rows += star((0, 0, 0), 0.52, t + 0.06, mark)
    elif kind == 1:
        rows.append(box((0, 0, 0), (0.38, 0.38, t + 0.06), mark, rot=rotation("z", 45)))
    else:
        rows += [box((0, 0, 0), (0.15, 0.5, t + 0.06), mark), box((0, 0.36, 0), (0.3, 0.12, t + 0.06), mark)]
    return rows


def wheel(k: Look) -> list[Row]:
    spokes = 3 + k.random.randrange(2)
    rim = k.body("plain", axis=tx.ANGLE, turn=10, stripe=tx.ANGLE, cell=0.3)
    spoke = k.piece(k.of("spokes", k.main)) if k.has("spokes") else k.flat(0.85)
    hub = plain(k.of("hub", DARK, STEEL), metal=0.5)
    rows = [
        ring((0, 0, 0), (0, 0, 1), 0.95, 0.17, rim),
        cylinder((0, 0, -0.24), (0, 0, 0.24), 0.26, hub),
    ]
    first = k.u(0, 180)
    for i in range(spokes):
        rows.append(box((0, 0, 0), (0.1, 0.9, 0.09), spoke, rot=rotation("z", first + 180 * i / spokes)))
    return rows


def boat(k: Look) -> list[Row]:
    w, length, h = k.u(0.5, 0.6), k.u(1.15, 1.35), k.u(0.5, 0.62)
    hull = k.body("planks", axis=1, cell=0.2)
    sail = plain(k.of("sail", (0.90, 0.87, 0.78), (0.55, 0.3, 0.22)), finish=stuff.CLOTH)
    mast, wide = k.u(1.25, 1.5), k.u(0.62, 0.75)
    trim = k.piece(shadow_of(k.main, 0.3))
    return [
        bowl((0, 0, 0), (w, h, length), hull, cut=0.12, inner=0.84),
        box((0, 0.0, 0.3), (w * 0.84, 0.06, 0.14), plain(WOOD)),
        box((0, 0.0, -0.55), (w * 0.78, 0.06, 0.14), plain(WOOD)),
        rod((0, -0.3, length - 0.12), (0, 0.38, length + 0.04), 0.13, trim),
        rod((0, -0.4, 0), (0, mast, 0), 0.09, plain(WOOD)),
        rod((-wide, mast - 0.1, 0.05), (wide, mast - 0.1, 0.05), 0.075, plain(WOOD)),
        box((0, mast * 0.5 + 0.14, 0.12), (wide * 1.05, mast * 0.5 - 0.24, 0.09), sail, taper=(0.85, 1.0)),
    ]
