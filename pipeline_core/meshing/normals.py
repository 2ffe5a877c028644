"""Normals of the vertices of a triangle mesh."""

from __future__ import annotations

import numpy as np


def vertex_normals(vertices: np.ndarray, faces: np.ndarray) -> np.ndarray:
    """Unit normals [V, 3] float64 of ``vertices`` [V, 3], on the side where ``faces`` [F, 3] run counter-clockwise.

    Face normals weighted by the corner's angle (Thuermer and Wuethrich 1998), so that cutting a face in two changes
    nothing; zero where a vertex has no area.
    """
    corners = vertices[faces].astype(np.float64)
    edges = np.roll(corners, -1, axis=1) - corners
    edges /= np.maximum(np.linalg.norm(edges, axis=2, keepdims=True), 1e-20)
    angle = np.arccos(np.einsum("fki,fki->fk", edges, -np.roll(edges, 1, axis=1)).clip(-1, 1))
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-20)
    weighted = (normal[:, None] * angle[..., None]).reshape(-1, 3)
    flat = faces.reshape(-1)
    out = np.stack([np.bincount(flat, weighted[:, a], len(vertices)) for a in range(3)], axis=1)
    return out / np.maximum(np.linalg.norm(out, axis=1, keepdims=True), 1e-20)
