"""Assets of several parts: each is made by its own prompt, placed in the whole, and seen alone again on the way.

    whole = compose(spec.parts, [from_points(cloud, ...) for cloud in clouds])
    whole.part, whole.layout.prompts        # whose each Gaussian is, and what each part is asked by

A part has a frame of its own, in which it is as large as an asset alone: what a prior knows things by. Where it stands
in the whole is its place in the :class:`Layout`, which stays as it was asked for. A view of a part alone is taken in
the whole, with the part's own cameras moved to where it stands: perspective is the same at every scale, so the picture
is that of the part in its own frame.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pipeline_core.cameras import Cameras
from pipeline_core.errors import DataError
from pipeline_core.files import write_bytes
from pipeline_core.spec import Part
from pipeline_core.starts import product, spin, turn
from pipeline_core.types import OBJECT_RADIUS, Gaussians, rotation_matrices

ASTRAY = 0.005
"""Share of the Gaussians on each side of a box that may lie outside it: a stray point would move or shrink a part."""


@dataclass(frozen=True)
class Layout:
    """Where P parts stand: whole = ``scales`` [P] * (``rotations`` [P, 3, 3] @ own) + ``moves`` [P, 3], float64."""

    prompts: tuple[str, ...]
    scales: Tensor
    rotations: Tensor
    moves: Tensor

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def least(self) -> float:
        """Surface of the smallest part over that of the largest, as if all had one shape."""
        return float(self.scales.min() / self.scales.max()) ** 2

    def own(self, part: int, xyz: Tensor) -> Tensor:
        """``xyz`` [N, 3] of the whole in the frame of ``part``."""
        rotation, move = self.rotations[part].to(xyz), self.moves[part].to(xyz)
        return (xyz - move) @ rotation / float(self.scales[part])

    def moved(self, cameras: Cameras, subjects: Sequence[int | None]) -> Cameras:
        """``cameras`` [V] on the CPU, those whose subject is a part moved to where that stands; None = the whole."""
        viewmats = cameras.viewmats.clone()
        for view, part in enumerate(subjects):
            if part is not None:
                axes, position = viewmats[view, :3, :3].double(), viewmats[view, :3, 3].double()
                axes = axes @ self.rotations[part].T
                viewmats[view, :3, :3] = axes
                viewmats[view, :3, 3] = self.scales[part] * position - axes @ self.moves[part]
        return replace(cameras, viewmats=viewmats)

    def to_json(self) -> dict[str, Any]:
        """All of it, for a checkpoint's fingerprint."""
        return {name: value.tolist() if isinstance(value, Tensor) else value for name, value in vars(self).items()}


@dataclass(frozen=True)
class Composed(Gaussians):
    """Gaussians of several parts: ``part`` [N] int64 says whose each is."""

    part: Tensor
    layout: Layout


def subjects(step: int, groups: int, share: float, parts: int) -> list[int | None]:
    """What each of a step's ``groups`` of views sees: the whole (None), or one of the ``parts``, in turn.

    Over the steps ``share`` of all groups see parts, spread evenly.
    """
    seen: list[int | None] = []
    for group in range(step * groups, (step + 1) * groups):
        before, after = math.floor(share * group), math.floor(share * (group + 1))
        seen.append(before % parts if after > before else None)
    return seen


def stretched(xyz: Tensor, part: Part) -> Tensor:
    """A part's points [N, 3] in the proportions of its ``size``, where that has three; they reach as far as before."""
    if not isinstance(part.size, tuple):
        return xyz
    low, high = _box(xyz)
    centred = xyz - (low + high) / 2
    wider = centred * torch.tensor(part.size).to(xyz) / (high - low).clamp(min=1e-6)
    return wider * (_reach(centred) / _reach(wider))


