"""Analytic ray caster and surface sampler for the procedural props: nogil numba kernels driven by a thread pool.

Images go primitive by primitive: each one visits only the pixels that its bounding sphere covers and keeps the nearest
hit, then one pass shades the winners. Clouds come from uniformly random lines: by Cauchy-Crofton a convex surface is
hit in proportion to area, and keeping the outermost hits leaves out whatever no camera could see.

    rgba = render([build(PropSpec("mug", "red"))], [30.0], [20.0])        # uint8 [1, 64, 64, 4]
    bare = render([build(PropSpec("mug", "red"))], [30.0], [20.0], kind=np.array([UNLIT_COLOUR]))
    xyz, rgb = sample_points(build(PropSpec("mug", "red")), 1024, np.random.default_rng(0))
    surface = sample_surface(build(PropSpec("mug", "red")), 1024, np.random.default_rng(0))    # and its finish
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numba as nb
import numpy as np

from pipeline_core.limits import cores
from pipeline_core.props.primitives import (
    BALL,
    BOUND,
    BOX,
    CENTRE,
    FRUSTUM,
    KIND,
    METALLIC,
    OBJECT_RADIUS,
    PARAMS,
    ROTATION,
    ROUGHNESS,
    ROW,
    SCALE,
    TORUS,
    Prop,
    colour_groups,
    light_array,
    paint_at,
)
from pipeline_core.props.textures import SIDE_AMBIENT, SIDE_DIFFUSE, UNLIT, Lighting

MISS = 1e30

UNLIT_COLOUR, LIT_COLOUR, NORMALS = range(3)
"""Kinds of render: the paint's own colour; lit from one side (`textures.SIDE_AMBIENT`); normals in the camera's frame
(x right, y up, z towards the camera) as colours 0.5 + 0.5 n."""
KINDS = 3
_SOFT = -1
"""The kind of a render that was asked for none: light of `lighting`."""


@nb.njit(cache=True, nogil=True)
def _hit_ball(cut, inner, ox, oy, oz, dx, dy, dz):
    a = dx * dx + dy * dy + dz * dz
    b = ox * dx + oy * dy + oz * dz
    c = ox * ox + oy * oy + oz * oz
    disc = b * b - a * (c - 1)
    if disc < 0:
        return MISS, 0.0, 1.0, 0.0
    root = math.sqrt(disc)
    best, nx, ny, nz = MISS, 0.0, 1.0, 0.0
    t = (-b - root) / a
    y = oy + t * dy
    if t > 0 and y <= cut:
        best, nx, ny, nz = t, ox + t * dx, y, oz + t * dz
    if cut < 1:
        if dy < 0:  # the flat face is seen from above only
            t = (cut - oy) / dy
            if 0 < t < best:
                r2 = (ox + t * dx) ** 2 + (oz + t * dz) ** 2
                if inner * inner - cut * cut <= r2 <= 1 - cut * cut or (inner <= 0 and r2 <= 1 - cut * cut):
                    best, nx, ny, nz = t, 0.0, 1.0, 0.0
        if inner > 0:
            disc = b * b - a * (c - inner * inner)
            if disc > 0:
                t = (-b + math.sqrt(disc)) / a
                y = oy + t * dy
                if 0 < t < best and y <= cut:
                    best, nx, ny, nz = t, -(ox + t * dx), -y, -(oz + t * dz)
    return best, nx, ny, nz


@nb.njit(cache=True, nogil=True)
def _hit_box(taper_x, taper_z, ox, oy, oz, dx, dy, dz):
    near, far = -MISS, MISS
    nx, ny, nz = 0.0, 1.0, 0.0
    ax, bx = 0.5 * (taper_x - 1), 0.5 * (taper_x + 1)
    az, bz = 0.5 * (taper_z - 1), 0.5 * (taper_z + 1)
    for face in range(6):
        if face == 0:
            px, py, pz, m = 0.0, 1.0, 0.0, 1.0
        elif face == 1:
            px, py, pz, m = 0.0, -1.0, 0.0, 1.0
        elif face == 2:
            px, py, pz, m = 1.0, -ax, 0.0, bx
        elif face == 3:
            px, py, pz, m = -1.0, -ax, 0.0, bx
        elif face == 4:
            px, py, pz, m = 0.0, -az, 1.0, bz
        else:
            px, py, pz, m = 0.0, -az, -1.0, bz
        rate = px * dx + py * dy + pz * dz
        room = m - (px * ox + py * oy + pz * oz)
        if rate < 0:
            t = room / rate
            if t > near:
                near, nx, ny, nz = t, px, py, pz
        elif rate > 0:
            far = min(far, room / rate)
        elif room < 0:
            return MISS, nx, ny, nz
        if near > far:
            return MISS, nx, ny, nz
    if near <= 0:
        return MISS, nx, ny, nz
    return near, nx, ny, nz


@nb.njit(cache=True, nogil=True)
def _hit_prism(top, sides, ox, oy, oz, dx, dy, dz):
    near, far = -MISS, MISS
    nx, ny, nz = 0.0, 1.0, 0.0
    apothem = math.cos(math.pi / sides)
    a, b = 0.5 * (top - 1) * apothem, 0.5 * (top + 1) * apothem
    for face in range(sides + 2):
        if face == 0:
            px, py, pz, m = 0.0, 1.0, 0.0, 1.0
        elif face == 1:
            px, py, pz, m = 0.0, -1.0, 0.0, 1.0
        else:
            angle = 2 * math.pi * (face - 2) / sides
            px, py, pz, m = math.sin(angle), -a, math.cos(angle), b
        rate = px * dx + py * dy + pz * dz
        room = m - (px * ox + py * oy + pz * oz)
        if rate < 0:
            t = room / rate
            if t > near:
                near, nx, ny, nz = t, px, py, pz
        elif rate > 0:
            far = min(far, room / rate)
        elif room < 0:
            return MISS, nx, ny, nz
        if near > far:
            return MISS, nx, ny, nz
    if near <= 0:
        return MISS, nx, ny, nz
    return near, nx, ny, nz


@nb.njit(cache=True, nogil=True)
def _hit_frustum(top, inner, floor, ox, oy, oz, dx, dy, dz):
    best, nx, ny, nz = MISS, 0.0, 1.0, 0.0
    for wall in range(2 if inner > 0 else 1):
        k = inner if wall else 1.0
        lowest = floor if wall else -1.0
        a, b = 0.5 * (top - 1) * k, 0.5 * (top + 1) * k
        h = a * oy + b
        qa = dx * dx + dz * dz - a * a * dy * dy
        qb = ox * dx + oz * dz - a * dy * h
        qc = ox * ox + oz * oz - h * h
        if abs(qa) < 1e-12:
            continue
        disc = qb * qb - qa * qc
        if disc < 0:
            if wall == 0 and abs(top - 1) < 1e-6:
                return MISS, nx, ny, nz
            continue
        root = math.sqrt(disc)
        for sign in (-1.0, 1.0):
            t = (-qb + sign * root) / qa
            if 0 < t < best:
                y = oy + t * dy
                r = a * y + b
                if lowest <= y <= 1 and r >= 0:
                    flip = -1.0 if wall else 1.0
                    best = t
                    nx, ny, nz = flip * (ox + t * dx), -flip * a * r, flip * (oz + t * dz)
    if abs(dy) > 1e-12:
        for end in range(3 if inner > 0 and floor > -1 else 2):
            y = 1.0 if end == 0 else (-1.0 if end == 1 else floor)
            t = (y - oy) / dy
            if 0 < t < best:
                r2 = (ox + t * dx) ** 2 + (oz + t * dz) ** 2
                r = 0.5 * (top - 1) * y + 0.5 * (top + 1)
                least = inner * r if end == 0 or (end == 1 and floor <= -1) else 0.0
                if end == 2:
                    r *= inner
                if least * least <= r2 <= r * r:
                    best, nx, ny, nz = t, 0.0, (-1.0 if end == 1 else 1.0), 0.0
    return best, nx, ny, nz


@nb.njit(cache=True, nogil=True)
def _hit_torus(minor, ox, oy, oz, dx, dy, dz):
    """Sphere tracing: the distance to a torus is exact, and a quartic solver would need more care than steps."""
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    dx, dy, dz = dx / length, dy / length, dz / length
    b = ox * dx + oy * dy + oz * dz
    reach = (1 + minor) * 1.001
    disc = b * b - (ox * ox + oy * oy + oz * oz - reach * reach)
    if disc <= 0:
        return MISS, 0.0, 1.0, 0.0
    root = math.sqrt(disc)
    t, last = max(0.0, -b - root), -b + root
    for _ in range(64):
        x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
        r = math.sqrt(x * x + z * z)
        gap = math.sqrt((r - 1) ** 2 + y * y) - minor
        if gap < 1e-3 * minor + 1e-5:
            k = (r - 1) / max(r, 1e-9)
            return t / length, x * k, y, z * k
        t += gap
        if t > last:
            break
    return MISS, 0.0, 1.0, 0.0


@nb.njit(cache=True, nogil=True)
def _hit_capsule(radius, ox, oy, oz, dx, dy, dz):
    best, nx, ny, nz = MISS, 0.0, 1.0, 0.0
    a = dx * dx + dz * dz
    if a > 1e-12:
        b = ox * dx + oz * dz
        disc = b * b - a * (ox * ox + oz * oz - radius * radius)
        if disc < 0:
            return best, nx, ny, nz
        t = (-b - math.sqrt(disc)) / a
        y = oy + t * dy
        if t > 0 and -1 <= y <= 1:
            return t, ox + t * dx, 0.0, oz + t * dz
    a += dy * dy
    for end in range(2):
        y0 = oy - 1.0 + 2.0 * end
        b = ox * dx + y0 * dy + oz * dz
        disc = b * b - a * (ox * ox + y0 * y0 + oz * oz - radius * radius)
        if disc >= 0:
            t = (-b - math.sqrt(disc)) / a
            if 0 < t < best:
                best, nx, ny, nz = t, ox + t * dx, y0 + t * dy, oz + t * dz
    return best, nx, ny, nz


@nb.njit(cache=True, nogil=True)
def _hit(row, ox, oy, oz, dx, dy, dz):
    """Nearest hit of a canonical ray with the row's unit shape -> (t, canonical normal); t = MISS if none."""
    kind = int(row[KIND])
    if kind == BALL:
        return _hit_ball(row[PARAMS], row[PARAMS + 1], ox, oy, oz, dx, dy, dz)
    if kind == BOX:
        return _hit_box(row[PARAMS], row[PARAMS + 1], ox, oy, oz, dx, dy, dz)
    if kind == FRUSTUM:
        if row[PARAMS + 1] >= 3:
            return _hit_prism(row[PARAMS], int(row[PARAMS + 1]), ox, oy, oz, dx, dy, dz)
        return _hit_frustum(row[PARAMS], row[PARAMS + 2], row[PARAMS + 3], ox, oy, oz, dx, dy, dz)
    if kind == TORUS:
        return _hit_torus(row[PARAMS], ox, oy, oz, dx, dy, dz)
    return _hit_capsule(row[PARAMS], ox, oy, oz, dx, dy, dz)


