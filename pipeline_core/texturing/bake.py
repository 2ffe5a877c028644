"""Colours for a mesh: every texel is looked up in renders of the Gaussians from all around.

    textured = bake(gaussians, mesh, recipe.mesh)

Each texel knows its point on the surface. In every view that sees the point, the render gives a colour, weighted by
how squarely the view looks at it (cos^p) and by the Gaussians' alpha there. The weighted mean over *all* views is the
texel, so no view wins by being first and no seam shows where one view ends (DreamGaussian lets the first view win).
Texels sit at (i + 0.5) / size, here and in every reader of the texture. Texels that no view sees take the colours of
the Gaussians next to them; everything outside the charts is filled from the nearest chart, so no filter or mip level
ever meets an empty texel.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy import ndimage
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn.functional import grid_sample, max_pool2d

from pipeline_core.cameras import FOVY, Cameras, orbit
from pipeline_core.config import Meshing
from pipeline_core.device import upload
from pipeline_core.meshing.normals import vertex_normals
from pipeline_core.meshing.unwrap import cut, pack, size_for
from pipeline_core.rendering.rasterize import rasterize_views
from pipeline_core.rendering.visibility import visibility
from pipeline_core.texturing.edges import sharpen_edges
from pipeline_core.types import Gaussians, Mesh, TexturedMesh, sh0_to_rgb

COSINE_POWER = 6.0
"""Weight of a view = cos^p: high enough that the sharpest views decide, low enough to blend between them. 3
is 0.5 dB nearer to the splat's colours, 12 0.7 dB farther: the sharper, the less alike. The margin is the
same (docs/LOG.md: Constants at half and double, as those below)."""
MIN_COSINE = 0.15
"""Views that look along the surface are not used: beyond 81 degrees, where the weight is 1e-5 (DreamGaussian, where the
first view wins: beyond 60). 0.05 and 0.5 are within 0.03 dB."""
DEPTH_SLACK = 0.02
"""A texel is seen where it lies at most this far (object units) behind the nearest surface in the pixels around it. At
0.01 colours are 0.3 dB farther from the splat's, at 0.04 0.1 nearer."""
NEIGHBOURS = 8
"""Gaussians that give a texel its colour when no view sees it. 4 and 16 are within 0.002 dB."""
BEHIND = 2.5
"""A Gaussian whose centre lies more of its own standard deviations (of its longest axis) behind the mesh is not drawn:
through the gaps of a thin cap or lid its lining would show, as flecks that sharpening makes hard (docs/LOG.md:
Flecks, as the next)."""
ASIDE = 1.75
"""Standard deviation of a sample's weight over how far what the pixel shows is nearer or farther than the texel, in
median standard deviations of the Gaussians: where the mesh reaches beyond them, something else is seen there."""
COVERED = 0.3
"""Pixels that the Gaussians cover less have no colour of their own: it is divided by the cover. Nothing
changes at half and double."""
FAINT = 0.05
"""Gaussians fainter than this give no colour where no view sees. Nothing changes at 0.02 and 0.2."""


@dataclass(frozen=True)
class Texels:
    """The T texels covered by charts. ``index`` [T, 2] row and column, ``position`` and ``normal`` [T, 3] float32,
    ``face`` [T] that each lies on, and the ``share`` [T, 3] of its corners there."""

    size: int
    index: np.ndarray
    position: np.ndarray
    normal: np.ndarray
    face: np.ndarray
    share: np.ndarray


def bake(gaussians: Gaussians, mesh: Mesh, settings: Meshing, *, metres: float = 1.0) -> TexturedMesh:
    """Unwrap ``mesh`` and give it the colours of ``gaussians``. The texture is ``settings.texture_size`` squared, or as
    large as ``settings.texels_per_metre`` asks where an object unit is so many ``metres``; a light map has its own
    uvs where ``settings.lightmap_size`` asks for them."""
    charts = cut(mesh)
    size: int = settings.texture_size
    if settings.texels_per_metre is None:
        uvs = pack(charts, size)
    else:
        size, uvs = size_for(charts, settings.texels_per_metre * metres)
    lightmap_uvs = pack(charts, settings.lightmap_size, lightmap=True) if settings.lightmap_size else None
    vertices, faces = charts.vertices, charts.faces
    normals = vertex_normals(mesh.vertices, mesh.faces)[charts.source].astype(np.float32)
    texels = chart_texels(vertices, faces, uvs, normals, size)
    gaussians = gaussians.detach().to("cpu")
    cameras = bake_cameras(settings.bake_views, settings.bake_resolution, settings.bake_fovy)
    colour, weight = seen_colours(gaussians, texels, Mesh(vertices, faces), cameras)
    unseen = weight <= 1e-6
    if unseen.any():
        colour[unseen] = colours_at(gaussians, texels.position[unseen])
    colour = sharpen_edges(colour, texels.position, texels.normal, settings.sharpen)
    return TexturedMesh(vertices, faces, normals, uvs, colour[nearest_texel(texels)], lightmap_uvs=lightmap_uvs)


