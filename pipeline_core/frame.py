"""Where an asset stands: the one frame of its mesh, its splat and everything that is made of them.

    frame = frame_of(textured.vertices, height_m=0.8)       # or size_m=(0.4, 0.8, 0.4)
    frame.points(textured.vertices)                         # metres, +Y up, front +Z, pivot centre-bottom
    frame.gaussians(splat)                                  # coincide with the mesh
    flipped(frame.gaussians(splat))                         # the same, Y-down, as plain splat files are by custom

Stages work in object units (``pipeline_core.types``); what is delivered is in metres. ``asset.json`` holds the frame
(:meth:`Frame.to_json`), so that whatever is added to a finished asset stands where the rest does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from pipeline_core.errors import DataError
from pipeline_core.types import Gaussians, Mesh, PointCloud, TexturedMesh, rotation_matrices

Vector = tuple[float, float, float]
STANDARD = {
    "units": "metres",
    "up": "+Y",
    "front": "+Z",
    "pivot": "centre-bottom",
    "splat.ply": "Y-down: half a turn about X",
}
"""How ``asset.json`` says it in words, beside scale and offset from object units."""
_ODD = (1, 1, 0, 1, 0, 0, 1, 0, 1, 0, 1, 1, 0, 1, 0)
"""For each harmonic beyond the first, whether it is odd in y and z together (``pipeline_core.rendering.sh``)."""


@dataclass(frozen=True)
class Frame:
    """metres = ``scale`` * object units + ``offset``, axis by axis; every scale is above 0."""

    scale: Vector
    offset: Vector

    @property
    def uniform(self) -> bool:
        """Whether it keeps shapes: one scale for all axes."""
        return len(set(self.scale)) == 1

    def points(self, xyz: np.ndarray) -> np.ndarray:
        """``xyz`` [N, 3] of object units in metres, float32."""
        if self == UNMOVED:  # to the last bit, which -0.0 + 0.0 loses
            return xyz.astype(np.float32)
        moved: np.ndarray = (xyz.astype(np.float64) * self.scale + self.offset).astype(np.float32)
        return moved

    def units(self, xyz: np.ndarray) -> np.ndarray:
        """``xyz`` [N, 3] of metres in object units, float32: the way back."""
        moved: np.ndarray = ((xyz.astype(np.float64) - self.offset) / self.scale).astype(np.float32)
        return moved

    def normals(self, normals: np.ndarray) -> np.ndarray:
        """``normals`` [N, 3] of the surface in metres: as they are where it keeps shapes, else of length one."""
        if self.uniform:
            return normals
        turned = normals.astype(np.float64) / self.scale
        length = np.linalg.norm(turned, axis=1, keepdims=True)
        return (turned / np.maximum(length, 1e-30)).astype(np.float32)

    def surface(self, mesh: Mesh) -> Mesh:
        """``mesh`` of object units in metres."""
        return replace(mesh, vertices=self.points(mesh.vertices))

    def textured(self, mesh: TexturedMesh) -> TexturedMesh:
        """``mesh`` of object units in metres; its maps are as they were."""
        return replace(mesh, vertices=self.points(mesh.vertices), normals=self.normals(mesh.normals))

    def cloud(self, cloud: PointCloud) -> PointCloud:
        """``cloud`` of object units in metres."""
        return replace(cloud, xyz=torch.from_numpy(self.points(cloud.xyz.numpy())))

    def gaussians(self, gaussians: Gaussians) -> Gaussians:
        """``gaussians`` of object units in metres. Unequal scales stretch each covariance with the space about it;
        colours keep the directions that they depend on."""
        scale = torch.tensor(self.scale, dtype=torch.float64)
        means = gaussians.means.double() * scale + torch.tensor(self.offset, dtype=torch.float64)
        if self.uniform:
            scales, quats = gaussians.scales.double() + scale.log(), gaussians.quats
        else:
            axes = rotation_matrices(gaussians.quats.double()) * gaussians.scales.double().exp()[:, None]
            turn, sigma, _ = torch.linalg.svd(scale[:, None] * axes)
            turn[:, :, 2] *= torch.linalg.det(turn).sign()[:, None]
            xyzw = Rotation.from_matrix(turn.numpy()).as_quat()
            scales, quats = sigma.clamp(min=1e-30).log(), torch.from_numpy(np.roll(xyzw, 1, axis=1)).float()
        return replace(gaussians, means=means.float(), scales=scales.float(), quats=quats)

    def inverse(self) -> Frame:
        """The frame that leads back: its points are object units."""
        back = [1 / each for each in self.scale]
        return Frame(_vector(back), _vector([-o * b for o, b in zip(self.offset, back, strict=True)]))

    def to_json(self) -> dict[str, Any]:
        """``{"scale", "offset"}``; the scale is one number where it is uniform. :meth:`from_json` reads it back."""
        return {"scale": self.scale[0] if self.uniform else list(self.scale), "offset": list(self.offset)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Frame:
        """A frame from :meth:`to_json`'s data."""
        scale = data["scale"]
        return cls(_vector(scale if isinstance(scale, Sequence) else [scale] * 3), _vector(data["offset"]))


