"""Primitives of the procedural props: constructors, packing into one float32 table, bounds and paint.

A prop is a table of at most 32 rows, twice as many where two things are one prop, one row for each primitive, of `ROW`
floats: a unit shape, an affine frame and a paint. Constructors below take world coordinates (+Y up, front +Z) and
return one row as a plain list of floats.

    rows = [cylinder((0, -1, 0), (0, 1, 0), 0.5, plain((0.8, 0.2, 0.2)))]
    prop = pack(rows)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numba as nb
import numpy as np

from pipeline_core.props import textures as tx
from pipeline_core.props.textures import SOFT, Lighting

OBJECT_RADIUS = 0.7
"""Radius of every prop's bounding sphere about the origin, world units."""

Vec = tuple[float, float, float]
Row = list[float]

BALL, BOX, FRUSTUM, TORUS, CAPSULE = range(5)
"""Unit shapes: `BALL` radius 1, cut at y <= p0, hollow with inner radius p1; `BOX` [-1, 1]^3, its top scaled by
(p0, p1) in x and z; `FRUSTUM` y in [-1, 1], radius 1 below and p0 above, round or with p1 sides, hollow with inner
ratio p2 down to y = p3; `TORUS` about y, radii 1 and p0; `CAPSULE` segment y in [-1, 1], radius p0."""

# First columns of a row's fields; ROTATION holds the world-to-local matrix row by row
KIND = 0
CENTRE = 1
ROTATION = 4
SCALE = 13
PARAMS = 16
TEXTURE = 20
FREQUENCY = 21
TEXTURE_PARAMS = 24
COLOUR1 = 28
COLOUR2 = 31
SEED = 34
METAL = 35
GLOW = 36
MOST_ROWS = 64

BOUND = 37
METALLIC = 38
ROUGHNESS = 39
ROW = 40


class Finish(NamedTuple):
    """How a surface reflects: metallic 1 for conductors and 0 for everything else, perceptual roughness in (0, 1]."""

    metallic: float
    roughness: float


PAINTED = Finish(0.0, 0.6)
STEELY = Finish(1.0, 0.5)
SHEEN_OF_METAL = 0.2
"""A painted sheen from here on is that of a metal, where a paint does not say what it is."""


class Paint(NamedTuple):
    """Surface of a primitive; `frequency` in texture cells per *world* unit of the unnormalised prop.

    `metal` and `glow` are painted: the sheen of polished things and the light of lamps in lit pictures. `finish` is
    what the surface is made of, None for steel where the sheen is a metal's, else for paint.
    """

    colour: Vec
    colour2: Vec = (0.0, 0.0, 0.0)
    texture: int = tx.PLAIN
    frequency: float | Vec = 1.0
    params: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    metal: float = 0.0
    glow: float = 0.0
    seed: int = 0
    finish: Finish | None = None


@dataclass(frozen=True)
class Prop:
    """A built prop.

    Attributes:
        rows: [n, ROW] float32, one primitive a row; normalised to `OBJECT_RADIUS`
        bounds: [2, 3] float32, corners of the axis-aligned bounding box, centred at the origin
    """

    rows: np.ndarray
    bounds: np.ndarray


# ---- paints -------------------------------------------------------------------------------------


def plain(colour: Vec, *, metal: float = 0.0, glow: float = 0.0, finish: Finish | None = None) -> Paint:
    return Paint(colour, colour, metal=metal, glow=glow, finish=finish)


def vec(values: Iterable[float]) -> Vec:
    """Three numbers as a tuple."""
    x, y, z = values
    return x, y, z


def darker(colour: Vec, gain: float = 0.6) -> Vec:
    """Scale a colour; gain > 1 lightens towards white so that no channel leaves [0, 1]."""
    if gain <= 1:
        return vec(c * gain for c in colour)
    return vec(c + (1 - c) * (gain - 1) for c in colour)


def blend(a: Vec, b: Vec, share: float) -> Vec:
    return vec(x + (y - x) * share for x, y in zip(a, b, strict=True))


# ---- frames -------------------------------------------------------------------------------------

IDENTITY = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0))