@nb.njit(cache=True, nogil=True, inline="always")
def _to_local(row, x, y, z):
    """World vector -> canonical vector."""
    return (
        (row[ROTATION] * x + row[ROTATION + 1] * y + row[ROTATION + 2] * z) / row[SCALE],
        (row[ROTATION + 3] * x + row[ROTATION + 4] * y + row[ROTATION + 5] * z) / row[SCALE + 1],
        (row[ROTATION + 6] * x + row[ROTATION + 7] * y + row[ROTATION + 8] * z) / row[SCALE + 2],
    )


@nb.njit(cache=True, nogil=True)
def _meet(row, ex, ey, ez, dx, dy, dz):
    """Where the world ray e + t d meets the row: t, canonical point, unit world normal."""
    ox, oy, oz = _to_local(row, ex - row[CENTRE], ey - row[CENTRE + 1], ez - row[CENTRE + 2])
    lx, ly, lz = _to_local(row, dx, dy, dz)
    t, nx, ny, nz = _hit(row, ox, oy, oz, lx, ly, lz)
    nx, ny, nz = nx / row[SCALE], ny / row[SCALE + 1], nz / row[SCALE + 2]
    wx = row[ROTATION] * nx + row[ROTATION + 3] * ny + row[ROTATION + 6] * nz
    wy = row[ROTATION + 1] * nx + row[ROTATION + 4] * ny + row[ROTATION + 7] * nz
    wz = row[ROTATION + 2] * nx + row[ROTATION + 5] * ny + row[ROTATION + 8] * nz
    n = 1 / (math.sqrt(wx * wx + wy * wy + wz * wz) + 1e-12)
    return t, ox + t * lx, oy + t * ly, oz + t * lz, wx * n, wy * n, wz * n


