"""What is wrong with a GLB: its structure, the numbers in it, its surface, its atlas and its pictures.

    for finding in check_glb(*read_glb("asset.glb")): print(finding.code, finding.message)

Codes are the Khronos validator's where it has the rule (``ACCESSOR_VECTOR3_NON_UNIT``); rules of engines are named in
the same style (``MESH_OPEN``). Files of several nodes, such as levels of detail and collision hulls, are looked at mesh
by mesh. Lengths are in the file's own unit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np

from pipeline_core.errors import DataError
from pipeline_core.findings import Finding
from pipeline_core.io.gltf import read_accessor
from pipeline_core.io.images import decode_image
from pipeline_core.meshing.crossings import crossing_faces
from pipeline_core.meshing.surface import edge_counts
from pipeline_core.metrics.mesh_health import atlas_scores, face_areas, piece_scores, weld
from pipeline_core.types import TexturedMesh

UNIT_TOLERANCE = 0.00674
"""Largest deviation of a normal's length from one, as in the Khronos validator."""
MOST_OVERLAP = 0.002
"""Share of the atlas that may lie in two charts: what the edges of neighbouring charts share when it is sampled."""
LOD = re.compile(r"_LOD(\d+)$")
COLLISION = re.compile(r"^(COL|UCX|UBX|USP)_|-(convcol|col)(only)?$")
"""Names by which engines know a hull."""
MOST_HULL_VERTICES, MOST_HULLS = 32, 8

Document = Mapping[str, Any]
Mesh = tuple[np.ndarray, np.ndarray]
"""Positions [V, 3] and faces [F, 3]."""


def check_glb(document: Document, body: bytes, *, hulls: bool = False) -> list[Finding]:
    """Everything wrong with the file; empty when nothing is. Where its structure is broken, nothing more is said.

    ``hulls``: every mesh is one of a collision shape, whatever its name.
    """
    found = list(_structure(document, body))
    if found:
        return found
    meshes: list[list[Mesh]] = []
    for mesh in document.get("meshes", ()):
        parts = []
        for primitive in mesh["primitives"]:
            found += _primitive(document, body, primitive)
            if primitive.get("mode", 4) == 4 and "indices" in primitive:
                parts.append(triangles(document, body, primitive))
        meshes.append(parts)
    if any(each.severity == "error" for each in found):
        return found
    solid = [(name, index) for name, index in _named_meshes(document) if hulls or COLLISION.search(name)]
    for name, index in _named_meshes(document):
        if meshes[index]:
            found += (_hull if (name, index) in solid else _surface)(name, meshes[index])
    found += _levels(document, meshes)
    finer = sum(not name.endswith("_hull") for name, _ in solid)  # that one is the whole's
    if finer > MOST_HULLS:
        found.append(Finding("COLLISION_HULLS", "warning", f"{finer} hulls; want {MOST_HULLS} at most"))
    for index in range(len(document.get("images", ()))):
        found += _picture(document, body, index)
    return found


def triangles(document: Document, body: bytes, primitive: Mapping[str, Any]) -> Mesh:
    """Positions and faces of a primitive of indexed triangles."""
    position = read_accessor(document, body, primitive["attributes"]["POSITION"]).astype(np.float64)
    return position, read_accessor(document, body, primitive["indices"]).reshape(-1, 3).astype(np.int64)


def picture_bytes(document: Document, body: bytes, index: int) -> bytes:
    """The bytes of a picture that lies in the file."""
    view = document["bufferViews"][document["images"][index]["bufferView"]]
    start = view.get("byteOffset", 0)
    return body[start : start + view["byteLength"]]


def _named_meshes(document: Document) -> list[tuple[str, int]]:
    """Name and mesh of each node that has one; meshes that no node shows come by their own names."""
    nodes = [(str(node.get("name", "")), node["mesh"]) for node in document.get("nodes", ()) if "mesh" in node]
    shown = {mesh for _, mesh in nodes}
    rest = [(str(mesh.get("name", "")), at) for at, mesh in enumerate(document.get("meshes", ())) if at not in shown]
    return nodes + rest


# --- structure -------------------------------------------------------------------------------------------------------

_REFERENCES = {"mesh": "meshes", "material": "materials", "indices": "accessors", "bufferView": "bufferViews",
               "source": "images", "sampler": "samplers", "scene": "scenes"}  # fmt: skip


