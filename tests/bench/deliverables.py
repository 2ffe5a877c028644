"""What a studio gets: faults of a finished library's assets, as numbers, and the formats that they are exported in.

    python tests/bench/deliverables.py [library]

The library is a finished one, such as ``make demo`` leaves; nothing is written there. Without one a small library is
made, of two props in draft quality. Numbers are of the delivered files themselves; one whose files no asset has is
null. Last line: JSON.

``validator_errors``: findings of severity error, by our checks and Khronos' validator where it is installed.
``frame_error_m``: how far a Gaussian of ``splat.ply`` is from where the mesh's own way to metres puts it, at most.
``lod25_error``: how far the silhouette of the level with a quarter of the faces is off, as a share of the height.
``collision_excess_median``: volume of the hulls over that of the mesh.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this folder: a module here may have a room's name

import numpy as np  # noqa: E402
import torch  # noqa: E402

from pipeline_core.cameras import orbit  # noqa: E402
from pipeline_core.errors import RequestError, SplatmillError  # noqa: E402
from pipeline_core.io.ply import load_splat  # noqa: E402
from pipeline_core.meshing.surface import tetra_volumes  # noqa: E402
from pipeline_core.metrics.mesh_health import mesh_health  # noqa: E402
from pipeline_core.metrics.views import render_mesh  # noqa: E402
from pipeline_core.packing.finished import Finished  # noqa: E402
from pipeline_core.packing.formats import FORMATS  # noqa: E402
from pipeline_core.packing.pack import pack  # noqa: E402
from pipeline_core.packing.profiles import profile  # noqa: E402
from pipeline_core.packing.tools import require  # noqa: E402
from pipeline_core.spec import AssetSpec  # noqa: E402
from pipeline_core.types import Mesh, TexturedMesh  # noqa: E402
from pipeline_core.validation import khronos  # noqa: E402
from pipeline_core.validation.asset import check_asset  # noqa: E402

VIEWS, SIZE = 8, 256
"""Pictures of a silhouette, and their sides in pixels."""


def main(library: Path) -> dict[str, Any]:
    """Measure the finished assets of ``library``; returns what is printed. Raises :class:`RequestError` for none."""
    folders = sorted(path.parent for path in (library / "assets").glob("*/asset.json"))
    if not folders:
        raise RequestError(f"{library} has no finished asset: make demo leaves some in demo-library")
    rows = [measured(folder) for folder in folders]
    for folder, row in zip(folders, rows, strict=True):
        print(f"{folder.name:24s} " + "  ".join(f"{name} {shown(value)}" for name, value in row.items()), flush=True)
    if khronos.found().missing:
        print(f"not looked at by Khronos' validator: {khronos.found().missing}")
    told = {
        "assets": len(rows),
        "validator_errors": sum(row["errors"] for row in rows),
        "debris_faces": sum(row["debris_faces"] for row in rows),
        "max_uv_stretch": most(row["uv_stretch"] for row in rows),
        "frame_error_m": most(row["frame_error_m"] for row in rows),
        "lod25_error": most(row["lod25_error"] for row in rows),
        "collision_excess_median": middle(row["collision_excess"] for row in rows),
        "self_intersections": sum(row["self_intersections"] for row in rows),
        "formats": exported(folders[0]),
    }
    print(json.dumps(told))
    return told


def measured(folder: Path) -> dict[str, Any]:
    """The numbers of one asset."""
    asset = Finished(folder)
    findings = check_asset(folder, AssetSpec.from_json(asset.told["spec"]))
    mesh = asset.mesh
    health = mesh_health(mesh)
    hulls = sum(volume(hull) for hull in asset.hulls)
    return {
        "errors": sum(each.severity == "error" for each in findings),
        "warnings": sum(each.severity == "warning" for each in findings),
        "faces": len(mesh.faces),
        "debris_faces": int(health["debris_faces"]),
        "uv_stretch": health["max_uv_stretch"],
        "frame_error_m": frame_error(asset),
        "lod25_error": silhouette_error(mesh, asset.levels),
        "collision_excess": hulls / health["volume"] if asset.hulls else None,
        "self_intersections": int(health["self_intersections"]),
    }


def frame_error(asset: Finished) -> float | None:
    """Metres between where the delivered Gaussians stand and where the mesh's way to metres puts them, at most."""
    if not asset.has("splat.ply"):
        return None
    stands = load_splat(asset.path("splat.ply"), frame="metres").means
    return float((stands - asset.splat.means).norm(dim=1).max())


def silhouette_error(mesh: TexturedMesh, levels: dict[int, TexturedMesh]) -> float | None:
    """How far, as a share of the height, the outline of the level nearest to 25 % of the faces is from the whole one's:
    the area between them over the length of the outline, in the worst view."""
    shares = {number: len(level.faces) / len(mesh.faces) for number, level in levels.items()}
    near = [number for number, share in shares.items() if 0.15 < share < 0.35]
    if not near:
        return None
    level = levels[min(near, key=lambda number: abs(shares[number] - 0.25))]
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    scale = float((high - low).max())
    angles = torch.arange(VIEWS) * (360.0 / VIEWS)
    cameras = orbit(angles, torch.full((VIEWS,), 15.0), size=SIZE)
    whole, less = (cover(each, (low + high) / 2, scale, cameras) for each in (mesh, level))
    inside = whole >= 0.5
    outline = (inside[:, 1:] != inside[:, :-1]).sum((1, 2)) + (inside[:, :, 1:] != inside[:, :, :-1]).sum((1, 2))
    apart = (whole - less).abs().sum((1, 2)) / outline.clamp(min=1)
    tall = inside.any(dim=2).sum(dim=1).clamp(min=1)
    return float((apart / tall).max())


def cover(mesh: TexturedMesh, centre: np.ndarray, scale: float, cameras: Any) -> torch.Tensor:
    """Coverage [V, H, W] of ``mesh``, moved to ``centre`` and scaled to one unit."""
    placed = TexturedMesh(
        ((mesh.vertices - centre) / scale).astype(np.float32), mesh.faces, mesh.normals, mesh.uvs, mesh.texture
    )
    return render_mesh(placed, cameras)[1]


def volume(mesh: Mesh) -> float:
    """Volume that a closed mesh encloses."""
    return float(tetra_volumes(mesh.vertices.astype(np.float64), mesh.faces).sum())


def exported(folder: Path) -> list[str]:
    """The formats that this machine writes of an asset."""
    done = []
    for row in FORMATS:
        try:
            require([row.tool] if row.tool else [])
            with tempfile.TemporaryDirectory() as target:
                pack(Finished(folder), Path(target), profile("blender"), [row])
            done.append(row.name)
        except SplatmillError as error:
            print(f"{row.name} is not written here: {error}")
    return done


def small(folder: Path) -> Path:
    """A library of two props, made here."""
    manifest = folder / "props.csv"
    manifest.write_text("id,prompt,seed,recipe\nmug,a blue mug,1,draft\nmushroom,a red mushroom,2,draft\n")
    command = [sys.executable, "-m", "flows.cli", "run", str(manifest), "--library", str(folder / "library"), "--json"]
    subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
    return folder / "library"


def most(values: Iterable[float | None]) -> float | None:
    """The largest that is known."""
    known = [value for value in values if value is not None]
    return round(max(known), 6) if known else None


def middle(values: Iterable[float | None]) -> float | None:
    """The median of those that are known."""
    known = [value for value in values if value is not None]
    return round(statistics.median(known), 4) if known else None


def shown(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        main(Path(sys.argv[1]))
    else:
        with tempfile.TemporaryDirectory() as scratch:
            main(small(Path(scratch)))
