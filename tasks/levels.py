"""This stage makes what an engine wants beside the mesh: levels of detail, and bodies to collide with."""

from __future__ import annotations

from pathlib import Path

from pipeline_core.files import write_json
from tasks.journey import Journey
from tasks.policy import stage_task
from tasks.stage import Reference, path_of


@stage_task
def levels(journey: Journey, folder: Path, asset: Reference) -> dict[str, float]:
    """Write ``lods.glb`` and ``collision.glb`` in object units, and ``levels.json``, which says what was left out."""
    from pipeline_core.aside import elsewhere
    from pipeline_core.frame import stretch_of
    from pipeline_core.io.gltf import load_glb
    from pipeline_core.io.levels import save_bodies, save_levels
    from pipeline_core.meshing.collision import bodies_of
    from pipeline_core.meshing.levels import levels_of, told_of

    settings = journey.spec.recipe.levels
    textured = load_glb(path_of(journey, asset, "asset.glb"))
    stretch = stretch_of(textured.vertices, journey.spec.size_m)  # they are chosen by the shape that is delivered
    shape, back = stretch.textured(textured), stretch.inverse()
    made, left_out = elsewhere(levels_of, shape, settings)
    named = {f"LOD{i}": back.textured(each.textured) for i, each in enumerate(made)}
    elsewhere(save_levels, folder / "lods.glb", named, name="asset")
    bodies, scores = elsewhere(bodies_of, shape.mesh, settings)
    bodies = [(body, back.points(vertices), faces) for body, vertices, faces in bodies]
    save_bodies(folder / "collision.glb", bodies, name="asset")
    metrics = told_of(made, left_out) | scores
    told = [{"faces": len(each.textured.faces), "share": each.share, "error": round(each.error, 5)} for each in made]
    write_json(folder / "levels.json", {"levels": told, "left_out": left_out, "metrics": metrics})
    return metrics
