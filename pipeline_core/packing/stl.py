"""Binary STL, for printers: the shape alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline_core.files import write_bytes
from pipeline_core.packing.finished import Finished
from pipeline_core.packing.profiles import Profile

MILLIMETRES = 1000.0
_TRIANGLE = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])


def pack(asset: Finished, profile: Profile, target: Path) -> None:
    """Write the mesh in millimetres, +Z up, front -Y, as printers' programs read it, whatever the profile."""
    x, y, z = (asset.mesh.vertices.astype(np.float64) * MILLIMETRES).T
    rows = np.zeros(len(asset.mesh.faces), dtype=_TRIANGLE)
    rows["corners"] = np.stack([x, -z, y], axis=1)[asset.mesh.faces]
    a, b, c = rows["corners"].astype(np.float64).transpose(1, 0, 2)
    normals = np.cross(b - a, c - a)
    rows["normal"] = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-30)
    header = f"splatmill {asset.name} (mm, +Z up)".encode().ljust(80, b"\0")
    write_bytes(target, header + np.uint32(len(rows)).astype("<u4").tobytes() + rows.tobytes())
