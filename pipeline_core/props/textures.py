"""Procedural textures and the fixed world light of the props, as nogil numba functions.

A texture is a function of a point on a primitive: `p` in the primitive's canonical frame (the unit shape) and
`u = p * frequency`, the same point measured in texture cells. Because cells are counted in canonical units, a texture
does not change when a prop is scaled to its standard size.

The light is fixed to the *world*, not to the camera: it is part of the colours that a prior learns, so that a view from
behind is darker than a view from the front. It is mild, because a game engine will light the asset again.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba as nb

PLAIN, PLANKS, BRICKS, STRIPES, SPOTS, CHECKER, NOISE, FRAME, GRADIENT = range(9)
"""Texture kinds; what the four parameters `q0..q3` mean is said beside each in `albedo`."""

ANGLE = 3
"""Pseudo-axis: the angle about the canonical y axis, in cells per turn (`q3`), for textures that wrap around a body."""


class Lighting(NamedTuple):
    """Soft directional light: shade = ambient + diffuse * half_lambert(normal)^2, darkened towards the ground."""

    ambient: float = 0.72
    diffuse: float = 0.28
    direction: tuple[float, float, float] = (0.2, 0.75, 0.63)
    """Unit vector towards the light: top, front, a little right. Front, right and top faces of a box differ."""
    ground: float = 0.10
    """Fraction of light lost at the lowest point of the prop, fading out over `GROUND_HEIGHT`: contact shadow."""
    bare: bool = False
    """Nothing but shade = ambient + diffuse * half_lambert(normal): no sheen of metal, no glow, no contact shadow."""


SOFT = Lighting()
FLAT = Lighting(ambient=1.0, diffuse=0.0, ground=0.0)
"""No light at all: `render` then gives albedo (and the sheen of metal, which is paint here)."""
UNLIT = Lighting(ambient=1.0, diffuse=0.0, ground=0.0, bare=True)
"""The paint's own colour and nothing else: what a texture without light in it holds."""
SIDE_AMBIENT, SIDE_DIFFUSE = 0.35, 0.65
"""A surface lit from one side: shade = SIDE_AMBIENT + SIDE_DIFFUSE * (0.5 + 0.5 n . l), linear in the normal, so that
the shade of a mean normal is the mean shade."""

GROUND_HEIGHT = 0.3
"""Height in world units over which the darkening near the ground fades."""


@nb.njit(cache=True, nogil=True, inline="always")
def _hash01(i, j, k, seed):
    """Lattice point and seed -> [0, 1)."""
    h = i * 374761393 + j * 668265263 + k * 1274126177 + seed * 974634541
    h = (h ^ (h >> 13)) & 0xFFFFFFFF
    h = (h * 1103515245) & 0xFFFFFFFF
    h = (h ^ (h >> 16)) & 0xFFFFFFFF
    h = (h * 2246822519) & 0xFFFFFFFF
    return (h ^ (h >> 15)) / 4294967296.0


@nb.njit(cache=True, nogil=True)
def _noise(x, y, z, seed):
    """Value noise in [0, 1), cell size 1."""
    fi, fj, fk = math.floor(x), math.floor(y), math.floor(z)
    a, b, c = x - fi, y - fj, z - fk
    a, b, c = a * a * (3 - 2 * a), b * b * (3 - 2 * b), c * c * (3 - 2 * c)
    i, j, k = int(fi), int(fj), int(fk)
    v = 0.0
    for di in range(2):
        wa = a if di else 1 - a
        for dj in range(2):
            wb = b if dj else 1 - b
            v += wa * wb * ((1 - c) * _hash01(i + di, j + dj, k, seed) + c * _hash01(i + di, j + dj, k + 1, seed))
    return v


@nb.njit(cache=True, nogil=True, inline="always")
def _turns(px, pz):
    return math.atan2(px, pz) / (2 * math.pi) + 0.5


@nb.njit(cache=True, nogil=True)
def _along(axis, px, pz, ux, uy, uz, per_turn):
    if axis == 0:
        return ux
    if axis == 1:
        return uy
    if axis == 2:
        return uz
    return _turns(px, pz) * per_turn


@nb.njit(cache=True, nogil=True)
def _spot_on_sphere(px, py, pz, rows, radius):
    """Dots in rows of latitude, spaced evenly along each row; radius in units of the row height."""
    length = math.sqrt(px * px + py * py + pz * pz) + 1e-9
    latitude = math.acos(min(1.0, max(-1.0, py / length)))  # 0 at the top
    step = math.pi / rows
    row = math.floor(latitude / step + 0.5)  # a spot sits on the pole itself
    centre = row * step
    count = math.floor(2 * rows * math.sin(centre) * 0.8 + 0.5)
    if count < 1:
        count = 1
    turn = _turns(px, pz) * count + 0.5 * (int(row) & 1)
    across = (turn - math.floor(turn) - 0.5) / count * 2 * math.pi * math.sin(max(centre, 1e-3))
    if row == 0:
        across = 0.0
    down = latitude - centre
    return across * across + down * down < (radius * step) ** 2


