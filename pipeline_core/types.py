"""The four things an asset is on its way: points, Gaussians, a mesh, a textured mesh.

Conventions, stated once and used everywhere:

* **World**: right-handed, +Y up, the front of the asset faces +Z (glTF). Units are *object units* until export:
  an asset is centred at the origin and its bounding sphere has radius :data:`OBJECT_RADIUS`. Export scales to metres.
* **Quaternions** are wxyz and need not be normalised. ``scales`` are stored as log, ``opacities`` as logit; both are
  activated at the moment of use (:meth:`Gaussians.activated`).
* **Colours** are display-referred (sRGB-encoded) values in [0, 1], as in every 3DGS file and every diffusion model.
* **UV** follows glTF: (0, 0) is the *top-left* of the texture, so row 0 of ``texture`` is v = 0; texel centres
  lie at ``(i + 0.5) / size``.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import TypedDict

import numpy as np
import torch
from torch import Tensor

OBJECT_RADIUS = 0.7
"""Radius of the sphere about the origin that holds an asset, in object units."""

SH_C0 = 0.28209479177387814
"""Value of the constant spherical harmonic: rgb = SH_C0 * sh0 + 0.5."""


def sh0_to_rgb(sh0: Tensor) -> Tensor:
    """Constant harmonics [N, 1, 3] to colours [N, 3], not clamped."""
    return SH_C0 * sh0[:, 0] + 0.5


def rgb_to_sh0(rgb: Tensor) -> Tensor:
    """Colours [N, 3] to constant harmonics [N, 1, 3]."""
    return ((rgb - 0.5) / SH_C0)[:, None]


def rotation_matrices(quats: Tensor) -> Tensor:
    """Rotations [N, 3, 3] of quaternions [N, 4] wxyz (normalised here; zero becomes the identity)."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=-1).unbind(-1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, dim=-1).reshape(-1, 3, 3)


@dataclass(frozen=True)
class PointCloud:
    """Coloured points. ``xyz`` [N, 3] float32 object units, ``rgb`` [N, 3] float32 in [0, 1].

    ``finish`` [N, 2] float32 in [0, 1], metallic and roughness, where whoever made the points knows them.
    """

    xyz: Tensor
    rgb: Tensor
    finish: Tensor | None = None

    def __post_init__(self) -> None:
        if self.finish is not None and self.finish.shape != (len(self.xyz), 2):
            raise ValueError(f"finish must be [{len(self.xyz)}, 2], got {tuple(self.finish.shape)}")
        if self.xyz.ndim != 2 or self.xyz.shape[1] != 3 or self.rgb.shape != self.xyz.shape:
            raise ValueError(
                f"xyz and rgb must both be [N, 3], got {tuple(self.xyz.shape)} and {tuple(self.rgb.shape)}"
            )

    def __len__(self) -> int:
        return self.xyz.shape[0]


class Activated(TypedDict):
    """Arguments of ``rendering.rasterize.rasterize``: scales > 0, opacities in (0, 1), colors = SH [N, K, 3]."""

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    colors: Tensor