def bake_cameras(count: int, size: int, fovy: float = FOVY) -> Cameras:
    """``count`` cameras spread evenly over the sphere (a Fibonacci lattice), the first near the top."""
    i = np.arange(count) + 0.5
    elevation = np.degrees(np.arcsin(1 - 2 * i / count))
    azimuth = (i * 180 * (3 - math.sqrt(5))) % 360
    return orbit(torch.from_numpy(azimuth), torch.from_numpy(elevation), size=size, fovy=fovy)


def chart_texels(vertices: np.ndarray, faces: np.ndarray, uvs: np.ndarray, normals: np.ndarray, size: int) -> Texels:
    """Where each texel of the atlas lies on the surface.

    The atlas is rasterised as a mesh in the plane z = 1 by a camera whose pixels are the texels.
    """
    flat = np.concatenate([uvs, np.ones((len(uvs), 1), np.float32)], axis=1).astype(np.float32)
    K = torch.tensor([[size, 0, 0], [0, size, 0], [0, 0, 1]], dtype=torch.float32)
    plane = Cameras(torch.eye(4)[None], K[None], torch.zeros(1), torch.zeros(1), size, size)
    seen = visibility(flat, faces, None, plane)
    face = np.asarray(seen.face_id[0])
    index = np.argwhere(face >= 0)
    on, corners = face[face >= 0], np.asarray(seen.barycentrics[0])[face >= 0]
    corner, share = faces[on], corners[..., None]
    position, normal = (vertices[corner] * share).sum(axis=1), (normals[corner] * share).sum(axis=1)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)
    return Texels(size, index, position.astype(np.float32), normal.astype(np.float32), on, corners)


def seen_colours(gaussians: Gaussians, texels: Texels, mesh: Mesh, cameras: Cameras) -> tuple[np.ndarray, np.ndarray]:
    """Weighted mean colour [T, 3] and total weight [T] of the texels over all views."""
    depth = torch.as_tensor(visibility(mesh.vertices, mesh.faces, None, cameras).depth)
    position, normal = torch.from_numpy(texels.position), torch.from_numpy(texels.normal)
    colour, weight = torch.zeros(len(position), 3), torch.zeros(len(position))
    aside = ASIDE * float(gaussians.scales.amax(dim=1).exp().median())
    for view in range(len(cameras)):
        shown = not_behind(gaussians, depth[view], cameras, view)
        drawn = rasterize_views(shown, cameras.chosen([view]), render_mode="RGB+D")
        pixels = torch.cat(drawn, dim=-1)[0].permute(2, 0, 1)
        seen, uv, w = view_weight(position, normal, depth[view], cameras, view)
        sample = grid_sample(pixels[None], uv[None, None], align_corners=False, padding_mode="border")[0, :, 0].T
        coverage = sample[:, 4]
        # Renders are premultiplied: dividing by alpha removes the background, and faint pixels count less.
        there = sample[:, :4] / coverage[:, None].clamp(min=COVERED)
        away = there[:, 3] - cameras.seen_at(position[seen], view)[1]
        w = w * coverage.clamp(0, 1) ** 2 * (coverage > COVERED) * torch.exp(-0.5 * (away / aside) ** 2)
        colour.index_add_(0, seen, there[:, :3] * w[:, None])
        weight.index_add_(0, seen, w)
    mean = colour / weight.clamp(min=1e-12)[:, None]
    return mean.clamp(0, 1).numpy(), weight.numpy()


