"""An asset's materials: what it is made of, its relief, and the light that it gives, as maps over its atlas.

    dressed, told = dress(textured, fine, "a wooden chest with golden bands", recipe.dress, cloud)

The prompt decides metallic and roughness (materials.py), else the points that the asset began with, where their prior
knows materials, else a constant, and ``told`` says which. Where the prompt names two materials, each texel is of the
one whose usual colour is more like its own, if both then have a part of the surface; else the asset is of the first.
The texture is not changed: it is the base colour, which a metal reflects as it is.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from scipy.spatial import cKDTree

from pipeline_core.config import Dress
from pipeline_core.texturing.bake import chart_texels, nearest_texel
from pipeline_core.texturing.materials import PLAIN, Material, glow_of, materials_of, nearest_material
from pipeline_core.texturing.relief import bake_relief
from pipeline_core.types import Mesh, PointCloud, TexturedMesh

LEAST_PART = 0.02
"""A material that has a smaller share of the texels is not seen: the asset is of the first that is named."""
WARM, BRIGHT = 0.10, 0.60
"""Texels give light where red is so much above blue, and the mean of red and green so high."""
LEAST_GLOW = 0.002
"""A smaller share of the texels is no light."""
ABOUT = 12
"""Points that say what a texel between them is made of."""
WIDTH, ALIKE = 0.5, 0.2
"""A point counts 0.6 times as much at this share of the farthest one's distance, and where its colour is so far from
the texel's: on the edge of a band, the points of its own side speak for a texel."""
AT_ONCE = 65536
"""Texels whose points are looked up together."""


def dress(
    textured: TexturedMesh, fine: Mesh, prompt: str, settings: Dress, cloud: PointCloud | None = None
) -> tuple[TexturedMesh, dict[str, Any]]:
    """``textured`` with its maps, and what they hold in words (JSON).

    Args:
        fine: the surface before decimation, in the frame of ``textured``.
        cloud: the points that the asset began with, in that frame too
    """
    size = textured.texture.shape[0]
    texels = chart_texels(textured.vertices, textured.faces, textured.uvs, textured.normals, size)
    nearest, colours = nearest_texel(texels), textured.texture[tuple(texels.index.T)]
    relief = bake_relief(textured, fine, texels, sides=settings.occlusion_sides)
    materials, which, source = parts_of(prompt, colours)
    metallic = np.array([material.metallic for material in materials])[which]
    roughness = np.array([material.roughness for material in materials])[which]
    if source == "constant" and cloud is not None and cloud.finish is not None:
        metallic, roughness = finish_at(cloud, texels.position, colours)
        materials, which, source = *kinds(metallic, roughness), "points"
    if settings.metallic is not None or settings.roughness is not None:
        metallic = metallic if settings.metallic is None else np.full(len(which), settings.metallic)
        roughness = roughness if settings.roughness is None else np.full(len(which), settings.roughness)
        source = "recipe"
    orm = np.stack([relief.occlusion, roughness, metallic], axis=1).astype(np.float32)
    light, word = light_of(prompt, colours)
    share = np.bincount(which, minlength=len(materials)) / max(len(which), 1)
    told: dict[str, Any] = {
        "material_source": source,
        "materials": [
            {"name": each.name, "metallic": each.metallic, "roughness": each.roughness, "share": round(float(part), 4)}
            for each, part in zip(materials, share, strict=True)
        ],
        "occlusion_mean": round(float(relief.occlusion.mean()), 4),
    }
    if light is not None:
        told["emissive"] = {"word": word, "share": round(float((light.max(axis=1) > 0).mean()), 4)}
    dressed = replace(
        textured,
        normal_map=relief.normal_map[nearest] if settings.normal_map else None,
        orm=orm[nearest],
        emissive=None if light is None else light[nearest],
    )
    return dressed, told


def parts_of(prompt: str, colours: np.ndarray) -> tuple[list[Material], np.ndarray, str]:
    """The materials of an asset, which of them each of its texels with ``colours`` [T, 3] is of, and who says so:
    ``prompt`` or ``constant``."""
    named = materials_of(prompt)
    one = np.zeros(len(colours), np.int64)
    if len(named) < 2:
        return named or [PLAIN], one, "prompt" if named else "constant"
    which = nearest_material(colours, named)
    if np.bincount(which, minlength=len(named)).min() < LEAST_PART * len(which):
        return named[:1], one, "prompt"
    return named, which, "prompt"


def finish_at(cloud: PointCloud, position: np.ndarray, colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Metallic [T], 0 or 1, and roughness [T] of texels at ``position`` [T, 3] with ``colours`` [T, 3]: what most of
    the points of ``cloud`` about them are, which has a finish, and how rough those."""
    assert cloud.finish is not None
    xyz, rgb, finish = (each.double().cpu().numpy() for each in (cloud.xyz, cloud.rgb, cloud.finish))
    tree, metal, found = cKDTree(xyz), finish[:, 0] > 0.5, np.zeros((2, len(position)))
    for begin in range(0, len(position), AT_ONCE):
        some = slice(begin, begin + AT_ONCE)
        far, near = tree.query(position[some], k=list(range(1, min(ABOUT, len(xyz)) + 1)))
        off = np.linalg.norm(rgb[near] - colours[some, None], axis=2) / ALIKE
        weight = np.exp(-0.5 * (off**2 + (far / (WIDTH * np.maximum(far[:, -1:], 1e-12))) ** 2))
        metallic = (weight * metal[near]).sum(axis=1) > 0.5 * weight.sum(axis=1)
        weight *= metal[near] == metallic[:, None]
        found[:, some] = metallic, (weight * finish[near, 1]).sum(axis=1) / weight.sum(axis=1)
    return found[0], found[1]


def kinds(metallic: np.ndarray, roughness: np.ndarray) -> tuple[list[Material], np.ndarray]:
    """What is metal of an asset and what is not, as rough as it is on average, and which of them each texel is of."""
    values, which = np.unique(metallic, return_inverse=True)
    rough = np.bincount(which, roughness) / np.bincount(which)
    rows = zip(values.tolist(), rough.tolist(), strict=True)
    return [replace(PLAIN, name="metal" if m else "plain", metallic=m, roughness=round(r, 4)) for m, r in rows], which


def light_of(prompt: str, colours: np.ndarray) -> tuple[np.ndarray | None, str | None]:
    """The light [T, 3] that texels of ``colours`` [T, 3] give, and the word of ``prompt`` that says so: the bright and
    warm ones of something that glows. None where nothing is said, or nothing is bright."""
    word = glow_of(prompt)
    if word is None:
        return None, None
    warm = (colours[:, 0] - colours[:, 2] - WARM) / WARM
    bright = (colours[:, :2].mean(axis=1) - BRIGHT) / 0.1
    glow = np.minimum(warm, bright).clip(0, 1)
    if (glow > 0).mean() < LEAST_GLOW:
        return None, None
    return (colours * glow[:, None]).astype(np.float32), word
