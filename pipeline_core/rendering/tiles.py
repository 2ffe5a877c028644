"""Kernels that list, for every 16 x 16 tile of every view, the Gaussians that reach one of its pixel centres.

Lists come out sorted by depth without sorting them: Gaussians are taken in depth order and appended. The rows and
columns of tiles are those the ellipse ``|W d|^2 <= cut`` really touches, not those of its bounding box. Each
(Gaussian, tile) pair owns a *slot*, numbered Gaussian by Gaussian, so that gradients can be summed per Gaussian later
in an order that no thread can change.
"""

from __future__ import annotations

import numpy as np

from pipeline_core.rendering.jit import inlined, kernel
from pipeline_core.rendering.lanes import prefetch
from pipeline_core.rendering.projection import CUT, K1, K2, MX, MY, RECORD, W11, W21, W22

TILE = 16


@inlined
def slack(cut):  # noqa: ANN001, ANN202
    """The exponent up to which whole blocks and tiles are kept: a little more than any pixel's test will pass."""
    return cut * 1.001 + 0.005


@inlined
def _tile(position, tiles):  # noqa: ANN001, ANN202
    """Index of the tile at ``position`` (in tiles), held inside the image; safe for huge values."""
    return int(min(max(np.floor(position), 0.0), tiles - 1.0))


@inlined
def _rows(records, i, tiles_y):  # noqa: ANN001, ANN202
    """First and last + 1 row of tiles whose pixel centres the ellipse reaches, and what the columns need."""
    w11, w21, w22 = np.float64(records[i, W11]), np.float64(records[i, W21]), np.float64(records[i, W22])
    cut = slack(np.float64(records[i, CUT]))
    along = w11 * w11 + w21 * w21
    squeeze = (w11 * w22) * (w11 * w22) / along  # |W d|^2 at the best dx of a given dy is squeeze * dy^2
    reach = np.sqrt(cut / squeeze)
    my = np.float64(records[i, MY])
    low, high = (my - reach - 15.5) / TILE, (my + reach - 0.5) / TILE
    if high < 0.0 or low > tiles_y - 1.0:
        return 0, 0, along, squeeze, cut
    return _tile(np.ceil(low), tiles_y), _tile(high, tiles_y) + 1, along, squeeze, cut


@inlined
def _columns(records, i, row, along, squeeze, cut, tiles_x):  # noqa: ANN001, ANN202
    """First and last + 1 tile of ``row`` that the ellipse reaches.

    The ellipse's right edge over a band of dy is a concave curve with its top at ``dy = K1 * dx``, so the greatest dx
    of the band lies where dy is nearest to that; the left edge is its mirror image.
    """
    mx, my = np.float64(records[i, MX]), np.float64(records[i, MY])
    lean, top = np.float64(records[i, K2]), np.sqrt(cut) / np.float64(records[i, W11]) * np.float64(records[i, K1])
    y0, y1 = row * TILE + 0.5 - my, row * TILE + 15.5 - my
    right_dy = min(max(top, y0), y1)
    left_dy = min(max(-top, y0), y1)
    right = lean * right_dy + np.sqrt(max(cut - squeeze * right_dy * right_dy, 0.0) / along)
    left = lean * left_dy - np.sqrt(max(cut - squeeze * left_dy * left_dy, 0.0) / along)
    low, high = (mx + left - 15.5) / TILE, (mx + right - 0.5) / TILE
    if high < 0.0 or low > tiles_x - 1.0 or high < low:
        return 0, 0
    return _tile(np.ceil(low), tiles_x), _tile(high, tiles_x) + 1


@kernel
def count_tiles(records, views, tiles_x, tiles_y, slots, lengths, part, parts):  # noqa: ANN001, ANN202
    """``slots`` [V * N]: tiles of each Gaussian; ``lengths`` [V, tiles]: Gaussians of each tile.

    Parts take whole views; with more parts than views, they share a view by rows of tiles.
    """
    count = records.shape[0] // views
    bands = max((parts + views - 1) // views, 1)
    for job in range(part, views * bands, parts):
        v, band = job // bands, job % bands
        first, last = tiles_y * band // bands, tiles_y * (band + 1) // bands
        for i in range(v * count, (v + 1) * count):
            total = 0
            if records[i, CUT] >= 0.0:
                y0, y1, along, squeeze, cut = _rows(records, i, tiles_y)
                if band > 0:
                    y0, y1 = max(y0, first), min(y1, last)
                for y in range(y0, y1):
                    x0, x1 = _columns(records, i, y, along, squeeze, cut, tiles_x)
                    total += max(x1 - x0, 0)
                    if first <= y < last:
                        for x in range(x0, x1):
                            lengths[v, y * tiles_x + x] += 1
            if band == 0:
                slots[i] = total


@kernel
def fill_tiles(records, order, drawn, tiles_x, tiles_y, slots, cursors, members, positions, part, parts):  # noqa: ANN001, ANN202
    """``members``: the lists of all tiles, one after the other, of record numbers; ``positions`` [slot]: where each
    slot's pair went. ``cursors`` [V, tiles] starts as the offset of each tile's list."""
    views, count = order.shape
    bands = max((parts + views - 1) // views, 1)
    for job in range(part, views * bands, parts):
        v, band = job // bands, job % bands
        first, last = tiles_y * band // bands, tiles_y * (band + 1) // bands
        for k in range(drawn[v]):
            prefetch(records, (v * count + order[v, min(k + 12, drawn[v] - 1)]) * RECORD)
            ahead = slots[v * count + order[v, min(k + 6, drawn[v] - 1)]]
            prefetch(positions, ahead)
            prefetch(slots, v * count + order[v, min(k + 12, drawn[v] - 1)])
            i = v * count + order[v, k]
            if records[i, CUT] < 0.0:
                continue
            slot = slots[i]
            y0, y1, along, squeeze, cut = _rows(records, i, tiles_y)
            for y in range(y0, min(y1, last)):
                x0, x1 = _columns(records, i, y, along, squeeze, cut, tiles_x)
                if y < first:
                    slot += max(x1 - x0, 0)
                    continue
                for x in range(x0, x1):
                    at = cursors[v, y * tiles_x + x]
                    cursors[v, y * tiles_x + x] = at + 1
                    members[at] = i
                    positions[slot] = at
                    slot += 1