def _structure(document: Document, body: bytes) -> Iterator[Finding]:
    if document.get("asset", {}).get("version") != "2.0":
        version = document.get("asset", {}).get("version")
        yield Finding("UNKNOWN_ASSET_MAJOR_VERSION", "error", f"asset.version is {version!r}, not 2.0")
    if not document.get("meshes"):
        yield Finding("EMPTY_ENTITY", "error", "the file has no mesh")
    for at, view in enumerate(document.get("bufferViews", ())):
        end = view.get("byteOffset", 0) + view["byteLength"]
        if view.get("buffer", 0) == 0 and end > len(body):
            yield Finding("BUFFER_VIEW_TOO_LONG", "error", f"bufferView {at} ends at {end} of {len(body)} bytes")
    unresolved = list(_unresolved(document, document))
    if unresolved:
        yield Finding("UNRESOLVED_REFERENCE", "error", f"{unresolved[0]} is not in the file", count=len(unresolved))
        return
    for at in range(len(document.get("accessors", ()))):
        try:
            read_accessor(document, body, at)
        except DataError as error:
            yield Finding("ACCESSOR_TOO_LONG", "error", str(error))


def _unresolved(document: Document, part: Any) -> Iterator[str]:
    """References of ``part`` to what the document has not, in words."""
    if isinstance(part, Mapping):
        for name, value in part.items():
            if name in ("extras", "extensions"):
                continue
            many = _REFERENCES.get(name, "accessors" if name.isupper() else "")  # attributes are in capitals
            many = {"nodes": "nodes", "children": "nodes"}.get(name, many)
            for each in value if isinstance(value, list) else [value]:
                if many and isinstance(each, int) and not 0 <= each < len(document.get(many, ())):
                    yield f"{name} {each}"
                elif not isinstance(each, int):
                    yield from _unresolved(document, each)
    elif isinstance(part, list):
        for each in part:
            yield from _unresolved(document, each)


# --- numbers ---------------------------------------------------------------------------------------------------------


def _primitive(document: Document, body: bytes, primitive: Mapping[str, Any]) -> Iterator[Finding]:
    """What is wrong with the numbers of a primitive's attributes and indices."""
    if "POSITION" not in primitive["attributes"]:
        yield Finding("MESH_PRIMITIVE_NO_POSITION", "error", "a primitive has no positions")
        return
    values = {name: read_accessor(document, body, at) for name, at in primitive["attributes"].items()}
    position = values["POSITION"]
    lengths = {len(each) for each in values.values()}
    if len(lengths) > 1:
        yield Finding("MESH_PRIMITIVE_UNEQUAL_ACCESSOR_COUNT", "error", f"attributes of {sorted(lengths)} vertices")
    bad = {name: int((~np.isfinite(each)).sum()) for name, each in values.items() if not np.isfinite(each).all()}
    if bad:
        yield Finding(
            "ACCESSOR_INVALID_FLOAT", "error", f"{', '.join(bad)} hold NaN or infinity", count=sum(bad.values())
        )
        return
    entry = document["accessors"][primitive["attributes"]["POSITION"]]
    told = [np.array(entry.get(side, ()), dtype=np.float32) for side in ("min", "max")]
    if not all(np.array_equal(*each) for each in zip(told, (position.min(axis=0), position.max(axis=0)), strict=True)):
        yield Finding("ACCESSOR_MIN_MISMATCH", "error", "min and max of POSITION are not the bounds of the data")
    for name, width in (("NORMAL", 3), ("TANGENT", 3)):
        if name in values:
            length = np.linalg.norm(values[name][:, :width].astype(np.float64), axis=1)
            off = int((np.abs(length - 1) > UNIT_TOLERANCE).sum())
            if off:
                yield Finding("ACCESSOR_VECTOR3_NON_UNIT", "error", f"{name} is not of length one", count=off)
    if "indices" in primitive:
        yield from _indices(position, read_accessor(document, body, primitive["indices"]).astype(np.int64))
    for name in (name for name in values if name.startswith("TEXCOORD_")):
        outside = int(((values[name] < 0) | (values[name] > 1)).any(axis=1).sum())
        if outside:
            yield Finding("UV_OUT_OF_RANGE", "warning", f"{name} leaves [0, 1]", count=outside)


def _indices(position: np.ndarray, indices: np.ndarray) -> Iterator[Finding]:
    beyond = int((indices >= len(position)).sum())
    if beyond or len(indices) % 3:
        said = f"{len(indices)} indices of {len(position)} vertices, {beyond} beyond them"
        yield Finding("ACCESSOR_INDEX_OOB", "error", said, count=max(beyond, 1))
        return
    unused = int((np.bincount(indices, minlength=len(position)) == 0).sum())
    if unused:
        yield Finding("UNUSED_VERTICES", "info", "vertices belong to no triangle", count=unused)


# --- surfaces --------------------------------------------------------------------------------------------------------


def _welded(parts: list[Mesh]) -> Mesh:
    """The parts as one mesh whose vertices at one place are one."""
    starts = np.cumsum([0, *(len(position) for position, _ in parts[:-1])])
    faces = np.concatenate([faces + start for (_, faces), start in zip(parts, starts, strict=True)])
    return weld(np.concatenate([position for position, _ in parts]), faces)


