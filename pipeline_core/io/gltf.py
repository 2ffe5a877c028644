"""GLB files: written with one mesh, one material and its textures; what a game engine expects of a prop.

    save_glb("asset.glb", textured, name="oak-crate", height_m=0.8, extras={"prompt": "an oak crate", "seed": 3})

Written by hand (:mod:`pipeline_core.io.scene`, for files of several meshes too) because glTF is small and every byte is
then ours: normals, buffer-view targets, 16-bit indices where they fit, names ``SM_``/``M_``/``T_<slug>``, the maps as
embedded PNGs, metallic 0 and roughness 0.9 where no map says more, tangents where there is a normal map, and provenance
in ``asset.extras``. The Khronos validator finds no error, warning or hint, and the tests hold it to its rules. The same
mesh always gives the same bytes.

With ``height_m`` the asset is scaled to that height in metres and stands centre-bottom on the origin; the way back to
object units is kept in ``asset.extras.object_frame`` and :func:`load_glb` undoes it, so that an exported asset can be
compared with the Gaussians it came from.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pipeline_core.errors import DataError
from pipeline_core.files import write_bytes
from pipeline_core.frame import Frame, frame_of
from pipeline_core.io.images import decode_image
from pipeline_core.io.scene import BINARY_CHUNK, JSON_CHUNK, MAGIC, Scene
from pipeline_core.io.surface import Surface, check_count, corners_of
from pipeline_core.spec import AssetSpec
from pipeline_core.types import TexturedMesh, rotation_matrices

_COMPONENTS = {5120: "i1", 5121: "u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
_WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}


def slug(name: str) -> str:
    """``name`` in lower case with everything but a-z, 0-9, _ and - turned into one hyphen; starts with a letter."""
    text = re.sub(r"[^a-z0-9_]+", "-", name.lower()).strip("-_")[:64].rstrip("-_")
    return text if text and text[0].isalpha() else f"asset-{text}".rstrip("-")


def save_glb(
    path: str | Path,
    textured: TexturedMesh,
    *,
    name: str = "",
    height_m: float | None = None,
    frame: Frame | None = None,
    extras: Mapping[str, Any] | None = None,
    copyright: str | None = None,
) -> None:
    """Write ``textured`` to ``path``.

    Args:
        name: any text; its slug names the node, mesh (``SM_``), material (``M_``) and texture (``T_``). The file's name
            without its ending where none is given.
        height_m: height of the bounding box in metres, standing centre-bottom on the origin; None keeps object units.
        frame: where it stands instead: the frame of the asset that it belongs to (:func:`frame_of`).
        extras: JSON values stored in ``asset.extras`` (asset id, prompt, seed, model ids, code version, licence).
        copyright: ``asset.copyright``.
    """
    name = name or Path(path).stem
    data = glb_bytes(textured, name=name, height_m=height_m, frame=frame, extras=extras, copyright=copyright)
    write_bytes(Path(path), data)


def export(source: Path, target: Path, *, spec: AssetSpec, provenance: Mapping[str, Any]) -> None:
    """Write the deliverable ``target``: the GLB ``source`` in metres, named by the asset, with what made it."""
    extras = {name: provenance[name] for name in ("asset_id", "prompt", "seed", "models", "code_version")}
    frame = Frame.from_json(provenance["frame"])
    save_glb(target, load_glb(source), name=spec.asset_id, frame=frame, extras=extras)


def glb_bytes(
    textured: TexturedMesh,
    *,
    name: str,
    height_m: float | None = None,
    frame: Frame | None = None,
    extras: Mapping[str, Any] | None = None,
    copyright: str | None = None,
) -> bytes:
    """The bytes that :func:`save_glb` writes."""
    if len(textured.faces) == 0 or len(textured.vertices) == 0:
        raise DataError(f"{name!r}: a GLB needs at least one triangle; the mesh is empty")
    if frame is None and height_m is not None:
        frame = frame_of(textured.vertices, height_m)
    stem = slug(name)
    extras = dict(extras or {})
    if frame is not None:
        extras["object_frame"] = frame.to_json()
        moved, normals = frame.points(textured.vertices), frame.normals(textured.normals)
        textured = replace(textured, vertices=moved, normals=normals)
    scene = Scene(stem, extras=extras, copyright=copyright)
    surface = scene.surface(textured, scene.material_of(textured, stem))
    scene.node(f"SM_{stem}", scene.mesh(f"SM_{stem}", [surface]))
    return scene.glb()


def read_glb(path: str | Path) -> tuple[dict[str, Any], bytes]:
    """JSON document and binary chunk of a GLB. Raises :class:`DataError` when the container is damaged."""
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    if len(data) < 20 or struct.unpack_from("<I", data)[0] != MAGIC:
        raise DataError(f"{path} is not a GLB file: it starts with {data[:8]!r}")
    _, version, length = struct.unpack_from("<III", data)
    if version != 2 or length != len(data):
        raise DataError(f"{path}: GLB version {version} (want 2), header says {length} bytes, the file has {len(data)}")
    document, body, offset = None, b"", 12
    while offset + 8 <= length:
        size, kind = struct.unpack_from("<II", data, offset)
        chunk = data[offset + 8 : offset + 8 + size]
        if len(chunk) != size:
            raise DataError(f"{path}: a GLB chunk of {size} bytes runs past the end of the file")
        if kind == JSON_CHUNK and document is None:
            try:
                document = json.loads(chunk)
            except ValueError as error:
                raise DataError(f"{path}: the JSON chunk cannot be read: {error}") from None
        elif kind == BINARY_CHUNK and not body:
            body = chunk
        offset += 8 + size
    if not isinstance(document, dict):
        raise DataError(f"{path} has no JSON chunk")
    return document, body


def read_accessor(document: Mapping[str, Any], body: bytes, index: int) -> np.ndarray:
    """Values of an accessor [count, width] (or [count] for SCALAR), honouring strides; normalised integers become
    floats, sparse accessors are refused."""
    entry = document["accessors"][index]
    if "sparse" in entry or "bufferView" not in entry:
        raise DataError(f"accessor {index} is sparse or empty; export the file with plain accessors")
    view = document["bufferViews"][entry["bufferView"]]
    dtype, width = np.dtype(_COMPONENTS[entry["componentType"]]), _WIDTHS[entry["type"]]
    start = view.get("byteOffset", 0) + entry.get("byteOffset", 0)
    stride = view.get("byteStride", dtype.itemsize * width)
    end = start + stride * (entry["count"] - 1) + dtype.itemsize * width
    if entry["count"] < 1 or end > len(body) or end - view.get("byteOffset", 0) > view["byteLength"]:
        raise DataError(f"accessor {index} reads to byte {end} of a buffer of {len(body)}")
    values = np.ndarray((entry["count"], width), dtype, body, start, (stride, dtype.itemsize)).copy()
    if entry.get("normalized") and dtype.kind in "iu":
        values = np.maximum(values / np.iinfo(dtype).max, -1.0)
    return values[:, 0] if entry["type"] == "SCALAR" else values


def load_glb(path: str | Path, *, object_units: bool = True) -> TexturedMesh:
    """The first mesh of a GLB with a textured material, as written by :func:`save_glb`; its maps are read with it, and
    its ``TEXCOORD_1`` as the uvs of its light map.

    With ``object_units`` the scaling to metres is undone where the file tells it.
    """
    meshes = load_meshes(path, object_units=object_units)
    if not meshes:
        raise DataError(f"{path} lacks a textured mesh: none of its meshes has a base-colour texture")
    return next(iter(meshes.values()))


def load_meshes(path: str | Path, *, object_units: bool = True) -> dict[str, TexturedMesh]:
    """The textured meshes of a GLB by their names, in order; of a mesh the first primitive. Maps that several share
    are decoded once; nodes' transforms are left out, for :mod:`pipeline_core.io.scene`'s files have none."""
    document, body = read_glb(path)
    pictures: dict[int, np.ndarray] = {}

    def picture(info: Mapping[str, Any] | None) -> np.ndarray | None:
        if info is None:
            return None
        if info["index"] not in pictures:
            pictures[info["index"]] = _picture(document, body, info["index"], f"the texture of {path}")
        return pictures[info["index"]]

    found: dict[str, TexturedMesh] = {}
    try:
        frame = document["asset"].get("extras", {}).get("object_frame") if object_units else None
        for number, mesh in enumerate(document["meshes"]):
            primitive = mesh["primitives"][0]
            material = document["materials"][primitive["material"]] if "material" in primitive else {}
            pbr = material.get("pbrMetallicRoughness", {})
            texture = picture(pbr.get("baseColorTexture"))
            if texture is None:
                continue
            position, normal, uv = (
                read_accessor(document, body, primitive["attributes"][key]).astype(np.float32)
                for key in ("POSITION", "NORMAL", "TEXCOORD_0")
            )
            if frame:
                back = Frame.from_json(frame)
                position, normal = back.units(position), back.inverse().normals(normal)
            faces = read_accessor(document, body, primitive["indices"]).reshape(-1, 3).astype(np.int32)
            normals, emissive = (picture(material.get(f"{name}Texture")) for name in ("normal", "emissive"))
            orm = picture(pbr.get("metallicRoughnessTexture"))
            name = mesh.get("name", str(number))
            second = primitive["attributes"].get("TEXCOORD_1")
            lightmap = None if second is None else read_accessor(document, body, second).astype(np.float32)
            found[name] = TexturedMesh(position, faces, normal, uv, texture, normals, orm, emissive, lightmap)
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{path} lacks a part of a textured mesh: {error!r} (wanted positions, normals, uvs, indices, texture)"
        ) from None
    return found


def bounds(path: str | Path) -> np.ndarray:
    """Least and greatest corner [2, 3] of the meshes of a GLB, as its accessors tell them."""
    document, _ = read_glb(path)
    try:
        corners = [document["accessors"][each["attributes"]["POSITION"]] for each in _primitives(document)]
        low, high = (np.array([each[end] for each in corners], np.float64) for end in ("min", "max"))
        return np.stack([low.min(axis=0), high.max(axis=0)])
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{path} does not tell the bounds of its meshes: {error!r}") from None


def _picture(document: Mapping[str, Any], body: bytes, texture: int, origin: str) -> np.ndarray:
    """Picture [H, W, 3] of a texture."""
    entry = document["textures"][texture]
    webp = entry.get("extensions", {}).get("EXT_texture_webp", {})
    view = document["bufferViews"][document["images"][webp.get("source", entry.get("source"))]["bufferView"]]
    start = view.get("byteOffset", 0)
    return decode_image(body[start : start + view["byteLength"]], origin)


# --- what others wrote -----------------------------------------------------------------------------------------------

UNDERSTOOD = ("KHR_mesh_quantization", "KHR_texture_transform", "EXT_texture_webp", "KHR_materials_")
"""Extensions that a file may require: materials keep their base colour."""


def load_surfaces(path: Path) -> list[Surface]:
    """The triangles of a GLB's scene: nodes placed, colours from base colour (factor, texture) and vertices."""
    try:
        document, body = read_glb(path)
        _refuse_other_files(document)
        vertices = [document["accessors"][p["attributes"]["POSITION"]]["count"] for p in _primitives(document)]
        check_count(path, sum(vertices), "vertices")
        check_count(path, max((each["count"] for each in document["accessors"]), default=0) // 3, "triangles")
        surfaces: list[Surface] = []
        for matrix, mesh in _placed(document):
            for primitive in document["meshes"][mesh]["primitives"]:
                if primitive.get("mode", 4) == 4:
                    surfaces.append(_surface(path, document, body, primitive, matrix))
                elif primitive["mode"] > 4:
                    raise DataError("has triangle strips or fans; export it with plain triangles")
            check_count(path, sum(len(each.corners) for each in surfaces), "triangles")
    except DataError as error:
        raise DataError(str(error) if str(error).startswith(str(path)) else f"{path}: {error}") from None
    except (KeyError, IndexError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise DataError(f"{path} is not a whole glTF scene: {error!r}") from None
    return surfaces


def _primitives(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [primitive for mesh in document.get("meshes", ()) for primitive in mesh["primitives"]]


def _refuse_other_files(document: Mapping[str, Any]) -> None:
    """Everything must lie in the one file, in a form that is understood."""
    unknown = [name for name in document.get("extensionsRequired", ()) if not name.startswith(UNDERSTOOD)]
    if unknown:
        raise DataError(f"needs {', '.join(unknown)}, which is not supported; export it without (Draco, meshopt, KTX2)")
    for part in (*document.get("buffers", ()), *document.get("images", ())):
        if "uri" in part:
            raise DataError(f"has data in another file ({str(part['uri'])[:60]}); export it as one GLB")


def _placed(document: Mapping[str, Any]) -> Iterator[tuple[np.ndarray, int]]:
    """World matrix [4, 4] and mesh of each node of the scene that has one."""
    nodes = document.get("nodes", [])
    below = {child for node in nodes for child in node.get("children", ())}
    scenes, everything = document.get("scenes", []), [i for i in range(len(nodes)) if i not in below]
    roots = scenes[document.get("scene", 0)].get("nodes", []) if scenes else everything
    todo, left = [(root, np.eye(4)) for root in roots], len(nodes)
    while todo:
        index, matrix = todo.pop()
        left -= 1
        if left < 0:
            raise DataError("its nodes are no tree")
        node = nodes[index]
        matrix = matrix @ _matrix(node)
        if "mesh" in node:
            yield matrix, node["mesh"]
        todo += [(child, matrix) for child in node.get("children", ())]


def _matrix(node: Mapping[str, Any]) -> np.ndarray:
    if "matrix" in node:
        return np.array(node["matrix"], dtype=np.float64).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0, 0, 0, 1))
    matrix = np.eye(4)
    rotation = rotation_matrices(torch.tensor([[w, x, y, z]], dtype=torch.float64))[0].numpy()
    matrix[:3, :3] = rotation * np.array(node.get("scale", (1, 1, 1)))
    matrix[:3, 3] = node.get("translation", (0, 0, 0))
    return matrix


def _surface(
    path: Path, document: Mapping[str, Any], body: bytes, primitive: Mapping[str, Any], matrix: np.ndarray
) -> Surface:
    attributes = primitive["attributes"]
    position = read_accessor(document, body, attributes["POSITION"]).astype(np.float64)
    index = primitive.get("indices")
    order = np.arange(len(position)) if index is None else read_accessor(document, body, index).astype(np.int64)
    faces = order[: len(order) // 3 * 3].reshape(-1, 3)
    material = document["materials"][primitive["material"]] if "material" in primitive else {}
    base = material.get("pbrMetallicRoughness", {})
    colours = np.ones((len(position), 3)) * np.array(base.get("baseColorFactor", (1, 1, 1, 1)), dtype=np.float64)[:3]
    if "COLOR_0" in attributes:
        colours *= read_accessor(document, body, attributes["COLOR_0"])[:, :3]
    at = corners_of(path, np.concatenate([position @ matrix[:3, :3].T + matrix[:3, 3], colours], axis=1), faces)
    textured: dict[str, Any] = {}
    if "baseColorTexture" in base:
        uvs, textured["texture"] = _texture(document, body, base["baseColorTexture"], attributes)
        textured["uvs"] = corners_of(path, uvs, faces)
    return Surface(at[..., :3], at[..., 3:], linear=True, **textured)


def _texture(
    document: Mapping[str, Any], body: bytes, info: Mapping[str, Any], attributes: Mapping[str, int]
) -> tuple[np.ndarray, np.ndarray]:
    """uvs [V, 2] and picture [H, W, 3] of a material's texture."""
    move = info.get("extensions", {}).get("KHR_texture_transform", {})
    uvs = read_accessor(document, body, attributes[f"TEXCOORD_{move.get('texCoord', info.get('texCoord', 0))}"])
    angle, scale = move.get("rotation", 0.0), np.array(move.get("scale", (1, 1)))
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    picture = _picture(document, body, info["index"], "its texture")
    return (uvs * scale) @ turn.T + np.array(move.get("offset", (0, 0))), picture
