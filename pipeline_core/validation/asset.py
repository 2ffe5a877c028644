"""Whether a finished asset's files are what was asked for, and agree with each other.

    findings = check_asset(Path("library/assets/oak-crate"), spec)

Files in themselves are :mod:`pipeline_core.validation.files`'. Here are size, pivot, budget and texture against the
request, and splat against mesh. The deliverables are in metres, standing centre-bottom on the origin.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from pipeline_core.deliverables import DELIVERABLES
from pipeline_core.errors import DataError
from pipeline_core.findings import Finding, merged
from pipeline_core.io.gltf import load_glb
from pipeline_core.io.ply import load_splat
from pipeline_core.spec import AssetSpec
from pipeline_core.types import MAPS, Gaussians, TexturedMesh
from pipeline_core.validation.files import OF_ORIGIN, check_files
from pipeline_core.validation.glb import check_atlas

EXACT = 1e-4
"""Share of the height by which size and pivot may be off: what float32 and the writers' digits leave."""
MOST_APART = 0.12
"""Share of the largest side by which the box of the splat's solid Gaussians may differ from the mesh's."""
SOLID, KEPT = 0.5, 0.01
"""Opacity from which a Gaussian counts for that box, and the share of outermost ones on each side that do not."""


def check_asset(folder: Path, spec: AssetSpec, *, whole: bool = True) -> list[Finding]:
    """Everything wrong with the deliverables of ``spec`` in ``folder``, worst first; ``whole`` as ``check_files`` has
    it."""
    files = [folder / row.file for row in DELIVERABLES if (folder / row.file).is_file()]
    found = check_files(files, whole=whole)
    broken = {each.file for each in found if each.severity == "error" and each.code not in OF_ORIGIN}
    try:
        textured = load_glb(folder / "asset.glb", object_units=False)
    except (DataError, ValueError) as error:
        return merged([*found, Finding("UNREADABLE", "error", str(error), "asset.glb")])
    if "asset.glb" not in broken:
        found += _of("asset.glb", [*as_asked(textured, spec), *check_atlas(textured)])
    if not {"asset.glb", "splat.ply"} & broken and (folder / "splat.ply").is_file():
        found += _of("splat.ply", frames(textured, load_splat(folder / "splat.ply", frame="metres")))
    return merged(found)


def _of(file: str, findings: Iterable[Finding]) -> list[Finding]:
    return [replace(each, file=file) for each in findings]


def as_asked(textured: TexturedMesh, spec: AssetSpec) -> Iterator[Finding]:
    """Size, pivot, face budget and texture, of a mesh in metres."""
    low, high = (edge(textured.vertices.astype(np.float64), axis=0) for edge in (np.min, np.max))
    size = (high - low).tolist()
    height = size[1]
    slack = EXACT * max(float((high - low).max()), 1e-9)
    if spec.size_m is None and abs(height - spec.height_m) > EXACT * spec.height_m:
        yield Finding("HEIGHT_NOT_AS_ASKED", "error", f"it is {height:.4g} m high; asked were {spec.height_m:g} m")
    if spec.size_m and any(abs(each - asked) > EXACT * asked for each, asked in zip(size, spec.size_m, strict=True)):
        said, wanted = (" x ".join(f"{each:.4g}" for each in box) for box in (size, spec.size_m))
        yield Finding("SIZE_NOT_AS_ASKED", "error", f"it is {said} m large; asked were {wanted} m")
    if abs(low[1]) > slack or abs(low[0] + high[0]) > 2 * slack or abs(low[2] + high[2]) > 2 * slack:
        said = f"its box from {np.round(low, 4).tolist()} to {np.round(high, 4).tolist()} does not stand on the origin"
        yield Finding("PIVOT_NOT_CENTRE_BOTTOM", "error", said)
    if len(textured.faces) > spec.face_budget:
        said = f"{len(textured.faces)} faces; allowed were {spec.face_budget}"
        yield Finding("FACE_BUDGET_EXCEEDED", "error", said, count=len(textured.faces) - spec.face_budget)
    asked = spec.texture_size
    if spec.recipe.mesh.texels_per_metre is not None:  # a size follows from it, which all maps have
        asked = textured.texture.shape[0]
    for name in ("texture", *MAPS):
        picture = getattr(textured, name)
        if picture is not None and picture.shape[:2] != (asked, asked):
            size = f"{picture.shape[1]} x {picture.shape[0]}"
            yield Finding("TEXTURE_SIZE_NOT_AS_ASKED", "warning", f"{name} is {size}; asked were {asked}")


def frames(textured: TexturedMesh, splat: Gaussians) -> Iterator[Finding]:
    """Whether splat and mesh stand in one place, both in metres."""
    apart = frame_error(textured.vertices, splat)
    size = float(np.ptp(textured.vertices, axis=0).max())
    if not apart <= MOST_APART * size:
        said = f"the splat's box is {apart:.3g} m off the mesh's, which is {size:.3g} m large"
        yield Finding("FRAMES_DISAGREE", "error", said)


def silhouettes(metrics: Mapping[str, float], least: float) -> Iterator[Finding]:
    """Whether the mesh looks from all around like the splat that is delivered, and like the one that it was made from
    where that is another: by the overlaps that were measured, of which ``least`` is expected."""
    for name, whose in (("mesh_iou", "the splat's"), ("optimised_iou", "those of the optimised Gaussians")):
        overlap = metrics.get(name)
        if overlap is not None and not overlap >= least:
            said = f"its silhouettes overlap with {whose} by {overlap:.2f}; at least {least:g} is expected"
            yield Finding("MESH_UNLIKE_SPLAT", "warning", said, "asset.glb")


def frame_error(vertices: np.ndarray, splat: Gaussians) -> float:
    """Largest distance, in the vertices' unit, between a side of their box and that of the solid Gaussians' centres:
    of all, or of all but the outermost, whichever is nearer. A few that float are no error, nor is a thin tip."""
    solid = splat.means[splat.opacities.sigmoid() >= SOLID]
    means = (solid if len(solid) else splat.means).numpy().astype(np.float64)
    box = np.stack([vertices.min(axis=0), vertices.max(axis=0)])
    sides = [np.abs(np.quantile(means, [cut, 1 - cut], axis=0) - box) for cut in (0.0, KEPT)]
    return float(np.minimum(*sides).max())