def _surface(name: str, parts: list[Mesh]) -> Iterator[Finding]:
    vertices, faces = _welded(parts)
    area = face_areas(vertices, faces)
    size = float(np.ptp(vertices, axis=0).max(initial=0.0))
    flat = int((area <= 1e-12 * size**2).sum())
    if flat:
        yield Finding("ACCESSOR_INDEX_TRIANGLE_DEGENERATE", "warning", f"{name}: faces have no area", count=flat)
    solid = faces[(faces[:, 0] != faces[:, 1]) & (faces[:, 1] != faces[:, 2]) & (faces[:, 2] != faces[:, 0])]
    if not len(solid):
        yield Finding("MESH_EMPTY", "error", f"{name}: no face has an area")
        return
    edges = edge_counts(solid)
    for edge, code, said in (
        ("boundary_edges", "MESH_OPEN", "edges of one face only: the surface has holes"),
        ("nonmanifold_edges", "MESH_NON_MANIFOLD", "edges where more than two faces or opposite sides meet"),
    ):
        if edges[edge]:
            yield Finding(code, "warning", f"{name}: {said}", count=int(edges[edge]))
    debris = piece_scores(vertices, solid)["debris_faces"]
    if debris:
        yield Finding("MESH_DEBRIS", "warning", f"{name}: faces of pieces that are specks", count=debris)
    crossing = int(crossing_faces(vertices, solid).sum())
    if crossing:
        yield Finding("MESH_SELF_INTERSECTS", "warning", f"{name}: faces pass through others", count=crossing)


def _hull(name: str, parts: list[Mesh]) -> Iterator[Finding]:
    """A collision hull is convex, closed and small."""
    vertices, faces = _welded(parts)
    if len(vertices) > MOST_HULL_VERTICES:
        said = f"{name}: a hull of {len(vertices)} vertices; want {MOST_HULL_VERTICES} at most"
        yield Finding("COLLISION_VERTICES", "warning", said, count=len(vertices))
    if not edge_counts(faces)["watertight"]:
        yield Finding("COLLISION_OPEN", "error", f"{name}: the hull is not closed")
        return
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    normal = np.cross(b - a, c - a)
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-30)
    beyond = ((vertices[None] - a[:, None]) * normal[:, None]).sum(-1).max(axis=1)
    if (beyond > 1e-3 * np.ptp(vertices, axis=0).max()).any():
        yield Finding("COLLISION_NOT_CONVEX", "error", f"{name}: the hull is not convex")


def _levels(document: Document, meshes: list[list[Mesh]]) -> Iterator[Finding]:
    """Levels of detail have fewer and fewer faces, and MSFT_lod names them."""
    faces = {
        int(found[1]): sum(len(part) for _, part in meshes[mesh])
        for name, mesh in _named_meshes(document)
        if (found := LOD.search(name))
    }
    counts = [faces[level] for level in sorted(faces)]
    if any(fine <= coarse for fine, coarse in pairwise(counts)):
        yield Finding("LOD_ORDER", "error", f"levels of {counts} faces: each must have fewer than the one before")
    nodes = document.get("nodes", ())
    ids = [each for node in nodes for each in node.get("extensions", {}).get("MSFT_lod", {}).get("ids", ())]
    unknown = [each for each in ids if not 0 <= each < len(nodes)]
    if unknown:
        yield Finding(
            "LOD_UNRESOLVED", "error", f"MSFT_lod names node {unknown[0]} of {len(nodes)}", count=len(unknown)
        )


def check_atlas(textured: TexturedMesh) -> list[Finding]:
    """Whether charts lie over each other, in the atlas and in the light map."""
    found = []
    for what, uvs in (("atlas", textured.uvs), ("light map", textured.lightmap_uvs)):
        overlap = 0.0 if uvs is None else atlas_scores(replace(textured, uvs=uvs), 1.0)["uv_overlap"]
        if overlap > MOST_OVERLAP:
            found.append(Finding("UV_OVERLAP", "warning", f"charts overlap on {overlap:.2%} of the {what}"))
    return found


# --- pictures --------------------------------------------------------------------------------------------------------


def _picture(document: Document, body: bytes, index: int) -> Iterator[Finding]:
    image = document["images"][index]
    if image.get("mimeType") not in ("image/png", "image/jpeg", "image/webp"):
        return  # KTX2 is the Khronos validator's
    if "bufferView" not in image:
        yield Finding("IMAGE_NOT_EMBEDDED", "warning", f"picture {index} is not inside the file")
        return
    try:
        height, width = decode_image(picture_bytes(document, body, index)).shape[:2]
    except DataError as error:
        yield Finding("IMAGE_DATA_INVALID", "error", f"picture {index}: {error}")
        return
    if height & (height - 1) or width & (width - 1):
        yield Finding("IMAGE_NPOT_DIMENSIONS", "warning", f"picture {index} is {width} x {height}: no powers of two")