def rotation(axis: str, degrees: float) -> tuple[Vec, Vec, Vec]:
    """World-to-local rotation (rows are the local axes in world coordinates) of a shape turned about one axis."""
    c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    if axis == "x":
        return (1, 0, 0), (0, c, s), (0, -s, c)
    if axis == "y":
        return (c, 0, -s), (0, 1, 0), (s, 0, c)
    return (c, s, 0), (-s, c, 0), (0, 0, 1)


def turned(*rotations: tuple[Vec, Vec, Vec]) -> tuple[Vec, Vec, Vec]:
    """Apply rotations one after another: the first argument acts on the shape first."""
    total = np.eye(3)
    for r in rotations:
        total = total @ np.asarray(r)
    x, y, z = (vec(row) for row in total.tolist())
    return x, y, z


def _frame_of(axis: Vec) -> tuple[Vec, Vec, Vec]:
    """World-to-local rotation whose local y is `axis`; local x stays as level as it can."""
    n = math.sqrt(sum(v * v for v in axis))
    y = (axis[0] / n, axis[1] / n, axis[2] / n)
    if abs(y[1]) > 0.999:
        x = (1.0, 0.0, 0.0)
    else:
        length = math.hypot(y[0], y[2])
        x = (y[2] / length, 0.0, -y[0] / length)
    d = sum(a * b for a, b in zip(x, y, strict=True))
    x = vec(a - d * b for a, b in zip(x, y, strict=True))
    length = math.sqrt(sum(v * v for v in x))
    x = vec(v / length for v in x)
    z = (x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0])
    return x, y, z


def _row(kind: int, centre, rotation_, scale, params, paint: Paint) -> Row:
    f = paint.frequency
    if not isinstance(f, tuple):
        f = (f, f, f)
    row = [float(kind), *centre, *rotation_[0], *rotation_[1], *rotation_[2], *scale, *params, float(paint.texture)]
    row += [f[0] * scale[0], f[1] * scale[1], f[2] * scale[2], *paint.params, *paint.colour, *paint.colour2]
    finish = paint.finish or (STEELY if paint.metal >= SHEEN_OF_METAL else PAINTED)
    row += [float(paint.seed % 1000), paint.metal, paint.glow, 0.0, *finish]
    return row


# ---- constructors -------------------------------------------------------------------------------


def ball(centre: Vec, radii: float | Vec, paint: Paint, *, rot=IDENTITY) -> Row:
    """Ellipsoid."""
    radii = radii if isinstance(radii, tuple) else (radii,) * 3
    return _row(BALL, centre, rot, radii, (2.0, 0.0, 0.0, 0.0), paint)


def bowl(centre: Vec, radii: float | Vec, paint: Paint, *, cut: float = 0.0, inner: float = 0.0, rot=IDENTITY) -> Row:
    """Ellipsoid below y = cut (a share of its radius); hollow with relative inner radius `inner` if > 0."""
    radii = radii if isinstance(radii, tuple) else (radii,) * 3
    return _row(BALL, centre, rot, radii, (cut, inner, 0.0, 0.0), paint)


def dome(centre: Vec, radii: float | Vec, paint: Paint, *, cut: float = 0.0) -> Row:
    """Ellipsoid above y = cut (a share of its radius)."""
    return bowl(centre, radii, paint, cut=-cut, rot=rotation("x", 180))


def box(centre: Vec, half: Vec, paint: Paint, *, taper: tuple[float, float] = (1.0, 1.0), rot=IDENTITY) -> Row:
    """Box with half extents; its top face is scaled by `taper` in x and z: (1, 0) is a gable, (0, 0) a pyramid."""
    return _row(BOX, centre, rot, half, (*taper, 0.0, 0.0), paint)


def cylinder(
    a: Vec, b: Vec, radius: float, paint: Paint, *,
    radius2: float | None = None, sides: int = 0, inner: float = 0.0, floor: float = -0.8, flat: float = 1.0,
) -> Row:  # fmt: skip
    """Cylinder, cone or prism from a to b, `radius` at a and `radius2` at b.

    Args:
        sides: 0 for round, else the number of sides of the prism (radius = circumradius)
        inner: > 0 makes it hollow from b, with this ratio of inner to outer radius ...
        floor: ... down to this canonical height (-1: open at both ends)
        flat: squeezes local z, for elliptic sections
    """
    ratio = 1.0 if radius2 is None else radius2 / radius
    half = 0.5 * math.dist(a, b)
    centre = vec(0.5 * (p + q) for p, q in zip(a, b, strict=True))
    frame = _frame_of(vec(q - p for p, q in zip(a, b, strict=True)))
    return _row(FRUSTUM, centre, frame, (radius, half, radius * flat), (ratio, float(sides), inner, floor), paint)


