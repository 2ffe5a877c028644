"""A finished asset's folder, made in milliseconds: a box with feet, its levels, hulls, maps and splat."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline_core.io.gltf import save_glb
from pipeline_core.io.ply import save_splat
from pipeline_core.io.scene import Scene
from pipeline_core.storage import sha256_file
from pipeline_core.types import Gaussians, Mesh, TexturedMesh

HOSTILE = "a \"quoted\" 'chair' \U0001f525 </script><script>alert(1)</script> <b>&amp; \\ \t%s {0}\nf 1 2 3\n#usda"
"""What a prompt may hold, and no format may stumble over."""
HEIGHT_M = 0.8


def finished(
    folder: Path, asset_id: str = "box", *, prompt: str = "a box", maps: bool = True, parts: bool = True,
    splat: bool = True, steps: int = 4,
) -> Path:  # fmt: skip
    """Make ``folder/<asset_id>``; ``parts``: with levels of detail and collision. Returns it."""
    place = folder / asset_id
    place.mkdir(parents=True)
    textured = box(steps, maps=maps)
    extras = {"asset_id": asset_id, "prompt": prompt, "seed": 1}
    save_glb(place / "asset.glb", textured, name=asset_id, height_m=HEIGHT_M, extras=extras)
    if parts:
        _levels(place / "lods.glb", asset_id)
        _hulls(place / "collision.glb", asset_id)
    if splat:
        save_splat(place / "splat.ply", cloud(50))
    told = extras | {"code_version": "0.1.0", "models": {}}
    files = {path.name: {"sha256": sha256_file(path), "bytes": path.stat().st_size} for path in place.iterdir()}
    (place / "asset.json").write_text(json.dumps(told | {"files": files}))
    return place


def box(steps: int, *, maps: bool = True) -> TexturedMesh:
    """A box in object units, 0.8 wide, 0.4 high and 0.6 deep, each side a grid of ``steps`` by ``steps`` squares with a
    sixth of the texture: the top is red, the front (+Z) green, the rest blue."""
    grid = np.linspace(-1, 1, steps + 1)
    u, v = (each.reshape(-1) for each in np.meshgrid(grid, grid))
    row = steps + 1
    first = (np.arange(steps)[:, None] * row + np.arange(steps)).reshape(-1)
    squares = np.concatenate(
        [np.stack([first, first + 1, first + row + 1], 1), np.stack([first, first + row + 1, first + row], 1)]
    )
    parts: list[tuple[np.ndarray, ...]] = []
    for side, (axis, sign) in enumerate((axis, sign) for axis in range(3) for sign in (-1, 1)):
        across, up = (axis + 1) % 3, (axis + 2) % 3
        place, normal = np.zeros((len(u), 3)), np.zeros((len(u), 3))
        place[:, axis], normal[:, axis] = sign, sign
        place[:, across], place[:, up] = u * sign, v
        uv = np.stack([(side % 3 + (u + 1) / 2) / 3, (side // 3 + (v + 1) / 2) / 2], axis=1)
        parts.append((place, normal, uv, squares + side * len(u)))
    place, normal, uv, faces = (np.concatenate(each) for each in zip(*parts, strict=True))
    at = (np.arange(64) + 0.5) / 64
    sides = (at * 3).astype(int) + 3 * (at[:, None] * 2).astype(int)  # the side that each texel is of
    texture = np.zeros((64, 64, 3), np.float32)
    for channel, on in enumerate((sides == 3, sides == 5, (sides != 3) & (sides != 5))):
        texture[on, channel] = 1
    more = {
        "normal_map": np.full((64, 64, 3), (0.5, 0.5, 1.0), np.float32),
        "orm": np.full((64, 64, 3), (1.0, 0.6, 0.25), np.float32),
    }
    return TexturedMesh(
        (place * (0.4, 0.2, 0.3)).astype(np.float32),
        faces.astype(np.int32),
        normal.astype(np.float32),
        uv.astype(np.float32),
        texture,
        **(more if maps else {}),
    )


def in_metres(mesh: TexturedMesh) -> TexturedMesh:
    """The box at :data:`HEIGHT_M`, on the floor."""
    scale = HEIGHT_M / 0.4
    return replace(mesh, vertices=(mesh.vertices * scale + (0, 0.2 * scale, 0)).astype(np.float32))


def cloud(count: int) -> Gaussians:
    """Gaussians within the box, of degree 1."""
    draw = torch.Generator().manual_seed(0)
    return Gaussians(
        means=(torch.rand(count, 3, generator=draw) - 0.5) * torch.tensor([0.8, 0.4, 0.6]),
        quats=torch.randn(count, 4, generator=draw),
        scales=torch.full((count, 3), -4.0) + torch.rand(count, 3, generator=draw),
        opacities=torch.randn(count, generator=draw),
        sh0=torch.rand(count, 1, 3, generator=draw),
        shN=torch.rand(count, 3, 3, generator=draw) * 0.1,
    )


def _levels(path: Path, name: str) -> None:
    scene = Scene(name)
    material = scene.material_of(box(4), name)
    for number, steps in enumerate((4, 2, 1)):
        level = f"SM_{name}_LOD{number}"
        scene.node(level, scene.mesh(level, [scene.surface(in_metres(box(steps)), material)]))
    path.write_bytes(scene.glb())


def _hulls(path: Path, name: str) -> None:
    scene, whole = Scene(name), in_metres(box(1))
    halves = [Mesh(whole.vertices * (0.5, 1, 1) + np.array([0.4 * half, 0, 0]), whole.faces) for half in (-1, 1)]
    for number, mesh in enumerate([whole.mesh, *halves]):
        hull = f"UCX_SM_{name}_{number:02d}"
        scene.node(hull, scene.mesh(hull, [scene.primitive({"POSITION": mesh.vertices}, mesh.faces)]))
    path.write_bytes(scene.glb())
