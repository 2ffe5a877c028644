"""Props with something wrong: what the image prior learns to put right.

    twin = faulty(prop, np.random.default_rng(0))       # the same prop, with parts lost or painted wrongly

A first guess of an asset, a cloud of points, has the right kind of thing in about the right colours, without the handle
of a mug, with the flame in the candle's colour, its front on no side or on two. A prior that has only seen whole things
takes such a picture for another whole thing as soon as the noise is low enough to show it, and SDS then leads nowhere.
Here the rows of a prop's table are lost and repainted, the caption stays, and the answer is the prop as it should be:
what the picture does not say, the caption and the camera must.
"""

from __future__ import annotations

import numpy as np

from pipeline_core.props.primitives import COLOUR1, COLOUR2, TEXTURE, Prop, colour_groups, surface
from pipeline_core.props.props import COLOURS
from pipeline_core.props.textures import PLAIN

BACK = 0.2
"""Share of the twins that are seen from the other side, mirrored: a front where there should be none, or none."""
LEVEL = 35.0
"""Degrees of elevation up to which the other side's outline is near enough."""


def faulty(prop: Prop, rng: np.random.Generator) -> Prop:
    """``prop`` with one or two faults, in the same place and size: parts painted wrongly, parts lost, patterns lost.

    The largest colour group is the body: its first colour never changes, and its largest row is never lost.
    """
    rows = prop.rows.copy()
    groups = colour_groups(rows)
    possible = ["lose"] + 2 * ["paint"] * int(groups.max() > 0) + ["pattern"] * int((rows[:, TEXTURE] != PLAIN).any())
    kinds = rng.permutation(possible)[: 1 + int(rng.random() < 0.4)]
    if "pattern" in kinds:
        _repaint_patterns(rows, rng)
    if "paint" in kinds:
        _repaint_parts(rows, groups, rng)
    if "lose" in kinds:
        rows = rows[_kept(rows, groups, rng)]
    return Prop(rows, prop.bounds)


def _repaint_patterns(rows: np.ndarray, rng: np.random.Generator) -> None:
    """Second colours of rows, those of their spots or stripes, become the first or any other."""
    if rng.random() < 0.6:
        rows[:, COLOUR2 : COLOUR2 + 3] = rows[:, COLOUR1 : COLOUR1 + 3]
    else:
        rows[:, COLOUR2 : COLOUR2 + 3] = _any_colour(rng)


def _repaint_parts(rows: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> None:
    """Groups other than the body become of the body's colour, of another group's, or of any other."""
    chosen = [g for g in range(1, groups.max() + 1) if rng.random() < 0.6] or [int(groups.max())]
    for group in chosen:
        kind = rng.random()
        if kind < 0.5:
            paint = rows[np.flatnonzero(groups == 0)[0], COLOUR1 : COLOUR2 + 3]
        elif kind < 0.75:
            paint = rows[int(rng.integers(len(rows))), COLOUR1 : COLOUR2 + 3]
        else:
            paint = np.tile(_any_colour(rng), 2)
        rows[groups == group, COLOUR1 : COLOUR2 + 3] = paint


def _kept(rows: np.ndarray, groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Mask [n] of the rows that are not lost: whole groups, or single rows; never the largest row, nor half of all."""
    area = surface(rows)
    if rng.random() < 0.5 and groups.max() > 0:
        kept = groups != 1 + int(rng.integers(groups.max()))
    else:
        kept = rng.random(len(rows)) > rng.uniform(0.1, 0.5)
    kept[area.argmax()] = True
    return kept if area[kept].sum() > 0.5 * area.sum() else np.ones(len(rows), bool)


def _any_colour(rng: np.random.Generator) -> np.ndarray:
    return np.array(list(COLOURS.values()), np.float32)[int(rng.integers(len(COLOURS)))]
