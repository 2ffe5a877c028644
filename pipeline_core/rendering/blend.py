"""Kernels that blend the listed Gaussians of every tile into its pixels, and carry the gradient back.

A tile is 32 blocks of 4 x 4 pixels, and a block is one :mod:`lanes` vector; a plane of a tile is 512 numbers, block by
block. Of a tile, a Gaussian visits the blocks that tiles.py found its ellipse to reach.

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
    absolute,
    bits,
    deinterleave1,
    deinterleave3,
    deinterleave4,
    exp2_by_255,
    fma,
    gather_sums,
    interleave,
    load,
    lowest_bit,
    minimum,
    peek,
    prefetch,
    select,
    splat,
    store,
)
from pipeline_core.rendering.projection import (
    BLUE,
    CUT,
    DEPTH,
    GREEN,
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
from pipeline_core.rendering.tiles import BLOCKS, SQUARE, TILE_X, TILE_Y

PLANE = TILE_X * TILE_Y
AHEAD = 12
"""How many list entries ahead a record is fetched into the cache."""
ALPHA_MAX = np.float32(0.999)
TRANSMITTANCE_MIN = np.float32(1e-4)
S0, S1, S2, S11, S12, S22 = range(6)
V_RED, V_GREEN, V_BLUE, V_DEPTH, ABS_X, ABS_Y = range(8, 14)
"""Columns of the sums."""


@inlined
def aligned(count):
    """``count`` float32, uninitialised, from the beginning of a cache line on."""
    raw = np.empty(count + 16, np.float32)
    skip = -raw.ctypes.data % 64 // 4
    return raw[skip : skip + count]


@inlined
def _corners(records, base, patterns, x, y, corners, at):
    """z = W d at the first pixel of every block of the tile at pixel (x, y), into ``corners[at : at + 64]``."""
    w11, w21, w22 = peek(records, base + W11), peek(records, base + W21), peek(records, base + W22)
    left = load(patterns, 32) - (peek(records, base + MX) - np.float32(x + 0.5))
    right = left + np.float32(SQUARE)
    down = (load(patterns, 48) - (peek(records, base + MY) - np.float32(y + 0.5))) * w22
    store(corners, at, left * w11)
    store(corners, at + 16, right * w11)
    store(corners, at + 32, fma(left, w21, down))
    store(corners, at + 48, fma(right, w21, down))


@inlined
def _block_x(block):
    """Pixel column of a block in its tile."""
    return (block & 16) + (block & 3) * 4


@inlined
def _block_y(block):
    """Pixel row of a block in its tile."""
    return block & 12


@inlined
def _steps(records, base, patterns):
    """What the pixels of a block add to z at its first pixel."""
    px, py = load(patterns, 0), load(patterns, 16)
    z2 = fma(px, peek(records, base + W21), py * peek(records, base + W22))
    return px * peek(records, base + W11), z2


@inlined
def _share(starts, part, parts):
    """First tile of a share: runs of neighbouring tiles, which read the same records, of about equal work."""
    tiles = starts.shape[0] - 1
    goal = (np.int64(starts[tiles]) + BLOCKS * tiles) * part // parts
    low, high = 0, tiles
    while low < high:
        middle = (low + high) // 2
        if np.int64(starts[middle]) + BLOCKS * middle < goal:
            low = middle + 1
        else:
            high = middle
    return low


@kernel
def blend_forward(
    records,
    members,
    starts,
    blocks,
    tiles_x,
    tiles_y,
    backgrounds,
    patterns,
    size,
    expected,
    transmittances,
    stops,
    ends,
    depths,
    image,
    alphas,
    part,
    parts,
):
    """Blend a share of the tiles.

    ``image`` [V, H, W, 3 or 4] gets colour and depth (expected depth with ``expected``), ``alphas`` [V, H, W];
    ``transmittances`` and ``stops`` [V * tiles, 512] and ``ends`` [V * tiles] (list position after which nothing was
    blended) are for the backward pass, and so are ``blocks`` [pairs], from which finished blocks are taken, and
    ``depths`` [V * tiles, 1024]: with ``expected``, expected depth beyond the tile's nearest Gaussian, and sum of
    weights. Both are kept apart because a difference of depths, or 1 - T, has too few digits left at the faint edge of
    an object.
    """
    width, height, channels = size
    planes = aligned(5 * PLANE)
    picture, opaque = np.empty(4 * PLANE, np.float32), np.empty(PLANE, np.float32)
    corners = aligned(128)
    px, py = load(patterns, 0), load(patterns, 16)
    for tile in range(_share(starts, part, parts), _share(starts, part + 1, parts)):
        v = tile // (tiles_x * tiles_y)
        x, y = tile % tiles_x * TILE_X, tile // tiles_x % tiles_y * TILE_Y
        first, last = np.int64(starts[tile]), np.int64(starts[tile + 1])
        planes[:] = 0.0
        at = tile * PLANE
        alive = 0
        for block in range(BLOCKS):
            columns, rows = width - x - _block_x(block), height - y - _block_y(block)
            inside = (px < np.float32(columns)) & (py < np.float32(rows))
            store(transmittances, at + block * 16, select(inside, splat(np.float32(1.0)), splat(np.float32(-1.0))))
            store(stops, at + block * 16, splat(np.float32(last - first)))
            if bits(inside) != 0:
                alive |= 1 << block
        nearest = np.float32(0.0)
        if expected and first < last:
            nearest = peek(records, np.int64(members[first]) * RECORD + DEPTH)
        ahead = 0
        if first < last:  # corners are found one Gaussian ahead: a load of what was just stored waits
            ahead = np.int64(members[first]) * RECORD
            _corners(records, ahead, patterns, x, y, corners, (first & 1) * 64)
        j = first
        while j < last and alive != 0:
            prefetch(records, np.int64(peek(members, min(j + AHEAD, last - 1))) * RECORD)
            touched = np.int64(peek(blocks, j))
            todo = touched & alive
            if todo != touched:
                blocks[j] = todo
            base, corner = ahead, (j & 1) * 64
            ahead = np.int64(peek(members, min(j + 1, last - 1))) * RECORD
            _corners(records, ahead, patterns, x, y, corners, 64 - corner)
            p1, p2 = _steps(records, base, patterns)
            cut = peek(records, base + CUT)
            red, green, blue = peek(records, base + RED), peek(records, base + GREEN), peek(records, base + BLUE)
            depth = peek(records, base + DEPTH) - nearest
            while todo != 0:
                block = lowest_bit(todo)
                todo &= todo - 1
                q = block * 16
                z1, z2 = p1 + peek(corners, corner + block), p2 + peek(corners, corner + block + 32)
                t = splat(cut) - fma(z1, z1, z2 * z2)
                T = load(transmittances, at + q)
                hit = (t >= 0.0) & (T > 0.0)
                weight = select(hit, minimum(exp2_by_255(t), ALPHA_MAX) * T, 0.0)
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
            j += 1
        ends[tile] = j
        whole = x + TILE_X <= width and y + TILE_Y <= height
        pixel = (v * height + y) * width + x
        # Straight into the images, or by way of a picture of the tile when they end within it.
        colors, mask, corner, pitch = (image, alphas, pixel, width) if whole else (picture, opaque, 0, TILE_X)
        for block in range(BLOCKS):
            q = block * 16
            T = absolute(load(transmittances, at + q))
            red = fma(T, backgrounds[v, 0], load(planes, q))
            green = fma(T, backgrounds[v, 1], load(planes, q + PLANE))
            blue = fma(T, backgrounds[v, 2], load(planes, q + 2 * PLANE))
            depth = load(planes, q + 3 * PLANE)
            if expected:
                total = load(planes, q + 4 * PLANE)
                depth = select(total > 0.0, depth / total, 0.0)
                store(depths, tile * 2 * PLANE + q, depth)
                store(depths, tile * 2 * PLANE + q + PLANE, total)
                depth = select(total > 0.0, depth + nearest, depth)
            where = corner + _block_y(block) * pitch + _block_x(block)
            interleave(mask, where, pitch, (splat(np.float32(1.0)) - T,))
            if channels == 4:
                interleave(colors, where * 4, pitch * 4, (red, green, blue, depth))
            else:
                interleave(colors, where * 3, pitch * 3, (red, green, blue))
        if not whole:
            columns = min(width - x, TILE_X)
            for row in range(min(height - y, TILE_Y)):
                for c in range(columns * channels):
                    image[(pixel + row * width) * channels + c] = picture[row * TILE_X * channels + c]
                for c in range(columns):
                    alphas[pixel + row * width + c] = opaque[row * TILE_X + c]


@kernel
def blend_backward(
    records,
    members,
    starts,
    blocks,
    tiles_x,
    tiles_y,
    backgrounds,
    patterns,
    size,
    expected,
    transmittances,
    stops,
    ends,
    depths,
    v_image,
    v_alphas,
    sums,
    absgrad,
    part,
    parts,
):
    """Gradient sums [pairs, 16] of a share of the tiles.

    Columns: g times 1, z1, z2, z1^2, z1 z2, z2^2; from the eighth colour (3), depth,
    and |g dsigma/dmean| (2) unless ``absgrad`` is None.
    """
    width, height, channels = size
    planes = aligned(7 * PLANE)
    planes[:] = 0.0
    picture, opaque = np.empty(4 * PLANE, np.float32), np.empty(PLANE, np.float32)
    corners = aligned(128)
    zero = splat(np.float32(0.0))
    for tile in range(_share(starts, part, parts), _share(starts, part + 1, parts)):
        v = tile // (tiles_x * tiles_y)
        x, y = tile % tiles_x * TILE_X, tile // tiles_x % tiles_y * TILE_Y
        first, end, last = np.int64(starts[tile]), np.int64(ends[tile]), np.int64(starts[tile + 1])
        for j in range(end, last):
            store(sums, j * RECORD, zero)
        if first == end:
            continue
        at = tile * PLANE
        nearest = peek(records, np.int64(members[first]) * RECORD + DEPTH) if expected else np.float32(0.0)
        whole = x + TILE_X <= width and y + TILE_Y <= height
        pixel = (v * height + y) * width + x
        colors, mask, corner, pitch = (v_image, v_alphas, pixel, width) if whole else (picture, opaque, 0, TILE_X)
        if not whole:
            picture[:], opaque[:] = 0.0, 0.0
            columns = min(width - x, TILE_X)
            for row in range(min(height - y, TILE_Y)):
                for c in range(columns * channels):
                    picture[row * TILE_X * channels + c] = v_image[(pixel + row * width) * channels + c]
                for c in range(columns):
                    opaque[row * TILE_X + c] = v_alphas[pixel + row * width + c]
        # Planes: gradient of red, green, blue, accumulated depth; the blend behind; T; expected depth.
        for block in range(BLOCKS):
            q = block * 16
            where = corner + _block_y(block) * pitch + _block_x(block)
            (v_alpha,) = deinterleave1(mask, where, pitch)
            if channels == 4:
                red, green, blue, depth = deinterleave4(colors, where * 4, pitch * 4)
            else:
                red, green, blue = deinterleave3(colors, where * 3, pitch * 3)
                depth = zero
            if expected:  # d(D / A) = sum over w of (depth - D / A) / A
                total = load(depths, tile * 2 * PLANE + PLANE + q)
                depth = select(total > 0.0, depth / total, zero)
                store(planes, q + 6 * PLANE, load(depths, tile * 2 * PLANE + q))
            store(planes, q, red)
            store(planes, q + PLANE, green)
            store(planes, q + 2 * PLANE, blue)
            store(planes, q + 3 * PLANE, depth)
            behind = fma(red, backgrounds[v, 0], fma(green, backgrounds[v, 1], blue * backgrounds[v, 2]))
            store(planes, q + 4 * PLANE, behind - v_alpha)
            store(planes, q + 5 * PLANE, absolute(load(transmittances, at + q)))
        ahead = np.int64(members[end - 1]) * RECORD
        _corners(records, ahead, patterns, x, y, corners, (~end & 1) * 64)
        for j in range(end - 1, first - 1, -1):
            prefetch(records, np.int64(peek(members, max(j - AHEAD, first))) * RECORD)
            base = ahead
            corner = (j & 1) * 64
            ahead = np.int64(peek(members, max(j - 1, first))) * RECORD
            _corners(records, ahead, patterns, x, y, corners, 64 - corner)
            todo = np.int64(peek(blocks, j))
            cut = peek(records, base + CUT)
            w11, w21 = peek(records, base + W11), peek(records, base + W21)
            p1, p2 = _steps(records, base, patterns)
            red, green, blue = peek(records, base + RED), peek(records, base + GREEN), peek(records, base + BLUE)
            depth = peek(records, base + DEPTH) - nearest
            when = np.float32(j - first)
            s0, s1, s2, s11, s12, s22 = zero, zero, zero, zero, zero, zero
            c0, c1, c2, c3, a0, a1 = zero, zero, zero, zero, zero, zero
            while todo != 0:
                block = lowest_bit(todo)
                todo &= todo - 1
                q = block * 16
                z1, z2 = p1 + peek(corners, corner + block), p2 + peek(corners, corner + block + 32)
                t = splat(cut) - fma(z1, z1, z2 * z2)
                hit = (t >= 0.0) & (load(stops, at + q) > when)
                raw = exp2_by_255(t)
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
                if absgrad is not None:
                    a0 = a0 + absolute(fma(g1, w11, g2 * w21))
                    a1 = a1 + absolute(g2)
            moments = (s0, s1, s2, s11, s12, s22)
            if absgrad is not None:
                store(sums, j * RECORD, gather_sums(moments, (c0, c1, c2, c3, a0, a1)))
            else:
                store(sums, j * RECORD, gather_sums(moments, (c0, c1, c2, c3)))


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
    absgrad,
    part,
    parts,
):
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
            s0, s1, s2, m11, m12, m22 = row[S0], row[S1], row[S2], row[S11], row[S12], row[S22]
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
            v_depths[v, n] = row[V_DEPTH]
            if per_view:
                v_colors[v, n, 0], v_colors[v, n, 1], v_colors[v, n, 2] = row[V_RED], row[V_GREEN], row[V_BLUE]
            red, green, blue = red + row[V_RED], green + row[V_GREEN], blue + row[V_BLUE]
            if absgrad is not None:
                absgrad[v, n, 0] = -pull * row[ABS_X]
                absgrad[v, n, 1] = -pull * w22 * row[ABS_Y]
        v_opacities[n] = v_opacity
        if not per_view:
            v_colors[0, n, 0], v_colors[0, n, 1], v_colors[0, n, 2] = red, green, blue


@kernel
def paint(records, colors, part, parts):
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
