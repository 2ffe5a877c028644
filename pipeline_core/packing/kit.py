"""Several assets as a kit: one atlas, one material, one number of texels a metre.

    kit = make_kit("tavern", [Finished(folder) for folder in folders], most=4096)
    write(kit, Path("shipped"), profile("unreal"))

Every asset's page goes into the atlas whole, scaled so that all assets have the same texel density: that of the finest,
or as much of it as the atlas has room for; :attr:`Kit.scales` tells by how much each was scaled. Pages are resampled as
textures are sampled, bilinearly, and have a border of their own colours for the smaller mip levels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pipeline_core.errors import DataError
from pipeline_core.files import write_bytes, write_json
from pipeline_core.io.images import encode_png
from pipeline_core.io.scene import ROUGHNESS, Scene
from pipeline_core.io.xmp import Mark, glb_parts, mark_file, marked
from pipeline_core.metrics.mesh_health import face_areas
from pipeline_core.packing.finished import Finished
from pipeline_core.packing.glb import add_asset
from pipeline_core.packing.profiles import Profile
from pipeline_core.types import Mesh, TexturedMesh

BORDER = 8
"""Texels of its own edge around each page: three mip levels without a neighbour's colours."""
LEAST, MOST = 256, 8192
NEUTRAL = {"orm": (1.0, ROUGHNESS, 0.0), "normal_map": (0.5, 0.5, 1.0), "emissive": (0.0, 0.0, 0.0)}
"""What an asset without a map has in a kit with one."""
_SUFFIXES = {"texture": "BC", "orm": "ORM", "normal_map": "N", "emissive": "E"}
KEPT = 0.8
"""An atlas is large enough where the finest asset keeps this share of its texels a side: twice the size is four times
the memory."""
MOST_SPREAD = 1.1
"""Largest texel density of a kit over its smallest, where pages are few texels wide."""
GAP = 0.25
"""Share of the widest asset that lies between two in the kit's scene."""


@dataclass(frozen=True)
class Place:
    """A page in the atlas: its upper left corner and side, in texels."""

    x: int
    y: int
    side: int


@dataclass(frozen=True)
class Member:
    """An asset in a kit: what ``packing.glb`` asks of a :class:`Finished`, with uvs of the kit's atlas."""

    name: str
    mesh: TexturedMesh
    levels: Mapping[int, TexturedMesh]
    hulls: Sequence[Mesh]


@dataclass(frozen=True)
class Kit:
    """``maps`` [P, P, 3] by their names in :class:`TexturedMesh`; ``scales`` and ``densities`` (texels a metre) by
    asset."""

    name: str
    size: int
    maps: Mapping[str, np.ndarray]
    members: Sequence[Member]
    places: Mapping[str, Place]
    scales: Mapping[str, float]
    densities: Mapping[str, float]
    mark: Mark

    @property
    def spread(self) -> float:
        """Largest texel density over the smallest; 1 = equal."""
        return max(self.densities.values()) / min(self.densities.values())


def make_kit(name: str, assets: Sequence[Finished], *, most: int = 4096) -> Kit:
    """The kit ``name`` of ``assets`` on an atlas of at most ``most`` texels a side, a power of two.

    Raises :class:`DataError` where it has none, or two of one name, or no atlas of that size holds them.
    """
    names = [each.name for each in assets]
    twice = next((each for each in names if names.count(each) > 1), None)
    if not assets or twice:
        raise DataError(f"kit {name!r}: {f'two assets are called {twice}' if twice else 'it has no asset'}")
    if most & (most - 1) or not LEAST <= most <= MOST:
        raise DataError(f"kit {name!r}: an atlas of {most} texels a side; give a power of two from {LEAST} to {MOST}")
    meshes = {each.name: each.mesh for each in assets}
    densities = {key: density(mesh) for key, mesh in meshes.items()}
    pages = {key: mesh.texture.shape[0] for key, mesh in meshes.items()}
    size, places = _fit(name, {key: pages[key] / densities[key] for key in names}, max(densities.values()), most)
    scales = {key: places[key].side / pages[key] for key in names}
    members = [
        Member(
            each.name,
            _moved(each.mesh, places[each.name], size),
            {number: _moved(level, places[each.name], size) for number, level in each.levels.items()},
            each.hulls,
        )
        for each in assets
    ]
    fields = [
        "texture",
        *(field for field in NEUTRAL if any(getattr(mesh, field) is not None for mesh in meshes.values())),
    ]
    maps = {field: _atlas(field, meshes, places, size) for field in fields}
    reached = {key: densities[key] * scales[key] for key in names}
    if max(reached.values()) > MOST_SPREAD * min(reached.values()):
        raise DataError(f"kit {name!r}: its assets are too unlike in size for an atlas of {size} texels; make several")
    members = [replace(each, mesh=_with_maps(each.mesh, maps)) for each in members]
    return Kit(name, size, maps, members, places, scales, reached, Mark.of(*(each.told for each in assets), title=name))