@dataclass(frozen=True)
class Gaussians:
    """N anisotropic 3D Gaussians, raw (pre-activation) parameters.

    ``means`` [N, 3]; ``quats`` [N, 4] wxyz; ``scales`` [N, 3] log; ``opacities`` [N] logit;
    ``sh0`` [N, 1, 3]; ``shN`` [N, K - 1, 3] with K = (sh_degree + 1)^2, so K - 1 = 0 for degree 0.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh0: Tensor
    shN: Tensor

    def __post_init__(self) -> None:
        n = self.means.shape[0]
        want = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "sh0": (n, 1, 3)}
        for name, shape in want.items():
            got = tuple(getattr(self, name).shape)
            if got != shape:
                raise ValueError(f"{name} must be {shape}, got {got}")
        if self.shN.shape[0] != n or self.shN.shape[1] not in (0, 3, 8, 15) or self.shN.shape[2] != 3:
            raise ValueError(f"shN must be ({n}, 0|3|8|15, 3), got {tuple(self.shN.shape)}")

    def __len__(self) -> int:
        return self.means.shape[0]

    @property
    def sh_degree(self) -> int:
        """Degree of the spherical harmonics, 0 to 3."""
        return {0: 0, 3: 1, 8: 2, 15: 3}[self.shN.shape[1]]

    def activated(self) -> Activated:
        """What is drawn, see :class:`Activated`."""
        return {
            "means": self.means,
            "quats": self.quats,
            "scales": self.scales.exp(),
            "opacities": self.opacities.sigmoid(),
            "colors": torch.cat([self.sh0, self.shN], dim=1),
        }

    def tensors(self) -> dict[str, Tensor]:
        """The raw tensors by name."""
        return {f.name: getattr(self, f.name) for f in fields(Gaussians)}

    def chosen(self, which: Tensor) -> Gaussians:
        """Those that ``which`` says: [N] bool, or their numbers."""
        return Gaussians(**{name: value[which] for name, value in self.tensors().items()})

    def detach(self) -> Gaussians:
        """The same values without a graph, cloned."""
        return replace(self, **{k: v.detach().clone() for k, v in self.tensors().items()})

    def to(self, device: torch.device | str) -> Gaussians:
        """The same values on ``device``."""
        return replace(self, **{k: v.to(device) for k, v in self.tensors().items()})


@dataclass(frozen=True)
class Mesh:
    """Triangles. ``vertices`` [V, 3] float32, ``faces`` [F, 3] int32 counter-clockwise from outside."""

    vertices: np.ndarray
    faces: np.ndarray

    def __post_init__(self) -> None:
        if self.vertices.ndim != 2 or self.vertices.shape[1] != 3:
            raise ValueError(f"vertices must be [V, 3], got {self.vertices.shape}")
        if self.faces.ndim != 2 or self.faces.shape[1] != 3:
            raise ValueError(f"faces must be [F, 3], got {self.faces.shape}")


MAPS = ("normal_map", "orm", "emissive")
"""The maps that a :class:`TexturedMesh` may have besides its texture."""


@dataclass(frozen=True)
class TexturedMesh:
    """A mesh with one UV atlas.

    ``vertices`` [V, 3] float32, ``faces`` [F, 3] int32, ``normals`` [V, 3] float32 unit, ``uvs`` [V, 2] float32 in
    [0, 1] (vertices are duplicated along seams, so uvs are per vertex), ``texture`` [H, W, 3] float32 in [0, 1].

    Further maps, or None, are [H, W, 3] float32 in [0, 1] over the same atlas: ``normal_map`` (tangent space, +Y up
    the picture), ``orm`` (occlusion, roughness, metallic), ``emissive`` (light that it gives, sRGB as the texture).

    ``lightmap_uvs`` [V, 2] float32 in [0, 1], or None: the same charts as an engine's light map has them.
    """

    vertices: np.ndarray
    faces: np.ndarray
    normals: np.ndarray
    uvs: np.ndarray
    texture: np.ndarray
    normal_map: np.ndarray | None = None
    orm: np.ndarray | None = None
    emissive: np.ndarray | None = None
    lightmap_uvs: np.ndarray | None = None

    def __post_init__(self) -> None:
        v = self.vertices.shape[0]
        shapes = {"vertices": (v, 3), "normals": (v, 3), "uvs": (v, 2)}
        for name, shape in (shapes | ({} if self.lightmap_uvs is None else {"lightmap_uvs": (v, 2)})).items():
            if getattr(self, name).shape != shape:
                raise ValueError(f"{name} must be {shape}, got {getattr(self, name).shape}")
        for name in ("texture", *MAPS):
            picture = getattr(self, name)
            if picture is not None and (picture.ndim != 3 or picture.shape[2] != 3):
                raise ValueError(f"{name} must be [H, W, 3], got {picture.shape}")

    @property
    def mesh(self) -> Mesh:
        """The geometry alone."""
        return Mesh(self.vertices, self.faces)
