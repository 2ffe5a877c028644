"""Props as meshes: their geometry and paint by other means than the ray caster's, for the tests to compare."""

from __future__ import annotations

import math

import numba as nb
import numpy as np
import trimesh

from pipeline_core.props.primitives import (
    BALL,
    BOX,
    CAPSULE,
    CENTRE,
    KIND,
    PARAMS,
    ROTATION,
    SCALE,
    TORUS,
    Prop,
    light_array,
    paint_at,
)
from pipeline_core.props.textures import Lighting


def to_mesh(prop: Prop, *, steps: int = 12, lighting: Lighting | None = None) -> trimesh.Trimesh:
    """Concatenated meshes of the primitives in the prop's coordinates, with vertex colours lit as in `render`.

    Primitives overlap and are not merged, so parts of the mesh lie inside it.

    Args:
        steps: subdivisions a face; vertex colours carry the texture, so few steps blur it
        lighting: None for the training light, `FLAT` for albedo
    """
    light, lowest = light_array(lighting), float(prop.bounds[0, 1])
    all_vertices, all_faces, all_colours, offset = [], [], [], 0
    for row in prop.rows.astype(np.float64):
        points, faces = _unit_mesh(row, steps)
        points = np.ascontiguousarray(points, np.float64)
        rot = row[ROTATION : ROTATION + 9].reshape(3, 3)
        vertices = (points * row[SCALE : SCALE + 3]) @ rot + row[CENTRE : CENTRE + 3]
        corners = vertices[faces]
        normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
        keep = np.linalg.norm(normals, axis=1) > 1e-12  # poles and sharp edges collapse some faces
        faces, normals = faces[keep], normals[keep]
        smooth = np.zeros_like(vertices)
        for k in range(3):
            np.add.at(smooth, faces[:, k], normals)
        smooth /= np.linalg.norm(smooth, axis=1, keepdims=True) + 1e-12
        colours = np.empty_like(points)
        _paint_points(row, points, vertices[:, 1] - lowest, smooth, light, colours)
        all_vertices.append(vertices)
        all_faces.append(faces + offset)
        all_colours.append(colours)
        offset += len(vertices)
    rgb = np.round(np.concatenate(all_colours) * 255).astype(np.uint8)
    rgba = np.concatenate([rgb, np.full((len(rgb), 1), 255, np.uint8)], 1)
    return trimesh.Trimesh(np.concatenate(all_vertices), np.concatenate(all_faces), vertex_colors=rgba, process=False)


def _grid(points: np.ndarray, *, closed_u: bool = True) -> tuple[np.ndarray, np.ndarray]:
    """[nv, nu, 3] lattice -> (vertices, faces); v goes down or outward, u counter-clockwise seen from outside."""
    nv, nu = points.shape[:2]
    i = np.arange(nv * nu).reshape(nv, nu)
    right = np.roll(i, -1, axis=1) if closed_u else i[:, 1:]
    left = i if closed_u else i[:, :-1]
    a, b, c, d = left[:-1], right[:-1], left[1:], right[1:]
    faces = np.concatenate([np.stack([a, c, b], -1).reshape(-1, 3), np.stack([b, c, d], -1).reshape(-1, 3)])
    return points.reshape(-1, 3), faces


def _revolve(radius: np.ndarray, y: np.ndarray, nu: int) -> tuple[np.ndarray, np.ndarray]:
    a = 2 * math.pi * np.arange(nu) / nu
    points = np.stack(
        [radius[:, None] * np.sin(a), np.broadcast_to(y[:, None], (len(y), nu)), radius[:, None] * np.cos(a)], -1
    )
    return _grid(points)


