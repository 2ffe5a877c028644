"""What decimation took from a surface, baked into maps of the mesh that is left: normals and ambient occlusion.

    relief = bake_relief(textured, fine, texels)
    relief.normal_map, relief.occlusion            # [T, 3], [T], one for each texel of the atlas

Each texel looks up the fine surface next to it. Its normal there, in the tangent space of the coarse mesh
(``pipeline_core.tangents``), is the normal map. Occlusion is the share of the light from all around, weighted by the
cosine, that reaches that place: the fine surface is looked at from many sides, and a place is lit from those that see
it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import cKDTree

from pipeline_core.cameras import Cameras
from pipeline_core.meshing.normals import vertex_normals
from pipeline_core.rendering.visibility import visibility
from pipeline_core.tangents import tangents
from pipeline_core.texturing.bake import Texels, bake_cameras
from pipeline_core.types import Mesh, TexturedMesh

NEIGHBOURS = 6
"""Vertices of the fine surface that a texel's normal is the mean of."""
STEEPEST = 0.2
"""Least share of the vertex normal in a texel's normal: a map cannot turn a surface away from itself."""
OCCLUSION_SIZE = 160
"""Pixels a side of the pictures that say what is lit."""
SLACK = 0.015
"""A place is lit where it lies at most this far (object units) behind what a side sees."""
BOUNCED = 0.2
"""Share of the light that reaches a hidden place after it met the surface elsewhere; without it, folds are black."""


@dataclass(frozen=True)
class Relief:
    """Of T texels: ``normal_map`` [T, 3] and ``occlusion`` [T], float32 in [0, 1]; 1 = nothing is in the way."""

    normal_map: np.ndarray
    occlusion: np.ndarray


def bake_relief(textured: TexturedMesh, fine: Mesh, texels: Texels, *, sides: int = 32) -> Relief:
    """Maps of ``textured`` at its ``texels`` from the surface ``fine``, lit from so many ``sides`` (0 = not at all)."""
    fine_normals = vertex_normals(fine.vertices, fine.faces)
    position, normal = nearby(fine.vertices, fine_normals, texels)
    occlusion = occlusion_at(position, normal, fine, sides) if sides else np.ones(len(position), np.float32)
    return Relief(in_tangent_space(textured, texels, normal), occlusion)


def nearby(vertices: np.ndarray, normals: np.ndarray, texels: Texels) -> tuple[np.ndarray, np.ndarray]:
    """Places [T, 3] on the surface of ``vertices`` [V, 3] next to each texel, and its unit normals [T, 3] there: the
    mean of near vertices on the texel's side, nearer ones weighing more."""
    count = min(NEIGHBOURS, len(vertices))
    distance, index = cKDTree(vertices).query(texels.position, k=count, workers=1)
    distance, index = distance.reshape(-1, count), index.reshape(-1, count)
    alike = (normals[index] * texels.normal[:, None]).sum(axis=2)
    reach = np.maximum(np.median(distance, axis=1, keepdims=True), 1e-9)
    weight = np.exp(-2 * (distance / reach) ** 2) * alike.clip(0)
    total = weight.sum(axis=1, keepdims=True)
    mean = (normals[index] * weight[..., None]).sum(axis=1)
    height = ((vertices[index] - texels.position[:, None]) * texels.normal[:, None]).sum(axis=2)
    lift = (height * weight).sum(axis=1, keepdims=True) / np.maximum(total, 1e-12)
    return texels.position + lift * texels.normal, _unit(np.where(total > 1e-9, mean, texels.normal))


def in_tangent_space(textured: TexturedMesh, texels: Texels, normal: np.ndarray) -> np.ndarray:
    """``normal`` [T, 3] as colours [T, 3] of a normal map of ``textured``."""
    frame = tangents(textured.vertices, textured.faces, textured.normals, textured.uvs)
    share = texels.share[..., None]
    corner = textured.faces[texels.face]
    along = _unit((frame[corner, :3] * share).sum(axis=1))
    up = _unit((textured.normals[corner] * share).sum(axis=1))
    across = np.cross(up, along) * frame[corner[:, 0], 3:]
    local = np.linalg.solve(np.stack([along, across, up], axis=2), normal[..., None])[..., 0]
    local[:, 2] = np.maximum(local[:, 2], STEEPEST)
    return (_unit(local) / 2 + 0.5).astype(np.float32)


def occlusion_at(position: np.ndarray, normal: np.ndarray, mesh: Mesh, sides: int) -> np.ndarray:
    """Share [T] of the light from ``sides`` all around that reaches ``position`` [T, 3] with ``normal`` [T, 3]."""
    cameras = bake_cameras(sides, OCCLUSION_SIZE)
    depth = np.asarray(visibility(mesh.vertices, mesh.faces, None, cameras).depth)
    place, facing = position.astype(np.float32), normal.astype(np.float32)
    lit, whole = np.zeros(len(place), np.float32), np.zeros(len(place), np.float32)
    for view in range(len(cameras)):
        seen, cosine = _lit_by(place, facing, depth[view], cameras, view)
        lit += seen * cosine
        whole += cosine
    return BOUNCED + (1 - BOUNCED) * (lit / np.maximum(whole, 1e-6)).clip(0, 1)


def _lit_by(
    position: np.ndarray, normal: np.ndarray, depth: np.ndarray, cameras: Cameras, view: int
) -> tuple[np.ndarray, np.ndarray]:
    """Whether each place [T] is seen by one view (0 to 1), and the cosine [T] of its light. In numpy: the last bit of
    torch's norms depends on the number of threads."""
    viewmat, K = cameras.viewmats[view].numpy(), cameras.Ks[view].numpy()
    turn = viewmat[:3, :3]
    ray = -turn.T @ viewmat[:3, 3] - position
    length = np.sqrt(np.einsum("td,td->t", ray, ray))
    cosine = (np.einsum("td,td->t", normal, ray) / length).clip(0)
    x, y, z = np.einsum("td,cd->ct", -ray, turn)
    column = (x / z * K[0, 0] + K[0, 2]).astype(np.int64).clip(0, cameras.width - 1)
    row = (y / z * K[1, 1] + K[1, 2]).astype(np.int64).clip(0, cameras.height - 1)
    nearest = depth[row, column]
    behind = z - np.where(nearest > 0, nearest, np.inf)
    return 1 - ((behind - SLACK) / SLACK).clip(0, 1), cosine


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