def compose(parts: Sequence[Part], own: Sequence[Gaussians]) -> Composed:
    """The whole of ``parts``, whose Gaussians are ``own``, each in its own frame and :func:`stretched` already.

    The whole is centred on its box and as large as an asset alone.
    """
    places, means = [], []
    for part, gaussians in zip(parts, own, strict=True):
        xyz = gaussians.means.double()
        low, high = _box(xyz)
        longest = max(part.size) if isinstance(part.size, tuple) else part.size
        scale = longest / float((high - low).max().clamp(min=1e-6))
        quat = _quaternion(part.rotation)
        [rotation] = rotation_matrices(quat[None])
        turned = xyz @ rotation.T * scale
        low, high = _box(turned)
        bottom = torch.stack([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
        move = torch.tensor(part.position, dtype=torch.float64) - bottom
        places.append((scale, quat, move))
        means.append(turned + move)
    scales, quats, moves = zip(*places, strict=True)
    everywhere = torch.cat(means)
    low, high = _box(everywhere)
    centre = (low + high) / 2
    factor = OBJECT_RADIUS / _reach(everywhere - centre)
    layout = Layout(
        tuple(part.prompt for part in parts),
        torch.tensor(scales, dtype=torch.float64) * factor,
        rotation_matrices(torch.stack(quats)),
        (torch.stack(moves) - centre) * factor,
    )
    placed = []
    for k, (gaussians, quat) in enumerate(zip(own, quats, strict=True)):
        turned_all = turn(gaussians, quat)
        placed.append(
            replace(
                turned_all,
                means=(turned_all.means * layout.scales[k] + layout.moves[k]).float(),
                scales=turned_all.scales + math.log(float(layout.scales[k])),
            ).tensors()
        )
    label = torch.arange(len(parts)).repeat_interleave(torch.tensor([len(each) for each in own]))
    whole = {name: torch.cat([each[name] for each in placed]) for name in placed[0]}
    return Composed(**whole, part=label, layout=layout)


def _quaternion(rotation: tuple[float, float, float]) -> Tensor:
    """Degrees about X, then Y, then Z, as a quaternion [4] wxyz float64."""
    x, y, z = (spin(axis, degrees) for axis, degrees in enumerate(rotation))
    return product(z, product(y, x))


def _box(xyz: Tensor) -> tuple[Tensor, Tensor]:
    """Lowest and highest corner [3] of the box of ``xyz`` [N, 3], but for those :data:`ASTRAY`."""
    ordered = xyz.sort(dim=0).values
    out = int(ASTRAY * len(xyz))
    return ordered[out], ordered[len(xyz) - 1 - out]


def _reach(xyz: Tensor) -> float:
    """How far ``xyz`` [N, 3] reach from the origin, but for those :data:`ASTRAY`."""
    lengths = xyz.norm(dim=1).sort().values
    return max(float(lengths[len(xyz) - 1 - int(ASTRAY * len(xyz))]), 1e-6)


def save_parts(path: Path, whole: Composed) -> None:
    """Write whose each Gaussian is and where the parts stand; the Gaussians are a splat's. Same content, same bytes."""
    buffer, layout = io.BytesIO(), whole.layout
    arrays = {name: getattr(layout, name).numpy() for name in ("scales", "rotations", "moves")}
    np.savez_compressed(
        buffer, part=whole.part.cpu().numpy().astype(np.uint8), prompts=np.array(layout.prompts), **arrays
    )
    write_bytes(path, buffer.getvalue())


def load_parts(path: Path, gaussians: Gaussians) -> Composed:
    """``gaussians`` with what :func:`save_parts` wrote beside them. Raises :class:`DataError` where it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as data:
            part = torch.from_numpy(data["part"].astype(np.int64))
            places = [torch.from_numpy(data[name]) for name in ("scales", "rotations", "moves")]
            layout = Layout(tuple(map(str, data["prompts"])), *places)
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not what tells the parts of a splat: {error}") from None
    if len(part) != len(gaussians):
        raise DataError(f"{path} tells of {len(part)} Gaussians, and the splat beside it has {len(gaussians)}")
    return Composed(**gaussians.tensors(), part=part, layout=layout)
