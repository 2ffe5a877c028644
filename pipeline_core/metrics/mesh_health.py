"""Is the mesh fit for a game? Counts, closedness, UV atlas and texture, as plain numbers for the catalogue.

    scores = mesh_health(textured)      # {"faces": 5000.0, "watertight": 1.0, "uv_overlap": 0.0, ...}

Geometry is judged with the seams of the atlas welded: vertices at the same place are one.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline_core.cameras import Cameras
from pipeline_core.meshing.crossings import crossing_faces
from pipeline_core.meshing.surface import edge_counts, face_components, tetra_volumes
from pipeline_core.rendering.visibility import visibility
from pipeline_core.tangents import mirrored
from pipeline_core.types import TexturedMesh

ATLAS_SAMPLES = 1024
"""The atlas is sampled at this many places a side when overlap and utilisation are measured."""
DEBRIS = 0.01
"""A piece with a smaller share of the largest one's area is debris."""


def mesh_health(textured: TexturedMesh, metres: float = 1.0) -> dict[str, float]:
    """Numbers about ``textured``; all finite. Lengths, areas and volumes are in the mesh's own units, each of them
    ``metres`` long; texels are counted by the metre.

    ``self_intersections`` counts faces that pass through another one, ``debris_faces`` those of small stray pieces;
    ``aspect_max`` is the longest side of a face over the height on it (equilateral: 1.15), the largest of all.
    """
    vertices, faces = weld(textured.vertices, textured.faces)
    degenerate = (faces[:, 0] == faces[:, 1]) | (faces[:, 1] == faces[:, 2]) | (faces[:, 2] == faces[:, 0])
    area = face_areas(vertices, faces)
    solid = faces[~degenerate]
    extent = np.ptp(vertices, axis=0) if len(vertices) else np.zeros(3)
    scores = {
        "faces": len(faces),
        "vertices": len(textured.vertices),
        "seam_vertices": len(textured.vertices) - len(vertices),
        "degenerate_faces": int((degenerate | (area <= 1e-12 * max(float((extent**2).max()), 1e-30))).sum()),
        "aspect_max": float(aspects(vertices, solid).max(initial=0.0)),
        "self_intersections": int(crossing_faces(vertices, solid).sum()),
        **piece_scores(vertices, solid),
        "area": float(area.sum()),
        "volume": float(tetra_volumes(vertices, faces).sum()),
        **{f"size_{axis}": float(value) for axis, value in zip("xyz", extent, strict=True)},
        **edge_counts(solid),
        **atlas_scores(textured, float(area.sum()), metres),
    }
    return {name: float(value) for name, value in scores.items()}


