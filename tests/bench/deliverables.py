"""What a studio gets: faults of a finished library's assets, as numbers, and the formats that they are exported in.

    python tests/bench/deliverables.py [library]

The library is a finished one, such as ``make demo`` leaves; nothing is written there. Without one a small library is
made, of two props in draft quality. Numbers are of the delivered files themselves; one whose files no asset has is
null. Last line: JSON.

``validator_errors``: findings of severity error, by our checks and Khronos' validator where it is installed.
``frame_error_m``: how far a Gaussian of ``splat.ply`` is from where the mesh's own way to metres puts it, at most.
``lod25_error``: how far the silhouette of the level with a quarter of the faces is off, as a share of the height.
``lod25_normal_gain_db``: by how many dB that level is nearer to the whole in light with its normal map than without, at
least.
``collision_excess_median``: volume of the hulls over that of the mesh.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
if __name__ == "__main__":
    sys.path[0] = str(ROOT)  # not this folder: a module here may have a room's name

import numpy as np  # noqa: E402
import torch  # noqa: E402

from pipeline_core.cameras import Cameras, orbit  # noqa: E402
from pipeline_core.errors import RequestError, SplatmillError  # noqa: E402
from pipeline_core.io.ply import load_splat  # noqa: E402
from pipeline_core.meshing.surface import tetra_volumes  # noqa: E402
from pipeline_core.metrics.mesh_health import mesh_health  # noqa: E402
from pipeline_core.packing.finished import Finished  # noqa: E402
from pipeline_core.packing.formats import FORMATS  # noqa: E402
from pipeline_core.packing.pack import pack  # noqa: E402
from pipeline_core.packing.profiles import profile  # noqa: E402
from pipeline_core.packing.tools import require  # noqa: E402
from pipeline_core.rendering.lit import render_lit  # noqa: E402
from pipeline_core.rendering.mesh import render_mesh  # noqa: E402
from pipeline_core.spec import AssetSpec  # noqa: E402
from pipeline_core.types import Mesh, TexturedMesh  # noqa: E402
from pipeline_core.validation import khronos  # noqa: E402
from pipeline_core.validation.asset import check_asset  # noqa: E402

VIEWS, SIZE = 8, 256
"""Pictures of an asset, and their sides in pixels."""


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
        "lod25_normal_gain_db": least(row["lod25_normal_gain_db"] for row in rows),
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
    level = quarter(mesh, asset.levels)
    return {
        "errors": sum(each.severity == "error" for each in findings),
        "warnings": sum(each.severity == "warning" for each in findings),
        "faces": len(mesh.faces),
        "debris_faces": int(health["debris_faces"]),
        "uv_stretch": health["max_uv_stretch"],
        "frame_error_m": frame_error(asset),
        "lod25_error": None if level is None else silhouette_error(mesh, level),
        "lod25_normal_gain_db": None if level is None else normal_gain(mesh, level),
        "collision_excess": hulls / health["volume"] if asset.hulls else None,
        "self_intersections": int(health["self_intersections"]),
    }


def frame_error(asset: Finished) -> float | None:
    """Metres between where the delivered Gaussians stand and where the mesh's way to metres puts them, at most."""
    if not asset.has("splat.ply"):
        return None
    stands = load_splat(asset.path("splat.ply"), frame="metres").means
    return float((stands - asset.splat.means).norm(dim=1).max())


def quarter(mesh: TexturedMesh, levels: dict[int, TexturedMesh]) -> TexturedMesh | None:
    """The level nearest to 25 % of the faces of ``mesh``, where one is near it."""
    shares = {number: len(level.faces) / len(mesh.faces) for number, level in levels.items()}
    near = [number for number, share in shares.items() if 0.15 < share < 0.35]
    return levels[min(near, key=lambda number: abs(shares[number] - 0.25))] if near else None


def silhouette_error(mesh: TexturedMesh, level: TexturedMesh) -> float:
    """How far, as a share of the height, the outline of ``level`` is from the whole one's: the area between them over
    the length of the outline, in the worst view."""
    whole, less = (render_mesh(each, views())[1] for each in centred(mesh, level))
    inside = whole >= 0.5
    outline = (inside[:, 1:] != inside[:, :-1]).sum((1, 2)) + (inside[:, :, 1:] != inside[:, :, :-1]).sum((1, 2))
    apart = (whole - less).abs().sum((1, 2)) / outline.clamp(min=1)
    tall = inside.any(dim=2).sum(dim=1).clamp(min=1)
    return float((apart / tall).max())


def normal_gain(mesh: TexturedMesh, level: TexturedMesh) -> float | None:
    """By how many dB ``level`` is nearer to ``mesh`` in light with its normal map than without, where both are seen;
    None where it has none."""
    if level.normal_map is None:
        return None
    meshes = centred(mesh, level, replace(level, normal_map=None))
    (whole, mapped, plain), seen = zip(*(render_lit(each, views(), supersample=1) for each in meshes), strict=True)
    inside = torch.stack(seen).amin(dim=0) > 0
    errors = [float((each - whole)[inside].square().mean()) for each in (mapped, plain)]
    return 10 * float(np.log10(errors[1] / max(errors[0], 1e-12)))


def views() -> Cameras:
    """All around, a little from above."""
    return orbit(torch.arange(VIEWS) * (360.0 / VIEWS), torch.full((VIEWS,), 15.0), size=SIZE)


def centred(*meshes: TexturedMesh) -> list[TexturedMesh]:
    """``meshes``, with the box of the first about the origin and its largest side of one unit."""
    low, high = meshes[0].vertices.min(axis=0), meshes[0].vertices.max(axis=0)
    middle, scale = (low + high) / 2, float((high - low).max())
    return [replace(each, vertices=((each.vertices - middle) / scale).astype(np.float32)) for each in meshes]


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


def least(values: Iterable[float | None]) -> float | None:
    """The smallest that is known."""
    known = [value for value in values if value is not None]
    return round(min(known), 4) if known else None


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