@nb.njit(cache=True, nogil=True)
def _colour(row, ex, ey, ez, dx, dy, dz, lowest, light):
    """Shaded colour where the world ray e + t d meets the row."""
    t, px, py, pz, nx, ny, nz = _meet(row, ex, ey, ez, dx, dy, dz)
    return paint_at(row, px, py, pz, nx, ny, nz, ey + t * dy - lowest, light)


@nb.njit(cache=True, nogil=True)
def _render_range(lo, hi, rows, first, lowest, owner, cams, size, sub, kinds, lights, out):
    """Images lo..hi. rows [n, ROW]; first [props + 1]; owner [images] prop index; cams [images, 4] = azimuth,
    elevation (radians), distance, tangent of half the field of view; kinds [images]; lights [images, 7], those of
    `LIT_COLOUR` with the direction in the camera's frame; out [images, size, size, 4] uint8."""
    side = size * sub
    depth = np.empty((side, side), np.float64)
    winner = np.empty((side, side), np.int32)
    for image in range(lo, hi):
        az, el, distance, tan = cams[image, 0], cams[image, 1], cams[image, 2], cams[image, 3]
        prop = owner[image]
        sa, ca, se, ce = math.sin(az), math.cos(az), math.sin(el), math.cos(el)
        ex, ey, ez = distance * ce * sa, distance * se, distance * ce * ca
        fx, fy, fz = -ce * sa, -se, -ce * ca  # forward
        rx, ry, rz = ca, 0.0, -sa  # right
        ux, uy, uz = -se * sa, ce, -se * ca  # up
        light = lights[image].copy()
        if kinds[image] == LIT_COLOUR:
            a, b, c = light[2], light[3], light[4]
            light[2], light[3], light[4] = a * rx + b * ux - c * fx, a * ry + b * uy - c * fy, a * rz + b * uz - c * fz
        depth[:] = MISS
        winner[:] = -1
        pixel = 2 * tan / side
        for i in range(first[prop], first[prop + 1]):
            row = rows[i]
            # pixels covered by the bounding sphere (conservative: its nearest depth)
            cx, cy, cz = row[CENTRE] - ex, row[CENTRE + 1] - ey, row[CENTRE + 2] - ez
            z = cx * fx + cy * fy + cz * fz
            x = cx * rx + cy * ry + cz * rz
            y = cx * ux + cy * uy + cz * uz
            bound = row[BOUND]
            x0, x1, y0, y1 = 0, side, 0, side
            if z - bound > 0.05:
                # exact tangent lines of the sphere in each image axis: tan(angle +- asin(bound / range))
                rho = math.sqrt(x * x + z * z)
                if bound < rho:
                    mid, half = math.atan2(x, z), math.asin(bound / rho)
                    x0 = int(max(0.0, math.floor(math.tan(max(mid - half, -1.5)) / pixel + 0.5 * side)))
                    x1 = int(min(float(side), math.ceil(math.tan(min(mid + half, 1.5)) / pixel + 0.5 * side)))
                rho = math.sqrt(y * y + z * z)
                if bound < rho:
                    mid, half = math.atan2(y, z), math.asin(bound / rho)
                    y0 = int(max(0.0, math.floor(0.5 * side - math.tan(min(mid + half, 1.5)) / pixel)))
                    y1 = int(min(float(side), math.ceil(0.5 * side - math.tan(max(mid - half, -1.5)) / pixel)))
            ox, oy, oz = _to_local(row, -cx, -cy, -cz)
            ax, ay, az_ = _to_local(row, fx, fy, fz)
            bx, by, bz = _to_local(row, rx, ry, rz)
            gx, gy, gz = _to_local(row, ux, uy, uz)
            for v in range(y0, y1):
                sv = (0.5 * side - v - 0.5) * pixel
                hx, hy, hz = ax + sv * gx, ay + sv * gy, az_ + sv * gz
                for u in range(x0, x1):
                    su = (u + 0.5 - 0.5 * side) * pixel
                    t, _, _, _ = _hit(row, ox, oy, oz, hx + su * bx, hy + su * by, hz + su * bz)
                    if t < depth[v, u]:
                        depth[v, u] = t
                        winner[v, u] = i
        norm = 1.0 / (sub * sub)
        for v in range(size):
            for u in range(size):
                r = g = b = 0.0
                n = 0
                for j in range(sub):
                    for k in range(sub):
                        i = winner[v * sub + j, u * sub + k]
                        if i >= 0:
                            sv = (0.5 * side - (v * sub + j) - 0.5) * pixel
                            su = (u * sub + k + 0.5 - 0.5 * side) * pixel
                            dx, dy, dz = fx + su * rx + sv * ux, fy + su * ry + sv * uy, fz + su * rz + sv * uz
                            if kinds[image] == NORMALS:
                                _, _, _, _, nx, ny, nz = _meet(rows[i], ex, ey, ez, dx, dy, dz)
                                c0 = 0.5 + 0.5 * (nx * rx + ny * ry + nz * rz)
                                c1 = 0.5 + 0.5 * (nx * ux + ny * uy + nz * uz)
                                c2 = 0.5 - 0.5 * (nx * fx + ny * fy + nz * fz)
                            else:
                                c0, c1, c2 = _colour(rows[i], ex, ey, ez, dx, dy, dz, lowest[prop], light)
                            r += c0
                            g += c1
                            b += c2
                            n += 1
                if n > 0:
                    out[image, v, u, 0] = int(255 * r / n + 0.5)
                    out[image, v, u, 1] = int(255 * g / n + 0.5)
                    out[image, v, u, 2] = int(255 * b / n + 0.5)
                    out[image, v, u, 3] = int(255 * n * norm + 0.5)


