"""Levels of detail that share one texture, and how far each strays from the outline of the whole.

levels, left_out = levels_of(textured, recipe.levels)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from scipy import ndimage

from pipeline_core.cameras import Cameras, orbit
from pipeline_core.config import Levels
from pipeline_core.meshing.collapse import simplify_charts
from pipeline_core.rendering.visibility import visibility
from pipeline_core.types import TexturedMesh

VIEWS = ((0.0, 0.0), (90.0, 0.0), (45.0, 30.0), (135.0, 30.0), (0.0, 80.0), (-60.0, -20.0))
SIZE = 256
MORE = 1.25
"""A level with more than this many times the faces that it was meant to have is left out: charts or pieces hold it."""


@dataclass(frozen=True)
class Level:
    """One level: its mesh, the share of the faces that it is meant to have, and ``error``: the largest distance between
    its outline and the whole one's, as a share of the height."""

    textured: TexturedMesh
    share: float
    error: float


def levels_of(textured: TexturedMesh, settings: Levels) -> tuple[list[Level], list[dict[str, float | str]]]:
    """The levels, from the whole mesh down, and what was left out: share, faces, error, and why."""
    outlines = silhouettes(textured.vertices, textured.faces)
    levels, left_out = [Level(textured, 1.0, 0.0)], []
    for share in settings.shares:
        target = int(share * len(textured.faces))
        less = reduced(textured, target)
        error = outline_error(outlines, less)
        told: dict[str, float | str] = {"share": share, "faces": len(less.faces), "error": round(error, 5)}
        if len(less.faces) > MORE * target or len(less.faces) >= len(levels[-1].textured.faces):
            left_out.append(told | {"why": "its charts and pieces need more faces"})
        elif error > settings.max_error:
            left_out.append(told | {"why": f"its outline strays more than {settings.max_error:g} of the height"})
        else:
            levels.append(Level(less, share, error))
    return levels, left_out


def reduced(textured: TexturedMesh, target: int) -> TexturedMesh:
    """``textured`` with about ``target`` faces between its own vertices: places, normals, both UVs and maps stay."""
    faces = simplify_charts(textured.vertices, textured.faces, textured.uvs, target)
    used, index = np.unique(faces, return_inverse=True)
    return replace(
        textured,
        vertices=textured.vertices[used],
        normals=textured.normals[used],
        uvs=textured.uvs[used],
        lightmap_uvs=None if textured.lightmap_uvs is None else textured.lightmap_uvs[used],
        faces=index.reshape(-1, 3).astype(np.int32),
    )


def silhouettes(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Masks [V, S, S] of a mesh from :data:`VIEWS`."""
    return np.asarray(visibility(vertices, faces, None, cameras()).mask)


def cameras() -> Cameras:
    """The views' cameras."""
    azimuth, elevation = (torch.tensor(each) for each in zip(*VIEWS, strict=True))
    return orbit(azimuth, elevation, size=SIZE)


def outline_error(outlines: np.ndarray, less: TexturedMesh) -> float:
    """Largest distance in the picture between the outlines and those of ``less``, as a share of its height."""
    seen, farthest = silhouettes(less.vertices, less.faces), 0.0
    for whole, mine in zip(outlines, seen, strict=True):
        for inside, other in ((whole, mine), (mine, whole)):
            apart = inside & ~other
            if apart.any():
                away = ndimage.distance_transform_edt(~other) if other.any() else np.full(other.shape, float(SIZE))
                farthest = max(farthest, float(away[apart].max()) - 0.5)
    view = cameras()
    distance = float(torch.linalg.norm(view.viewmats[0, :3, 3]))
    height = float(np.ptp(less.vertices[:, 1]))
    return farthest * distance / float(view.Ks[0, 0, 0]) / max(height, 1e-12)


def told_of(levels: list[Level], left_out: list[dict[str, float | str]]) -> dict[str, float]:
    """The catalogue's numbers: ``lods``, ``lods_left_out``, and of each level ``lod<i>_faces`` and ``lod<i>_error``."""
    numbers = {"lods": float(len(levels)), "lods_left_out": float(len(left_out))}
    for i, level in enumerate(levels):
        numbers |= {f"lod{i}_faces": float(len(level.textured.faces)), f"lod{i}_error": level.error}
    return numbers