def ring(centre: Vec, axis: Vec, major: float, minor: float, paint: Paint, *, flat: Vec = (1.0, 1.0, 1.0)) -> Row:
    """Torus about `axis`; `flat` scales the local axes (local y is the axis)."""
    scale = (major * flat[0], major * flat[1], major * flat[2])
    return _row(TORUS, centre, _frame_of(axis), scale, (minor / major, 0.0, 0.0, 0.0), paint)


def rod(a: Vec, b: Vec, radius: float, paint: Paint) -> Row:
    """Capsule."""
    half = 0.5 * math.dist(a, b)
    centre = vec(0.5 * (p + q) for p, q in zip(a, b, strict=True))
    frame = _frame_of(vec(q - p for p, q in zip(a, b, strict=True)))
    return _row(CAPSULE, centre, frame, (half, half, half), (radius / half, 0.0, 0.0, 0.0), paint)


# ---- packing ------------------------------------------------------------------------------------


@nb.njit(cache=True, nogil=True)
def _profile(row, v):
    """Outline of a solid of revolution at parameter v in [0, 1]: canonical (radius, y)."""
    kind = int(row[KIND])
    if kind == BALL:
        lowest = math.acos(max(-1.0, min(1.0, row[PARAMS])))
        a = lowest + (math.pi - lowest) * v
        return math.sin(a), math.cos(a)
    a = math.pi * v
    r = row[PARAMS]
    return r * math.sin(a), r * math.cos(a) + (1.0 if v < 0.5 else -1.0)


@nb.njit(cache=True, nogil=True)
def _extent(rows, centre, out):
    """Bounding box of all primitives into out[0:3], out[3:6] and largest distance from `centre` into out[6].

    Hidden parts count too: whatever lies inside another primitive lies inside its bounds.
    """
    out[0:3] = 1e9
    out[3:6] = -1e9
    far = 0.0
    for i in range(rows.shape[0]):
        row = rows[i]
        kind = int(row[KIND])
        nv = 2 if kind == BOX or kind == FRUSTUM else 25
        nu = 4 if kind == BOX else 48
        if kind == FRUSTUM and row[PARAMS + 1] >= 3:
            nu = int(row[PARAMS + 1])
        own = 0.0
        for iv in range(nv):
            for iu in range(nu):
                a = 2 * math.pi * iu / nu
                if kind == FRUSTUM and row[PARAMS + 1] >= 3:
                    a += math.pi / nu  # faces, not corners, look along the axes
                if kind == BOX:
                    y = -1.0 + 2.0 * iv
                    x = (1.0 if iu & 1 else -1.0) * (row[PARAMS] if iv else 1.0)
                    z = (1.0 if iu & 2 else -1.0) * (row[PARAMS + 1] if iv else 1.0)
                elif kind == TORUS:
                    b = 2 * math.pi * iv / (nv - 1)
                    r = 1 + row[PARAMS] * math.cos(b)
                    x, y, z = r * math.sin(a), row[PARAMS] * math.sin(b), r * math.cos(a)
                else:
                    if kind == FRUSTUM:
                        r, y = (row[PARAMS] if iv else 1.0), -1.0 + 2.0 * iv
                    else:
                        r, y = _profile(row, iv / (nv - 1))
                    x, z = r * math.sin(a), r * math.cos(a)
                x, y, z = x * row[SCALE], y * row[SCALE + 1], z * row[SCALE + 2]
                own = max(own, x * x + y * y + z * z)
                d = 0.0
                for k in range(3):
                    w = row[CENTRE + k] + x * row[ROTATION + k] + y * row[ROTATION + 3 + k] + z * row[ROTATION + 6 + k]
                    out[k] = min(out[k], w)
                    out[3 + k] = max(out[3 + k], w)
                    d += (w - centre[k]) ** 2
                far = max(far, d)
        row[BOUND] = math.sqrt(own) * 1.001
    out[6] = math.sqrt(far)


