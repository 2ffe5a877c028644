"""Check a GLB without Node: the Khronos validator's rules that matter for a prop, and what game engines expect.

    findings = check_glb("asset.glb"); assert not [f for f in findings if f.severity == "error"]

Codes of the Khronos validator are used where it has the rule (``ACCESSOR_VECTOR3_NON_UNIT``); rules of the Khronos
3D Commerce guidelines and of engines are named in the same style (``TEXTURE_NOT_POWER_OF_TWO``).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from pipeline_core.errors import DataError
from pipeline_core.io.gltf import read_accessor, read_glb
from pipeline_core.io.images import decode_image

Severity = Literal["error", "warning", "hint", "info"]
_NAME = re.compile(r"(SM|M|T|COL)_[a-z][a-z0-9_-]*(_BC|_N|_ORM|_E|_LOD\d)?")
_UNIT_TOLERANCE = 0.00674
"""Largest deviation of a normal's length from one, as in the Khronos validator."""


@dataclass(frozen=True)
class Finding:
    """One thing a validator would say."""

    severity: Severity
    code: str
    message: str


def check_glb(path: str | Path, *, grounded: bool = False) -> list[Finding]:
    """Everything wrong with the GLB at ``path``; empty when nothing is.

    ``grounded`` also asks that the asset stands centre-bottom on the origin.
    """
    try:
        document, body = read_glb(path)
    except DataError as error:
        return [Finding("error", "GLB_INVALID", str(error))]
    findings = _check_document(document, body)
    if any(f.severity == "error" for f in findings):
        return findings
    for mesh in document.get("meshes", []):
        for primitive in mesh["primitives"]:
            findings += _check_primitive(document, body, primitive, grounded)
    for i in range(len(document.get("images", []))):
        findings += _check_image(document, body, i)
    return findings


def severity_counts(findings: list[Finding]) -> dict[str, int]:
    """Number of findings by severity."""
    return {s: sum(f.severity == s for f in findings) for s in ("error", "warning", "hint", "info")}


def _check_document(document: Mapping[str, Any], body: bytes) -> list[Finding]:
    findings = []
    if document.get("asset", {}).get("version") != "2.0":
        findings.append(
            Finding(
                "error", "UNKNOWN_ASSET_MAJOR_VERSION", f"asset.version is {document.get('asset', {}).get('version')!r}"
            )
        )
    if not document.get("meshes"):
        findings.append(Finding("error", "EMPTY_ENTITY", "the file has no mesh"))
    for i, view in enumerate(document.get("bufferViews", [])):
        end = view.get("byteOffset", 0) + view["byteLength"]
        if end > len(body):
            findings.append(
                Finding("error", "BUFFER_VIEW_TOO_LONG", f"bufferView {i} ends at {end} of {len(body)} bytes")
            )
    images = {image.get("bufferView") for image in document.get("images", [])}
    for i, view in enumerate(document.get("bufferViews", [])):
        if i not in images and "target" not in view:
            findings.append(Finding("hint", "BUFFER_VIEW_TARGET_MISSING", f"bufferView {i} has no target"))
    for group in ("meshes", "materials", "images"):
        for entry in document.get(group, []):
            if not _NAME.fullmatch(entry.get("name", "")):
                findings.append(
                    Finding(
                        "warning", "NAME_UNCONVENTIONAL", f"{group} name {entry.get('name')!r}: want SM_/M_/T_<slug>"
                    )
                )
    if len(document.get("materials", [])) > 1:
        findings.append(
            Finding("warning", "SEVERAL_MATERIALS", f"{len(document['materials'])} materials mean as many draw calls")
        )
    return findings