@nb.njit(cache=True, nogil=True)
def albedo(kind, px, py, pz, fx, fy, fz, q0, q1, q2, q3, seed):
    """Texture at canonical point p -> (mix, gain): colour = lerp(c1, c2, mix) * gain.

    Args:
        kind: one of the texture kinds
        px, py, pz: canonical point
        fx, fy, fz: cells per canonical unit along each axis
        q0..q3: parameters of the kind
        seed: integer that shifts the random parts
    """
    # just inside the surface: a face that lies on a cell boundary must not flicker between two cells
    ux, uy, uz = px * 0.999 * fx, py * 0.999 * fy, pz * 0.999 * fz
    if kind == PLANKS:  # q0 axis across the planks, q1 seam width, q2 brightness spread, q3 planks per turn
        w = _along(int(q0), px, pz, ux, uy, uz, q3) + 0.5
        cell = math.floor(w)
        w -= cell
        if w < q1 or w > 1 - q1:
            return 1.0, 1.0
        return 0.0, 1.0 + q2 * (_hash01(int(cell), 7, 3, seed) - 0.5)
    if kind == BRICKS:  # q1 mortar width, q2 brightness spread, q3 bricks per turn (0: a box)
        row = math.floor(uy)
        w = (_turns(px, pz) * q3 if q3 > 0 else ux + uz) + 0.5 * (int(row) & 1)
        cell = math.floor(w)
        if uy - row < q1 or w - cell < q1 * 0.6:
            return 1.0, 1.0
        return 0.0, 1.0 + q2 * (_hash01(int(cell), int(row), 5, seed) - 0.5)
    if kind == STRIPES:  # q0 axis, q1 share of c2, q2 twist in turns, q3 stripes per turn
        w = _along(int(q0), px, pz, ux, uy, uz, q3) + q2 * _turns(px, pz) + 0.25
        return (1.0 if w - math.floor(w) < q1 else 0.0), 1.0
    if kind == SPOTS:  # q0 rows on a sphere (0: a flat or wrapped grid), q1 radius in cells, q3 spots per turn
        if q0 > 0:
            return (1.0 if _spot_on_sphere(px, py, pz, q0, q1) else 0.0), 1.0
        row = math.floor(uy)
        w = (_turns(px, pz) * q3 if q3 > 0 else ux + uz) + 0.5 * (int(row) & 1)
        a, b = w - math.floor(w) - 0.5, uy - row - 0.5
        return (1.0 if a * a + b * b < q1 * q1 else 0.0), 1.0
    if kind == CHECKER:  # q3 cells per turn (0: a box)
        if q3 > 0:
            n = math.floor(_turns(px, pz) * q3) + math.floor(uy)
        else:
            n = math.floor(ux) + math.floor(uy) + math.floor(uz)
        return float(int(n) & 1), 1.0
    if kind == NOISE:  # q0 threshold, q1 softness, q2 brightness spread
        v = 0.65 * _noise(ux, uy, uz, seed) + 0.35 * _noise(2.1 * ux, 2.1 * uy, 2.1 * uz, seed + 1)
        m = min(1.0, max(0.0, (v - q0) / q1 + 0.5))
        return m * m * (3 - 2 * m), 1.0 + q2 * (v - 0.5)
    if kind == FRAME:  # q0 axis across the planks inside, q1 frame width, q2 brace width on the z and x faces (0: none)
        near = 0
        near += 1 if (1 - abs(px)) * fx < q1 else 0
        near += 1 if (1 - abs(py)) * fy < q1 else 0
        near += 1 if (1 - abs(pz)) * fz < q1 else 0
        if near >= 2:
            return 1.0, 1.0
        if q2 > 0 and abs(py) < 0.995:
            across = px if abs(pz) > abs(px) else pz
            if abs(across - py) < q2:
                return 1.0, 0.97
        w = _along(int(q0), px, pz, ux, uy, uz, q3) * 2 + 0.5
        cell = math.floor(w)
        w -= cell
        if w < 0.07 or w > 0.93:
            return 0.6, 0.8
        return 0.0, 1.0 + 0.16 * (_hash01(int(cell), 7, 3, seed) - 0.5)
    if kind == GRADIENT:  # q0 mix at the bottom, q1 mix at the top
        return q0 + (q1 - q0) * 0.5 * (py + 1), 1.0
    return 0.0, 1.0


@nb.njit(cache=True, nogil=True)
def shade(nx, ny, nz, height, metal, glow, light):
    """Light on a surface: unit world normal, height above the prop's lowest point, sheen and glow in [0, 1].

    `light` is [ambient, diffuse, lx, ly, lz, ground, bare]. Metal is painted, not reflected: a bright band where the
    normal points up and forward and a dark one below the horizon, the same from every camera.
    """
    half = 0.5 + 0.5 * (nx * light[2] + ny * light[3] + nz * light[4])
    if light[6] > 0:
        return light[0] + light[1] * half
    s = light[0] + light[1] * half * half
    if height < GROUND_HEIGHT:
        s *= 1 - light[5] * (1 - height / GROUND_HEIGHT)
    if metal > 0:
        up = ny * 0.8 + nx * 0.35 + nz * 0.15
        a, b = (up - 0.35) / 0.28, (up + 0.25) / 0.3
        s *= 1 + metal * (0.30 * math.exp(-a * a) - 0.26 * math.exp(-b * b))
    return s + (1 - s) * glow
