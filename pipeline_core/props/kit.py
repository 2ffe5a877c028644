"""Builders of what a game kit has beside the first props: furniture, food, tools, plants, buildings, vehicles.

As in `builders.py`: a `Look` in, primitive rows out, about two units high, up +Y, front +Z.
"""

from __future__ import annotations

import math

from pipeline_core.props import materials as stuff
from pipeline_core.props import textures as tx
from pipeline_core.props.look import (
    CREAM,
    DARK,
    GOLD,
    LEAF,
    STEEL,
    WATER,
    WOOD,
    Look,
    luminance,
    planked,
    shadow_of,
)
from pipeline_core.props.primitives import (
    Paint,
    Row,
    Vec,
    ball,
    blend,
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

SKY = (0.62, 0.84, 0.95)
ROSE = (0.80, 0.22, 0.30)
NAVY = (0.22, 0.32, 0.62)
SOIL = (0.36, 0.25, 0.17)
TYRE = (0.13, 0.13, 0.14)


def wooden(colour: Vec) -> Paint:
    return plain(colour, finish=stuff.WOOD)


def steel(colour: Vec) -> Paint:
    return plain(colour, metal=0.6, finish=stuff.STEELY)


def cloth(colour: Vec) -> Paint:
    return plain(colour, finish=stuff.CLOTH)


def leafy(colour: Vec) -> Paint:
    return plain(colour, finish=stuff.PLANT)


def glassy(colour: Vec) -> Paint:
    return plain(colour, glow=0.3, finish=stuff.GLASS)


def spoked(x: float, y: float, z: float, radius: float, rim: Paint, spoke: Paint, *, first: float = 0.0) -> list[Row]:
    """A wheel with six spokes, its axle along x."""
    rows = [
        ring((x, y, z), (1, 0, 0), radius * 0.84, radius * 0.2, rim),
        cylinder((x - 0.13, y, z), (x + 0.13, y, z), radius * 0.28, spoke),
    ]
    for i in range(3):
        rows.append(box((x, y, z), (0.07, radius * 0.8, 0.075), spoke, rot=rotation("x", first + 60 * i)))
    return rows


# ---- furniture ----------------------------------------------------------------------------------


def bed(k: Look) -> list[Row]:
    w, d, head = k.u(0.68, 0.85), k.u(1.05, 1.2), k.u(0.6, 0.8)
    wood = k.body("plain", axis=0, cell=0.3)
    blanket = cloth(k.of("blanket", ROSE, NAVY))
    pillow = cloth(k.of("pillow", (0.93, 0.92, 0.88), (0.62, 0.70, 0.80)))
    sheet = cloth((0.90, 0.88, 0.82))
    rows = [
        box((0, 0.32, 0), (w, 0.14, d), wood),
        box((0, head * 0.75, -d), (w + 0.06, head * 0.75, 0.1), wood),
        box((0, 0.36, d), (w + 0.06, 0.36, 0.1), wood),
        box((0, 0.52, 0), (w * 0.93, 0.16, d * 0.95), sheet),
        box((0, 0.55, d * 0.32), (w * 0.97, 0.19, d * 0.63), blanket),
        box((0, 0.72, -d * 0.3), (w * 0.97, 0.05, 0.14), cloth(shadow_of(blanket.colour, 0.25))),
        box((0, 0.76, -d * 0.7), (w * 0.62, 0.13, 0.24), pillow, taper=(0.8, 0.7)),
    ]
    for x in (-w - 0.02, w + 0.02):
        rows.append(box((x, head * 0.8, -d), (0.11, head * 0.8, 0.12), k.flat(0.85)))
        rows.append(ball((x, head * 1.6 + 0.1, -d), 0.16, k.flat(0.85)))
        rows.append(box((x, 0.42, d), (0.11, 0.42, 0.12), k.flat(0.85)))
        rows.append(ball((x, 0.92, d), 0.15, k.flat(0.85)))
    return rows


def bench(k: Look) -> list[Row]:
    w, h = k.u(1.1, 1.3), k.u(0.5, 0.62)
    slat = k.body("plain", axis=2, cell=0.3)
    leg = k.piece(k.of("legs", k.main)) if k.has("legs") else plain(shadow_of(k.main, 0.4), finish=k.finish)
    rows = [box((0, h, z), (w, 0.07, 0.13), slat) for z in (-0.31, 0.0, 0.31)]
    rows += [box((0, h + 0.35 + 0.34 * i, -0.5 - 0.06 * i), (w, 0.13, 0.07), slat) for i in range(2)]
    for x in (-w * 0.78, w * 0.78):
        rows.append(box((x, h * 0.5, 0.36), (0.1, h * 0.5, 0.1), leg))
        rows.append(box((x, h * 0.5, -0.4), (0.1, h * 0.5, 0.1), leg))
        rows.append(box((x, h - 0.1, 0), (0.09, 0.07, 0.42), leg))
        rows.append(box((x, h + 0.42, -0.56), (0.1, 0.5, 0.07), leg, rot=rotation("x", -8)))
        rows.append(box((x, h + 0.36, 0.02), (0.09, 0.06, 0.46), leg))
        rows.append(box((x, h + 0.18, 0.38), (0.08, 0.18, 0.08), leg))
    return rows


def shelf(k: Look) -> list[Row]:
    w, h, d = k.u(0.72, 0.9), k.u(1.05, 1.25), k.u(0.28, 0.34)
    wood = k.body("plain", axis=0, cell=0.4)
    rows = [
        box((-w, 0, 0), (0.08, h, d), wood),
        box((w, 0, 0), (0.08, h, d), wood),
        box((0, 0, -d + 0.04), (w, h, 0.05), plain(shadow_of(k.main, 0.45), finish=k.finish)),
    ]
    gap = 2 * h / 3
    for i in range(4):
        rows.append(box((0, -h + gap * i, 0), (w + 0.08, 0.07, d), wood))
    covers = (ROSE, NAVY, (0.82, 0.66, 0.25), (0.24, 0.48, 0.32), (0.86, 0.80, 0.66))
    for i in range(3):
        x = -w + 0.1
        for j in range(5):
            wide, tall = k.u(0.1, 0.145), k.u(0.5, 0.82) * gap * 0.5
            colour = covers[k.random.randrange(5)]
            if k.has("books"):
                colour = darker(k.of("books"), 0.72 + 0.14 * (j % 3))
            if j != 2 + i or k.u(0, 1) < 0.4:
                where = (x + wide, -h + gap * i + 0.07 + tall, 0.02)
                rows.append(box(where, (wide, tall, d * 0.78), plain(colour, finish=stuff.PAPER)))
            x += 2 * wide + 0.02
    return rows


def stool(k: Look) -> list[Row]:
    r, h, spread = k.u(0.58, 0.72), k.u(0.95, 1.2), k.u(0.16, 0.28)
    seat = k.body("plain", axis=0, cell=0.25, turn=8)
    leg = k.piece(k.of("legs", k.main)) if k.has("legs") else k.flat(0.82)
    legs = 3 + k.random.randrange(2)
    rows = [cylinder((0, h, 0), (0, h + 0.2, 0), r, seat)]
    for i in range(legs):
        a = 2 * math.pi * (i + 0.5) / legs
        s, c = math.sin(a), math.cos(a)
        top, foot = r * 0.62, r * 0.62 + spread
        rows.append(cylinder((foot * s, 0, foot * c), (top * s, h + 0.05, top * c), 0.1, leg, radius2=0.12))
    rows.append(ring((0, h * 0.38, 0), (0, 1, 0), r * 0.62 + spread * 0.62, 0.075, leg))
    if k.has("cushion"):
        rows.append(ball((0, h + 0.22, 0), (r * 0.9, 0.17, r * 0.9), cloth(k.of("cushion"))))
    return rows


# ---- food ---------------------------------------------------------------------------------------


def apple(k: Look) -> list[Row]:
    tall = k.u(0.92, 1.08)
    skin = k.body("plain", sphere=6, turn=8, cell=0.28)
    leaf = leafy(k.of("leaf", LEAF, (0.62, 0.72, 0.20)))
    return [
        ring((0, 0.12, 0), (0, 1, 0), 0.44, 0.52, skin, flat=(1, tall, 1)),
        ball((0, -0.2, 0), (0.86, 0.72 * tall, 0.86), skin),
        cylinder((0, 0.3, 0), (0.12, 0.98, 0), 0.085, wooden(k.of("stem", (0.36, 0.24, 0.13), (0.62, 0.5, 0.3)))),
        ball((0.42, 0.86, 0.05), (0.38, 0.09, 0.2), leaf, rot=rotation("z", 24)),
    ]


def bread(k: Look) -> list[Row]:
    length, w, h = k.u(1.0, 1.25), k.u(0.52, 0.62), k.u(0.5, 0.6)
    crust = k.body("plain", cell=0.3)
    if crust.texture == tx.PLAIN:  # baked darker below
        crust = crust._replace(texture=tx.GRADIENT, colour2=shadow_of(k.main, 0.4), params=(1.0, 0.0, 0, 0))
    cut = leafy(k.of("cuts", (0.97, 0.90, 0.72), (0.75, 0.52, 0.28)))
    rows = [dome((0, 0, 0), (length, h, w), crust, cut=-0.45)]
    for i in range(3 + k.random.randrange(2)):
        x = (i - 1.3) * 0.46
        y = h * math.sqrt(max(0.0, 1 - (x / length) ** 2))
        tilt = turned(rotation("y", 35), rotation("z", -25 * x))
        rows.append(ball((x, y - 0.05, 0.02), (0.09, 0.1, w * 0.62), cut, rot=tilt))
    return rows


def cheese(k: Look) -> list[Row]:
    w, length, h = k.u(0.62, 0.78), k.u(0.95, 1.1), k.u(0.4, 0.52)
    paste = k.body("plain", cell=0.3)
    rind = leafy(k.of("rind", shadow_of(k.main, 0.35)))
    hole = leafy(k.of("holes", shadow_of(k.main, 0.32)))
    tip = rotation("x", 90)
    rows = [
        box((0, 0, 0), (w, length, h), paste, taper=(0.04, 1.0), rot=tip),
        box((0, 0, -length - 0.02), (w * 1.01, 0.1, h * 1.02), rind, taper=(0.97, 1), rot=tip),
    ]
    lean = math.atan2(w * 0.96, 2 * length)
    for side in (-1, 1):
        for along, up, size in ((-0.62, 0.35, 0.2), (-0.15, -0.3, 0.17), (0.22, 0.28, 0.13), (-0.75, -0.45, 0.12)):
            z = length * along
            x = side * w * (1 - 0.96 * (0.5 + 0.5 * along))
            facing = rotation("y", side * (90 - math.degrees(lean)))
            rows.append(ball((x, h * up, z), (size, size, 0.05), hole, rot=facing))
    for x, z, size in ((-0.22, -0.5, 0.17), (0.2, -0.72, 0.13), (0.08, -0.05, 0.13), (-0.02, 0.35, 0.09)):
        rows.append(ball((x, h, z * length), (size, 0.05, size), hole))
    return rows


def carrot(k: Look) -> list[Row]:
    r, length = k.u(0.36, 0.44), k.u(1.35, 1.6)
    root = k.body("plain", turn=6, cell=0.3)
    if root.texture == tx.PLAIN:
        root = root._replace(colour2=shadow_of(k.main, 0.25), texture=tx.STRIPES, frequency=3.2, params=(1, 0.16, 0, 6))
    leaf = leafy(k.of("leaves", LEAF, (0.62, 0.72, 0.20)))
    rows = [
        cylinder((0, -length, 0), (0, 0, 0), 0.07, root, radius2=r),
        dome((0, -0.01, 0), (r, 0.2, r), root),
    ]
    for i in range(5):
        a = 2 * math.pi * i / 5 + 0.4
        s, c = (0.36 * math.sin(a), 0.36 * math.cos(a)) if i else (0.0, 0.0)
        rows.append(cylinder((s * 0.2, 0.12, c * 0.2), (s * 0.8, 0.5, c * 0.8), 0.07, leaf, radius2=0.09))
        rows.append(ball((s * 1.1, 0.72, c * 1.1), (0.15, 0.34, 0.15), leaf))
    return rows


def cake(k: Look) -> list[Row]:
    r, h = k.u(0.85, 1.0), k.u(0.34, 0.44)
    sponge = k.body("plain", turn=10, cell=0.26)
    if sponge.texture == tx.PLAIN:  # a layer of cream in the middle
        cream = blend(k.main, (1, 1, 1), 0.6) if luminance(k.main) < 0.7 else darker(k.main, 0.7)
        sponge = sponge._replace(colour2=cream, texture=tx.STRIPES, frequency=0.55 / h, params=(1, 0.2, 0, 6))
    icing = leafy(k.of("icing", (0.97, 0.93, 0.88), (0.45, 0.26, 0.16)))
    cherry = leafy(k.of("cherries", (0.80, 0.10, 0.14), (0.97, 0.86, 0.30)))
    rows = [
        cylinder(
            (0, -h - 0.12, 0), (0, -h, 0), r * 1.25, plain((0.86, 0.88, 0.90), finish=stuff.CLAY), radius2=r * 1.3
        ),
        cylinder((0, -h, 0), (0, h, 0), r, sponge),
        cylinder((0, h - 0.1, 0), (0, h + 0.1, 0), r * 1.05, icing, radius2=r * 0.98),
    ]
    drips = 9
    for i in range(drips):
        a = 2 * math.pi * i / drips
        s, c = r * 1.0 * math.sin(a), r * 1.0 * math.cos(a)
        low = h - k.u(0.2, 0.5)
        rows.append(rod((s, low, c), (s, h, c), 0.12, icing))
    for i in range(7):
        a = 2 * math.pi * (i + 0.5) / 7
        s, c = r * 0.7 * math.sin(a), r * 0.7 * math.cos(a)
        rows.append(ball((s, h + 0.18, c), 0.15, cherry))
    rows.append(ball((0, h + 0.2, 0), 0.19, cherry))
    return rows


# ---- tools --------------------------------------------------------------------------------------


def pickaxe(k: Look) -> list[Row]:
    h, reach = k.u(1.05, 1.25), k.u(0.95, 1.15)
    handle = planked(k.of("handle", WOOD, DARK), 1, 0.5)
    head = k.body("plain", axis=1, cell=0.25)
    head = head._replace(metal=max(head.metal, 0.35), finish=k.hard)
    y = h * 0.82
    rows = [
        rod((0, -h, 0), (0, h, 0), 0.13, handle),
        box((0, y, 0), (0.24, 0.2, 0.2), head),
    ]
    for side in (-1, 1):
        rows.append(cylinder((side * 0.15, y, 0), (side * reach * 0.6, y - 0.1, 0), 0.19, head, radius2=0.15))
        rows.append(
            cylinder((side * reach * 0.56, y - 0.09, 0), (side * reach, y - 0.42, 0), 0.155, head, radius2=0.03)
        )
    return rows


def shovel(k: Look) -> list[Row]:
    h, w, b = k.u(0.85, 1.0), k.u(0.4, 0.5), k.u(0.42, 0.5)
    handle = planked(k.of("handle", WOOD, DARK), 1, 0.5)
    blade = k.body("plain", axis=0, cell=0.25)
    blade = blade._replace(metal=max(blade.metal, 0.35), finish=k.hard)
    spine = plain(shadow_of(k.main, 0.3), metal=0.35, finish=k.hard)
    grip = plain(shadow_of(handle.colour, 0.25), finish=stuff.WOOD)
    low = -h
    return [
        rod((0, low, 0), (0, h, 0), 0.115, handle),
        box((0, h + 0.34, 0), (0.34, 0.1, 0.1), grip),
        box((-0.24, h + 0.16, 0), (0.08, 0.22, 0.09), grip, rot=rotation("z", 20)),
        box((0.24, h + 0.16, 0), (0.08, 0.22, 0.09), grip, rot=rotation("z", -20)),
        box((0, low - b * 0.5, 0), (w, b * 0.75, 0.1), blade),
        box((0, low - b * 1.55, 0), (w, b * 0.32, 0.1), blade, taper=(0.35, 0.8), rot=rotation("z", 180)),
        cylinder((0, low + 0.45, 0), (0, low - b * 0.6, 0), 0.16, spine, radius2=0.11),
    ]


def saw(k: Look) -> list[Row]:
    h, w = k.u(1.35, 1.6), k.u(0.42, 0.5)
    blade = k.body("plain", axis=1, cell=0.25)
    blade = blade._replace(metal=max(blade.metal, 0.35), finish=k.hard)
    handle = wooden(k.of("handle", WOOD, DARK))
    rows = [
        box((0, h / 2, 0), (w, h / 2, 0.085), blade, taper=(0.55, 1.0)),
        ring((0, -0.38, 0), (0, 0, 1), 0.3, 0.15, handle, flat=(1.25, 1, 1.1)),
        box((0, -0.02, 0), (w * 1.02, 0.16, 0.16), handle),
    ]
    teeth = 8
    for i in range(teeth):
        y = h * (i + 0.5) / teeth
        x = w * (1 - 0.45 * y / h)
        rows.append(box((x, y, 0), (0.1, 0.1, 0.08), blade, rot=rotation("z", 45)))
    return rows


# ---- plants -------------------------------------------------------------------------------------


def bush(k: Look) -> list[Row]:
    leaf = k.body("noise", cell=0.16)
    berry = leafy(k.of("berries", (0.85, 0.15, 0.25), (0.30, 0.30, 0.75)))
    flower_ = leafy(k.of("flowers", (0.97, 0.80, 0.88)))
    rows = [ball((0, 0.12, 0), (0.72, k.u(0.6, 0.75), 0.68), leaf)]
    for i in range(6):
        a = 2 * math.pi * i / 6 + k.u(-0.2, 0.2)
        size = k.u(0.42, 0.54)
        rows.append(ball((0.58 * math.sin(a), k.u(-0.22, 0.0), 0.52 * math.cos(a)), size, leaf))
    rows.append(cylinder((0, -0.75, 0), (0, -0.2, 0), 0.2, wooden(WOOD)))
    for i in range(9):
        a, up = 2.4 * i + 0.5, -0.25 + 0.11 * i
        out = 0.98 if up < 0.15 else 0.72 * math.sqrt(max(0.05, 1 - ((up - 0.12) / 0.72) ** 2)) + 0.12
        where = (out * math.sin(a), up, 0.92 * out * math.cos(a))
        if k.has("flowers"):
            rows.append(ball(where, 0.2, flower_))
        else:
            rows.append(ball(where, 0.13, berry))
    return rows


def flower(k: Look) -> list[Row]:
    petals, h, r = 6 + k.random.randrange(3), k.u(1.2, 1.45), k.u(0.36, 0.44)
    petal = k.body("plain", cell=0.2, sphere=4)
    middle = leafy(k.of("middle", (0.97, 0.80, 0.18), (0.42, 0.26, 0.14)))
    stem = leafy(k.of("stem", LEAF, (0.62, 0.72, 0.20)))
    rows = [
        rod((0, 0, 0), (0, h, -0.04), 0.09, stem),
        dome((0, -0.06, 0), (0.42, 0.2, 0.42), plain(SOIL, finish=stuff.STONE)),
        ball((0, h, 0.1), (0.26, 0.26, 0.16), middle),
        cylinder((0, h, -0.22), (0, h, 0.0), 0.1, stem, radius2=0.24),
    ]
    for i in range(petals):
        a = 2 * math.pi * i / petals
        where = (r * 1.12 * math.sin(a), h + r * 1.12 * math.cos(a), 0.02)
        rows.append(ball(where, (0.23, r * 0.85, 0.09), petal, rot=rotation("z", -math.degrees(a))))
    for side in (-1, 1):
        where = (side * 0.38, h * (0.36 if side > 0 else 0.5), 0)
        rows.append(ball(where, (0.36, 0.16, 0.1), stem, rot=rotation("z", side * 32)))
    return rows


def palm(k: Look) -> list[Row]:
    bend, fronds = k.u(0.15, 0.4), 7
    leaf = k.body("plain", cell=0.2)
    bark = k.of("trunk", (0.60, 0.45, 0.28), (0.35, 0.28, 0.22))
    trunk = Paint(bark, shadow_of(bark, 0.35), tx.STRIPES, 3.4, (1, 0.25, 0, 6), finish=stuff.WOOD)
    rows = []

    def at(t: float) -> Vec:
        return (bend * t * t, 1.7 * t, 0.0)

    for i in range(4):
        rows.append(cylinder(at(i / 4), at((i + 1) / 4), 0.2 - 0.025 * i, trunk, radius2=0.18 - 0.025 * i))
    x, y, _ = at(1.0)
    under = k.flat(0.78)
    for i in range(fronds):
        a = 2 * math.pi * i / fronds + 0.2
        s, c = math.sin(a), math.cos(a)
        paint = under if i % 2 else leaf
        bow, tip = (x + 0.6 * s, y + 0.24, 0.6 * c), (x + 1.2 * s, y - 0.34 + 0.1 * (i % 2), 1.2 * c)
        rows.append(cylinder((x, y, 0), bow, 0.14, paint, radius2=0.27, flat=0.32))
        rows.append(cylinder(bow, tip, 0.27, paint, radius2=0.05, flat=0.32))
    for i in range(3):
        a = 2 * math.pi * i / 3 + 0.5
        where = (x + 0.2 * math.sin(a), y - 0.16, 0.2 * math.cos(a))
        rows.append(ball(where, 0.16, wooden(k.of("nuts", (0.38, 0.25, 0.14), (0.55, 0.62, 0.25)))))
    return rows


def stump(k: Look) -> list[Row]:
    r, h = k.u(0.66, 0.8), k.u(0.42, 0.62)
    bark = k.body("plain", turn=14, cell=0.3)
    if bark.texture == tx.PLAIN:
        bark = bark._replace(colour2=shadow_of(k.main, 0.4), texture=tx.PLANKS, params=(tx.ANGLE, 0.2, 0.16, 16.0))
    wood = k.of("rings", (0.87, 0.72, 0.48), (0.62, 0.45, 0.27))
    rows = [
        cylinder((0, -h, 0), (0, h, 0), r * 1.1, bark, radius2=r),
        cylinder((0, h - 0.02, 0), (0, h + 0.05, 0), r * 0.88, wooden(wood)),
        cylinder((0, h, 0), (0, h + 0.07, 0), r * 0.68, wooden(shadow_of(wood, 0.3))),
        cylinder((0, h, 0), (0, h + 0.09, 0), r * 0.5, wooden(wood)),
        cylinder((0, h, 0), (0, h + 0.11, 0), r * 0.3, wooden(shadow_of(wood, 0.3))),
        cylinder((0, h, 0), (0, h + 0.13, 0), r * 0.14, wooden(wood)),
    ]
    roots, first = 5, k.u(0, 1)
    for i in range(roots):
        a = 2 * math.pi * (i + first) / roots
        s, c = math.sin(a), math.cos(a)
        rows.append(
            cylinder((r * 0.7 * s, -h * 0.35, r * 0.7 * c), (r * 1.6 * s, -h, r * 1.6 * c), 0.3, bark, radius2=0.1)
        )
    if k.has("moss"):
        moss = leafy(k.of("moss"))
        rows.append(ball((-r * 0.55, h + 0.02, r * 0.3), (0.36, 0.17, 0.34), moss))
        rows.append(ball((r * 0.95, -h * 0.2, r * 0.5), (0.3, 0.36, 0.3), moss))
    return rows


# ---- buildings ----------------------------------------------------------------------------------


def bridge(k: Look) -> list[Row]:
    w, rise, wide = k.u(1.15, 1.35), k.u(0.3, 0.42), k.u(0.5, 0.62)
    deck = k.body("bricks" if k.material == "stone" else "planks", axis=0, cell=0.24, stripe=0)
    rail = k.piece(k.of("rails", k.main)) if k.has("rails") else k.flat(0.8)
    rows = []

    def arc(t: float) -> float:
        return rise * (1 - t * t)

    steps = 6
    for i in range(steps):
        a, b = -1 + 2 * i / steps, -1 + 2 * (i + 1) / steps
        slope = math.degrees(math.atan2(arc(b) - arc(a), (b - a) * w))
        middle = ((a + b) / 2 * w, (arc(a) + arc(b)) / 2, 0)
        rows.append(box(middle, (w / steps * 1.08, 0.11, wide), deck, rot=rotation("z", slope)))
    for z in (-wide, wide):
        for i in range(5):
            t = -0.92 + 0.46 * i
            rows.append(box((t * w, arc(t) + 0.2, z), (0.09, 0.32, 0.09), rail))
        for i in range(4):
            a, b = -0.92 + 0.46 * i, -0.92 + 0.46 * (i + 1)
            rows.append(rod((a * w, arc(a) + 0.48, z), (b * w, arc(b) + 0.48, z), 0.09, rail))
    for x in (-w * 0.95, w * 0.95):
        rows.append(box((x, -0.25, 0), (0.2, 0.3, wide * 0.98), k.flat(0.7)))
    return rows


def door(k: Look) -> list[Row]:
    w, h = k.u(0.58, 0.72), k.u(1.05, 1.2)
    leaf = k.body("planks", axis=0, cell=0.26, stripe=0)
    frame = wooden(k.of("frame", shadow_of(k.main, 0.5), (0.55, 0.54, 0.52)))
    iron = steel(k.of("hinges", DARK, STEEL))
    rows = [
        box((0, 0, 0), (w, h, 0.09), leaf),
        box((-w - 0.1, 0.05, 0), (0.12, h + 0.05, 0.17), frame),
        box((w + 0.1, 0.05, 0), (0.12, h + 0.05, 0.17), frame),
        box((0, h + 0.14, 0), (w + 0.28, 0.13, 0.2), frame),
        box((0, -h - 0.06, 0), (w + 0.28, 0.08, 0.28), plain((0.55, 0.54, 0.52), finish=stuff.STONE)),
    ]
    for y in (-h * 0.55, h * 0.55):
        rows.append(box((-w * 0.25, y, 0.06), (w * 0.72, 0.09, 0.08), iron))
        rows.append(ball((w * 0.45, y, 0.07), (0.13, 0.13, 0.08), iron))
    rows.append(ball((w * 0.72, -0.02, 0.17), 0.11, steel(GOLD if k.apart(GOLD) > 0.12 else DARK)))
    rows.append(ball((w * 0.72, -0.02, -0.17), 0.11, steel(GOLD if k.apart(GOLD) > 0.12 else DARK)))
    return rows


def arch(k: Look) -> list[Row]:
    w, h, d = k.u(0.72, 0.86), k.u(0.95, 1.15), k.u(0.24, 0.32)
    t = 0.26
    stone = k.body("bricks" if k.material in (None, "stone") else "plain", cell=0.24, axis=1)
    base = plain(k.of("base", k.main), finish=k.finish) if k.has("base") else k.flat(0.82)
    crown_ = plain(k.of("keystone", shadow_of(k.main, 0.35), (0.75, 0.73, 0.68)), finish=k.finish)
    rows = []
    for x in (-w, w):
        rows.append(box((x, h / 2, 0), (t, h / 2, d), stone))
        rows.append(box((x, 0.08, 0), (t + 0.12, 0.12, d + 0.1), base))
        rows.append(box((x, h, 0), (t + 0.08, 0.08, d + 0.07), base))
    parts = 9
    for i in range(parts):
        a = math.pi * (i + 0.5) / parts
        middle = i == parts // 2
        half = (w * math.pi / parts / 2 * 1.22, t, d)
        paint = crown_ if middle else stone._replace(colour=darker(stone.colour, 1.0 if i % 2 else 0.9))
        size = 1.18 if middle else 1.0
        where = (-w * math.cos(a), h + 0.04 + w * math.sin(a), 0)
        turn = rotation("z", 90 - math.degrees(a))
        rows.append(box(where, (half[0] * 0.85, half[1] * size, half[2] * size), paint, taper=(1.35, 1.0), rot=turn))
    return rows


def window(k: Look) -> list[Row]:
    w, h = k.u(0.55, 0.66), k.u(0.78, 0.92)
    frame = k.body("plain", axis=0, cell=0.3)
    shutter = planked(k.of("shutters", shadow_of(k.main, 0.5), (0.24, 0.42, 0.30)), 1, 0.24)
    pane = glassy(k.of("panes", SKY, (0.97, 0.86, 0.5)))
    rows = [
        box((0, 0, -0.02), (w, h, 0.06), pane),
        box((0, 0, 0), (0.07, h, 0.1), frame),
        box((0, 0.12, 0), (w, 0.07, 0.1), frame),
        box((0, h + 0.06, 0), (w + 0.16, 0.12, 0.16), frame),
        box((0, -h - 0.06, 0.06), (w + 0.24, 0.11, 0.26), frame),
    ]
    for side in (-1, 1):
        rows.append(box((side * (w + 0.06), 0, 0), (0.12, h, 0.14), frame))
        rows.append(box((side * (w + 0.45), 0, 0.03), (0.3, h * 0.98, 0.09), shutter))
    return rows


def ladder(k: Look) -> list[Row]:
    w, h, rungs = k.u(0.42, 0.52), k.u(1.2, 1.4), 6
    side = k.body("plain", axis=1, cell=0.35)
    rung = k.piece(k.of("rungs", k.main)) if k.has("rungs") else k.flat(0.8)
    rows = [box((x, 0, 0), (0.115, h, 0.13), side) for x in (-w, w)]
    for i in range(rungs):
        y = -h + 2 * h * (i + 0.6) / rungs
        rows.append(cylinder((-w, y, 0), (w, y, 0), 0.095, rung))
    return rows


def gate(k: Look) -> list[Row]:
    w, h = k.u(0.8, 0.95), k.u(0.75, 0.9)
    bar = k.body("plain", cell=0.3)
    bar = bar._replace(metal=max(bar.metal, 0.35), finish=k.hard)
    post_colour = k.of("posts", (0.62, 0.60, 0.56), (0.50, 0.28, 0.22))
    bricks = (0.0, 0.17, 0.16, 0.0)
    post = Paint(post_colour, shadow_of(post_colour, 0.3), tx.BRICKS, (2.2, 3.6, 2.2), bricks, finish=stuff.STONE)
    cap = plain(darker(post_colour, 0.85), finish=stuff.STONE)
    rows = []
    for x in (-w - 0.2, w + 0.2):
        rows.append(box((x, 0, 0), (0.22, h, 0.22), post))
        rows.append(box((x, h + 0.06, 0), (0.29, 0.09, 0.29), cap))
        rows.append(ball((x, h + 0.32, 0), 0.21, cap))
    bars = 6
    for i in range(bars):
        x = -w + 2 * w * (i + 0.5) / bars
        top = h * 0.72 + 0.28 * (1 - abs(x) / w)
        rows.append(cylinder((x, -h, 0), (x, top, 0), 0.075, bar))
        rows.append(cylinder((x, top - 0.02, 0), (x, top + 0.24, 0), 0.12, bar, radius2=0.02))
    for y in (-h * 0.72, h * 0.5):
        rows.append(box((0, y, 0), (w, 0.085, 0.085), bar))
    return rows


# ---- vehicles -----------------------------------------------------------------------------------


def cart(k: Look) -> list[Row]:
    w, length, h = k.u(0.5, 0.6), k.u(0.75, 0.9), k.u(0.26, 0.34)
    wood = k.body("planks", axis=1, cell=0.24)
    rim = wooden(k.of("wheels", shadow_of(k.main, 0.5), WOOD))
    spoke = wooden(darker(rim.colour, 0.8))
    shaft = k.flat(0.78)
    rows = [
        box((0, 0, 0), (w, 0.08, length), wood),
        box((0, h, -length), (w + 0.04, h + 0.06, 0.075), wood),
        box((0, h * 0.8, length), (w + 0.04, h * 0.8 + 0.06, 0.075), wood),
    ]
    for x in (-w, w):
        rows.append(box((x, h, 0), (0.075, h, length), wood))
        rows.append(rod((x * 0.8, -0.04, length - 0.2), (x * 0.8, -0.28, length + 0.95), 0.085, shaft))
        rows += spoked(x * 1.0 + math.copysign(0.22, x), -0.18, -0.1, 0.66, rim, spoke, first=15)
    rows.append(rod((-w * 0.8, -0.28, length + 0.92), (w * 0.8, -0.28, length + 0.92), 0.085, shaft))
    rows.append(cylinder((-w - 0.2, -0.18, -0.1), (w + 0.2, -0.18, -0.1), 0.09, spoke))
    return rows


def car(k: Look) -> list[Row]:
    w, length = k.u(0.6, 0.68), k.u(1.15, 1.3)
    paint = k.body("plain", axis=0, cell=0.3, stripe=0)
    top = k.piece(k.of("roof", k.main)) if k.has("roof") else k.flat()
    glass = glassy((0.20, 0.30, 0.38) if luminance(k.main) > 0.3 else (0.70, 0.86, 0.94))
    tyre = plain(k.of("wheels", TYRE) if k.has("wheels") else TYRE, finish=stuff.WAX)
    hub = steel((0.80, 0.82, 0.85))
    chrome = steel((0.75, 0.77, 0.80))
    rows = [
        box((0, 0, 0), (w, 0.24, length), paint, taper=(0.96, 0.97)),
        box((0, 0.3, length * 0.62), (w * 0.9, 0.1, length * 0.34), paint, taper=(0.9, 0.9)),
        box((0, 0.48, -0.14), (w * 0.93, 0.28, length * 0.56), glass, taper=(0.82, 0.62)),
        box((0, 0.77, -0.14), (w * 0.8, 0.06, length * 0.37), top),
        box((0, 0.5, -0.16), (w * 0.95, 0.26, 0.07), top, taper=(0.82, 1.0)),
        box((0, -0.16, length + 0.03), (w * 0.98, 0.08, 0.1), chrome),
        box((0, -0.16, -length - 0.03), (w * 0.98, 0.08, 0.1), chrome),
        box((0, 0.02, length + 0.01), (w * 0.42, 0.09, 0.04), plain(TYRE)),
    ]
    for x in (-w * 0.7, w * 0.7):
        rows.append(ball((x, 0.06, length * 0.98), (0.14, 0.14, 0.09), plain((1.0, 0.96, 0.78), glow=0.9)))
        rows.append(box((x, 0.06, -length * 0.98), (0.12, 0.08, 0.05), plain((0.8, 0.1, 0.1), glow=0.5)))
    for x in (-w, w):
        for z in (-length * 0.6, length * 0.6):
            side = math.copysign(1, x)
            rows.append(cylinder((x - side * 0.14, -0.26, z), (x + side * 0.1, -0.26, z), 0.3, tyre))
            rows.append(cylinder((x, -0.26, z), (x + side * 0.13, -0.26, z), 0.16, hub))
    return rows


def wagon(k: Look) -> list[Row]:
    w, length = k.u(0.5, 0.58), k.u(0.95, 1.1)
    wood = k.body("planks", axis=1, cell=0.2)
    cover = cloth(k.of("cover", (0.92, 0.89, 0.80), (0.62, 0.52, 0.40)))
    hoop = wooden(shadow_of(cover.colour, 0.3))
    rim = wooden(k.of("wheels", shadow_of(k.main, 0.5), WOOD))
    spoke = plain(darker(rim.colour, 0.8), finish=stuff.WOOD)
    rows = [
        box((0, 0, 0), (w, 0.22, length), wood, taper=(1.08, 1.04)),
        cylinder((0, 0.34, -length * 0.98), (0, 0.34, length * 0.98), w * 1.06, cover, inner=0.84, floor=-1),
        box((0, 0.27, 0), (w * 1.06, 0.1, length * 0.98), cover),
        box((0, 0.02, length + 0.14), (w * 0.8, 0.08, 0.16), wood),
        rod((0, -0.2, length), (0, -0.32, length + 0.62), 0.085, hoop),
    ]
    for z in (-0.97, 0.0, 0.97):
        rows.append(ring((0, 0.34, z * length), (0, 0, 1), w * 1.06, 0.065, hoop))
    for x in (-w - 0.1, w + 0.1):
        for z, r in ((-length * 0.6, 0.44), (length * 0.62, 0.38)):
            rows.append(ring((x, -0.34, z), (1, 0, 0), r * 0.84, 0.085, rim))
            rows.append(cylinder((x - 0.1, -0.34, z), (x + 0.1, -0.34, z), 0.12, spoke))
            for a in (20, 110):
                rows.append(box((x, -0.34, z), (0.06, r * 0.8, 0.065), spoke, rot=rotation("x", a)))
    return rows


def rocket(k: Look) -> list[Row]:
    r, h, fins = k.u(0.42, 0.52), k.u(0.85, 1.0), 4
    hull = k.body("plain", turn=8, cell=0.32)
    tip, fin = plain(k.of("nose", ROSE, NAVY)), plain(k.of("fins", ROSE, NAVY))
    fire = plain((1.0, 0.62, 0.12), glow=1.0)
    rows = [
        cylinder((0, -h, 0), (0, -0.1, 0), r * 0.78, hull, radius2=r),
        cylinder((0, -0.1, 0), (0, h * 0.55, 0), r, hull, radius2=r * 0.86),
        cylinder((0, h * 0.55, 0), (0, h * 0.55 + 0.3, 0), r * 0.86, tip, radius2=r * 0.6),
        cylinder((0, h * 0.55 + 0.3, 0), (0, h * 0.55 + 0.7, 0), r * 0.6, tip, radius2=0.04),
        cylinder((0, -h - 0.2, 0), (0, -h, 0), r * 0.66, steel(DARK), radius2=r * 0.5),
        cylinder((0, -h - 0.62, 0), (0, -h - 0.18, 0), 0.05, fire, radius2=r * 0.5),
        cylinder((0, 0.18, 0), (0, 0.18, r + 0.05), 0.25, steel(GOLD if k.apart(GOLD) > 0.12 else STEEL)),
        cylinder((0, 0.18, 0), (0, 0.18, r + 0.08), 0.17, glassy((0.55, 0.80, 0.95))),
    ]
    for i in range(fins):
        a = 2 * math.pi * (i + 0.5) / fins
        s, c = math.sin(a), math.cos(a)
        turn = rotation("y", math.degrees(a))
        out = r * 0.75 + 0.26
        rows.append(box((out * s, -h + 0.12, out * c), (0.085, 0.4, 0.32), fin, taper=(1.0, 0.45), rot=turn))
        tipped = r * 0.75 + 0.52
        rows.append(box((tipped * s, -h - 0.24, tipped * c), (0.085, 0.26, 0.16), fin, taper=(1.0, 1.4), rot=turn))
    return rows


# ---- treasure, household and the rest -----------------------------------------------------------


def crown(k: Look) -> list[Row]:
    points, r, h = 7, k.u(0.78, 0.9), k.u(0.34, 0.44)
    band = k.body("plain", turn=14, cell=0.3)
    band = band._replace(metal=max(band.metal, 0.45), finish=stuff.finish_of(k.material, stuff.GOLD))
    jewel = plain(k.of("jewels", (0.80, 0.08, 0.18), (0.10, 0.45, 0.85)), metal=0.3, finish=stuff.GLASS)
    trim = plain(shadow_of(k.main, 0.3), metal=0.45, finish=band.finish)
    rows = [
        cylinder((0, -h, 0), (0, h * 0.35, 0), r, band, radius2=r * 1.06, inner=0.88, floor=-1),
        ring((0, -h, 0), (0, 1, 0), r * 0.97, 0.11, trim),
        cylinder((0, -h * 0.9, 0), (0, -h * 0.2, 0), r * 0.9, cloth((0.55, 0.08, 0.16))),
        dome((0, -h * 0.2, 0), (r * 0.9, 0.3, r * 0.9), cloth((0.55, 0.08, 0.16))),
    ]
    for i in range(points):
        a = 2 * math.pi * i / points
        s, c = math.sin(a), math.cos(a)
        turn = rotation("y", math.degrees(a))
        at = r * 1.0
        rows.append(box((at * s, h * 0.35 + 0.3, at * c), (0.33, 0.34, 0.075), band, taper=(0.12, 1.0), rot=turn))
        rows.append(ball((at * s, h * 0.35 + 0.7, at * c), 0.12, jewel))
        rows.append(ball((at * 1.02 * s, -h * 0.25, at * 1.02 * c), (0.13, 0.15, 0.13), jewel))
    return rows


def bomb(k: Look) -> list[Row]:
    r = k.u(0.85, 0.98)
    iron = k.body("plain", sphere=6, turn=8, cell=0.3)
    iron = iron._replace(metal=max(iron.metal, 0.3), finish=k.hard)
    fuse = leafy(k.of("fuse", (0.80, 0.70, 0.50), (0.40, 0.30, 0.22)))
    spark = k.of("spark", (1.0, 0.72, 0.18), (0.5, 0.8, 1.0))
    collar = plain(shadow_of(k.main, 0.35), metal=0.3, finish=k.hard)
    lean = k.u(0.2, 0.35)
    a, b, c = (lean * 0.5, r + 0.12, 0.0), (lean * 1.2, r + 0.4, 0.0), (lean * 2.4, r + 0.56, 0.0)
    rows = [
        ball((0, 0, 0), r, iron),
        cylinder((0, r * 0.8, 0), (lean * 0.25, r + 0.16, 0), 0.32, collar, radius2=0.28),
        rod(a, b, 0.09, fuse),
        rod(b, c, 0.09, fuse),
        ball(c, 0.17, plain(blend(spark, (1, 1, 0.9), 0.5), glow=1.0)),
    ]
    for i in range(5):
        turn = 2 * math.pi * i / 5 + 0.3
        out = (c[0] + 0.36 * math.cos(turn), c[1] + 0.36 * math.sin(turn), c[2])
        rows.append(cylinder(c, out, 0.12, plain(spark, glow=1.0), radius2=0.03))
    return rows


def bucket(k: Look) -> list[Row]:
    r, h = k.u(0.66, 0.78), k.u(0.62, 0.75)
    wall = k.body("planks", axis=tx.ANGLE, turn=12, cell=0.3)
    band = steel(k.of("bands", DARK, STEEL))
    handle = steel(k.of("handle", STEEL, DARK))
    top = r * 1.22
    return [
        cylinder((0, -h, 0), (0, h, 0), r, wall, radius2=top, inner=0.86, floor=-0.85),
        cylinder((0, -0.2, 0), (0, h * 0.62, 0), r * 0.8, plain(WATER, finish=stuff.GLASS), radius2=r * 1.0),
        cylinder((0, -h * 0.72, 0), (0, -h * 0.48, 0), r * 1.06, band, radius2=r * 1.1),
        cylinder((0, h * 0.44, 0), (0, h * 0.68, 0), r * 1.2, band, radius2=r * 1.25),
        ring((0, h * 0.74, 0), (0, 0, 1), top * 0.98, 0.085, handle, flat=(1, 1, 1)),
        ball((-top, h * 0.78, 0), 0.15, band),
        ball((top, h * 0.78, 0), 0.15, band),
    ]


def bell(k: Look) -> list[Row]:
    r, h = k.u(0.46, 0.54), k.u(0.55, 0.7)
    bronze = k.body("plain", turn=8, cell=0.3)
    bronze = bronze._replace(metal=max(bronze.metal, 0.45), finish=k.hard)
    band = plain(k.of("bands", shadow_of(k.main, 0.35)), metal=0.45, finish=k.hard)
    clapper = steel(k.of("clapper", DARK, STEEL))
    mouth = r * 1.75
    return [
        dome((0, h, 0), (r, r * 0.75, r), bronze),
        cylinder((0, -h * 0.35, 0), (0, h + 0.01, 0), r * 1.18, bronze, radius2=r),
        cylinder((0, -h, 0), (0, -h * 0.35, 0), mouth, bronze, radius2=r * 1.18, sides=0),
        cylinder((0, -h - 0.14, 0), (0, -h, 0), mouth * 1.05, band),
        cylinder((0, h * 0.55, 0), (0, h * 0.55 + 0.14, 0), r * 1.13, band),
        rod((0, -h, 0), (0, -h - 0.25, 0), 0.12, clapper),
        ball((0, -h - 0.42, 0), 0.28, clapper),
        ring((0, h + r * 0.75 + 0.18, 0), (0, 0, 1), 0.24, 0.105, band),
    ]


def helmet(k: Look) -> list[Row]:
    r, h = k.u(0.68, 0.78), k.u(0.5, 0.62)
    iron = k.body("plain", turn=8, cell=0.3, sphere=6)
    iron = iron._replace(metal=max(iron.metal, 0.35), finish=k.hard)
    visor = plain(k.of("visor", shadow_of(k.main, 0.3)), metal=0.35, finish=k.hard)
    plume = cloth(k.of("plume", ROSE, NAVY))
    hole = plain((0.05, 0.05, 0.06))
    rim = plain(shadow_of(k.main, 0.4), metal=0.35, finish=k.hard)
    rows = [
        dome((0, 0, 0), (r, r * 1.05, r * 1.08), iron),
        cylinder((0, -h, 0), (0, 0.01, 0), r * 0.9, iron, radius2=r, flat=1.08),
        ring((0, -h, 0), (0, 1, 0), r * 0.86, 0.12, rim, flat=(1, 1, 1.08)),
        cylinder((0, -h * 0.72, 0.16), (0, 0.12, 0.16), r * 0.78, visor, radius2=r * 0.98, flat=1.08),
        cylinder((0, -0.11, 0.175), (0, 0.06, 0.175), r * 0.965, hole, radius2=r * 0.98, flat=1.08),
        box((0, -0.1, r * 1.2), (0.085, h * 0.55, 0.12), rim, taper=(1, 0.9)),
    ]
    for x in (-0.3, 0.3):
        for y in (-0.42, -0.74):
            rows.append(ball((x, y * h, r * 1.1), (0.07, 0.055, 0.1), hole))
    for i in range(5):
        a = math.radians(40 - 38 * i)
        where = (0, r * 1.06 * math.cos(a) + 0.06, r * 1.1 * math.sin(a))
        rows.append(ball(where, (0.15, 0.25, 0.27), plume))
    return rows


def drum(k: Look) -> list[Row]:
    r, h = k.u(0.8, 0.92), k.u(0.5, 0.68)
    wall = k.body("plain", turn=10, cell=0.3)
    skin = plain(k.of("skin", CREAM, (0.62, 0.48, 0.35)), finish=stuff.LEATHER)
    rope = cloth(k.of("ropes", (0.95, 0.92, 0.84), (0.22, 0.18, 0.16)))
    hoop = plain(shadow_of(k.main, 0.45) if k.apart(GOLD) < 0.15 else GOLD, finish=stuff.WOOD)
    rows = [
        cylinder((0, -h, 0), (0, h, 0), r, wall),
        cylinder((0, h - 0.05, 0), (0, h + 0.07, 0), r * 0.95, skin),
        cylinder((0, -h - 0.07, 0), (0, -h + 0.05, 0), r * 0.95, skin),
    ]
    for y in (-h, h):
        rows.append(cylinder((0, y - 0.1, 0), (0, y + 0.05, 0), r * 1.07, hoop))
    lines = 10
    for i in range(lines):
        a, b = 2 * math.pi * i / lines, 2 * math.pi * (i + 0.5) / lines
        low = (r * 1.03 * math.sin(a), -h + 0.08, r * 1.03 * math.cos(a))
        high = (r * 1.03 * math.sin(b), h - 0.08, r * 1.03 * math.cos(b))
        c = 2 * math.pi * (i + 1) / lines
        next_ = (r * 1.03 * math.sin(c), -h + 0.08, r * 1.03 * math.cos(c))
        rows.append(cylinder(low, high, 0.06, rope))
        rows.append(cylinder(high, next_, 0.06, rope))
    return rows


def finger_ring(k: Look) -> list[Row]:
    r, thick = k.u(0.72, 0.82), k.u(0.16, 0.2)
    band = k.body("plain", axis=tx.ANGLE, turn=10, stripe=tx.ANGLE, cell=0.3)
    band = band._replace(metal=max(band.metal, 0.45), finish=k.hard)
    jewel = plain(k.of("gem", (0.80, 0.08, 0.18), (0.10, 0.62, 0.85)), metal=0.5, finish=stuff.GLASS)
    light = plain(blend(jewel.colour, (1, 1, 1), 0.35), metal=0.3, finish=stuff.GLASS)
    setting = plain(shadow_of(k.main, 0.25), metal=0.45, finish=k.hard)
    top = r + thick
    return [
        ring((0, 0, 0), (0, 0, 1), r, thick, band, flat=(1, 1.35, 1)),
        cylinder((0, top - 0.14, 0), (0, top + 0.14, 0), 0.24, setting, radius2=0.4, sides=6),
        cylinder((0, top + 0.05, 0), (0, top + 0.24, 0), 0.28, jewel, radius2=0.44, sides=6),
        cylinder((0, top + 0.24, 0), (0, top + 0.42, 0), 0.44, jewel, radius2=0.26, sides=6),
        cylinder((0, top + 0.38, 0), (0, top + 0.45, 0), 0.26, light, radius2=0.22, sides=6),
    ]


def pedestal(k: Look) -> list[Row]:
    w, h = k.u(0.42, 0.52), k.u(0.48, 0.66)
    stone = k.body("plain", axis=1, cell=0.3)
    base = plain(k.of("base", shadow_of(k.main, 0.2)), finish=k.finish)
    panel = plain(k.of("panels", shadow_of(k.main, 0.4)), finish=k.finish)
    rows = [
        box((0, 0, 0), (w, h, w), stone),
        box((0, -h - 0.1, 0), (w * 1.62, 0.13, w * 1.62), base),
        box((0, -h + 0.12, 0), (w * 1.42, 0.13, w * 1.42), base, taper=(0.8, 0.8)),
        box((0, h - 0.02, 0), (w * 1.2, 0.1, w * 1.2), base, taper=(1.2, 1.2)),
        box((0, h + 0.18, 0), (w * 1.5, 0.12, w * 1.5), k.flat()),
        box((0, 0.02, 0), (w * 0.62, h * 0.52, w + 0.035), panel),
        box((0, 0.02, 0), (w + 0.035, h * 0.52, w * 0.62), panel),
    ]
    return rows


def vase(k: Look) -> list[Row]:
    r, neck, h = k.u(0.66, 0.8), k.u(0.24, 0.3), k.u(0.5, 0.66)
    clay = k.body("plain", turn=9, cell=0.24, sphere=5)
    handle = k.piece(k.of("handles", k.main)) if k.has("handles") else k.flat(0.85)
    foot = k.flat(0.85)
    rows = [
        ball((0, 0, 0), (r, r * 0.86, r), clay),
        cylinder((0, -0.95, 0), (0, -0.35, 0), r * 0.5, clay, radius2=r * 0.86),
        cylinder((0, -1.08, 0), (0, -0.92, 0), r * 0.6, foot),
        cylinder((0, r * 0.62, 0), (0, r * 0.7 + h, 0), neck * 1.15, clay, radius2=neck),
        cylinder((0, r * 0.7 + h - 0.04, 0), (0, r * 0.7 + h + 0.22, 0), neck, foot, radius2=neck * 1.75, inner=0.72),
    ]
    for side in (-1, 1):
        rows.append(ring((side * 0.42, r * 0.66 + h * 0.42, 0), (0, 0, 1), 0.3, 0.09, handle, flat=(0.9, 1, 1.15)))
    return rows


def teapot(k: Look) -> list[Row]:
    r = k.u(0.7, 0.8)
    body = k.body("plain", turn=9, cell=0.26, sphere=6)
    lid = k.piece(k.of("lid", k.main)) if k.has("lid") else k.flat(0.85)
    handle = k.piece(k.of("handle", k.main)) if k.has("handle") else k.flat(0.85)
    spout = k.flat(0.93)
    y = r * 0.82
    return [
        ball((0, 0, 0), (r, y, r), body),
        cylinder((0, -y - 0.08, 0), (0, -y + 0.2, 0), r * 0.58, spout, radius2=r * 0.7),
        cylinder((0, y * 0.82, 0), (0, y * 0.94, 0), r * 0.58, lid),
        dome((0, y * 0.9, 0), (r * 0.52, 0.2, r * 0.52), lid),
        ball((0, y + 0.24, 0), 0.14, lid),
        ring((-r - 0.06, 0.06, 0), (0, 0, 1), 0.38, 0.11, handle, flat=(1, 1, 1.1)),
        cylinder((r * 0.7, -0.22, 0), (r + 0.36, 0.22, 0), 0.25, spout, radius2=0.15),
        cylinder((r + 0.34, 0.18, 0), (r + 0.54, 0.52, 0), 0.16, spout, radius2=0.13),
    ]
