"""``visibility``: which face of a mesh every pixel of every view sees, by z-buffer.

The geometry is frozen whenever a texture is baked or refined, so each view is rasterized once and the result is
cached as arrays: nothing here has a gradient. On CUDA, nvdiffrast does the same when it is installed and asked for
(its licence forbids commercial use, so it is never chosen by itself).

    >>> seen = visibility(mesh.vertices, mesh.faces, mesh.uvs, cameras)
    >>> seen.face_id.shape
    torch.Size([26, 512, 512])
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from pipeline_core.cameras import Cameras
from pipeline_core.rendering.jit import inlined, kernel
from pipeline_core.rendering.pool import parallel

Backend = Literal["numba"] | torch.device
"""Our own kernels, or nvdiffrast on this CUDA device."""
NVDIFFRAST = "SPLATMILL_NVDIFFRAST"
"""Environment variable: 1 = refine textures with nvdiffrast on a GPU. Never by itself: see its licence."""
NEAR = 1e-3
"""Surfaces nearer to the camera than this (object units) are cut away."""


@dataclass(frozen=True)
class Visibility:
    """What V views of height H and width W see through their pixel centres.

    ``face_id`` [V, H, W] int32, -1 = nothing; ``barycentrics`` [V, H, W, 3] perspective-correct weights of the face's
    vertices, 0 where nothing; ``depth`` [V, H, W] z in camera axes, 0 where nothing; ``uv`` [V, H, W, 2] (zero without
    uvs); ``cosine`` [V, H, W] of the angle between the face's outward normal and the ray back to the camera, negative
    where the back of a face is seen.
    """

    face_id: Tensor
    barycentrics: Tensor
    depth: Tensor
    uv: Tensor
    cosine: Tensor

    @property
    def mask(self) -> Tensor:
        """[V, H, W] bool: something is seen."""
        return self.face_id >= 0


def chosen_backend(device: torch.device) -> Backend:
    """nvdiffrast on ``device`` if that is a GPU and the user has asked for it, else numba."""
    return device if device.type == "cuda" and os.environ.get(NVDIFFRAST, "") == "1" else "numba"


def visibility(
    vertices: np.ndarray | Tensor,
    faces: np.ndarray | Tensor,
    uvs: np.ndarray | Tensor | None,
    cameras: Cameras,
    *,
    backend: Backend = "numba",
) -> Visibility:
    """Rasterize ``vertices`` [P, 3], ``faces`` [F, 3] (counter-clockwise from outside) and ``uvs`` [P, 2] or None.

    Both sides of a face are drawn. A pixel belongs to the nearest face that covers its centre; of two faces at the
    same depth to the one with the lower index. Faces that cross the near plane are clipped by it per pixel. Faces
    with a non-finite vertex or no area are never seen. The result does not depend on the number of threads.
    """
    if backend != "numba" and not isinstance(backend, torch.device):
        raise ValueError(f"backend={backend!r} must be numba, or the torch.device on which nvdiffrast does it")
    points, triangles, coordinates = _check(vertices, faces, uvs)
    if isinstance(backend, torch.device):
        return _nvdiffrast(points, triangles, coordinates, cameras, backend)
    views, height, width = len(cameras), cameras.height, cameras.width
    rotation = cameras.viewmats[:, :3, :3].double().cpu().numpy()
    translation = cameras.viewmats[:, :3, 3].double().cpu().numpy()
    Ks = np.ascontiguousarray(cameras.Ks.double().cpu().numpy())
    with np.errstate(invalid="ignore"):  # faces of non-finite vertices are skipped below
        camera_points = points.astype(np.float64) @ rotation.transpose(0, 2, 1) + translation[:, None]
        camera_points = np.ascontiguousarray(camera_points)
    face_id = np.full((views, height, width), -1, dtype=np.int32)
    barycentrics = np.zeros((views, height, width, 3), dtype=np.float32)
    depth = np.zeros((views, height, width), dtype=np.float32)
    uv = np.zeros((views, height, width, 2), dtype=np.float32)
    cosine = np.zeros((views, height, width), dtype=np.float32)

    def work(part: int, parts: int) -> None:
        nearest = np.empty((height, width))
        for view in range(views):
            _fill(camera_points[view], triangles, Ks[view], NEAR, nearest, face_id[view], part, parts)
            _shade(
                camera_points[view], triangles, coordinates, Ks[view], face_id[view], barycentrics[view],
                depth[view], uv[view], cosine[view], part, parts,
            )  # fmt: skip

    parallel(work)
    return Visibility(*(torch.from_numpy(a) for a in (face_id, barycentrics, depth, uv, cosine)))


def _check(
    vertices: np.ndarray | Tensor, faces: np.ndarray | Tensor, uvs: np.ndarray | Tensor | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The mesh as contiguous float32, int64 and float32 arrays. Raises ValueError for anything malformed."""
    points, triangles = (np.asarray(a.detach().cpu() if isinstance(a, Tensor) else a) for a in (vertices, faces))
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"vertices must be [P, 3], got {list(points.shape)}")
    if triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.dtype.kind not in "iu":
        raise ValueError(f"faces must be [F, 3] integers, got {list(triangles.shape)} {triangles.dtype}")
    if len(triangles) and not (0 <= triangles.min() and triangles.max() < len(points)):
        raise ValueError(f"faces refer to vertices {triangles.min()}..{triangles.max()}, but there are {len(points)}")
    if uvs is None:
        uvs = np.zeros((len(points), 2), dtype=np.float32)
    coordinates = np.asarray(uvs.detach().cpu() if isinstance(uvs, Tensor) else uvs)
    if coordinates.shape != (len(points), 2):
        raise ValueError(f"uvs must be [{len(points)}, 2], one per vertex, got {list(coordinates.shape)}")
    return (
        np.ascontiguousarray(points, dtype=np.float32),
        np.ascontiguousarray(triangles, dtype=np.int64),
        np.ascontiguousarray(coordinates, dtype=np.float32),
    )


