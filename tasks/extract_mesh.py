"""This stage makes a mesh of the Gaussians: density field, marching cubes, clean-up, decimation, UV atlas, colour bake.

Marching cubes and xatlas hold Python's lock for seconds. They run in processes of their own
(``pipeline_core.meshing.process``), so the engine beside them never stalls; beside a GPU all of it does
(``pipeline_core.aside``).
"""

from __future__ import annotations

from pathlib import Path

from tasks.journey import Journey
from tasks.policy import stage_task
from tasks.stage import Reference
from tasks.start import splat_of


@stage_task
def extract_mesh(journey: Journey, folder: Path, gaussians: Reference) -> dict[str, float]:
    """Write ``mesh.glb``: the surface in object units, with the Gaussians' colours baked into its texture; and
    ``surface.npz``: the same before decimation, without colours.

    A small part that touches no other is a component that was asked for: ``min_component`` is smaller for it."""
    from pipeline_core.aside import elsewhere
    from pipeline_core.composition import Composed
    from pipeline_core.frame import frame_of
    from pipeline_core.io.gltf import save_glb
    from pipeline_core.io.npz import save_mesh
    from pipeline_core.meshing import extract
    from pipeline_core.texturing.bake import bake

    spec = journey.spec
    settings = spec.recipe.mesh
    splat = splat_of(journey, gaussians)
    if isinstance(splat, Composed):
        settings = settings.model_copy(update={"min_component": settings.min_component * splat.layout.least})
    mesh, fine = elsewhere(extract.extract_surfaces, splat, settings)
    metres = max(frame_of(mesh.vertices, spec.height_m, spec.size_m).scale)
    textured = elsewhere(bake, splat, mesh, settings, metres=metres)
    elsewhere(save_glb, folder / "mesh.glb", textured, name="mesh")
    elsewhere(save_mesh, folder / "surface.npz", fine)
    return {"faces": len(mesh.faces), "vertices": len(mesh.vertices), "texture_size": textured.texture.shape[0]}