def density(mesh: TexturedMesh) -> float:
    """Texels a metre of a mesh in metres, over its whole surface."""
    corner = mesh.uvs[mesh.faces].astype(np.float64)
    a, b = corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]
    charts = np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]).sum() / 2
    return mesh.texture.shape[0] * float(np.sqrt(charts / max(face_areas(mesh.vertices, mesh.faces).sum(), 1e-30)))


# --- the atlas -------------------------------------------------------------------------------------------------------


def _fit(name: str, sides_m: Mapping[str, float], wanted: float, most: int) -> tuple[int, dict[str, Place]]:
    """The smallest atlas, a power of two, that holds pages of ``sides_m`` metres at nearly ``wanted`` texels a metre,
    else the largest one; and the places at as many as it holds."""
    size = min(LEAST, most)
    while True:
        texels = _densest(sides_m, wanted, size)
        if texels >= KEPT * wanted or size >= most:
            break
        size *= 2
    if not texels:
        raise DataError(f"kit {name!r}: {len(sides_m)} assets do not fit into {most} texels; give it a larger --size")
    return size, pack_squares(_sides(sides_m, texels), size)


def _densest(sides_m: Mapping[str, float], wanted: float, size: int) -> float:
    """Most texels a metre, up to ``wanted``, at which the pages fit; 0 where they never do."""
    if pack_squares(_sides(sides_m, wanted), size):
        return wanted
    low, high = 0.0, wanted
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if pack_squares(_sides(sides_m, middle), size) else (low, middle)
    return low


def _sides(sides_m: Mapping[str, float], texels: float) -> dict[str, int]:
    return {key: max(1, round(side * texels)) for key, side in sides_m.items()}


def pack_squares(sides: Mapping[str, int], size: int) -> dict[str, Place]:
    """Places of squares with their borders in a square of ``size``, largest first in the lowest corner that is free;
    none where one does not fit."""
    skyline, places = [(0, 0, size)], {}  # height over each stretch: x, y, width
    for key in sorted(sides, key=lambda each: (-sides[each], each)):
        side = sides[key] + 2 * BORDER
        spots = [(max(y for _, y, _ in under), x) for x, under in _spots(skyline, side, size)]
        if not spots or min(spots)[0] + side > size:
            return {}
        y, x = min(spots)
        places[key] = Place(x + BORDER, y + BORDER, sides[key])
        skyline = _raised(skyline, x, side, y + side)
    return places


def _spots(skyline: list[tuple[int, int, int]], side: int, size: int) -> list[tuple[int, list[tuple[int, int, int]]]]:
    """Where a square may begin, and the stretches below it."""
    return [
        (x, [each for each in skyline if each[0] < x + side and each[0] + each[2] > x])
        for x, _, _ in skyline
        if x + side <= size
    ]


def _raised(skyline: list[tuple[int, int, int]], x: int, side: int, top: int) -> list[tuple[int, int, int]]:
    kept = []
    for left, y, width in skyline:
        right = left + width
        if left < x:
            kept.append((left, y, min(right, x) - left))
        if right > x + side:
            begin = max(left, x + side)
            kept.append((begin, y, right - begin))
    return sorted([*kept, (x, top, side)])


def _moved(mesh: TexturedMesh, place: Place, size: int) -> TexturedMesh:
    """``mesh`` with uvs of its place in the atlas."""
    uvs = (mesh.uvs.astype(np.float64) * place.side + (place.x, place.y)) / size
    return replace(mesh, uvs=uvs.astype(np.float32))


def _with_maps(mesh: TexturedMesh, maps: Mapping[str, np.ndarray | None]) -> TexturedMesh:
    return replace(mesh, **{field: maps.get(field) for field in _SUFFIXES})  # type: ignore[arg-type]


def _atlas(field: str, meshes: Mapping[str, TexturedMesh], places: Mapping[str, Place], size: int) -> np.ndarray:
    """One map of the kit [P, P, 3] float32."""
    atlas = np.empty((size, size, 3), np.float32)
    atlas[:] = NEUTRAL.get(field, (0.5, 0.5, 0.5))
    for key, place in places.items():
        page = getattr(meshes[key], field)
        if page is None:
            continue
        page = np.pad(_resampled(page, place.side), ((BORDER, BORDER), (BORDER, BORDER), (0, 0)), mode="edge")
        if field == "normal_map":
            normal = page * 2 - 1
            page = normal / np.maximum(np.linalg.norm(normal, axis=2, keepdims=True), 1e-6) / 2 + 0.5
        whole = place.side + 2 * BORDER
        atlas[place.y - BORDER :, place.x - BORDER :][:whole, :whole] = page
    return atlas


