"""Triangles with colours from strangers' files, and points that are drawn on them.

surfaces = load_surfaces(Path("mug.glb"))                  # or .obj, or a .ply with faces
cloud = sample("mug.glb", surfaces, 8192, generator)       # uniform by area, in the file's own axes and units
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from pipeline_core.errors import DataError
from pipeline_core.types import PointCloud

MOST = 2_000_000
"""Vertices, or triangles, that a file may have."""
GREY = 0.5


@dataclass(frozen=True)
class Surface:
    """F triangles of one material.

    ``corners`` [F, 3, 3] float64; ``colours`` [F, 3, 3] at the corners; ``uvs`` [F, 3, 2] in units of ``texture``
    [H, W, 3], v down, repeated beyond [0, 1]; both None without one. ``linear``: whether ``colours`` are linear light,
    as glTF's are; the texture, and what is drawn, is display-referred.
    """

    corners: np.ndarray
    colours: np.ndarray
    uvs: np.ndarray | None = None
    texture: np.ndarray | None = None
    linear: bool = False

    @property
    def areas(self) -> np.ndarray:
        """[F]."""
        a, b, c = self.corners.transpose(1, 0, 2)
        areas: np.ndarray = np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2
        return areas

    def at(self, faces: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Places and colours [N, 3] in triangles ``faces`` [N] at barycentric ``weights`` [N, 3]."""
        xyz = np.einsum("nc,ncd->nd", weights, self.corners[faces])
        rgb = np.einsum("nc,ncd->nd", weights, self.colours[faces])
        if self.texture is not None and self.uvs is not None:
            height, width = self.texture.shape[:2]
            u, v = np.einsum("nc,ncd->nd", weights, self.uvs[faces]).T
            texel = self.texture[np.floor(v * height).astype(int) % height, np.floor(u * width).astype(int) % width]
            rgb = rgb * (_to_linear(texel) if self.linear else texel)
        return xyz, _to_display(rgb) if self.linear else rgb


def load_surfaces(path: Path) -> list[Surface]:
    """The triangles of a GLB, OBJ or PLY file by its ending. Raises :class:`DataError` that says what is wrong."""
    from pipeline_core.io import gltf, obj, ply  # each builds on this module

    load = {".glb": gltf.load_surfaces, ".obj": obj.load_surfaces, ".ply": ply.load_surfaces}[path.suffix]
    surfaces = [each for each in load(path) if len(each.corners)]
    if not surfaces:
        raise DataError(f"{path} has no triangles")
    if not all(np.isfinite(each.corners).all() and np.isfinite(each.colours).all() for each in surfaces):
        raise DataError(f"{path} has NaN or infinite coordinates or colours; mend the mesh and export it again")
    return surfaces


def fan(polygon: Sequence[int]) -> list[tuple[int, int, int]]:
    """A polygon as triangles about its first corner."""
    return [(polygon[0], b, c) for b, c in pairwise(polygon[1:])]


def corners_of(path: Path, vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """``vertices`` [V, ...] at the corners of ``faces`` [F, 3]: [F, 3, ...]. Refuses indices that lead nowhere."""
    if len(faces) and not (0 <= faces.min() and faces.max() < len(vertices)):
        raise DataError(f"{path}: a face names vertex {faces.max()} or {faces.min()} of {len(vertices)}")
    at_corners: np.ndarray = vertices[faces]
    return at_corners


def check_count(path: Path, count: int, what: str) -> None:
    """Refuse what would take more memory than a start is worth."""
    if count > MOST:
        raise DataError(f"{path} has {count} {what} or more; at most {MOST} are read: decimate it")


def sample(name: str | Path, surfaces: Sequence[Surface], count: int, generator: torch.Generator) -> PointCloud:
    """``count`` points on ``surfaces``, uniform by area: one in each of as many equal parts, so that they clump less.

    Raises :class:`DataError` where there is no area.
    """
    areas = np.concatenate([each.areas for each in surfaces])
    total = np.cumsum(areas)
    if not total[-1] > 0:
        raise DataError(f"{name}: its {len(areas)} triangles have no area")
    draws = torch.rand(count, 3, generator=generator, dtype=torch.float64).numpy()
    share = (np.arange(count) + draws[:, 0]) / count
    chosen = np.searchsorted(total, share * total[-1], side="right").clip(max=len(areas) - 1)
    root = np.sqrt(draws[:, 1])
    weights = np.stack([1 - root, root * (1 - draws[:, 2]), root * draws[:, 2]], axis=1)
    xyz, rgb, first = np.empty((count, 3)), np.empty((count, 3)), 0
    for each in surfaces:
        mine = (first <= chosen) & (chosen < first + len(each.corners))
        xyz[mine], rgb[mine] = each.at(chosen[mine] - first, weights[mine])
        first += len(each.corners)
    return PointCloud(torch.from_numpy(xyz).float(), torch.from_numpy(rgb.clip(0, 1)).float())


def _to_linear(rgb: np.ndarray) -> np.ndarray:
    """sRGB's transfer, decoded."""
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def _to_display(rgb: np.ndarray) -> np.ndarray:
    """Its inverse."""
    rgb = rgb.clip(0, 1)
    return np.where(rgb <= 0.0031308, rgb * 12.92, 1.055 * rgb ** (1 / 2.4) - 0.055)
