"""Edits of a splat, which is what explicit Gaussians are for: each a line of words, done one after the other.

    body = Body(splat_in_metres, points_of_the_mesh)
    body = edited(body, [parse("remove box=-1,0,-1,1,0.2,1"), parse("recolour hue=120")], merge=load)
    body.gaussians, body.height_m

==========================================  ==========================================================================
``remove REGION``                           take those Gaussians away
``remove floaters=0.02``                    take away loose clusters of less than that share of all
``keep REGION``                             crop: take all others away
``recolour to=#3366cc [REGION]``            that colour, with the light and dark that was there
``recolour hue=120 [REGION]``               colours go round by degrees: red, green, blue
``move by=X,Y,Z``                           metres
``turn by=90 [axis=y]``                     degrees about the origin, which is centre-bottom
``scale by=1.5`` or ``scale by=X,Y,Z``      about the origin
``merge asset=ID [at=X,Y,Z] [turn=D] [scale=S]``  add another asset's splat
==========================================  ==========================================================================

A region is one of ``box=X,Y,Z,X,Y,Z`` (two corners), ``sphere=X,Y,Z,R``, ``part=1`` or ``part=2,3`` (clusters that
hang together, the largest is 1: :func:`parts`) and ``colour=#cc0000`` or ``colour=#cc0000~0.3`` (how far from it, 0 to
1). Lengths are metres in the frame of ``asset.glb``: +Y up, front +Z.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from pipeline_core.errors import RequestError
from pipeline_core.frame import Frame
from pipeline_core.gaussians.strategies import clusters, floaters
from pipeline_core.starts import spin, turn
from pipeline_core.types import SH_C0, Gaussians, rotation_matrices, sh0_to_rgb

REGIONS = ("box", "sphere", "part", "colour")
VERBS: dict[str, tuple[str, ...]] = {
    "remove": (*REGIONS, "floaters"),
    "keep": REGIONS,
    "recolour": ("to", "hue", *REGIONS),
    "move": ("by",),
    "turn": ("by", "axis"),
    "scale": ("by",),
    "merge": ("asset", "at", "turn", "scale"),
}
"""What each verb takes."""
COUNTS = {"box": (6,), "sphere": (4,), "floaters": (1,), "hue": (1,), "at": (3,), "turn": (1,)}
LARGEST = 1e6
TOLERANCE = 0.15
LUMA = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class Edit:
    """One line: a verb and what it was given. ``text`` is the line in its plain form, which lineage keeps."""

    verb: str
    given: dict[str, str]

    @property
    def text(self) -> str:
        """``verb name=value ...``"""
        return " ".join([self.verb, *(f"{name}={value}" for name, value in self.given.items())])

    def numbers(self, name: str) -> list[float]:
        """The numbers of an argument. Raises :class:`RequestError` where they are none, or too few or many."""
        counts = COUNTS.get(name) or {"move": (3,), "turn": (1,), "scale": (1, 3), "merge": (1,)}[self.verb]
        words = self.given[name].split(",")
        try:
            values = [float(word) for word in words]
        except ValueError:
            values = []
        if len(values) not in counts or not all(abs(value) <= LARGEST for value in values):
            many = " or ".join(map(str, counts))
            raise RequestError(
                f"{self.text!r}: {name} takes {many} number{'s' * (counts[-1] > 1)}, with commas between"
            )
        return values


def parse(text: str) -> Edit:
    """A line as an edit. Raises :class:`RequestError` that says what is not understood and what would be."""
    verb, *words = text.split() or [""]
    if verb not in VERBS:
        raise RequestError(f"{text!r} begins with none of {', '.join(VERBS)}")
    given: dict[str, str] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in VERBS[verb] or not value or name in given:
            raise RequestError(
                f"{text!r}: {word!r} is not understood; {verb} takes {'=, '.join(VERBS[verb])}=, each once"
            )
        given[name] = value
    edit = Edit(verb, given)
    regions = [name for name in given if name in (*REGIONS, "floaters")]
    if len(regions) > 1 or (verb in ("remove", "keep") and not regions):
        raise RequestError(f"{text!r}: one region, {'=, '.join(VERBS[verb])}=")
    if verb in ("move", "turn", "scale") and "by" not in given:
        raise RequestError(f"{text!r}: {verb} needs by=")
    if verb == "recolour" and len({"to", "hue"} & given.keys()) != 1:
        raise RequestError(f"{text!r}: recolour needs to=#rrggbb or hue=degrees")
    if verb == "merge" and "asset" not in given:
        raise RequestError(f"{text!r}: merge needs asset=")
    _check_values(edit)
    return edit


def _check_values(edit: Edit) -> None:
    for name in edit.given:
        if name in ("to", "colour"):
            _colour(edit, name)
        elif name == "part":
            _numbered(edit)
        elif name == "axis":
            if edit.given[name] not in ("x", "y", "z"):
                raise RequestError(f"{edit.text!r}: axis is x, y or z")
        elif name != "asset":
            values = edit.numbers(name)
            above = {"sphere": values[3:], "floaters": values}.get(name, [])
            above = values if edit.verb == "scale" or name == "scale" else above
            if not all(value > 0 for value in above):
                raise RequestError(f"{edit.text!r}: {name} is above 0")


@dataclass(frozen=True)
class Body:
    """What is edited: ``gaussians`` in metres, and ``outline`` [V, 3], points of its mesh, which follow the Gaussians
    next to them and so tell how large the thing is."""

    gaussians: Gaussians
    outline: np.ndarray

    @property
    def height_m(self) -> float:
        """Height of what is left, in metres."""
        return float(np.ptp(self.outline[:, 1]))

    def subset(self, keep: Tensor) -> Body:
        """The Gaussians ``keep`` [N] bool, and the outline next to them."""
        _, nearest = cKDTree(self.gaussians.means.double().numpy()).query(self.outline)
        kept = self.gaussians.chosen(keep)
        return Body(kept, self.outline[keep.numpy()[nearest]])

    def moved(self, frame: Frame) -> Body:
        """In another place and of another size."""
        return Body(frame.gaussians(self.gaussians), frame.points(self.outline))

    def turned(self, axis: int, degrees: float) -> Body:
        """Turned about the origin."""
        quat = spin(axis, degrees)
        turned, [rotation] = turn(self.gaussians, quat), rotation_matrices(quat)
        outline = self.outline.astype(np.float64) @ rotation.T.numpy()
        return Body(replace(turned, means=turned.means.float()), outline.astype(np.float32))


def edited(body: Body, edits: Sequence[Edit], merge: Callable[[str], Body]) -> Body:
    """``body`` after all ``edits``. ``merge`` finds another asset's body by its id.

    Raises :class:`RequestError` where an edit finds nothing to do, or leaves nothing.
    """
    for edit in edits:
        body = _edited(body, edit, merge)
        if not len(body.gaussians) or not len(body.outline) or not body.height_m > 0:
            raise RequestError(f"{edit.text!r} leaves nothing to make an asset of")
    return body


def _edited(body: Body, edit: Edit, merge: Callable[[str], Body]) -> Body:
    if edit.verb in ("remove", "keep"):
        chosen = _chosen(body, edit)
        return body.subset(chosen if edit.verb == "keep" else ~chosen)
    if edit.verb == "recolour":
        return Body(_recoloured(body.gaussians, edit, _chosen(body, edit)), body.outline)
    if edit.verb == "turn":
        return body.turned("xyz".index(edit.given.get("axis", "y")), edit.numbers("by")[0])
    if edit.verb == "merge":
        return _merged(body, edit, merge(edit.given["asset"]))
    by = edit.numbers("by")
    if edit.verb == "move":
        return body.moved(Frame((1.0, 1.0, 1.0), (by[0], by[1], by[2])))
    x, y, z = by * 3 if len(by) == 1 else by
    return body.moved(Frame((x, y, z), (0.0, 0.0, 0.0)))


def _merged(body: Body, edit: Edit, other: Body) -> Body:
    given = {name: edit.numbers(name) for name in ("turn", "scale", "at") if name in edit.given}
    other = other.turned(1, given["turn"][0]) if "turn" in given else other
    x, y, z = given.get("at", [0.0, 0.0, 0.0])
    other = other.moved(Frame((given.get("scale", [1.0])[0],) * 3, (x, y, z)))
    wide = max(body.gaussians.shN.shape[1], other.gaussians.shN.shape[1])
    parts = []
    for each in (body.gaussians, other.gaussians):
        blank = each.shN.new_zeros(len(each), wide - each.shN.shape[1], 3)
        parts.append(replace(each, shN=torch.cat([each.shN, blank], dim=1)).tensors())
    joined = Gaussians(**{name: torch.cat([part[name] for part in parts]) for name in parts[0]})
    return Body(joined, np.concatenate([body.outline, other.outline]))


# --- regions ---------------------------------------------------------------------------------------------------------


def _chosen(body: Body, edit: Edit) -> Tensor:
    """Mask [N] of the Gaussians that an edit is about; all where it names no region."""
    means, name = body.gaussians.means.double(), next((n for n in edit.given if n in (*REGIONS, "floaters")), "")
    if name == "box":
        corners = torch.tensor(edit.numbers(name), dtype=torch.float64).reshape(2, 3)
        chosen = ((means >= corners.amin(0)) & (means <= corners.amax(0))).all(1)
    elif name == "sphere":
        *centre, radius = edit.numbers(name)
        chosen = (means - torch.tensor(centre, dtype=torch.float64)).norm(dim=1) <= radius
    elif name == "floaters":
        chosen = torch.from_numpy(floaters(means.numpy(), edit.numbers(name)[0]))
    elif name == "part":
        numbers, wanted = _part_numbers(body.gaussians), _numbered(edit)
        if max(wanted) > int(numbers.max()):
            raise RequestError(f"{edit.text!r}: there are {int(numbers.max())} parts")
        chosen = torch.from_numpy(np.isin(numbers, wanted))
    elif name == "colour":
        colour, tolerance = _colour(edit, name)
        rgb = sh0_to_rgb(body.gaussians.sh0).double().clamp(0, 1)
        chosen = (rgb - torch.tensor(colour, dtype=torch.float64)).norm(dim=1) <= tolerance * 3**0.5
    else:
        return torch.ones(len(means), dtype=torch.bool)
    if not chosen.any():
        raise RequestError(f"{edit.text!r}: no Gaussian is there; the splat reaches from {_reach(body.gaussians)}")
    return chosen


def _reach(gaussians: Gaussians) -> str:
    low, high = (end.tolist() for end in (gaussians.means.amin(0), gaussians.means.amax(0)))
    return " to ".join(",".join(f"{each:.3g}" for each in corner) for corner in (low, high))


@dataclass(frozen=True)
class Part:
    """A cluster of Gaussians that hang together: how many, its corners in metres, its colour (#rrggbb)."""

    number: int
    gaussians: int
    low: tuple[float, ...]
    high: tuple[float, ...]
    colour: str


def parts(gaussians: Gaussians) -> list[Part]:
    """The parts of a splat, the largest first."""
    numbers, rgb = torch.from_numpy(_part_numbers(gaussians)), sh0_to_rgb(gaussians.sh0).clamp(0, 1)
    found = []
    for number in range(1, int(numbers.max()) + 1):
        here = numbers == number
        low, high = (tuple(round(each, 4) for each in end.tolist())
                     for end in (gaussians.means[here].amin(0), gaussians.means[here].amax(0)))  # fmt: skip
        mean = "#" + "".join(f"{round(255 * each):02x}" for each in rgb[here].mean(0).tolist())
        found.append(Part(number, int(here.sum()), low, high, mean))
    return found


def _part_numbers(gaussians: Gaussians) -> np.ndarray:
    """Part [N] of each Gaussian: 1 is the largest; of equals the one that holds the earlier Gaussian comes first."""
    label = clusters(gaussians.means.double().numpy())
    size, first = np.bincount(label), np.unique(label, return_index=True)[1]
    rank = np.empty(len(size), dtype=np.int64)
    rank[np.lexsort((first, -size))] = np.arange(1, len(size) + 1)
    return rank[label]


def _numbered(edit: Edit) -> list[int]:
    words = edit.given["part"].split(",")
    if not all(re.fullmatch("[1-9][0-9]{0,5}", word) for word in words):
        raise RequestError(f"{edit.text!r}: part takes numbers from 1, with commas between")
    return [int(word) for word in words]


# --- colours ---------------------------------------------------------------------------------------------------------


def _colour(edit: Edit, name: str) -> tuple[list[float], float]:
    """Colour [3] in 0 to 1, and how far from it."""
    colour, tilde, far = edit.given[name].partition("~")
    try:
        tolerance = float(far) if tilde else TOLERANCE
    except ValueError:
        tolerance = -1.0
    if not re.fullmatch("#[0-9a-fA-F]{6}", colour) or not 0 < tolerance <= 1 or (tilde and name == "to"):
        allowed = "#rrggbb" if name == "to" else "#rrggbb, or #rrggbb~0.3 with how far from it, above 0 and to 1"
        raise RequestError(f"{edit.text!r}: {name} is {allowed}")
    return [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)], tolerance


