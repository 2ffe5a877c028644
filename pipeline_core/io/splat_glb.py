"""GLB files of a splat: glTF's KHR_gaussian_splatting (release candidate of July 2026). Every number is kept.

    write("asset.splat.glb", gaussians, provenance=provenance)

+Y up, in metres, as all glTF: nothing is turned. ``COLOR_0`` lets programs that do not know the extension show points.
gltf-validator 2.0.0-dev.3.10 does not know it either: it reports the names of its attributes, and nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_core.errors import DataError
from pipeline_core.files import write_bytes
from pipeline_core.io.gltf import read_accessor, read_glb, slug
from pipeline_core.io.scene import POINTS, Scene
from pipeline_core.io.splats import about, build, host, logit, sigmoid
from pipeline_core.types import SH_C0, Gaussians

EXTENSION = "KHR_gaussian_splatting"
_SHAPE = {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}


def write(path: Path, gaussians: Gaussians, *, provenance: Mapping[str, Any]) -> None:
    """Write ``gaussians``, of metres and +Y up."""
    data = host(gaussians)
    opacity, colour = sigmoid(data["opacities"]), (data["sh0"][:, 0] * SH_C0 + 0.5).clip(0, 1)
    attributes = {
        "POSITION": data["means"],
        "COLOR_0": np.concatenate([colour, opacity[:, None]], axis=1),
        f"{EXTENSION}:ROTATION": np.roll(data["quats"], -1, axis=1),
        f"{EXTENSION}:SCALE": np.exp(data["scales"]),
        f"{EXTENSION}:OPACITY": opacity,
        f"{EXTENSION}:SH_DEGREE_0_COEF_0": data["sh0"][:, 0],
    }
    for degree in range(1, gaussians.sh_degree + 1):
        for number in range(2 * degree + 1):
            attributes[f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{number}"] = data["shN"][:, degree**2 - 1 + number]
    stem = slug(provenance["asset_id"])
    scene = Scene(stem, extras=about(provenance))
    points = scene.primitive(attributes, mode=POINTS, extensions={EXTENSION: _SHAPE})
    scene.node(f"GS_{stem}", scene.mesh(f"GS_{stem}", [points]))
    write_bytes(Path(path), scene.glb())


def read(path: Path) -> Gaussians:
    """Read the first splat of a GLB, in metres and +Y up. Raises :class:`DataError`."""
    document, body = read_glb(path)
    primitives = [each for mesh in document.get("meshes", ()) for each in mesh.get("primitives", ())]
    splats = [each for each in primitives if EXTENSION in each.get("extensions", {})]
    if not splats:
        raise DataError(f"{path} has no primitive with {EXTENSION}")
    names = splats[0]["attributes"]

    def values(name: str) -> np.ndarray:
        return read_accessor(document, body, names[name]).astype(np.float64)

    try:
        degree = max(d for d in range(4) if f"{EXTENSION}:SH_DEGREE_{d}_COEF_0" in names)
        harmonics = [
            values(f"{EXTENSION}:SH_DEGREE_{d}_COEF_{number}") for d in range(degree + 1) for number in range(2 * d + 1)
        ]
        return build(
            values("POSITION"),
            np.roll(values(f"{EXTENSION}:ROTATION"), 1, axis=1),
            np.log(np.maximum(values(f"{EXTENSION}:SCALE"), 1e-30)),
            logit(values(f"{EXTENSION}:OPACITY")),
            harmonics[0],
            np.stack(harmonics, axis=1)[:, 1:],
        )
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"{path} lacks a part of a splat: {error!r}") from None
