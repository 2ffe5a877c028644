"""This stage gives the asset its materials: metallic, roughness, occlusion, normals, and the light that it gives; and
where the recipe asks, the splat that shows what the mesh does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from pipeline_core.files import write_json
from tasks.journey import Journey
from tasks.policy import stage_task
from tasks.stage import Reference, path_of


@stage_task
def dress(
    journey: Journey, folder: Path, points: Reference, gaussians: Reference, mesh: Reference, asset: Reference
) -> dict[str, float]:
    """Write ``asset.glb`` in object units with all its maps, ``material.json``, which says what they hold, and
    ``splat.ply`` where it is drawn on the mesh: then this one is delivered, for the optimised one."""
    from pipeline_core.aside import elsewhere
    from pipeline_core.frame import stretch_of
    from pipeline_core.io.gltf import load_glb, save_glb
    from pipeline_core.io.npz import load_mesh
    from pipeline_core.io.ply import load_points, load_splat, save_splat
    from pipeline_core.texturing.draw import draw
    from pipeline_core.texturing.dress import dress as dress_mesh

    spec = journey.spec
    fine = load_mesh(path_of(journey, mesh, "surface.npz"))
    textured = load_glb(path_of(journey, asset, "asset.glb"))
    stretch = stretch_of(textured.vertices, spec.size_m)  # slopes of the relief are those of the asset as delivered
    cloud = stretch.cloud(load_points(path_of(journey, points, "points.ply")))
    dressed, told = elsewhere(
        dress_mesh, stretch.textured(textured), stretch.surface(fine), spec.prompt, spec.recipe.dress, cloud
    )
    dressed = replace(dressed, vertices=textured.vertices, normals=textured.normals)
    elsewhere(save_glb, folder / "asset.glb", dressed, name="asset")
    write_json(folder / "material.json", told)
    if spec.recipe.dress.splat == "mesh":
        count = len(load_splat(path_of(journey, gaussians, "splat.ply")))
        save_splat(folder / "splat.ply", elsewhere(draw, textured, count, spec.recipe.dress))
    return {
        "materials_named": float(len(told["materials"]) if told["material_source"] == "prompt" else 0),
        "material_set": float(told["material_source"] == "recipe"),
        "material_points": float(told["material_source"] == "points"),
        "metallic": sum(each["metallic"] * each["share"] for each in told["materials"]),
        "roughness": sum(each["roughness"] * each["share"] for each in told["materials"]),
        "occlusion_mean": told["occlusion_mean"],
        "emissive_share": told.get("emissive", {}).get("share", 0.0),
    }
