"""One finished asset, read from its folder ``assets/<asset_id>/``: every part once, when it is first asked for.

asset = Finished(Path("library/assets/mug"))
asset.mesh, asset.levels, asset.hulls, asset.splat      # metres, +Y up, front +Z, pivot centre-bottom
"""

from __future__ import annotations

import json
import re
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_core.deliverables import PROVENANCE
from pipeline_core.errors import DataError
from pipeline_core.frame import Frame
from pipeline_core.io.gltf import load_glb, load_meshes, read_accessor, read_glb, slug
from pipeline_core.io.ply import load_splat
from pipeline_core.io.xmp import Mark, marked
from pipeline_core.storage import known_sha256
from pipeline_core.types import Gaussians, Mesh, TexturedMesh

MESH, LEVELS, HULLS, SPLAT = "asset.glb", "lods.glb", "collision.glb", "splat.ply"
MAPS = {"BC": "baseColorTexture", "ORM": "metallicRoughnessTexture", "N": "normalTexture", "E": "emissiveTexture"}
"""Suffix of a texture's name, and what a glTF material calls it."""


class Finished:
    """A folder's asset. Raises :class:`DataError` where it is none, or a file is not the one that was delivered."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.told: dict[str, Any] = json.loads((folder / PROVENANCE).read_bytes())
            self.asset_id, self.prompt, self._files = (self.told[name] for name in ("asset_id", "prompt", "files"))
        except FileNotFoundError:
            raise DataError(f"{folder} holds no finished asset ({PROVENANCE} is not there)") from None
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{folder / PROVENANCE} cannot be read ({error!r}): make the asset again") from None

    @property
    def name(self) -> str:
        """A plain name, for files and what is in them."""
        return slug(str(self.asset_id))

    def has(self, file: str) -> bool:
        """Whether the asset was delivered with this file."""
        return file in self._files

    def path(self, file: str) -> Path:
        """A file that was delivered, whole to its last byte."""
        path = self.folder / file
        if not self.has(file):
            raise DataError(f"{self.folder} has no {file}")
        if not path.is_file() or known_sha256(path) != self._files[file]["sha256"]:
            raise DataError(f"{path} is not the file that was delivered: run the asset again, which mends it")
        return path

    @cached_property
    def mark(self) -> Mark:
        """What its files say of their making."""
        return Mark.of(self.told)

    # --- the mesh ---

    @cached_property
    def document(self) -> tuple[dict[str, Any], bytes]:
        """JSON and binary chunk of the asset's GLB."""
        return read_glb(self.path(MESH))

    @cached_property
    def mesh(self) -> TexturedMesh:
        """The asset itself."""
        return load_glb(self.path(MESH), object_units=False)

    @cached_property
    def material(self) -> dict[str, Any]:
        """Its material, as glTF tells it."""
        found: dict[str, Any] = self.document[0]["materials"][0]
        return found

    @cached_property
    def maps(self) -> dict[str, bytes]:
        """The pictures of its material by suffix (:data:`MAPS`), as they lie in the GLB, marked as generated."""
        document, body = self.document
        found = {}
        for suffix, name in MAPS.items():
            info = self.material.get(name) or self.material.get("pbrMetallicRoughness", {}).get(name)
            if info is not None:
                source = document["textures"][info["index"]]["source"]
                view = document["bufferViews"][document["images"][source]["bufferView"]]
                start = view.get("byteOffset", 0)
                data = body[start : start + view["byteLength"]]
                found[suffix] = data if data.startswith(b"\xff\xd8\xff") else marked(data, self.mark, suffix)
        return found

    @cached_property
    def levels(self) -> dict[int, TexturedMesh]:
        """Levels of detail by their numbers, from 1; none where the asset has none."""
        if not self.has(LEVELS):
            return {}
        meshes = load_meshes(self.path(LEVELS), object_units=False)
        found = {int(each[1]): mesh for name, mesh in meshes.items() if (each := re.search(r"_LOD(\d+)$", name))}
        return {number: found[number] for number in sorted(found) if number > 0}

    @cached_property
    def hulls(self) -> list[Mesh]:
        """Convex hulls that together are its collision shape, without one that holds all others (the hull of the whole
        asset, where there are finer ones); none where the asset has none."""
        if not self.has(HULLS):
            return []
        document, body = read_glb(self.path(HULLS))
        found = []
        for mesh in document["meshes"]:
            if mesh.get("name", "").endswith("_hull") and len(document["meshes"]) > 1:
                continue
            primitive = mesh["primitives"][0]
            vertices = read_accessor(document, body, primitive["attributes"]["POSITION"]).astype(np.float32)
            faces = read_accessor(document, body, primitive["indices"]).reshape(-1, 3).astype(np.int32)
            found.append(Mesh(vertices, faces))
        whole = next((each for each in found if all(_holds(each, other) for other in found)), None)
        return [each for each in found if each is not whole] or found

    # --- the splat ---

    @cached_property
    def splat(self) -> Gaussians:
        """Its Gaussians, where the mesh is."""
        gaussians = load_splat(self.path(SPLAT))
        return self.frame.gaussians(gaussians) if self.frame else gaussians

    @cached_property
    def frame(self) -> Frame | None:
        """The way to metres from object units, which the asset's GLB tells; None where it is in object units."""
        told = self.document[0]["asset"].get("extras", {}).get("object_frame")
        return Frame.from_json(told) if told else None


def _holds(hull: Mesh, other: Mesh) -> bool:
    """Whether all of ``other`` lies within a convex hull, to a thousandth of its size."""
    a, b, c = (hull.vertices[hull.faces[:, corner]].astype(np.float64) for corner in range(3))
    normals = np.cross(b - a, c - a)
    normals /= np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    beyond = other.vertices.astype(np.float64) @ normals.T - (normals * a).sum(axis=1)
    return bool(beyond.max() <= 1e-3 * np.ptp(hull.vertices, axis=0).max())