def _recoloured(gaussians: Gaussians, edit: Edit, chosen: Tensor) -> Gaussians:
    """Colours mapped by one matrix, which the harmonics go through as well."""
    luma = torch.tensor(LUMA, dtype=torch.float64)
    rgb = sh0_to_rgb(gaussians.sh0).double()
    if "to" in edit.given:
        target = torch.tensor(_colour(edit, "to")[0], dtype=torch.float64)
        mean = (rgb[chosen].clamp(0, 1) @ luma).mean().clamp(min=1 / 255)
        matrix = torch.outer(target / mean, luma)
    else:
        matrix = _hue(edit.numbers("hue")[0])
    sh0 = ((rgb @ matrix.T - 0.5) / SH_C0)[:, None].float()
    shN = (gaussians.shN.double() @ matrix.T).float()
    here = chosen[:, None, None]
    return replace(gaussians, sh0=torch.where(here, sh0, gaussians.sh0), shN=torch.where(here, shN, gaussians.shN))


def _hue(degrees: float) -> Tensor:
    """The turn of colours [3, 3] about grey that takes red through green to blue; grey stays."""
    angle = torch.tensor(np.radians(degrees), dtype=torch.float64)
    third, root = (1 - angle.cos()) / 3, angle.sin() / 3**0.5
    rows = [[angle.cos() + third, third - root, third + root]]
    rows += [[rows[0][2], rows[0][0], rows[0][1]], [rows[0][1], rows[0][2], rows[0][0]]]
    return torch.stack([torch.stack(row) for row in rows])
