"""This stage betters the texture: it noises renders a little, has them denoised, and paints the change."""

from __future__ import annotations

from pathlib import Path

from pipeline_core.storage import Library
from tasks.journey import Journey
from tasks.policy import stage_task
from tasks.progress import board
from tasks.stage import Reference, path_of, picture_of


@stage_task
def refine_texture(journey: Journey, folder: Path, mesh: Reference) -> dict[str, float]:
    """Write ``asset.glb`` in object units, which ``dress`` gives its materials."""
    from pipeline_core import make
    from pipeline_core.aside import elsewhere
    from pipeline_core.io.gltf import load_glb, save_glb

    spec = journey.spec
    textured = make.refine_texture(
        load_glb(path_of(journey, mesh, "mesh.glb")),
        spec.prompt,
        spec.recipe,
        seed=spec.seed,
        negative_prompt=spec.negative_prompt,
        picture=picture_of(journey),
        name=spec.asset_id,
        checkpoint_path=Library(journey.library).checkpoint("refine_texture", journey.keys["refine_texture"]),
        on_progress=board.follow(spec.asset_id, "refine_texture"),
    )
    elsewhere(save_glb, folder / "asset.glb", textured, name="asset")
    return {"steps": spec.recipe.texture.steps}
