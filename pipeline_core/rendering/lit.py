"""Pictures of textured meshes in light, with all their maps: how an engine will show them.

    images, coverage = render_lit(textured, cameras)

A metallic-roughness material as glTF has it: one light beside the camera (GGX, Schlick, Smith), a sky above a ground
that shines on everything and is mirrored by metals, occlusion in front of the latter two, emitted light added. Colours
are decoded before they are filtered, and a pixel's rays are averaged as light.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from pipeline_core.cameras import Cameras
from pipeline_core.rendering.jit import inlined, kernel
from pipeline_core.rendering.pool import parallel
from pipeline_core.rendering.visibility import visibility
from pipeline_core.tangents import tangents
from pipeline_core.types import TexturedMesh

LIGHT = (-0.45, 0.65, 0.6)
"""Where the light comes from: right, up, and towards the viewer, as the camera sees it."""
STRENGTH = 1.0
"""Irradiance of the light over pi, where it falls squarely."""
SKY, HORIZON, GROUND = 0.50, 0.38, 0.20
"""What shines from above, from the side and from below."""
GAMMA = 2.2
"""Of colours as they are stored and shown."""
NO_RELIEF, NO_GLOW = (0.5, 0.5, 1.0), (0.0, 0.0, 0.0)
PLAIN = (1.0, 0.9, 0.0)
"""What a mesh has without a map: normals, emitted light; occlusion, roughness and metallic."""


def render_lit(
    textured: TexturedMesh,
    cameras: Cameras,
    *,
    supersample: int = 2,
    background: tuple[float, float, float] | Tensor = (1.0, 1.0, 1.0),
) -> tuple[Tensor, Tensor]:
    """Images [V, H, W, 3] and coverage [V, H, W] of ``textured`` in light.

    Args:
        supersample: rays a pixel side.
        background: a colour, or an image [H, W, 3].
    """
    frame = tangents(textured.vertices, textured.faces, textured.normals, textured.uvs)
    attributes = np.concatenate([textured.vertices, textured.normals, frame], axis=1).astype(np.float32)
    base, emissive = (_map(colours, NO_GLOW) ** np.float32(GAMMA) for colours in (textured.texture, textured.emissive))
    maps = base, emissive, _map(textured.normal_map, NO_RELIEF), _map(textured.orm, PLAIN)
    shape = cameras.height, cameras.width
    back = torch.as_tensor(background, dtype=torch.float32).expand(*shape, 3)
    images, masks = [], []
    for view in range(len(cameras)):  # one by one: what a finer view sees is large, and stays near
        camera = cameras.chosen([view]).finer(supersample)
        seen = visibility(textured.vertices, textured.faces, textured.uvs, camera)
        found = (each[0].numpy() for each in (seen.face_id, seen.barycentrics, seen.uv))
        turn, move = np.split(camera.viewmats[0, :3].double().numpy(), [3], axis=1)
        lights = -turn.T @ move[:, 0], turn.T @ (np.array([LIGHT[0], -LIGHT[1], -LIGHT[2]]) / np.linalg.norm(LIGHT))
        colours, coverage = torch.zeros(*shape, 3), torch.zeros(shape)
        arrays = *found, textured.faces, attributes, maps, *lights, colours.numpy(), coverage.numpy()
        parallel(partial(_shade, *arrays))
        images.append(colours + back * (1 - coverage[..., None]))
        masks.append(coverage)
    return torch.stack(images), torch.stack(masks)


def _map(picture: np.ndarray | None, otherwise: tuple[float, float, float]) -> np.ndarray:
    """``picture`` [H, W, 3], or one texel."""
    return np.ascontiguousarray([[otherwise]] if picture is None else picture, np.float32)


@kernel
def _shade(face_id, shares, uv, faces, attributes, maps, eye, to_light, colours, coverage, part, parts):
    """Display-referred ``colours`` [H, W, 3] times their ``coverage`` [H, W], of the rows ``part``, ``part + parts``...

    ``face_id`` [sH, sW], ``shares`` and ``uv`` are what the rays see, ``attributes`` [P, 10] position, normal, tangent
    and its sign of the vertices.
    """
    height, width = coverage.shape
    s = face_id.shape[0] // height
    for y in range(part, height, parts):
        for x in range(width):
            hits, light = 0, (0.0, 0.0, 0.0)
            for i in range(y * s, (y + 1) * s):
                for j in range(x * s, (x + 1) * s):
                    if face_id[i, j] >= 0:
                        hits += 1
                        at = _at(attributes, faces[face_id[i, j]], shares[i, j])
                        light = _sum(light, _light(at, maps, uv[i, j], eye, to_light), 1.0)
            if hits:
                coverage[y, x] = hits / (s * s)
                for k in range(3):
                    colours[y, x, k] = hits / (s * s) * (light[k] / hits) ** (1 / GAMMA)


@inlined
def _at(attributes, face, shares):
    """Position, normal, tangent and its sign at a place of a face."""
    a, b, c = attributes[face[0]], attributes[face[1]], attributes[face[2]]
    u, v, w = shares[0], shares[1], shares[2]
    position = a[0] * u + b[0] * v + c[0] * w, a[1] * u + b[1] * v + c[1] * w, a[2] * u + b[2] * v + c[2] * w
    normal = a[3] * u + b[3] * v + c[3] * w, a[4] * u + b[4] * v + c[4] * w, a[5] * u + b[5] * v + c[5] * w
    tangent = a[6] * u + b[6] * v + c[6] * w, a[7] * u + b[7] * v + c[7] * w, a[8] * u + b[8] * v + c[8] * w
    return position, _unit(normal), _unit(tangent), np.sign(a[9] * u + b[9] * v + c[9] * w)


@inlined
def _light(at, maps, uv, eye, to_light):
    """Light towards the ``eye``, linear and in [0, 1], from a place and the ``maps`` at ``uv``."""
    position, normal, along, sign = at
    base, glow = _texel(maps[0], uv), _texel(maps[1], uv)
    relief, orm = _texel(maps[2], uv), _texel(maps[3], uv)
    across = _cross(normal, along)
    turned = _sum((0.0, 0.0, 0.0), along, 2 * relief[0] - 1)
    turned = _sum(turned, across, sign * (2 * relief[1] - 1))
    normal = _unit(_sum(turned, normal, 2 * relief[2] - 1))
    occlusion, roughness, metallic = orm[0], max(orm[1], 0.04), orm[2]
    to_eye = _unit((eye[0] - position[0], eye[1] - position[1], eye[2] - position[2]))
    half = _unit(_sum(to_eye, to_light, 1.0))
    nl, nv = max(_dot(normal, to_light), 1e-4), max(_dot(normal, to_eye), 1e-4)
    nh, vh = max(_dot(normal, half), 1e-4), max(_dot(to_eye, half), 1e-4)
    alpha = roughness**4
    spread = alpha / (nh * nh * (alpha - 1) + 1) ** 2
    k = (roughness + 1) ** 2 / 8
    smith = 1 / ((nl * (1 - k) + k) * (nv * (1 - k) + k)) / 4
    mirrored = 2 * _dot(normal, to_eye) * normal[1] - to_eye[1]
    around = _surroundings(normal[1], 1.0), (1 - 0.6 * roughness) * _surroundings(mirrored, roughness)
    how = metallic, roughness, occlusion, nl, spread * smith, (1 - vh) ** 5, (1 - nv) ** 5, around
    return _reflected(base[0], glow[0], how), _reflected(base[1], glow[1], how), _reflected(base[2], glow[2], how)


@inlined
def _reflected(base, glow, how):
    """Of one colour: the light's, then the surroundings', then its own."""
    metallic, roughness, occlusion, nl, lobe, grazing, rim, (sky, mirrored) = how
    diffuse, mirror = base * (1 - metallic), 0.04 + (base - 0.04) * metallic
    fresnel = mirror + (1 - mirror) * grazing
    light = STRENGTH * nl * ((1 - fresnel) * diffuse + fresnel * lobe)
    gloss = mirror + (max(1 - roughness, mirror) - mirror) * rim
    return min(max(light + occlusion * (diffuse * sky + gloss * mirrored) + glow, 0.0), 1.0)


@inlined
def _surroundings(up, blur):
    """Light from the direction whose vertical part is ``up``: a sharp horizon where ``blur`` is 0."""
    above = min(max(up / (0.15 + 0.85 * blur), -1.0), 1.0)
    return HORIZON + ((SKY - HORIZON) if above > 0 else (HORIZON - GROUND)) * above


@inlined
def _texel(picture, uv):
    """Values of ``picture`` [H, W, 3] at ``uv``, between texels linearly; beyond the border the border's."""
    height, width = picture.shape[0], picture.shape[1]
    x, y = min(max(uv[0] * width - 0.5, 0.0), width - 1.0), min(max(uv[1] * height - 0.5, 0.0), height - 1.0)
    j, i = int(x), int(y)
    q, p = min(j + 1, width - 1), min(i + 1, height - 1)
    u, v = x - j, y - i
    a, b, c, d = (1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v
    return (
        a * picture[i, j, 0] + b * picture[i, q, 0] + c * picture[p, j, 0] + d * picture[p, q, 0],
        a * picture[i, j, 1] + b * picture[i, q, 1] + c * picture[p, j, 1] + d * picture[p, q, 1],
        a * picture[i, j, 2] + b * picture[i, q, 2] + c * picture[p, j, 2] + d * picture[p, q, 2],
    )


@inlined
def _sum(a, b, times):
    return a[0] + b[0] * times, a[1] + b[1] * times, a[2] + b[2] * times


@inlined
def _dot(a, b):
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@inlined
def _cross(a, b):
    return a[1] * b[2] - a[2] * b[1], a[2] * b[0] - a[0] * b[2], a[0] * b[1] - a[1] * b[0]


@inlined
def _unit(a):
    length = max(np.sqrt(_dot(a, a)), 1e-12)
    return a[0] / length, a[1] / length, a[2] / length
