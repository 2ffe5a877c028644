"""splatmill from Python: one function a stage, on plain data.

    import pipeline_core as sm

    prompt, recipe = "a red mushroom with white spots", sm.RECIPES["draft"]
    cloud = sm.points(prompt, recipe, seed=7)                        # PointCloud
    splat = sm.distill(cloud, prompt, recipe, seed=7)                # Gaussians
    mesh = sm.extract_mesh(splat, recipe)                            # TexturedMesh
    mesh = sm.refine_texture(mesh, prompt, recipe, seed=7)
    sm.save_glb("mushroom.glb", mesh, height_m=0.3)

``dir(sm)`` lists what there is, ``help(sm.distill)`` explains it. A name is imported when it is first used, so the
import itself costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any

_HOMES = {
    "Gaussians": "types",
    "PointCloud": "types",
    "RECIPES": "config",
    "Recipe": "config",
    "TexturedMesh": "types",
    "distill": "make",
    "extract_mesh": "make",
    "load_glb": "io.gltf",
    "load_points": "io.ply",
    "load_splat": "io.ply",
    "mesh_health": "metrics.mesh_health",
    "points": "make",
    "preview": "metrics.views",
    "read_picture": "picture",
    "refine_texture": "make",
    "save_glb": "io.gltf",
    "save_png": "io.images",
    "save_points": "io.ply",
    "save_splat": "io.ply",
    "save_turntable": "io.images",
    "score_mesh": "metrics.fidelity",
    "start": "make",
    "start_of": "make",
    "turntable": "metrics.views",
}
"""Module of this package that each public name comes from."""

__all__ = list(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline_core.device import configure

    configure()  # thread pools read their settings when torch is first imported
    value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