@inlined
def _edge_planes(p, a, b, c):
    """Normals of the planes through the eye and each edge, and the face's volume with the eye.

    For a ray ``d`` from the eye, ``n_k . d`` is proportional to the weight of vertex k at the hit, for any depth of the
    vertices: no division, so a face that crosses the camera plane needs no clipping.
    """
    ax, ay, az = p[a, 0], p[a, 1], p[a, 2]
    bx, by, bz = p[b, 0], p[b, 1], p[b, 2]
    cx, cy, cz = p[c, 0], p[c, 1], p[c, 2]
    na = (by * cz - bz * cy, bz * cx - bx * cz, bx * cy - by * cx)
    nb = (cy * az - cz * ay, cz * ax - cx * az, cx * ay - cy * ax)
    nc = (ay * bz - az * by, az * bx - ax * bz, ax * by - ay * bx)
    return na, nb, nc, ax * na[0] + ay * na[1] + az * na[2]


@inlined
def _bounds(p, a, b, c, axis, focal, centre, near, size):
    """First and last + 1 pixel along an axis that the face may cover; everything if it crosses the near plane."""
    if p[a, 2] < near or p[b, 2] < near or p[c, 2] < near:
        return 0, size
    u, v, w = p[a, axis] / p[a, 2], p[b, axis] / p[b, 2], p[c, axis] / p[c, 2]
    low = focal * min(u, min(v, w)) + centre - 0.5
    high = focal * max(u, max(v, w)) + centre - 0.5
    first = np.ceil(min(max(low - 1e-9, 0.0), float(size)))
    last = np.floor(min(max(high + 1e-9, -1.0), float(size - 1)))
    return int(first), int(last) + 1


@kernel
def _fill(p, faces, K, near, nearest, face_id, part, parts):
    """The z-buffer of one view for the rows ``part``, ``part + parts``..."""
    height, width = face_id.shape
    for y in range(part, height, parts):
        for x in range(width):
            nearest[y, x] = np.inf
    for f in range(faces.shape[0]):
        a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
        if not (p[a, 2] >= near or p[b, 2] >= near or p[c, 2] >= near):
            continue
        na, nb, nc, volume = _edge_planes(p, a, b, c)
        if not (np.isfinite(volume) and volume != 0.0):
            continue
        x0, x1 = _bounds(p, a, b, c, 0, K[0, 0], K[0, 2], near, width)
        y0, y1 = _bounds(p, a, b, c, 1, K[1, 1], K[1, 2], near, height)
        sign = 1.0 if volume > 0 else -1.0
        size = abs(volume)
        for y in range(y0 + (part - y0) % parts, y1, parts):
            dy = (y + 0.5 - K[1, 2]) / K[1, 1]
            for x in range(x0, x1):
                dx = (x + 0.5 - K[0, 2]) / K[0, 0]
                wa = sign * (na[0] * dx + na[1] * dy + na[2])
                wb = sign * (nb[0] * dx + nb[1] * dy + nb[2])
                wc = sign * (nc[0] * dx + nc[1] * dy + nc[2])
                if wa < 0 or wb < 0 or wc < 0:
                    continue
                total = wa + wb + wc
                if not total > 0:
                    continue
                z = size / total
                if z >= near and z < nearest[y, x]:
                    nearest[y, x] = z
                    face_id[y, x] = f


