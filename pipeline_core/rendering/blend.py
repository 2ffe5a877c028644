"""Kernels that blend the listed Gaussians of every tile into its pixels, and carry the gradient back.

A tile is sixteen blocks of 4 x 4 pixels, and a block is one :mod:`lanes` vector; a plane of a tile is 256 numbers,
block by block. For each Gaussian one vector computation, a lane a block, finds the blocks whose pixel centres its
ellipse reaches; only those are visited.

Forward: front to back, ``w = alpha T``, until T would fall to 1e-4. A finished pixel has a negative T, and ``stops``
keeps the list position at which it finished.
Backward: back to front from the exact final T (not from 1 - alpha, which has lost it), so that nothing is found by
subtraction. With v the image gradient, c . v a Gaussian's colour dotted with it and b the blend of all that is behind,

    g = dL/dsigma = -alpha dL/dalpha = w (b - c . v),    then    b <- b + alpha (c . v - b)

and per Gaussian and tile the sums over pixels of g times 1, z1, z2, z1^2, z1 z2, z2^2 with z = W d say everything
about mean, covariance and opacity. Sixteen sums are one cache line, written at the pair's list position.
"""

from __future__ import annotations

import numpy as np

from pipeline_core.rendering.jit import inlined, kernel
from pipeline_core.rendering.lanes import (
    EXP2,
    MAGIC,
    absolute,
    bits,
    fma,
    gather_sums,
    load,
    lowest_bit,
    maximum,
    minimum,
    peek,
    prefetch,
    select,
    splat,
    store,
    times_power,
)
from pipeline_core.rendering.projection import (
    BLUE,
    CUT,
    DEPTH,
    GREEN,
    K1,
    K2,
    LOG2E,
    MX,
    MY,
    OPACITY,
    RECORD,
    RED,
    W11,
    W21,
    W22,
)
from pipeline_core.rendering.tiles import TILE, slack

PLANE = TILE * TILE
AHEAD = 6
"""How many list entries ahead a record is fetched into the cache."""
ALPHA_MAX = np.float32(0.999)
TRANSMITTANCE_MIN = np.float32(1e-4)

