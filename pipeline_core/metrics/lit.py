"""Pictures of textured meshes in light, with all their maps: how an engine will show them.

    images, coverage = render_lit(textured, cameras)

A metallic-roughness material as glTF has it: one light beside the camera (GGX, Schlick, Smith), a sky above a ground
that shines on everything and is mirrored by metals, occlusion in front of the latter two, emitted light added.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, grid_sample

from pipeline_core.cameras import Cameras
from pipeline_core.rendering.visibility import visibility
from pipeline_core.tangents import tangents
from pipeline_core.types import TexturedMesh

LIGHT = (-0.45, 0.65, 0.6)
"""Where the light comes from: right, up, and towards the viewer, as the camera sees it."""
STRENGTH = 1.0
"""Irradiance of the light over pi, where it falls squarely."""
SKY, HORIZON, GROUND = 0.50, 0.38, 0.20
"""What shines from above, from the side and from below."""
PLAIN_ROUGHNESS = 0.9
"""Of a mesh without an ORM map."""


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
    s = supersample
    fine = cameras.finer(s)
    seen = visibility(textured.vertices, textured.faces, textured.uvs, fine)
    frame = tangents(textured.vertices, textured.faces, textured.normals, textured.uvs)
    attributes = np.concatenate([textured.vertices, textured.normals, frame], axis=1).astype(np.float32)
    back = torch.as_tensor(background, dtype=torch.float32).expand(cameras.height, cameras.width, 3)
    images, masks = [], []
    for view, mask in enumerate(seen.mask):
        corners, shares = textured.faces[seen.face_id[view][mask].numpy()], seen.barycentrics[view][mask].numpy()
        at = sum(attributes[corners[:, k]] * shares[:, k : k + 1] for k in range(3))
        colour = torch.zeros(*mask.shape, 3)
        colour[mask] = torch.from_numpy(_shade(textured, at, seen.uv[view][mask], fine.viewmats[view].numpy()))
        coverage = avg_pool2d(mask.float()[None, None], s)[0, 0]
        image = avg_pool2d(colour.permute(2, 0, 1)[None], s)[0].permute(1, 2, 0)
        images.append((image + back * (1 - coverage[..., None])).clamp(0, 1))
        masks.append(coverage)
    return torch.stack(images), torch.stack(masks)


def _shade(textured: TexturedMesh, at: np.ndarray, uv: Tensor, viewmat: np.ndarray) -> np.ndarray:
    """Display-referred colours [P, 3] of places ``at`` [P, 10] (position, normal, tangent with its sign).

    In numpy: torch's powers and norms differ in the last bit with the number of threads.
    """
    turn = viewmat[:3, :3].T
    to_eye = _unit(-turn @ viewmat[:3, 3] - at[:, :3])
    to_light = _unit(turn @ np.array([LIGHT[0], -LIGHT[1], -LIGHT[2]], np.float32))
    normal = _unit(at[:, 3:6])
    if textured.normal_map is not None:
        along = _unit(at[:, 6:9])
        across = np.cross(normal, along) * np.sign(at[:, 9:10])
        x, y, z = np.split(2 * _sample(textured.normal_map, uv) - 1, 3, axis=1)
        normal = _unit(x * along + y * across + z * normal)
    plain = np.tile(np.array([1.0, PLAIN_ROUGHNESS, 0.0], np.float32), (len(at), 1))
    occlusion, roughness, metallic = np.split(plain if textured.orm is None else _sample(textured.orm, uv), 3, axis=1)
    roughness = roughness.clip(0.04)
    base = _sample(textured.texture, uv) ** np.float32(2.2)
    diffuse, mirror = base * (1 - metallic), 0.04 + (base - 0.04) * metallic
    half = _unit(to_eye + to_light)
    nl, nv, nh, vh = (
        _dot(a, b).clip(1e-4)
        for a, b in ((normal, to_light), (normal, to_eye), (normal, half), (to_eye, half))
    )
    alpha = roughness**2
    spread = alpha**2 / (nh**2 * (alpha**2 - 1) + 1) ** 2
    k = (roughness + 1) ** 2 / 8
    smith = 1 / ((nl * (1 - k) + k) * (nv * (1 - k) + k)) / 4
    fresnel = mirror + (1 - mirror) * (1 - vh) ** 5
    light = STRENGTH * nl * ((1 - fresnel) * diffuse + fresnel * spread * smith)
    rim = mirror + (np.maximum(1 - roughness, mirror) - mirror) * (1 - nv) ** 5
    mirrored = 2 * _dot(normal, to_eye) * normal - to_eye
    gloss = (1 - 0.6 * roughness) * rim * _surroundings(mirrored[:, 1:2], roughness)
    around = diffuse * _surroundings(normal[:, 1:2], 1.0) + gloss
    colour = light + occlusion * around
    if textured.emissive is not None:
        colour = colour + _sample(textured.emissive, uv) ** np.float32(2.2)
    shown: np.ndarray = colour.clip(0, 1) ** np.float32(1 / 2.2)
    return shown.astype(np.float32)


def _surroundings(up: np.ndarray, blur: np.ndarray | float) -> np.ndarray:
    """Light [P, 1] from the direction whose vertical part is ``up`` [P, 1]: a sharp horizon where ``blur`` is 0."""
    above = (up / (0.15 + 0.85 * blur)).clip(-1, 1)
    return np.where(above > 0, HORIZON + (SKY - HORIZON) * above, HORIZON + (HORIZON - GROUND) * above)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """[P, 1]; a sum over an axis of three would take numpy ten times as long."""
    product: np.ndarray = a[..., :1] * b[..., :1] + a[..., 1:2] * b[..., 1:2] + a[..., 2:3] * b[..., 2:3]
    return product


def _unit(vectors: np.ndarray) -> np.ndarray:
    length = np.sqrt(_dot(vectors, vectors))
    unit: np.ndarray = vectors / np.maximum(length, 1e-12)
    return unit


def _sample(picture: np.ndarray, uv: Tensor) -> np.ndarray:
    """Colours [P, 3] of ``picture`` [H, W, 3] at ``uv`` [P, 2], between texels linearly."""
    layers = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
    return grid_sample(layers, uv[None, None] * 2 - 1, align_corners=False, padding_mode="border")[0, :, 0].T.numpy()