def _unit_mesh(row: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Canonical vertices and faces of one primitive, dense enough to carry its texture in vertex colours."""
    kind, p = int(row[KIND]), [float(v) for v in row[PARAMS : PARAMS + 4]]
    nu = 4 * steps
    if kind == BOX:
        parts, offset = [], 0
        s = np.linspace(-1, 1, steps + 1)
        u, v = np.meshgrid(s, s)
        for axis in range(3):
            for sign in (-1.0, 1.0):
                w = np.full_like(u, sign)
                face = [None, None, None]
                face[axis], face[(axis + 1) % 3], face[(axis + 2) % 3] = w, u, v
                vertices, faces = _grid(np.stack(face, -1), closed_u=False)
                parts.append((vertices, (faces if sign < 0 else faces[:, ::-1]) + offset))
                offset += len(vertices)
        vertices = np.concatenate([a for a, _ in parts])
        top = 0.5 * (vertices[:, 1] + 1)
        vertices[:, 0] *= 1 + (p[0] - 1) * top
        vertices[:, 2] *= 1 + (p[1] - 1) * top
        return vertices, np.concatenate([b for _, b in parts])
    if kind == TORUS:
        b = 2 * math.pi * np.arange(2 * steps + 1) / (2 * steps)
        vertices, faces = _revolve(1 + p[0] * np.cos(b), p[0] * np.sin(b), nu)
        return vertices, faces[:, ::-1]
    if kind == CAPSULE:
        a = np.linspace(0, math.pi / 2, steps)
        y = np.concatenate([1 + p[0] * np.cos(a), np.linspace(1, -1, steps)[1:-1], -1 - p[0] * np.sin(a)])
        r = np.concatenate([p[0] * np.sin(a), np.full(steps - 2, p[0]), p[0] * np.cos(a)])
        return _revolve(r, y, nu)
    if kind == BALL:
        cut, inner = min(p[0], 1.0), p[1]
        start = math.acos(cut)
        a = np.linspace(start, math.pi, 2 * steps)
        r, y = np.sin(a), np.cos(a)
        if cut < 1:
            if inner > 0:
                b = np.linspace(math.pi, math.acos(min(1.0, cut / inner)), 2 * steps)
                r, y = np.concatenate([inner * np.sin(b), r]), np.concatenate([inner * np.cos(b), y])
            else:
                rim = np.linspace(0, r[0], steps, endpoint=False)
                r, y = np.concatenate([rim, r]), np.concatenate([np.full(steps, cut), y])
        return _revolve(r, y, nu)
    sides = int(p[1])
    s = np.linspace(1, 0, steps + 1)
    y = 1 - 2 * (1 - s)
    wall = 1 + (p[0] - 1) * 0.5 * (y + 1)
    cap = np.linspace(1, 0, steps + 1)[1:]
    if p[2] > 0:
        depth = np.linspace(max(p[3], -1.0), 1, steps + 1)
        inner = p[2] * (1 + (p[0] - 1) * 0.5 * (depth + 1))
        if p[3] > -1:
            floor_r, floor_y = cap[::-1] * inner[0], np.full(steps, p[3])
            bottom_r, bottom_y = cap, np.full(steps, -1.0)
        else:
            floor_r = floor_y = np.zeros(0)
            bottom_r, bottom_y = np.array([p[2]]), np.array([-1.0])
        r = np.concatenate([floor_r, inner, wall, bottom_r])
        y = np.concatenate([floor_y, depth, y, bottom_y])
    else:
        r = np.concatenate([cap[::-1] * p[0], wall, cap])
        y = np.concatenate([np.full(steps, 1.0), y, np.full(steps, -1.0)])
    if sides >= 3:
        # corners at half steps, so that face i has its normal at angle 2 pi i / sides as in the ray caster
        per = max(1, nu // sides)
        corner = 2 * math.pi * (np.arange(sides) + 0.5) / sides
        ends = np.stack([np.sin(corner), np.cos(corner)], -1)
        share = np.arange(per)[None, :, None] / per
        outline = (ends[:, None] * (1 - share) + np.roll(ends, -1, axis=0)[:, None] * share).reshape(-1, 2)
        x, z = r[:, None] * outline[:, 0], r[:, None] * outline[:, 1]
        return _grid(np.stack([x, np.broadcast_to(y[:, None], x.shape), z], -1))
    return _revolve(r, y, nu)


@nb.njit(cache=True, nogil=True)
def _paint_points(row, points, heights, normals, light, out):
    """Colours [n, 3] of canonical `points`, as the ray caster would see them."""
    for i in range(points.shape[0]):
        x, y, z = points[i, 0], points[i, 1], points[i, 2]
        nx, ny, nz = normals[i, 0], normals[i, 1], normals[i, 2]
        out[i, 0], out[i, 1], out[i, 2] = paint_at(row, x, y, z, nx, ny, nz, heights[i], light)
