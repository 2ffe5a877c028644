"""Levels of detail in one GLB, and collision bodies in another.

    save_levels("lods.glb", {"LOD0": whole, "LOD1": half}, name="oak-crate")
    save_bodies("collision.glb", [("hull", vertices, faces)], name="oak-crate")

Levels are meshes ``SM_<slug>_LOD0`` and so on with one material; the scene shows LOD0, which names the others by
MSFT_lod, with the share of the screen's height from which each is shown. Bodies carry no material and are named
neutrally, ``COL_<slug>_hull`` (the whole) and ``COL_<slug>_00`` and so on (its parts): an engine's own names (UCX_,
-convcol) are an export profile's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from pipeline_core.files import write_bytes
from pipeline_core.frame import Frame
from pipeline_core.io.gltf import load_meshes, read_accessor, read_glb, slug
from pipeline_core.io.scene import Scene
from pipeline_core.spec import AssetSpec
from pipeline_core.types import TexturedMesh

COVERAGE = 0.5
"""Share of the screen's height down to which LOD0 is shown; each further level reaches to half of the one before."""

Bodies = Sequence[tuple[str, np.ndarray, np.ndarray]]
"""Name, vertices [V, 3] and faces [F, 3] of each body."""


def _scene(stem: str, frame: Frame | None, extras: Mapping[str, Any] | None) -> Scene:
    return Scene(stem, extras=dict(extras or {}) | ({"object_frame": frame.to_json()} if frame else {}))


def save_levels(
    path: str | Path,
    levels: Mapping[str, TexturedMesh],
    *,
    name: str,
    frame: Frame | None = None,
    extras: Mapping[str, Any] | None = None,
) -> None:
    """Write ``levels``, the whole mesh first; all have its maps. ``frame`` as in :func:`save_glb`."""
    stem = slug(name)
    scene = _scene(stem, frame, extras)
    whole, *rest = levels.items()
    material = scene.material_of(whole[1], stem)

    def mesh(level: str, textured: TexturedMesh) -> int:
        if frame is not None:
            moved, normals = frame.points(textured.vertices), frame.normals(textured.normals)
            textured = replace(textured, vertices=moved, normals=normals)
        return scene.mesh(f"SM_{stem}_{level}", [scene.surface(textured, material)])

    below = [scene.node(f"SM_{stem}_{level}", mesh(level, each), root=False) for level, each in rest]
    coverage = [*(COVERAGE / 2**i for i in range(len(below))), 0.0]
    scene.node(
        f"SM_{stem}_{whole[0]}",
        mesh(*whole),
        extensions={"MSFT_lod": {"ids": below}} if below else None,
        extras={"MSFT_screencoverage": coverage} if below else None,
    )
    write_bytes(Path(path), scene.glb())


def save_bodies(
    path: str | Path,
    bodies: Bodies,
    *,
    name: str,
    frame: Frame | None = None,
    extras: Mapping[str, Any] | None = None,
) -> None:
    """Write ``bodies``, one node each, with places alone."""
    stem = slug(name)
    scene = _scene(stem, frame, extras)
    for body, vertices, faces in bodies:
        places = vertices if frame is None else frame.points(vertices)
        primitive = scene.primitive({"POSITION": places.astype(np.float32)}, faces)
        scene.node(f"COL_{stem}_{body}", scene.mesh(f"COL_{stem}_{body}", [primitive]))
    write_bytes(Path(path), scene.glb())


def load_bodies(path: str | Path) -> list[tuple[str, np.ndarray, np.ndarray]]:
    """What :func:`save_bodies` wrote, in the file's own units."""
    document, body = read_glb(path)
    bodies = []
    for mesh in document["meshes"]:
        [primitive] = mesh["primitives"]
        vertices = read_accessor(document, body, primitive["attributes"]["POSITION"]).astype(np.float32)
        faces = read_accessor(document, body, primitive["indices"]).reshape(-1, 3).astype(np.int32)
        bodies.append((mesh["name"].rpartition("_")[2], vertices, faces))
    return bodies


def export(source: Path, target: Path, *, spec: AssetSpec, provenance: Mapping[str, Any]) -> None:
    """Write the deliverable ``target``, levels or bodies: ``source`` in metres, named by the asset."""
    extras = {name: provenance[name] for name in ("asset_id", "prompt", "seed", "models", "code_version")}
    frame = Frame.from_json(provenance["frame"])
    if source.name == "collision.glb":
        save_bodies(target, load_bodies(source), name=spec.asset_id, frame=frame, extras=extras)
        return
    levels = {name.rpartition("_")[2]: each for name, each in load_meshes(source).items()}
    ordered = dict(sorted(levels.items()))
    save_levels(target, ordered, name=spec.asset_id, frame=frame, extras=extras)
