"""Kernels that list, for every 32 x 16 tile of every view, the Gaussians that reach one of its pixel centres.

A tile is two squares side by side, each of sixteen blocks of 4 x 4 pixels, row by row; a pair of a Gaussian and a tile
has a bit for each of the 32 blocks in which the ellipse ``|W d|^2 <= cut`` holds a point between the outermost pixel
centres. (A Gaussian's every visit to a tile has its price, whatever it covers there: wider tiles are visited less, and
the pixels of still larger ones would not fit into the first-level cache.) Pairs are found once, Gaussian by Gaussian
in depth order, and then appended to the lists of their tiles, so that lists come out sorted by depth without sorting.

Each pair also owns a *slot*, numbered Gaussian by Gaussian, so that gradients can be summed per Gaussian later in an
order that no thread can change.
"""

from __future__ import annotations

import numpy as np

from pipeline_core.rendering.jit import inlined, kernel
from pipeline_core.rendering.lanes import bits, fma, load, maximum, minimum, peek, prefetch, root, splat
from pipeline_core.rendering.projection import CUT, K1, K2, MX, MY, RECORD, W11, W21, W22

SQUARE = 16
TILE_X, TILE_Y = 2 * SQUARE, SQUARE
BLOCKS = 32
_lane = np.arange(16)
PATTERNS = np.concatenate([_lane % 4, _lane // 4, _lane % 4 * 4, _lane // 4 * 4]).astype(np.float32)
"""x and y of each pixel in its block, x and y of each block in its square."""


@inlined
def _tile_range(centre, reach, size, tiles):
    """First and last + 1 tile of ``size`` pixels with a pixel centre within ``reach`` of ``centre``; safe for huge
    values."""
    low, high = np.ceil((centre - reach - (size - 0.5)) / size), np.floor((centre + reach - 0.5) / size)
    return int(min(max(low, 0.0), np.float64(tiles))), int(min(max(high, -1.0), tiles - 1.0)) + 1


@inlined
def _edges(records, record, patterns, y, along, squeeze, cut):
    """Per block of the tiles at pixel row ``y``, the least and greatest x, from the mean, of the ellipse in its rows,
    and whether it reaches them.

    The ellipse's right edge over a band of dy is a concave curve with its top at ``dy = K1 * dx``, so the greatest dx
    of the band lies where dy is nearest to that; the left edge is its mirror image.
    """
    k1, k2 = peek(records, record + K1), peek(records, record + K2)
    low = load(patterns, 48) + np.float32(np.float64(y) + 0.5 - peek(records, record + MY))
    high = low + 3.0
    top = np.float32(np.sqrt(cut) / peek(records, record + W11) * k1)
    right_dy, left_dy = maximum(low, minimum(high, top)), maximum(low, minimum(high, -top))
    inverse, most = np.float32(1.0 / along), np.float32(cut)
    pull = splat(np.float32(-squeeze))
    right = fma(right_dy, k2, root(maximum(fma(right_dy * right_dy, pull, most), 0.0) * inverse))
    left = fma(left_dy, k2, splat(0.0) - root(maximum(fma(left_dy * left_dy, pull, most), 0.0) * inverse))
    nearest = maximum(low, minimum(high, 0.0))
    return left, right, fma(nearest * nearest, pull, most) >= 0.0


@kernel
def find_pairs(records, order, patterns, tiles_x, tiles_y, v, first, last, slots, lengths):
    """The pairs of the Gaussians ``order[v, first : last]``, one after the other: ``tile << 32 | block bits``.

    ``slots`` [V * N] gets the number of pairs of each Gaussian, ``lengths`` [tiles] of each tile. Rounding can only
    add blocks: the ellipse is taken a little larger than any pixel's test will pass.
    """
    count = order.shape[1]
    pairs = np.empty(2 * (last - first) + 1024, np.int64)
    used = 0
    for k in range(first, last):
        prefetch(records, (v * count + order[v, min(k + 8, last - 1)]) * RECORD)
        i = v * count + order[v, k]
        record = i * RECORD
        if peek(records, record + CUT) < 0.0:
            continue
        w11, w21 = np.float64(peek(records, record + W11)), np.float64(peek(records, record + W21))
        w22 = np.float64(peek(records, record + W22))
        cut = 1.001 * np.float64(peek(records, record + CUT)) + 0.005
        along = w11 * w11 + w21 * w21
        squeeze = (w11 * w22) * (w11 * w22) / along  # |W d|^2 at the best dx of a given dy is squeeze * dy^2
        mx, my = np.float64(peek(records, record + MX)), np.float64(peek(records, record + MY))
        x0, x1 = _tile_range(mx, np.sqrt(cut) / w11, TILE_X, tiles_x)
        y0, y1 = _tile_range(my, np.sqrt(cut / squeeze), TILE_Y, tiles_y)
        need = used + max(x1 - x0, 0) * max(y1 - y0, 0)
        if need > pairs.shape[0]:
            longer = np.empty(2 * need, np.int64)
            for p in range(used):  # a slice assignment takes numba three seconds to compile
                longer[p] = pairs[p]
            pairs = longer
        before = used
        for y in range(y0, y1):
            left, right, reached = _edges(records, record, patterns, y * TILE_Y, along, squeeze, cut)
            left, right = left - load(patterns, 32) - 3.01, right - load(patterns, 32) + 0.01
            for x in range(x0, x1):
                offset = splat(np.float32(x * TILE_X + 0.5 - mx))
                touched = bits(reached & (left <= offset) & (offset <= right))
                offset = offset + np.float32(SQUARE)
                touched |= bits(reached & (left <= offset) & (offset <= right)) << 16
                if touched != 0:
                    tile = y * tiles_x + x
                    pairs[used] = tile << 32 | touched
                    used += 1
                    lengths[tile] += 1
        slots[i] = used - before
    return pairs[:used]


@kernel
def fill_lists(pairs, order, v, first, last, slots, cursors, members, blocks, positions):
    """Append the ``pairs`` of :func:`find_pairs` to their lists: record numbers to ``members``, bits to ``blocks``, and
    to ``positions`` [slot] where each slot's pair went. ``slots`` [V * N + 1] are now the first of each Gaussian, and
    ``cursors`` [tiles] the next free place of each list."""
    count = order.shape[1]
    at = 0
    for k in range(first, last):
        prefetch(slots, v * count + order[v, min(k + 16, last - 1)])
        prefetch(positions, slots[v * count + order[v, min(k + 8, last - 1)]])
        i = v * count + order[v, k]
        for slot in range(slots[i], slots[i + 1]):
            tile = pairs[at] >> 32
            place = cursors[tile]
            cursors[tile] = place + 1
            members[place] = i
            blocks[place] = pairs[at] & 0xFFFFFFFF
            positions[slot] = place
            at += 1