def not_behind(gaussians: Gaussians, depth: Tensor, cameras: Cameras, view: int) -> Gaussians:
    """Those of ``gaussians`` that the surface, ``depth`` [H, W] away in one view (0 = nowhere), does not hide by more
    than :data:`BEHIND`."""
    at, away = cameras.seen_at(gaussians.means, view)
    x, y = at[:, 0].long().clamp(0, cameras.width - 1), at[:, 1].long().clamp(0, cameras.height - 1)
    surface = depth[y, x]
    return gaussians.chosen((surface == 0) | (away <= surface + BEHIND * gaussians.scales.amax(dim=1).exp()))


def view_weight(
    position: Tensor, normal: Tensor, depth: Tensor, cameras: Cameras, view: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Which texels one view sees, where, and how squarely.

    Args:
        position, normal: [T, 3] world space.
        depth: [H, W] of the mesh, 0 where there is none.

    Returns:
        numbers [S] of the texels seen, their image coordinates [S, 2] in [-1, 1] for ``grid_sample``, cos^p [S]. On a
        GPU of all texels, with a weight of 0 for those not seen.
    """
    viewmat, K = cameras.viewmats[view], cameras.Ks[view]
    eye = -viewmat[:3, :3].T @ viewmat[:3, 3]
    ray = eye - position
    facing = (normal * ray).sum(dim=1) > MIN_COSINE * ray.norm(dim=1)
    numbers = where(facing)
    ray, normal = ray[numbers], normal[numbers]
    cosine = (normal * ray).sum(dim=1) / ray.norm(dim=1)
    camera = -ray @ viewmat[:3, :3].T
    xy = camera[:, :2] / camera[:, 2:] * torch.stack([K[0, 0], K[1, 1]]) + K[:2, 2]
    grid = xy / upload(torch.tensor([cameras.width, cameras.height]), xy.device) * 2 - 1
    # The nearest surface in the 3x3 pixels around: a texel just behind an edge would pick up what is in front of it.
    near = torch.where(depth > 0, depth, torch.inf)
    near = -max_pool2d(-near[None, None], 3, stride=1, padding=1)[0, 0]
    x, y = (xy[:, 0].long().clamp(0, cameras.width - 1), xy[:, 1].long().clamp(0, cameras.height - 1))
    ok = facing[numbers] & (grid.abs() < 1).all(dim=1) & (camera[:, 2] < near[y, x] + DEPTH_SLACK)
    seen = where(ok)
    return numbers[seen], grid[seen], torch.where(ok, cosine, 0)[seen] ** COSINE_POWER


def where(mask: Tensor) -> Tensor:
    """Numbers of the places where ``mask`` [T] holds; on a GPU of all: it would be waited for to know how many hold."""
    return mask.nonzero()[:, 0] if mask.device.type == "cpu" else torch.arange(len(mask), device=mask.device)


def colours_at(gaussians: Gaussians, points: np.ndarray) -> np.ndarray:
    """Colours [P, 3] of the Gaussians next to ``points`` [P, 3]: the nearest, weighted by opacity and closeness."""
    solid = (gaussians.opacities.sigmoid() > FAINT).numpy()
    solid = solid if solid.any() else np.ones(len(gaussians), bool)
    means, rgb = gaussians.means.numpy()[solid], sh0_to_rgb(gaussians.sh0).numpy()[solid].clip(0, 1)
    count = min(NEIGHBOURS, len(means))
    distance, index = cKDTree(means).query(points, k=count)
    distance, index = distance.reshape(-1, count), index.reshape(-1, count)
    reach = np.maximum(distance[:, :1], 1e-6)
    weight = gaussians.opacities.sigmoid().numpy()[solid][index] * np.exp(-0.5 * (distance / reach) ** 2)
    return ((rgb[index] * weight[..., None]).sum(axis=1) / weight.sum(axis=1, keepdims=True)).astype(np.float32)


def nearest_texel(texels: Texels) -> np.ndarray:
    """Number [S, S] int64 of the chart texel that lies nearest to each place of the texture, itself inside charts."""
    number = np.full((texels.size, texels.size), -1, np.int64)
    row, column = texels.index.T
    number[row, column] = np.arange(len(texels.index))
    nearest = ndimage.distance_transform_edt(number < 0, return_distances=False, return_indices=True)
    return number[tuple(nearest)]