def _resampled(page: np.ndarray, side: int) -> np.ndarray:
    """``page`` [H, W, 3] with ``side`` texels a side: interpolated as textures are, averaged where it shrinks."""
    if page.shape[:2] == (side, side):
        return page
    channels = [Image.fromarray(np.ascontiguousarray(page[..., c], np.float32)) for c in range(3)]
    return np.stack([np.asarray(each.resize((side, side), Image.Resampling.BILINEAR)) for each in channels], axis=2)


# --- files -----------------------------------------------------------------------------------------------------------


def write(kit: Kit, folder: Path, profile: Profile) -> list[Path]:
    """Write the kit into ``folder``; returns its files.

    ``<kit>.glb`` has all assets as nodes side by side, each standing on its own origin. ``<kit>/`` has the maps as
    pictures, and each asset as ``.gltf`` and ``.bin`` that name them, for what loads assets one by one and keeps one
    texture. ``<kit>.json`` says where each page lies.
    """
    pictures = {_SUFFIXES[field]: marked(encode_png(each), kit.mark) for field, each in kit.maps.items()}
    scene, material = _scene(kit, pictures)
    at = 0.0
    gap = GAP * max(float(np.ptp(each.mesh.vertices[:, 0])) for each in kit.members)
    for member in kit.members:
        half = float(np.ptp(member.mesh.vertices[:, 0])) / 2
        add_asset(scene, member, profile, material, translation=[at + half, 0.0, 0.0])
        at += 2 * half + gap
    written = [folder / f"{kit.name}.glb"]
    write_bytes(written[0], scene.glb())
    mark_file(written[0], kit.mark)
    below = folder / kit.name
    for suffix, data in pictures.items():
        written.append(below / f"T_{kit.name}_{suffix}.png")
        write_bytes(written[-1], data)
    for member in kit.members:
        written += _write_apart(kit, member, below, profile)
    written.append(folder / f"{kit.name}.json")
    write_json(written[-1], _told(kit))
    return written


def _scene(kit: Kit, pictures: Mapping[str, bytes]) -> tuple[Scene, int]:
    scene = Scene(kit.name, extras={"kit": kit.name, "assets": [each.name for each in kit.members]})
    made = {suffix: scene.texture(f"T_{kit.name}_{suffix}", data) for suffix, data in pictures.items()}
    base, orm, normal, emissive = (made.get(suffix) for suffix in _SUFFIXES.values())
    return scene, scene.material(f"M_{kit.name}", base=base, orm=orm, normal=normal, emissive=emissive)


def _write_apart(kit: Kit, member: Member, folder: Path, profile: Profile) -> list[Path]:
    """One asset as glTF whose maps are the kit's pictures."""
    dot = encode_png(np.zeros((1, 1, 3)))  # in the place of each picture, which no file keeps
    scene, material = _scene(kit, {_SUFFIXES[field]: dot for field in kit.maps})
    add_asset(scene, member, profile, material)
    document, body = glb_parts(marked(scene.glb(), kit.mark))
    views = {each["bufferView"] for each in document["images"]}
    for image in document["images"]:
        del image["bufferView"], image["mimeType"]
        image["uri"] = f"{image['name']}.png"
    length = min(document["bufferViews"][view]["byteOffset"] for view in views)  # pictures lie behind geometry
    document["bufferViews"] = document["bufferViews"][: min(views)]
    stem = profile.mesh_of(member.name)
    document["buffers"] = [{"uri": f"{stem}.bin", "byteLength": length}]
    write_bytes(folder / f"{stem}.bin", body[:length])
    text = json.dumps(document, ensure_ascii=False, allow_nan=False)
    write_bytes(folder / f"{stem}.gltf", text.encode())
    return [folder / f"{stem}.gltf", folder / f"{stem}.bin"]


def _told(kit: Kit) -> dict[str, Any]:
    return {
        "kit": kit.name,
        "size": kit.size,
        "texels_per_metre": min(kit.densities.values()),
        "spread": kit.spread,
        "assets": {
            each.name: vars(kit.places[each.name])
            | {"scale": kit.scales[each.name], "texels_per_metre": kit.densities[each.name]}
            for each in kit.members
        },
    }