_lane = np.arange(16)
PATTERNS = np.concatenate([_lane % 4, _lane // 4, _lane % 4 * 4, _lane // 4 * 4]).astype(np.float32)
"""x and y of each pixel in its block, x and y of each block in its tile."""


@inlined
def _reached(records, base, patterns, x, y):  # noqa: ANN001, ANN202
    """Bit b is set where block b of the tile at pixel (x, y) holds a point with |W d|^2 <= cut.

    The least value over a rectangle lies on the side nearest in x, at the best y that side has, or the other way round.
    """
    w11, w21, w22 = peek(records, base + W11), peek(records, base + W21), peek(records, base + W22)
    k1, k2 = peek(records, base + K1), peek(records, base + K2)
    x0 = load(patterns, 32) - (peek(records, base + MX) - np.float32(x + 0.5))
    y0 = load(patterns, 48) - (peek(records, base + MY) - np.float32(y + 0.5))
    x1, y1 = x0 + 3.0, y0 + 3.0
    near_x = maximum(x0, minimum(x1, 0.0))
    near_y = maximum(y0, minimum(y1, 0.0))
    best_y = maximum(y0, minimum(y1, near_x * k1))
    best_x = maximum(x0, minimum(x1, near_y * k2))
    a1, a2 = near_x * w11, fma(near_x, w21, best_y * w22)
    b1, b2 = best_x * w11, fma(best_x, w21, near_y * w22)
    return bits(minimum(fma(a1, a1, a2 * a2), fma(b1, b1, b2 * b2)) <= slack(peek(records, base + CUT)))


@inlined
def _corners(records, base, patterns, x, y, corners, at):  # noqa: ANN001, ANN202
    """z = W d at the first pixel of every block of the tile at pixel (x, y), into ``corners[at : at + 32]``."""
    w11, w21, w22 = peek(records, base + W11), peek(records, base + W21), peek(records, base + W22)
    x0 = load(patterns, 32) - (peek(records, base + MX) - np.float32(x + 0.5))
    y0 = load(patterns, 48) - (peek(records, base + MY) - np.float32(y + 0.5))
    store(corners, at, x0 * w11)
    store(corners, at + 16, fma(x0, w21, y0 * w22))


@inlined
def _steps(records, base, patterns):  # noqa: ANN001, ANN202
    """What the pixels of a block add to z at its first pixel."""
    px, py = load(patterns, 0), load(patterns, 16)
    z2 = fma(px, peek(records, base + W21), py * peek(records, base + W22))
    return px * peek(records, base + W11), z2


@inlined
def _alpha(t):  # noqa: ANN001, ANN202
    """2^t / 255: :func:`lanes.exp2` with the division inside the polynomial."""
    shifted = t + MAGIC
    f = t - (shifted - MAGIC)
    p = fma(f, EXP2[0] / 255, EXP2[1] / 255)
    p = fma(fma(fma(fma(p, f, EXP2[2] / 255), f, EXP2[3] / 255), f, EXP2[4] / 255), f, EXP2[5] / 255)
    return times_power(p, shifted)


@inlined
def _block_pixels(block, x, y, width, height):  # noqa: ANN001, ANN202
    """How many columns and rows of ``block`` of the tile at pixel (x, y) lie inside the image, and its first pixel."""
    left, top = x + block % 4 * 4, y + block // 4 * 4
    return min(max(width - left, 0), 4), min(max(height - top, 0), 4), left, top


@kernel
def blend_forward(
    records,
    members,
    starts,
    tiles,
    tiles_x,
    tiles_y,
    backgrounds,
    patterns,
    expected,
    transmittances,
    stops,
    ends,
    blocks,
    depths,
    image,
    alphas,
    part,
    parts,
):  # noqa: ANN001, ANN202, E501
    """Blend every ``parts``-th of the listed ``tiles``.

    ``image`` [V, H, W, 3 or 4] gets colour and depth (expected depth with ``expected``), ``alphas`` [V, H, W];
    ``transmittances`` and ``stops`` [V * tiles, 256], ``ends`` [V * tiles] (list position after which nothing was
    blended) and ``blocks`` [pairs] (bits of the blocks touched) are for the backward pass, and so is ``depths``
    [V * tiles, 512]: with ``expected``, expected depth beyond the tile's nearest Gaussian, and sum of weights. Both are
    kept apart because a difference of depths, or 1 - T, has too few digits left at the faint edge of an object.
    """
    height, width, channels = image.shape[1], image.shape[2], image.shape[3]
    planes = np.empty(5 * PLANE, np.float32)
    corners = np.empty(64, np.float32)
    px, py = load(patterns, 0), load(patterns, 16)
    for k in range(part, tiles.shape[0], parts):
        tile = np.int64(tiles[k])
        v = tile // (tiles_x * tiles_y)
        x, y = tile % tiles_x * TILE, tile // tiles_x % tiles_y * TILE
        first, last = np.int64(starts[tile]), np.int64(starts[tile + 1])
        planes[:] = 0.0
        at = tile * PLANE
        alive = 0
        for block in range(16):
            columns, rows, _, _ = _block_pixels(block, x, y, width, height)
            inside = (px < np.float32(columns)) & (py < np.float32(rows))
            store(transmittances, at + block * 16, select(inside, splat(np.float32(1.0)), splat(np.float32(-1.0))))
            store(stops, at + block * 16, splat(np.float32(last - first)))
            if bits(inside) != 0:
                alive |= 1 << block
        nearest = np.float32(0.0)
        if expected and first < last:
            nearest = peek(records, np.int64(members[first]) * RECORD + DEPTH)
        # One Gaussian ahead: which blocks to visit is known before the branches that depend on it are reached.
        reached = 0
        if first < last:
            base = np.int64(members[first]) * RECORD
            reached = _reached(records, base, patterns, x, y)
            _corners(records, base, patterns, x, y, corners, (first & 1) * 32)
        j = first
        while j < last and alive != 0:
            prefetch(records, np.int64(members[min(j + AHEAD, last - 1)]) * RECORD)
            todo = reached & alive
            base = np.int64(members[min(j + 1, last - 1)]) * RECORD
            reached = _reached(records, base, patterns, x, y)
            _corners(records, base, patterns, x, y, corners, (~j & 1) * 32)
            base = np.int64(members[j]) * RECORD
            corner = (j & 1) * 32
            p1, p2 = _steps(records, base, patterns)
            cut = peek(records, base + CUT)
            red, green, blue = peek(records, base + RED), peek(records, base + GREEN), peek(records, base + BLUE)
            depth = peek(records, base + DEPTH) - nearest
            touched = 0
            while todo != 0:
                block = lowest_bit(todo)
                todo &= todo - 1
                q = block * 16
                z1, z2 = p1 + peek(corners, corner + block), p2 + peek(corners, corner + block + 16)
                t = splat(cut) - fma(z1, z1, z2 * z2)
                T = load(transmittances, at + q)
                hit = (t >= 0.0) & (T > 0.0)
                if bits(hit) == 0:
                    continue
                touched |= 1 << block
                weight = select(hit, minimum(_alpha(t), ALPHA_MAX) * T, 0.0)
                after = T - weight
                stop = hit & (after <= TRANSMITTANCE_MIN)
                if bits(stop) != 0:
                    weight = select(stop, 0.0, weight)
                    after = select(stop, splat(0.0) - T, after)
                    store(stops, at + q, select(stop, splat(np.float32(j - first)), load(stops, at + q)))
                    if bits(after > 0.0) == 0:
                        alive &= ~(1 << block)
                store(transmittances, at + q, after)
                store(planes, q, fma(weight, red, load(planes, q)))
                store(planes, q + PLANE, fma(weight, green, load(planes, q + PLANE)))
                store(planes, q + 2 * PLANE, fma(weight, blue, load(planes, q + 2 * PLANE)))
                store(planes, q + 3 * PLANE, fma(weight, depth, load(planes, q + 3 * PLANE)))
                if expected:
                    store(planes, q + 4 * PLANE, load(planes, q + 4 * PLANE) + weight)
            blocks[j] = touched
            j += 1
        ends[tile] = j
        for block in range(16):
            columns, rows, left, top = _block_pixels(block, x, y, width, height)
            for row in range(rows):
                for column in range(columns):
                    q = block * 16 + row * 4 + column
                    T = abs(transmittances[tile, q])
                    iy, ix = top + row, left + column
                    image[v, iy, ix, 0] = planes[q] + T * backgrounds[v, 0]
                    image[v, iy, ix, 1] = planes[q + PLANE] + T * backgrounds[v, 1]
                    image[v, iy, ix, 2] = planes[q + 2 * PLANE] + T * backgrounds[v, 2]
                    alphas[v, iy, ix] = np.float32(1.0) - T
                    if channels == 4:
                        depth, total = planes[q + 3 * PLANE], planes[q + 4 * PLANE]
                        if expected:
                            depth = depth / total if total > 0.0 else np.float32(0.0)
                            depths[tile, q], depths[tile, q + PLANE] = depth, total
                            depth = depth + nearest if total > 0.0 else depth
                        image[v, iy, ix, 3] = depth


@kernel
def blend_backward(
    records,
    members,
    starts,
    tiles,
    tiles_x,
    tiles_y,
    backgrounds,
    patterns,
    expected,
    transmittances,
    stops,
    ends,
    blocks,
    depths,
    v_image,
    v_alphas,
    sums,
    absgrad,
    part,
    parts,
):  # noqa: ANN001, ANN202, E501
    """Gradient sums [pairs, 16] of every ``parts``-th of the listed ``tiles``.

    Columns: g times 1, z1, z2, z1^2, z1 z2, z2^2; colour (3); depth; and with ``absgrad`` |g dsigma/dmean| (2).
    """
    height, width, channels = v_image.shape[1], v_image.shape[2], v_image.shape[3]
    planes = np.empty(7 * PLANE, np.float32)
    corners = np.empty(64, np.float32)
    zero = splat(np.float32(0.0))
    for k in range(part, tiles.shape[0], parts):
        tile = np.int64(tiles[k])
        v = tile // (tiles_x * tiles_y)
        x, y = tile % tiles_x * TILE, tile // tiles_x % tiles_y * TILE
        first, end, last = np.int64(starts[tile]), np.int64(ends[tile]), np.int64(starts[tile + 1])
        for j in range(end, last):
            store(sums, j * RECORD, zero)
        if first == end:
            continue
        at = tile * PLANE
        planes[:] = 0.0
        nearest = peek(records, np.int64(members[first]) * RECORD + DEPTH) if expected else np.float32(0.0)
        # Planes: gradient of red, green, blue, accumulated depth; the blend behind; T; expected depth.
        for block in range(16):
            columns, rows, left, top = _block_pixels(block, x, y, width, height)
            for row in range(rows):
                for column in range(columns):
                    q = block * 16 + row * 4 + column
                    iy, ix = top + row, left + column
                    red, green, blue = v_image[v, iy, ix, 0], v_image[v, iy, ix, 1], v_image[v, iy, ix, 2]
                    planes[q], planes[q + PLANE], planes[q + 2 * PLANE] = red, green, blue
                    if channels == 4:
                        planes[q + 3 * PLANE] = v_image[v, iy, ix, 3]
                        if expected:  # d(D / A) = sum over w of (depth - D / A) / A
                            total = depths[tile, q + PLANE]
                            planes[q + 3 * PLANE] *= np.float32(1.0) / total if total > 0.0 else np.float32(0.0)
                            planes[q + 6 * PLANE] = depths[tile, q]
                    behind = red * backgrounds[v, 0] + green * backgrounds[v, 1] + blue * backgrounds[v, 2]
                    planes[q + 4 * PLANE] = behind - v_alphas[v, iy, ix]
                    planes[q + 5 * PLANE] = abs(transmittances[tile, q])
        _corners(records, np.int64(members[end - 1]) * RECORD, patterns, x, y, corners, (~end & 1) * 32)
        for j in range(end - 1, first - 1, -1):
            prefetch(records, np.int64(members[max(j - AHEAD, first)]) * RECORD)
            _corners(records, np.int64(members[max(j - 1, first)]) * RECORD, patterns, x, y, corners, (~j & 1) * 32)
            base = np.int64(members[j]) * RECORD
            corner = (j & 1) * 32
            cut = peek(records, base + CUT)
            w11, w21 = peek(records, base + W11), peek(records, base + W21)
            p1, p2 = _steps(records, base, patterns)
            red, green, blue = peek(records, base + RED), peek(records, base + GREEN), peek(records, base + BLUE)
            depth = peek(records, base + DEPTH) - nearest
            when = np.float32(j - first)
            s0, s1, s2, s11, s12, s22 = zero, zero, zero, zero, zero, zero
            c0, c1, c2, c3, a0, a1 = zero, zero, zero, zero, zero, zero
            todo = np.int64(blocks[j])
            while todo != 0:
                block = lowest_bit(todo)
                todo &= todo - 1
                q = block * 16
                z1, z2 = p1 + peek(corners, corner + block), p2 + peek(corners, corner + block + 16)
                t = splat(cut) - fma(z1, z1, z2 * z2)
                hit = (t >= 0.0) & (load(stops, at + q) > when)
                raw = _alpha(t)
                alpha = select(hit, minimum(raw, ALPHA_MAX), 0.0)
                T = load(planes, q + 5 * PLANE) / (splat(1.0) - alpha)
                weight = alpha * T
                v_red, v_green = load(planes, q), load(planes, q + PLANE)
                v_blue, v_depth = load(planes, q + 2 * PLANE), load(planes, q + 3 * PLANE)
                behind = load(planes, q + 4 * PLANE)
                beyond = splat(depth) - load(planes, q + 6 * PLANE)  # zero unless expected
                dot = fma(v_red, red, fma(v_green, green, fma(v_blue, blue, v_depth * beyond)))
                difference = behind - dot
                g = select(raw <= ALPHA_MAX, weight * difference, 0.0)
                store(planes, q + 4 * PLANE, behind - alpha * difference)
                store(planes, q + 5 * PLANE, T)
                c0, c1 = fma(weight, v_red, c0), fma(weight, v_green, c1)
                c2, c3 = fma(weight, v_blue, c2), fma(weight, v_depth, c3)
                g1, g2 = g * z1, g * z2
                s0, s1, s2 = s0 + g, s1 + g1, s2 + g2
                s11, s12, s22 = fma(g1, z1, s11), fma(g1, z2, s12), fma(g2, z2, s22)
                if absgrad:
                    a0 = a0 + absolute(fma(g1, w11, g2 * w21))
                    a1 = a1 + absolute(g2)
            store(sums, j * RECORD, gather_sums((s0, s1, s2, s11, s12, s22, c0, c1, c2, c3, a0, a1)))


@kernel
def reduce_sums(
    records,
    slots,
    positions,
    sums,
    per_view,
    v_means2d,
    v_depths,
    v_covars2d,
    v_opacities,
    v_colors,
    absolute2d,
    absgrad,
    part,
    parts,
):  # noqa: ANN001, ANN202, E501
    """Per Gaussian, sum over its pairs and turn that into gradients [V, N, ...]; opacity and colour over views.

    ``slots`` [V * N + 1] are the first slots, ``v_colors`` [V or 1, N, 3]. With log2(e) sigma = |z|^2, z = W d:
    dsigma/dmean = -2 W^T z / log2(e), dsigma/dS = -2 (W^T z)(W^T z)^T / log2(e)^2, dalpha/dopacity = alpha / opacity.
    """
    views, count = v_depths.shape
    pull, shape = np.float32(-2.0 / LOG2E), np.float32(-2.0 / LOG2E**2)
    row = np.empty(RECORD, np.float32)
    pairs = positions.shape[0]
    for n in range(count * part // parts, count * (part + 1) // parts):
        v_opacity, red, green, blue = np.float32(0.0), np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for v in range(views):
            i = v * count + n
            first, last = np.int64(slots[i]), np.int64(slots[i + 1])
            total = splat(np.float32(0.0))
            for slot in range(first, last):
                prefetch(sums, np.int64(positions[min(slot + 16, pairs - 1)]) * RECORD)
                total = total + load(sums, np.int64(positions[slot]) * RECORD)
            store(row, 0, total)
            s0, s1, s2, m11, m12, m22 = row[0], row[1], row[2], row[3], row[4], row[5]
            if first == last:
                w11 = w21 = w22 = np.float32(0.0)
            else:
                w11, w21, w22 = records[i, W11], records[i, W21], records[i, W22]
                v_opacity -= s0 / records[i, OPACITY]
            v_means2d[v, n, 0] = pull * (w11 * s1 + w21 * s2)
            v_means2d[v, n, 1] = pull * w22 * s2
            v_covars2d[v, n, 0] = shape * (w11 * w11 * m11 + np.float32(2.0) * w11 * w21 * m12 + w21 * w21 * m22)
            v_covars2d[v, n, 1] = shape * np.float32(2.0) * w22 * (w11 * m12 + w21 * m22)
            v_covars2d[v, n, 2] = shape * w22 * w22 * m22
            v_depths[v, n] = row[9]
            if per_view:
                v_colors[v, n, 0], v_colors[v, n, 1], v_colors[v, n, 2] = row[6], row[7], row[8]
            red, green, blue = red + row[6], green + row[7], blue + row[8]
            if absgrad:
                absolute2d[v, n, 0] = -pull * row[10]
                absolute2d[v, n, 1] = -pull * w22 * row[11]
        v_opacities[n] = v_opacity
        if not per_view:
            v_colors[0, n, 0], v_colors[0, n, 1], v_colors[0, n, 2] = red, green, blue


@kernel
def paint(records, colors, part, parts):  # noqa: ANN001, ANN202
    """Put ``colors`` [V or 1, N, 3] into the records; a Gaussian with a non-finite colour is not drawn."""
    count = colors.shape[1]
    per_view = colors.shape[0] > 1
    total = records.shape[0]
    for i in range(total * part // parts, total * (part + 1) // parts):
        if records[i, CUT] >= 0.0:
            v, n = (i // count if per_view else 0), i % count
            red, green, blue = colors[v, n, 0], colors[v, n, 1], colors[v, n, 2]
            if not np.isfinite(red + green + blue):
                records[i, CUT] = -1.0
            records[i, RED], records[i, GREEN], records[i, BLUE] = red, green, blue