@kernel
def _shade(p, faces, uvs, K, face_id, barycentrics, depth, uv, cosine, part, parts):
    """Weights, depth, uv and cosine of the winners on the rows ``part``, ``part + parts``..."""
    height, width = face_id.shape
    for y in range(part, height, parts):
        dy = (y + 0.5 - K[1, 2]) / K[1, 1]
        for x in range(width):
            f = face_id[y, x]
            if f < 0:
                continue
            dx = (x + 0.5 - K[0, 2]) / K[0, 0]
            a, b, c = faces[f, 0], faces[f, 1], faces[f, 2]
            na, nb, nc, volume = _edge_planes(p, a, b, c)
            wa = na[0] * dx + na[1] * dy + na[2]
            wb = nb[0] * dx + nb[1] * dy + nb[2]
            wc = nc[0] * dx + nc[1] * dy + nc[2]
            total = wa + wb + wc
            wa, wb, wc = wa / total, wb / total, wc / total
            barycentrics[y, x, 0], barycentrics[y, x, 1], barycentrics[y, x, 2] = wa, wb, wc
            depth[y, x] = volume / total
            uv[y, x, 0] = wa * uvs[a, 0] + wb * uvs[b, 0] + wc * uvs[c, 0]
            uv[y, x, 1] = wa * uvs[a, 1] + wb * uvs[b, 1] + wc * uvs[c, 1]
            # na + nb + nc is the face's normal (twice its area); it points away from the eye for a front face.
            nx, ny, nz = na[0] + nb[0] + nc[0], na[1] + nb[1] + nc[1], na[2] + nb[2] + nc[2]
            length = np.sqrt((nx * nx + ny * ny + nz * nz) * (dx * dx + dy * dy + 1.0))
            cosine[y, x] = -(nx * dx + ny * dy + nz) / length


@lru_cache(maxsize=16)
def _context(device: torch.device, thread: int) -> Any:
    """nvdiffrast's buffers on ``device`` for one ``thread``: to make them anew costs more than most renders."""
    import nvdiffrast.torch as dr

    return dr.RasterizeCudaContext(device=device)


def _nvdiffrast(
    points: np.ndarray, triangles: np.ndarray, coordinates: np.ndarray, cameras: Cameras, device: torch.device
) -> Visibility:
    """The same on a CUDA ``device`` through nvdiffrast, whose clip space is OpenGL's with row 0 at the bottom."""
    try:
        import nvdiffrast.torch as dr
    except ImportError as error:
        raise ImportError(
            f"nvdiffrast was asked for but cannot be imported ({error}); install it from "
            "https://github.com/NVlabs/nvdiffrast (non-commercial licence), or use backend='numba'"
        ) from error
    cameras = cameras.to(device)
    p = torch.from_numpy(points).to(device)
    faces = torch.from_numpy(triangles).to(device, torch.int32)
    camera_points = p @ cameras.viewmats[:, :3, :3].transpose(1, 2) + cameras.viewmats[:, None, :3, 3]
    x, y, z = camera_points.unbind(-1)
    fx, fy, cx, cy = (cameras.Ks[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    far = z.amax() * 2 + 1
    clip_x = 2 * (fx * x + cx * z) / cameras.width - z
    clip_y = 2 * (fy * y + cy * z) / cameras.height - z  # row 0 is the bottom in OpenGL: y down becomes y up unflipped
    clip_z = (far + NEAR) / (far - NEAR) * z - 2 * far * NEAR / (far - NEAR)
    context = _context(device, threading.get_ident())
    clip = torch.stack([clip_x, clip_y, clip_z, z], dim=-1).contiguous()
    hits, _ = dr.rasterize(context, clip, faces, (cameras.height, cameras.width))
    face_id = hits[..., 3].to(torch.int32) - 1
    seen = (face_id >= 0).unsqueeze(-1)
    weights = torch.stack([hits[..., 0], hits[..., 1], 1 - hits[..., 0] - hits[..., 1]], dim=-1) * seen
    corners = faces.long()[face_id.long().clamp_min(0)]  # [V, H, W, 3]
    view = torch.arange(len(cameras), device=device)[:, None, None, None]
    corner_points = camera_points[view, corners]  # [V, H, W, 3, 3]
    position = (corner_points * weights.unsqueeze(-1)).sum(-2)
    edges = corner_points[..., 1:, :] - corner_points[..., :1, :]
    normal = torch.linalg.cross(edges[..., 0, :], edges[..., 1, :])
    cosine = -torch.nn.functional.cosine_similarity(normal, position, dim=-1) * seen.squeeze(-1)
    uv = (torch.from_numpy(coordinates).to(device)[corners] * weights.unsqueeze(-1)).sum(-2)
    return Visibility(face_id, weights, position[..., 2], uv, cosine)