def weld(vertices: np.ndarray, faces: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Vertices [U, 3] without duplicates, and faces [F, 3] that refer to them."""
    unique, inverse = np.unique(vertices, axis=0, return_inverse=True)
    return unique, inverse.reshape(-1)[faces]


def face_areas(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Area [F] of each face, float64."""
    a, b, c = (vertices[faces[:, i]].astype(np.float64) for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


def aspects(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Longest side [F] of each face over the height on it; faces without an area are left out."""
    corner = vertices[faces].astype(np.float64)
    longest = ((corner - np.roll(corner, 1, axis=1)) ** 2).sum(axis=2).max(axis=1, initial=0.0)
    double = 2 * face_areas(vertices, faces)
    return longest[double > 0] / double[double > 0]


def piece_scores(vertices: np.ndarray, faces: np.ndarray) -> dict[str, int]:
    """``components``, and the faces of those that are :data:`DEBRIS`."""
    if not len(faces):
        return {"components": 0, "debris_faces": 0}
    label = face_components(faces, len(vertices))
    area = np.bincount(label, weights=face_areas(vertices, faces))
    return {"components": len(area), "debris_faces": int((area < DEBRIS * area.max())[label].sum())}


def atlas_scores(textured: TexturedMesh, area: float, metres: float = 1.0) -> dict[str, float]:
    """``uv_utilisation`` and ``uv_overlap`` as shares of the square; ``texel_density`` (texels per metre, of the whole
    surface), its median over the faces and its spread (90th over 10th percentile; 1 = the same everywhere);
    ``uv_mirrored``, the number of faces that the texture shows as in a mirror; ``uv_stretch`` and ``max_uv_stretch``,
    the longer over the shorter side of a texel on the surface: its mean, and what 99 % of the surface keep below."""
    corner = textured.uvs[textured.faces].astype(np.float64)
    a, b = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    uv_area = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
    covered = np.asarray(atlas_cover(textured))
    size = textured.texture.shape[0]
    surface = face_areas(textured.vertices, textured.faces)
    big = surface > 1e-3 * max(float(surface.max(initial=0)), 1e-30)
    density = size * np.sqrt(uv_area[big] / surface[big])
    low, middle, high = np.quantile(density, [0.1, 0.5, 0.9]) if big.any() else (0.0, 0.0, 0.0)
    stretch, share = uv_stretch(textured)
    order = np.argsort(stretch)
    most = int(np.searchsorted(np.cumsum(share[order]), 0.99))
    return {
        "uv_utilisation": float(covered.mean()),
        "uv_overlap": max(float(uv_area.sum() - covered.mean()), 0.0),
        "uv_outside": float(((textured.uvs < 0) | (textured.uvs > 1)).any(axis=1).mean()),
        "texture_size": size,
        "uv_mirrored": int(mirrored(textured.faces, textured.uvs).sum()),
        "uv_stretch": float((stretch * share).sum()) if len(stretch) else 1.0,
        "max_uv_stretch": float(stretch[order][min(most, len(order) - 1)]) if len(stretch) else 1.0,
        "texel_density": size * float(np.sqrt(uv_area.sum() / max(area, 1e-30))) / metres,
        "texel_density_median": float(middle) / metres,
        "texel_spread": float(high / max(low, 1e-12)) if high > 0 else 0.0,
    }


def uv_stretch(textured: TexturedMesh) -> tuple[np.ndarray, np.ndarray]:
    """The longer over the shorter side of a texel on each face that has area, in space and in the atlas, and the share
    of the surface that the face is: the ratio of the singular values of the map from the atlas to the surface."""
    corner, place = (each[textured.faces].astype(np.float64) for each in (textured.vertices, textured.uvs))
    edge, step = corner[:, 1:] - corner[:, :1], place[:, 1:] - place[:, :1]
    det = step[:, 0, 0] * step[:, 1, 1] - step[:, 0, 1] * step[:, 1, 0]
    area = np.linalg.norm(np.cross(edge[:, 0], edge[:, 1]), axis=1)
    real = (np.abs(det) > 1e-14) & (area > 0)
    edge, step, det, area = edge[real], step[real], det[real, None], area[real]
    along_u = (step[:, 1, 1, None] * edge[:, 0] - step[:, 0, 1, None] * edge[:, 1]) / det
    along_v = (step[:, 0, 0, None] * edge[:, 1] - step[:, 1, 0, None] * edge[:, 0]) / det
    e, f, g = (along_u**2).sum(axis=1), (along_u * along_v).sum(axis=1), (along_v**2).sum(axis=1)
    apart = np.sqrt((e - g) ** 2 + 4 * f**2)
    return np.sqrt((e + g + apart) / np.maximum(e + g - apart, 1e-9 * (e + g))), area / max(area.sum(), 1e-30)


def atlas_cover(textured: TexturedMesh) -> torch.Tensor:
    """Which of the samples [S, S] of the unit square lie in a chart."""
    size = ATLAS_SAMPLES
    flat = np.concatenate([textured.uvs, np.ones((len(textured.uvs), 1), np.float32)], axis=1)
    K = torch.tensor([[[size, 0, 0], [0, size, 0], [0, 0, 1]]], dtype=torch.float32)
    camera = Cameras(torch.eye(4)[None], K, torch.zeros(1), torch.zeros(1), size, size)
    return visibility(flat.astype(np.float32), textured.faces, None, camera).mask[0]