def pack(rows: list[Row]) -> Prop:
    """Centre the bounding box at the origin and scale the bounding sphere to `OBJECT_RADIUS`."""
    table = np.asarray(rows, np.float64)
    assert table.ndim == 2 and table.shape[1] == ROW and len(table) <= MOST_ROWS, table.shape
    out = np.zeros(7)
    _extent(table, np.zeros(3), out)
    centre = 0.5 * (out[:3] + out[3:6])
    _extent(table, centre, out)
    scale = OBJECT_RADIUS / out[6]
    table[:, CENTRE : CENTRE + 3] = (table[:, CENTRE : CENTRE + 3] - centre) * scale
    table[:, SCALE : SCALE + 3] *= scale
    table[:, BOUND] *= scale
    bounds = (np.stack([out[:3], out[3:6]]) - centre) * scale
    return Prop(np.ascontiguousarray(table, np.float32), bounds.astype(np.float32))


def place(thing: Prop, base: Prop, breadth: float, tall: float) -> list[Row]:
    """Rows of a thing that stands on a base: as tall as `tall` of the base's height, or smaller where it would reach
    over its flat top, which has `breadth` of the base's extents, or than which it would look lost beside."""
    wide, high, deep = (base.bounds[1] - base.bounds[0]).tolist()
    own = (thing.bounds[1] - thing.bounds[0]).tolist()
    scale = min(tall * max(high, 0.6 * wide) / own[1], breadth * wide / own[0], breadth * deep / own[2])
    moved = thing.rows.astype(np.float64)
    moved[:, CENTRE + 1] -= thing.bounds[0, 1]
    moved[:, CENTRE : CENTRE + 3] *= scale
    moved[:, CENTRE + 1] += base.bounds[1, 1] - 0.004
    moved[:, SCALE : SCALE + 3] *= scale
    both: list[Row] = [*base.rows.astype(np.float64).tolist(), *moved.tolist()]
    return both


def surface(rows: np.ndarray) -> np.ndarray:
    """About the surface [n] of each row, by its half extents."""
    x, y, z = rows[:, SCALE : SCALE + 3].T
    return x * y + y * z + z * x


def colour_groups(rows: np.ndarray) -> np.ndarray:
    """Group [n] of each row by its first colour, the group of the largest surface first (0)."""
    colours = np.round(rows[:, COLOUR1 : COLOUR1 + 3] * 32)
    _, group = np.unique(colours, axis=0, return_inverse=True)
    order = np.argsort(-np.bincount(group.reshape(-1), surface(rows)))
    return np.argsort(order)[group.reshape(-1)]


@nb.njit(cache=True, nogil=True)
def paint_at(row, px, py, pz, nx, ny, nz, height, light):
    """Lit colour (r, g, b) of a primitive at canonical point p with world normal n, `height` above the ground."""
    mix, gain = tx.albedo(
        int(row[TEXTURE]), px, py, pz, row[FREQUENCY], row[FREQUENCY + 1], row[FREQUENCY + 2], row[TEXTURE_PARAMS],
        row[TEXTURE_PARAMS + 1], row[TEXTURE_PARAMS + 2], row[TEXTURE_PARAMS + 3], int(row[SEED]),
    )  # fmt: skip
    gain *= tx.shade(nx, ny, nz, height, row[METAL], row[GLOW], light)
    r = (row[COLOUR1] + (row[COLOUR2] - row[COLOUR1]) * mix) * gain
    g = (row[COLOUR1 + 1] + (row[COLOUR2 + 1] - row[COLOUR1 + 1]) * mix) * gain
    b = (row[COLOUR1 + 2] + (row[COLOUR2 + 2] - row[COLOUR1 + 2]) * mix) * gain
    return min(1.0, r), min(1.0, g), min(1.0, b)


def light_array(lighting: Lighting | None) -> np.ndarray:
    """[ambient, diffuse, lx, ly, lz, ground, bare] float64; None is the training light `SOFT`."""
    light = lighting or SOFT
    return np.array([light.ambient, light.diffuse, *light.direction, light.ground, light.bare], np.float64)