def render(
    props: Sequence[Prop],
    azimuth: np.ndarray,  # [B] or [B, V] degrees
    elevation: np.ndarray,  # [B] or [B, V] degrees
    *,
    size: int = 64,
    distance: float | np.ndarray = 2.5,
    fovy: float | np.ndarray = 40.0,
    supersample: int = 2,
    lighting: Lighting | None = None,
    kind: np.ndarray | None = None,  # [B] or [B, V]
    light: np.ndarray | None = None,  # [B, 3] or [B, V, 3]
    threads: int | None = None,
) -> np.ndarray:
    """Images of props from cameras that look at the origin.

    Args:
        props: B props
        azimuth: degrees; 0 = camera on +Z (front), 90 = camera on +X; one per prop, or V per prop
        elevation: degrees; +90 = above; same shape as azimuth
        size: pixels a side
        distance: world units from the origin; a number or an array shaped like azimuth
        fovy: degrees; a number or an array shaped like azimuth
        supersample: rays a pixel side
        lighting: the light of every image, None for `textures.SOFT`, `textures.FLAT` for albedo with sheen; not
            beside `kind`
        kind: what each image shows, `UNLIT_COLOUR`, `LIT_COLOUR` or `NORMALS`; None for colours under `lighting`
        light: directions towards the light of lit images, unit vectors in each camera's own frame (x right, y up, z
            towards the camera); needed where an image is lit from a side, not looked at elsewhere
        threads: None for every core; the result does not depend on it

    Returns:
        [B, size, size, 4] or [B, V, size, size, 4] uint8, sRGB, straight (not premultiplied) alpha: composite with
        rgb * a + background * (1 - a). Colour is 0 where alpha is 0.

    Raises:
        ValueError: a kind that is none, lit images without directions, or `kind` beside `lighting`
    """
    azimuth = np.asarray(azimuth, np.float64)
    shape = azimuth.shape
    assert len(shape) in (1, 2) and shape[0] == len(props), (shape, len(props))
    angles = [azimuth, elevation, distance, fovy]
    az, el, far, fov = (np.broadcast_to(np.asarray(a, np.float64), shape).reshape(-1) for a in angles)
    cams = np.stack([np.radians(az), np.radians(el), far, np.tan(np.radians(fov) / 2)], -1)
    views = 1 if len(shape) == 1 else shape[1]
    owner = np.repeat(np.arange(len(props)), views)
    first = np.concatenate([[0], np.cumsum([len(p.rows) for p in props])]).astype(np.int64)
    rows = np.concatenate([p.rows for p in props]) if props else np.zeros((0, ROW), np.float32)
    lowest = np.array([p.bounds[0, 1] for p in props], np.float64)
    out = np.zeros((len(cams), size, size, 4), np.uint8)
    kinds, lights = _lights(shape, lighting, kind, light)

    def work(lo: int, hi: int) -> None:
        _render_range(lo, hi, rows, first, lowest, owner, cams, size, supersample, kinds, lights, out)

    _spread(work, len(cams), threads)
    return out.reshape(*shape, size, size, 4)