UNMOVED = Frame((1.0, 1.0, 1.0), (0.0, 0.0, 0.0))


def frame_of(vertices: np.ndarray, height_m: float, size_m: Sequence[float] | None = None) -> Frame:
    """The frame that stands a mesh's ``vertices`` [V, 3] centre-bottom on the origin, front +Z.

    Args:
        vertices: of the mesh that is delivered; of its bounding box alone everything follows.
        height_m: height of that box in metres; widths follow in proportion.
        size_m: its width, height and depth in metres, in place of ``height_m``.

    Raises:
        DataError: the mesh is flat where it has to be scaled, or a size is not above 0.
    """
    low, high = vertices.min(axis=0).astype(np.float64), vertices.max(axis=0).astype(np.float64)
    extent = high - low
    if size_m is None:
        if not height_m > 0 or not extent[1] > 0:
            raise DataError(f"cannot scale a mesh {extent[1]:g} units high to {height_m:g} m: both must be > 0")
        scale = np.full(3, height_m / extent[1])
    else:
        if not min(size_m) > 0 or not extent.min() > 0:
            has, asked = (" x ".join(f"{each:g}" for each in box) for box in (extent, size_m))
            raise DataError(f"cannot scale a mesh of {has} units to {asked} m: all must be > 0")
        scale = np.array(size_m, dtype=np.float64) / extent
    pivot = np.array([(low[0] + high[0]) / 2, low[1], (low[2] + high[2]) / 2])
    return Frame(_vector(scale), _vector(-scale * pivot))


def stretch_of(vertices: np.ndarray, size_m: Sequence[float] | None) -> Frame:
    """The frame that gives a mesh's ``vertices`` [V, 3] the proportions of ``size_m`` and leaves them object units: as
    far from the middle of their box as before, and that at the origin. Without a size it changes nothing.

    Raises:
        DataError: the mesh is flat, or a size is not above 0.
    """
    if size_m is None:
        return UNMOVED
    scale = np.array(frame_of(vertices, size_m[1], size_m).scale)
    middle = (vertices.min(axis=0).astype(np.float64) + vertices.max(axis=0)) / 2
    outward = vertices - middle
    scale *= np.linalg.norm(outward, axis=1).max() / np.linalg.norm(outward * scale, axis=1).max()
    return Frame(_vector(scale), _vector(-scale * middle))


def flipped(gaussians: Gaussians) -> Gaussians:
    """``gaussians`` after half a turn about X: +Y up, front +Z becomes Y-down, front -Z, and the other way round.

    Every number keeps its magnitude, so twice is nothing: (x, y, z) becomes (x, -y, -z), and harmonics change sign
    where they are odd in y and z together.
    """
    signs = gaussians.means.new_tensor([1.0, -1.0])
    return replace(
        gaussians,
        means=gaussians.means * signs[[0, 1, 1]],
        quats=gaussians.quats * signs[[0, 0, 1, 1]],
        shN=gaussians.shN * signs[[*_ODD[: gaussians.shN.shape[1]]]][:, None],
    )


def _vector(values: Sequence[float] | np.ndarray) -> Vector:
    x, y, z = (float(each) for each in values)
    return x, y, z