def _check_primitive(
    document: Mapping[str, Any], body: bytes, primitive: Mapping[str, Any], grounded: bool
) -> list[Finding]:
    attributes = primitive["attributes"]
    missing = [key for key in ("POSITION", "NORMAL", "TEXCOORD_0") if key not in attributes]
    if missing or "indices" not in primitive:
        return [Finding("error", "ATTRIBUTE_MISSING", f"the primitive lacks {', '.join(missing) or 'indices'}")]
    try:
        position, normal, uv = (
            read_accessor(document, body, attributes[key]) for key in ("POSITION", "NORMAL", "TEXCOORD_0")
        )
        faces = read_accessor(document, body, primitive["indices"]).reshape(-1, 3).astype(np.int64)
    except (DataError, ValueError) as error:
        return [Finding("error", "ACCESSOR_INVALID", str(error))]
    findings = []

    def report(bad: np.ndarray | bool, severity: Severity, code: str, message: str) -> None:
        if np.any(bad):
            findings.append(Finding(severity, code, f"{int(np.sum(bad))} {message}" if np.ndim(bad) else message))

    finite = all(np.isfinite(a).all() for a in (position, normal, uv))
    report(not finite, "error", "ACCESSOR_INVALID_FLOAT", "positions, normals or uvs hold NaN or infinity")
    report(faces >= len(position), "error", "ACCESSOR_INDEX_OOB", f"indices point past the {len(position)} vertices")
    report(
        len(normal) != len(position) or len(uv) != len(position),
        "error",
        "ATTRIBUTE_COUNT",
        "attributes differ in length",
    )
    if findings:
        return findings
    entry = document["accessors"][attributes["POSITION"]]
    bounds_match = np.array_equal(position.min(0), np.float32(entry.get("min", []))) and np.array_equal(
        position.max(0), np.float32(entry.get("max", []))
    )
    report(not bounds_match, "error", "ACCESSOR_MIN_MISMATCH", "min and max of POSITION are not the bounds of the data")
    length = np.linalg.norm(normal.astype(np.float64), axis=1)
    report(np.abs(length - 1) > _UNIT_TOLERANCE, "error", "ACCESSOR_VECTOR3_NON_UNIT", "normals are not of unit length")
    corners = position[faces].astype(np.float64)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    repeated = (faces[:, 0] == faces[:, 1]) | (faces[:, 1] == faces[:, 2]) | (faces[:, 2] == faces[:, 0])
    report(repeated | (area == 0), "info", "ACCESSOR_INDEX_TRIANGLE_DEGENERATE", "triangles have no area")
    report(
        np.bincount(faces.ravel(), minlength=len(position)) == 0,
        "info",
        "UNUSED_VERTICES",
        "vertices belong to no triangle",
    )
    report((uv < 0) | (uv > 1), "warning", "UV_OUT_OF_RANGE", "uv values lie outside [0, 1]")
    if grounded:
        low, high = position.min(axis=0), position.max(axis=0)
        slack = 1e-3 * float((high - low).max())
        centred = abs(low[1]) <= slack and abs(low[0] + high[0]) <= 2 * slack and abs(low[2] + high[2]) <= 2 * slack
        report(
            not centred,
            "warning",
            "PIVOT_NOT_CENTRE_BOTTOM",
            f"bounds {low.tolist()} to {high.tolist()} do not stand on the origin",
        )
    return findings


def _check_image(document: Mapping[str, Any], body: bytes, index: int) -> list[Finding]:
    image = document["images"][index]
    if "bufferView" not in image:
        return [Finding("warning", "IMAGE_NOT_EMBEDDED", f"image {index} is not inside the file")]
    view = document["bufferViews"][image["bufferView"]]
    start = view.get("byteOffset", 0)
    try:
        height, width = decode_image(body[start : start + view["byteLength"]]).shape[:2]
    except DataError as error:
        return [Finding("error", "IMAGE_DATA_INVALID", str(error))]
    if height & (height - 1) or width & (width - 1):
        return [Finding("warning", "TEXTURE_NOT_POWER_OF_TWO", f"image {index} is {width}x{height}")]
    return []