def _lights(
    shape: tuple[int, ...], lighting: Lighting | None, kind: np.ndarray | None, light: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Kind [images] int64 and light [images, 7] of each image of `shape`; see `render`."""
    count = math.prod(shape)
    if kind is None:
        return np.full(count, _SOFT), np.tile(light_array(lighting), (count, 1))
    if lighting is not None:
        raise ValueError("lighting has no place beside kind: a kind says how an image is lit")
    kinds = np.broadcast_to(np.asarray(kind, np.int64), shape).reshape(-1)
    if count and not (0 <= kinds.min() and kinds.max() < KINDS):
        raise ValueError(f"kind must be from 0 to {KINDS - 1}, not {kinds.min()} to {kinds.max()}")
    lights = np.tile(light_array(UNLIT), (count, 1))
    lit = kinds == LIT_COLOUR
    if lit.any():
        if light is None:
            raise ValueError("light, a direction for each image, is needed where an image is lit from a side")
        lights[lit, :2] = SIDE_AMBIENT, SIDE_DIFFUSE
        lights[lit, 2:5] = np.broadcast_to(np.asarray(light, np.float64), (*shape, 3)).reshape(-1, 3)[lit]
    return kinds, lights


def _spread(work, count: int, threads: int | None) -> None:
    """Run work(lo, hi) over chunks of range(count), on threads when it is worth starting them."""
    threads = min(threads or cores(), max(1, count // 4))
    if threads <= 1:
        work(0, count)
        return
    step = max(1, count // (threads * 4))
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work, lo, min(lo + step, count)) for lo in range(0, count, step)]:
            done.result()


@nb.njit(cache=True, nogil=True, inline="always")
def _next(state):
    """splitmix64 -> uniform [0, 1)."""
    state[0] += np.uint64(0x9E3779B97F4A7C15)
    z = state[0]
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(11)) * (1.0 / 9007199254740992.0)


@nb.njit(cache=True, nogil=True)
def _nearest(rows, ex, ey, ez, dx, dy, dz):
    best, winner = MISS, -1
    for i in range(rows.shape[0]):
        row = rows[i]
        cx, cy, cz = ex - row[CENTRE], ey - row[CENTRE + 1], ez - row[CENTRE + 2]
        along = cx * dx + cy * dy + cz * dz
        if cx * cx + cy * cy + cz * cz - along * along > row[BOUND] * row[BOUND]:
            continue
        ox, oy, oz = _to_local(row, cx, cy, cz)
        lx, ly, lz = _to_local(row, dx, dy, dz)
        t, _, _, _ = _hit(row, ox, oy, oz, lx, ly, lz)
        if t < best:
            best, winner = t, i
    return best, winner


@nb.njit(cache=True, nogil=True)
def _sample(rows, bounds, radius, light, state, xyz, rgb, owner):
    """Fill xyz and rgb [n, 3] with outermost hits of uniformly random lines, owner [n] with the rows that they hit."""
    n, filled = xyz.shape[0], 0
    while filled < n:
        # A uniform line: uniform direction, uniform offset in the perpendicular disc of the bounding sphere.
        z = 2 * _next(state) - 1
        a = 2 * math.pi * _next(state)
        s = math.sqrt(max(0.0, 1 - z * z))
        dx, dy, dz = s * math.cos(a), s * math.sin(a), z
        r = radius * math.sqrt(_next(state))
        b = 2 * math.pi * _next(state)
        if abs(dz) < 0.9:
            n1x, n1y, n1z = -dy, dx, 0.0
        else:
            n1x, n1y, n1z = 0.0, -dz, dy
        q = 1 / math.sqrt(n1x * n1x + n1y * n1y + n1z * n1z)
        n1x, n1y, n1z = n1x * q, n1y * q, n1z * q
        n2x, n2y, n2z = dy * n1z - dz * n1y, dz * n1x - dx * n1z, dx * n1y - dy * n1x
        u, v = r * math.cos(b), r * math.sin(b)
        px, py, pz = u * n1x + v * n2x, u * n1y + v * n2y, u * n1z + v * n2z
        near, far = -MISS, MISS  # bounding box first: it turns most lines away from a slender prop
        for k in range(3):
            p = px if k == 0 else (py if k == 1 else pz)
            d = dx if k == 0 else (dy if k == 1 else dz)
            if abs(d) > 1e-9:
                t0, t1 = (bounds[0, k] - p) / d, (bounds[1, k] - p) / d
                near, far = max(near, min(t0, t1)), min(far, max(t0, t1))
            elif p < bounds[0, k] or p > bounds[1, k]:
                far = -MISS
        if near > far:
            continue
        for way in range(2):
            sign = 1.0 - 2.0 * way
            ex, ey, ez = px - sign * 2 * radius * dx, py - sign * 2 * radius * dy, pz - sign * 2 * radius * dz
            vx, vy, vz = sign * dx, sign * dy, sign * dz
            t, i = _nearest(rows, ex, ey, ez, vx, vy, vz)
            if i < 0:
                break
            if filled < n:
                xyz[filled, 0], xyz[filled, 1], xyz[filled, 2] = ex + t * vx, ey + t * vy, ez + t * vz
                c0, c1, c2 = _colour(rows[i], ex, ey, ez, vx, vy, vz, bounds[0, 1], light)
                rgb[filled, 0], rgb[filled, 1], rgb[filled, 2] = c0, c1, c2
                owner[filled] = i
                filled += 1


OVERSAMPLE = 3
"""Points drawn for each that is kept, where small parts get more."""


class Surface(NamedTuple):
    """Points of a prop: xyz [n, 3] float32 within `OBJECT_RADIUS` of the origin, rgb [n, 3] float32 sRGB in [0, 1],
    finish [n, 2] float32 metallic (0 or 1) and roughness in (0, 1]."""

    xyz: np.ndarray
    rgb: np.ndarray
    finish: np.ndarray


def sample_surface(
    prop: Prop, n: int, rng: np.random.Generator, *, parts: float = 0.0, lighting: Lighting | None = None
) -> Surface:
    """Points on the visible outer surface, roughly uniform by area.

    Args:
        n: number of points
        rng: only one integer is drawn from it, with ``parts`` some more
        parts: above 0, the chance of a point has a factor, its colour's share of the visible area to the power of
            -parts, within three of another's: more points for parts that are small and of their own colour
        lighting: None for the training light, `textures.UNLIT` for the paint's own colours, as in `render`
    """
    drawn = n * OVERSAMPLE if parts else n
    xyz, rgb = np.empty((drawn, 3), np.float32), np.empty((drawn, 3), np.float32)
    owner = np.empty(drawn, np.int64)
    state = rng.integers(0, 2**63, size=1, dtype=np.int64).astype(np.uint64)
    bounds, light = prop.bounds.astype(np.float64), light_array(lighting)
    _sample(prop.rows, bounds, OBJECT_RADIUS * 1.001, light, state, xyz, rgb, owner)
    if parts:
        # Without replacement, by Efraimidis and Spirakis (2006): the n largest of u^(1 / w).
        group = colour_groups(prop.rows)[owner]
        weight = np.bincount(group)[group].astype(np.float64) ** -parts
        chosen = np.argpartition(rng.exponential(size=drawn) / weight, n - 1)[:n]
        chosen.sort()  # in the order drawn, which is random
        xyz, rgb, owner = xyz[chosen], rgb[chosen], owner[chosen]
    return Surface(xyz, rgb, prop.rows[:, [METALLIC, ROUGHNESS]][owner])


def sample_points(
    prop: Prop, n: int, rng: np.random.Generator, *, parts: float = 0.0, lighting: Lighting | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """xyz and rgb [n, 3] float32 of `sample_surface`, whose arguments it has."""
    return sample_surface(prop, n, rng, parts=parts, lighting=lighting)[:2]
