"""A glTF scene as it is put together: meshes, materials, pictures and nodes, then the bytes of one GLB.

    scene = Scene("oak-crate", extras={"prompt": "an oak crate"})
    material = scene.material("M_oak-crate", base=scene.texture("T_oak-crate_BC", textured.texture))
    scene.node("SM_oak-crate", scene.mesh("SM_oak-crate", [scene.surface(textured, material)]))
    data = scene.glb()

Every method adds one thing and returns its index, by which others refer to it. Geometry lies before pictures in the
file, and the same calls always give the same bytes.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from pipeline_core.errors import DataError
from pipeline_core.io.images import encode_png
from pipeline_core.tangents import tangents
from pipeline_core.types import TexturedMesh

GENERATOR = "splatmill"
MAGIC, JSON_CHUNK, BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
POINTS, TRIANGLES = 0, 4
ROUGHNESS = 0.9
"""Of a material that says nothing of it; its metallic is 0."""
_FLOAT, _USHORT, _UINT = 5126, 5123, 5125
_KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}
_VERTEX_TARGET, _INDEX_TARGET = 34962, 34963
_SUFFIXES = {"texture": "BC", "orm": "ORM", "normal_map": "N", "emissive": "E"}
_IMAGES = {b"\x89PNG": "image/png", b"\xff\xd8\xff": "image/jpeg", b"RIFF": "image/webp"}
_SAMPLER = {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}


class Scene:
    """One scene of any number of nodes.

    Args:
        name: the scene's.
        extras: JSON values stored in ``asset.extras``.
        copyright: ``asset.copyright``.
    """

    def __init__(self, name: str, *, extras: Mapping[str, Any] | None = None, copyright: str | None = None) -> None:
        self.asset: dict[str, Any] = {"version": "2.0", "generator": GENERATOR}
        self.asset |= ({"copyright": copyright} if copyright else {}) | ({"extras": dict(extras)} if extras else {})
        self._name = name
        self._roots: list[int] = []
        self._extensions: dict[str, Any] = {}
        self._used: dict[str, bool] = {}
        self._parts: dict[str, list[dict[str, Any]]] = {
            part: [] for part in ("nodes", "meshes", "materials", "textures", "images", "accessors", "bufferViews")
        }
        self._pictures: list[bytes] = []
        self._body = bytearray()

    # --- geometry ---

    def primitive(
        self,
        attributes: Mapping[str, np.ndarray],
        indices: np.ndarray | None = None,
        *,
        material: int | None = None,
        mode: int = TRIANGLES,
        extensions: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """A primitive for :meth:`mesh`: ``attributes`` by their glTF names, [V] or [V, 2 to 4], written as float32;
        ``indices`` of any shape, written as 16 bits where they fit."""
        count = len(attributes["POSITION"])
        written = {name: self._attribute(name, values) for name, values in attributes.items()}
        primitive: dict[str, Any] = {"attributes": written}
        if indices is not None:
            kind, dtype = (_USHORT, "<u2") if count < 65535 else (_UINT, "<u4")
            flat = np.asarray(indices).reshape(-1)
            view = self._view(flat.astype(dtype).tobytes(), _INDEX_TARGET)
            entry = {"bufferView": view, "componentType": kind, "count": len(flat), "type": "SCALAR"}
            primitive["indices"] = self._add("accessors", entry)
        primitive |= {} if material is None else {"material": material}
        primitive |= {} if mode == TRIANGLES else {"mode": mode}
        return primitive | self._extended(extensions)

    def surface(self, textured: TexturedMesh, material: int, **more: np.ndarray) -> dict[str, Any]:
        """The primitive of ``textured``; with tangents (MikkTSpace's) where it has a normal map, and ``TEXCOORD_1``
        where it has uvs for a light map. ``more``: further attributes by their glTF names."""
        attributes = {
            "POSITION": textured.vertices,
            "NORMAL": unit_normals(textured.normals),
            "TEXCOORD_0": textured.uvs,
        }
        if textured.normal_map is not None:
            attributes["TANGENT"] = tangents(textured.vertices, textured.faces, attributes["NORMAL"], textured.uvs)
        if textured.lightmap_uvs is not None:
            attributes["TEXCOORD_1"] = textured.lightmap_uvs
        return self.primitive(attributes | more, textured.faces, material=material)

    def mesh(self, name: str, primitives: Sequence[Mapping[str, Any]], **more: Any) -> int:
        """A mesh of what :meth:`primitive` and :meth:`surface` return."""
        return self._add("meshes", {"name": name, "primitives": list(primitives)} | more)

    def node(
        self,
        name: str,
        mesh: int | None = None,
        *,
        children: Sequence[int] = (),
        root: bool = True,
        extensions: Mapping[str, Any] | None = None,
        extras: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> int:
        """A node. ``children`` are no roots of the scene; ``root=False`` keeps this one out of it too, as the lower
        levels of MSFT_lod are. ``more``: ``translation``, ``rotation``, ``scale``, ``matrix``."""
        entry: dict[str, Any] = {"name": name} | ({} if mesh is None else {"mesh": mesh}) | more
        entry |= {"children": list(children)} if children else {}
        index = self._add("nodes", entry | self._extended(extensions) | ({"extras": dict(extras)} if extras else {}))
        self._roots = [each for each in self._roots if each not in children] + ([index] if root else [])
        return index

    # --- materials ---

    def texture(self, name: str, picture: np.ndarray | bytes) -> int:
        """A texture: ``picture`` [H, W, 3] is written as a PNG; bytes of a PNG, JPEG or WebP stay as they are."""
        data = picture if isinstance(picture, bytes) else encode_png(picture)
        kind = next((kind for start, kind in _IMAGES.items() if data.startswith(start)), None)
        if kind is None:
            raise DataError(f"the picture of {name!r} is neither PNG, JPEG nor WebP: it starts with {data[:8]!r}")
        self._pictures.append(data)
        source = self._add("images", {"name": name, "mimeType": kind})
        if kind != "image/webp":
            return self._add("textures", {"name": name, "sampler": 0, "source": source})
        webp = self._extended({"EXT_texture_webp": {"source": source}}, required=True)
        return self._add("textures", {"name": name, "sampler": 0} | webp)

    def material(
        self,
        name: str,
        *,
        base: int | None = None,
        orm: int | None = None,
        normal: int | None = None,
        emissive: int | None = None,
        metallic: float | None = None,
        roughness: float | None = None,
        extensions: Mapping[str, Any] | None = None,
        **more: Any,
    ) -> int:
        """A metallic-roughness material of textures: base colour, ORM (occlusion, roughness, metallic in red, green,
        blue), normals, emitted light. The factors are 1 with an ORM texture, else 0 and :data:`ROUGHNESS`."""
        plain = (0.0, ROUGHNESS) if orm is None else (1.0, 1.0)
        pbr: dict[str, Any] = {} if base is None else {"baseColorTexture": {"index": base}}
        pbr |= {} if orm is None else {"metallicRoughnessTexture": {"index": orm}}
        pbr["metallicFactor"] = plain[0] if metallic is None else metallic
        pbr["roughnessFactor"] = plain[1] if roughness is None else roughness
        entry: dict[str, Any] = {"name": name, "pbrMetallicRoughness": pbr}
        entry |= {} if normal is None else {"normalTexture": {"index": normal}}
        entry |= {} if orm is None else {"occlusionTexture": {"index": orm}}
        entry |= {} if emissive is None else {"emissiveTexture": {"index": emissive}, "emissiveFactor": [1.0, 1.0, 1.0]}
        return self._add("materials", entry | more | self._extended(extensions))

    def material_of(self, textured: TexturedMesh, stem: str) -> int:
        """The material ``M_<stem>`` of ``textured``, with all maps that it has as textures ``T_<stem>_...``."""
        maps = {field: getattr(textured, field) for field in _SUFFIXES}
        made = {f: self.texture(f"T_{stem}_{_SUFFIXES[f]}", each) for f, each in maps.items() if each is not None}
        base, orm, normal, emissive = (made.get(field) for field in _SUFFIXES)
        return self.material(f"M_{stem}", base=base, orm=orm, normal=normal, emissive=emissive)

    # --- the file ---

    def extend(self, extension: str, data: Any = None, *, required: bool = False) -> None:
        """Declare an extension; ``data`` is what the document itself says of it."""
        self._used[extension] = self._used.get(extension, False) or required
        if data is not None:
            self._extensions[extension] = data

    def glb(self) -> bytes:
        """The file. The scene is done with this."""
        for image, data in zip(self._parts["images"], self._pictures, strict=True):
            image["bufferView"] = self._view(data)
        self._body.extend(b"\0" * (-len(self._body) % 4))
        parts = {name: entries for name, entries in self._parts.items() if entries}
        scene: dict[str, Any] = {"name": self._name} | ({"nodes": self._roots} if self._roots else {})
        document: dict[str, Any] = {"asset": self.asset, "scene": 0, "scenes": [scene]}
        names = ("nodes", "meshes", "materials", "textures", "images")
        document |= {name: parts[name] for name in names if name in parts}
        document |= {"samplers": [_SAMPLER]} if "textures" in parts else {}
        document |= {name: parts[name] for name in ("accessors", "bufferViews") if name in parts}
        document |= {"buffers": [{"byteLength": len(self._body)}]} if self._body else {}
        required = [name for name, needed in self._used.items() if needed]
        document |= {"extensionsUsed": list(self._used)} if self._used else {}
        document |= {"extensionsRequired": required} if required else {}
        document |= {"extensions": self._extensions} if self._extensions else {}
        return pack(document, bytes(self._body))

    # --- parts ---

    def _add(self, part: str, entry: dict[str, Any]) -> int:
        self._parts[part].append(entry)
        return len(self._parts[part]) - 1

    def _extended(self, extensions: Mapping[str, Any] | None, *, required: bool = False) -> dict[str, Any]:
        for extension in extensions or ():
            self.extend(extension, required=required)
        return {"extensions": dict(extensions)} if extensions else {}

    def _view(self, data: bytes, target: int | None = None) -> int:
        self._body.extend(b"\0" * (-len(self._body) % 4))
        entry = {"buffer": 0, "byteOffset": len(self._body), "byteLength": len(data)}
        self._body.extend(data)
        return self._add("bufferViews", entry | ({"target": target} if target else {}))

    def _attribute(self, name: str, values: np.ndarray) -> int:
        values = np.asarray(values).astype("<f4")
        entry: dict[str, Any] = {
            "bufferView": self._view(values.tobytes(), _VERTEX_TARGET),
            "componentType": _FLOAT,
            "count": len(values),
            "type": _KINDS[1 if values.ndim == 1 else values.shape[1]],
        }
        if name == "POSITION":
            entry |= {"min": values.min(axis=0).tolist(), "max": values.max(axis=0).tolist()}
        return self._add("accessors", entry)


def pack(document: Mapping[str, Any], body: bytes) -> bytes:
    """The GLB of a document and its binary chunk, whose length is a multiple of 4."""
    text = json.dumps(document, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), JSON_CHUNK) + text
    chunks += struct.pack("<II", len(body), BINARY_CHUNK) + body if body else b""
    return struct.pack("<III", MAGIC, 2, 12 + len(chunks)) + chunks


def unit_normals(normals: np.ndarray) -> np.ndarray:
    """``normals`` [V, 3] float32 of length one; zero and non-finite rows become +Y, which validators accept."""
    wide = np.nan_to_num(normals.astype(np.float64))
    length = np.linalg.norm(wide, axis=1, keepdims=True)
    return np.where(length > 1e-12, wide / np.maximum(length, 1e-12), [0.0, 1.0, 0.0]).astype(np.float32)
