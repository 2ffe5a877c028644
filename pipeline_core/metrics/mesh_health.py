"""Is the mesh fit for a game? Counts, closedness, UV atlas and texture, as plain numbers for the catalogue.

    scores = mesh_health(textured)      # {"faces": 5000.0, "watertight": 1.0, "uv_overlap": 0.0, ...}

Geometry is judged with the seams of the atlas welded: vertices at the same place are one.
"""

from __future__ import annotations

import numpy as np
import torch

from pipeline_core.cameras import Cameras
from pipeline_core.meshing.surface import edge_counts, face_components, tetra_volumes
from pipeline_core.rendering.visibility import visibility
from pipeline_core.types import TexturedMesh

ATLAS_SAMPLES = 1024
"""The atlas is sampled at this many places a side when overlap and utilisation are measured."""


def mesh_health(textured: TexturedMesh) -> dict[str, float]:
    """Numbers about ``textured``; all finite. Lengths, areas and volumes are in the mesh's own units."""
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
        "components": int(face_components(solid, len(vertices)).max()) + 1 if len(solid) else 0,
        "area": float(area.sum()),
        "volume": float(tetra_volumes(vertices, faces).sum()),
        **{f"size_{axis}": float(value) for axis, value in zip("xyz", extent, strict=True)},
        **edge_counts(solid),
        **atlas_scores(textured, float(area.sum())),
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


def atlas_scores(textured: TexturedMesh, area: float) -> dict[str, float]:
    """``uv_utilisation`` and ``uv_overlap`` as shares of the square, ``texel_density`` (texels per unit length) and
    its spread over the faces (90th over 10th percentile; 1 = the same everywhere)."""
    corner = textured.uvs[textured.faces].astype(np.float64)
    a, b = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    uv_area = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]) / 2
    covered = np.asarray(atlas_cover(textured))
    size = textured.texture.shape[0]
    surface = face_areas(textured.vertices, textured.faces)
    big = surface > 1e-3 * max(float(surface.max(initial=0)), 1e-30)
    density = size * np.sqrt(uv_area[big] / surface[big])
    low, high = np.quantile(density, [0.1, 0.9]) if big.any() else (0.0, 0.0)
    return {
        "uv_utilisation": float(covered.mean()),
        "uv_overlap": max(float(uv_area.sum() - covered.mean()), 0.0),
        "uv_outside": float(((textured.uvs < 0) | (textured.uvs > 1)).any(axis=1).mean()),
        "texture_size": size,
        "texel_density": size * float(np.sqrt(uv_area.sum() / max(area, 1e-30))),
        "texel_spread": float(high / max(low, 1e-12)) if high > 0 else 0.0,
    }


def atlas_cover(textured: TexturedMesh) -> torch.Tensor:
    """Which of the samples [S, S] of the unit square lie in a chart."""
    size = ATLAS_SAMPLES
    flat = np.concatenate([textured.uvs, np.ones((len(textured.uvs), 1), np.float32)], axis=1)
    K = torch.tensor([[[size, 0, 0], [0, size, 0], [0, 0, 1]]], dtype=torch.float32)
    camera = Cameras(torch.eye(4)[None], K, torch.zeros(1), torch.zeros(1), size, size)
    return visibility(flat.astype(np.float32), textured.faces, None, camera).mask[0]
