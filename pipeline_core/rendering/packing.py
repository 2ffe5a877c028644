"""``place``: charts of a UV atlas laid into a square without overlap, as the texels of a picture need it.

Charts are laid one by one, large ones first, each as low and then as far left as it fits in the best of four quarter
turns; small ones fill the gaps between large ones. No chart is mirrored or stretched. What a chart covers is known by
cells of the square, at most :data:`GRID` a side, so that the time does not grow with the size of the picture.
"""

from __future__ import annotations

import numpy as np

from pipeline_core.rendering.jit import inlined, kernel

GRID = 256
"""Most cells of the square a side."""


def place(corners: np.ndarray, first: np.ndarray, centre: np.ndarray, size: int, padding: float) -> np.ndarray | None:
    """Where each chart comes to lie, or None where not all of them fit.

    Args:
        corners: [F, 3, 2] float64, the faces' corners in texels, sorted by chart.
        first: [C + 1] int64, the first face of each chart, and the number of faces.
        centre: [C, 2] a point of each chart that comes to lie on the centre of a texel.
        size: texels of the square a side.
        padding: texels between charts; half of it at the square's border.

    Returns:
        [C, 4] float64: quarter turns (counter-clockwise in x, y), then the shift in x and y after turning, then the
        cells that it covers.
    """
    cell = -(-size // GRID)
    extent = np.maximum.reduceat(corners.max(axis=1), first[:-1]) - np.minimum.reduceat(corners.min(axis=1), first[:-1])
    order = np.lexsort((np.arange(len(extent)), -extent.min(axis=1), -extent.max(axis=1)))
    out = np.zeros((len(extent), 4))
    fits = _place(corners, first, centre, order, float(cell), size // cell, padding / 2, out)
    return out if fits else None


@inlined
def _turned(x, y, turn):
    if turn == 0:
        return x, y
    if turn == 1:
        return -y, x
    if turn == 2:
        return -x, -y
    return y, -x


@inlined
def _outline(corners, begin, end, centre, turn, cell, margin, mask):
    """Shift, width and height in cells of a chart, whose cells are marked in ``mask``; width 0 = it is too large."""
    low_x, low_y, high_x, high_y = np.inf, np.inf, -np.inf, -np.inf
    for face in range(begin, end):
        for k in range(3):
            x, y = _turned(corners[face, k, 0], corners[face, k, 1], turn)
            low_x, low_y, high_x, high_y = min(low_x, x), min(low_y, y), max(high_x, x), max(high_y, y)
    cx, cy = _turned(centre[0], centre[1], turn)
    shift_x, shift_y = margin - low_x, margin - low_y
    shift_x += np.floor(cx + shift_x) + 0.5 - (cx + shift_x)
    shift_y += np.floor(cy + shift_y) + 0.5 - (cy + shift_y)
    if low_x + shift_x < margin:
        shift_x += 1.0
    if low_y + shift_y < margin:
        shift_y += 1.0
    width, height = int(np.ceil((high_x + shift_x + margin) / cell)), int(np.ceil((high_y + shift_y + margin) / cell))
    if width > mask.shape[1] or height > mask.shape[0]:
        return shift_x, shift_y, 0, 0
    mask[:height, :width] = False
    half = cell / 2 + margin
    for face in range(begin, end):
        ax, ay = _turned(corners[face, 0, 0], corners[face, 0, 1], turn)
        bx, by = _turned(corners[face, 1, 0], corners[face, 1, 1], turn)
        cx, cy = _turned(corners[face, 2, 0], corners[face, 2, 1], turn)
        ax, bx, cx = ax + shift_x, bx + shift_x, cx + shift_x
        ay, by, cy = ay + shift_y, by + shift_y, cy + shift_y
        left, right = min(ax, bx, cx) - margin, max(ax, bx, cx) + margin
        below, above = min(ay, by, cy) - margin, max(ay, by, cy) + margin
        for row in range(max(int(below / cell), 0), min(int(above / cell) + 1, height)):
            y = (row + 0.5) * cell
            for column in range(max(int(left / cell), 0), min(int(right / cell) + 1, width)):
                x = (column + 0.5) * cell
                if not mask[row, column] and not (
                    _apart(ax, ay, bx, by, cx, cy, x, y, half)
                    or _apart(bx, by, cx, cy, ax, ay, x, y, half)
                    or _apart(cx, cy, ax, ay, bx, by, x, y, half)
                ):
                    mask[row, column] = True
    return shift_x, shift_y, width, height


@inlined
def _apart(ax, ay, bx, by, cx, cy, x, y, half):
    """Whether the line a-b has the triangle on one side and the box about (x, y) wholly on the other."""
    nx, ny = ay - by, bx - ax
    inside = nx * (cx - ax) + ny * (cy - ay)
    box, reach = nx * (x - ax) + ny * (y - ay), half * (abs(nx) + abs(ny))
    low, high = min(inside, 0.0), max(inside, 0.0)
    return box + reach <= low or box - reach >= high


@inlined
def _runs(mask, width, height, runs):
    """The marked runs of ``mask`` as (row, column, length), the longest first; returns how many there are."""
    count, longest = 0, 0
    for row in range(height):
        column = 0
        while column < width:
            if mask[row, column]:
                start = column
                while column < width and mask[row, column]:
                    column += 1
                runs[count, 0], runs[count, 1], runs[count, 2] = row, start, column - start
                if runs[count, 2] > runs[longest, 2]:
                    longest = count
                count += 1
            else:
                column += 1
    for k in range(3):
        runs[0, k], runs[longest, k] = runs[longest, k], runs[0, k]
    return count


@inlined
def _find(free, runs, count, width, height, below):
    """Lowest, then leftmost place of the runs with ``row + height < below``: row and column, or -1."""
    grid = free.shape[0]
    for row in range(min(grid - height, below - height - 1) + 1):
        column = 0
        while column + width <= grid:
            gap = free[row + runs[0, 0], column + runs[0, 1]]
            if gap < runs[0, 2]:
                column += gap + 1 if gap >= 0 else -gap
                continue
            step = 0
            for k in range(1, count):
                gap = free[row + runs[k, 0], column + runs[k, 1]]
                if gap < runs[k, 2]:
                    step = gap + 1 if gap >= 0 else -gap
                    break
            if step == 0:
                return row, column
            column += step
    return -1, -1


@kernel
def _place(corners, first, centre, order, cell, grid, margin, out):
    # free[row, column]: free cells from there on to the right, or minus the number of taken ones.
    free = np.empty((grid, grid), np.int64)
    for row in range(grid):
        for column in range(grid):
            free[row, column] = grid - column
    mask = np.zeros((grid, grid), np.bool_)
    runs, best = np.zeros((grid * grid // 2 + grid, 3), np.int64), np.zeros((grid * grid // 2 + grid, 3), np.int64)
    for chart in order:
        top, at_row, at_column, best_count, cells = grid + 1, 0, 0, 0, 0
        for turn in range(4):
            shift_x, shift_y, width, height = _outline(
                corners, first[chart], first[chart + 1], centre[chart], turn, cell, margin, mask
            )
            if width == 0:
                continue
            count = _runs(mask, width, height, runs)
            row, column = _find(free, runs, count, width, height, top)
            if row < 0:
                continue
            top, at_row, at_column, best_count, cells = row + height, row, column, count, 0
            best[:count] = runs[:count]
            for k in range(count):
                cells += runs[k, 2]
            out[chart, 0] = turn
            out[chart, 1], out[chart, 2] = shift_x + column * cell, shift_y + row * cell
            out[chart, 3] = cells
        if top > grid:
            return False
        for k in range(best_count):
            row, start = at_row + best[k, 0], at_column + best[k, 1]
            end = start + best[k, 2]
            taken, clear = 0, 0
            for column in range(grid - 1, -1, -1):
                if free[row, column] < 0 or start <= column < end:
                    taken, clear = taken + 1, 0
                    free[row, column] = -taken
                else:
                    taken, clear = 0, clear + 1
                    free[row, column] = clear
    return True
