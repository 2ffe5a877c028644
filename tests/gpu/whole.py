"""A whole asset, for the section ``batch``: what the tasks of its stages do, without Prefect, library and catalogue.

    found = whole(spec, engine, folder, lap)      # lap("dress") when that stage is done

The weights there are random and what they distil is noise, so all stages after the geometry are about the Gaussians
that it began with. Left out are ``densify_prune``, where ``dreamgaussian`` has no steps, and ``accept`` and ``record``,
which compute nothing.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from pipeline_core import make
from pipeline_core.aside import elsewhere
from pipeline_core.config import RECIPES, Recipe
from pipeline_core.deliverables import DELIVERABLES
from pipeline_core.engine.distill import distill
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.frame import STANDARD, frame_of
from pipeline_core.io import xmp
from pipeline_core.io.gltf import bounds, save_glb
from pipeline_core.io.images import save_png, save_turntable, save_webp
from pipeline_core.io.levels import save_bodies, save_levels
from pipeline_core.io.ply import save_splat
from pipeline_core.meshing.collision import bodies_of
from pipeline_core.meshing.extract import extract_surfaces
from pipeline_core.meshing.levels import levels_of
from pipeline_core.metrics.views import preview, stages, turntable
from pipeline_core.spec import AssetSpec
from pipeline_core.texturing.bake import bake
from pipeline_core.texturing.dress import dress
from pipeline_core.texturing.refine import refine_texture
from pipeline_core.validation.asset import check_asset
from tasks.measure import measure
from tests.gpu.sections import PROMPT, SMALL


def begun_by_the_starter(recipe: Recipe, **changes: object) -> Recipe:
    """``recipe`` with ``factory``'s first stage: as many points, sampled from the starter's point prior."""
    init = RECIPES["factory"].init.model_copy(update={"num_points": recipe.init.num_points} | changes)
    return recipe.model_copy(update={"init": init})


def whole(
    spec: AssetSpec, engine: DistillationEngine | None, folder: Path, lap: Callable[[str], None]
) -> dict[str, float]:
    """Make the asset in ``folder``, without what takes an engine where there is none; returns its metrics."""
    recipe, prompt, seed = spec.recipe, spec.prompt, spec.seed
    cloud = make.points(prompt, recipe, seed=seed)
    start = make.start(cloud, recipe, seed=seed)
    lap("init_points")
    gaussians = distill(start, prompt, "", recipe.geometry, engine, seed=seed)[0] if engine else start
    lap("optimize_gaussians")
    mesh, fine = elsewhere(extract_surfaces, start, recipe.mesh)
    textured = elsewhere(bake, start, mesh, recipe.mesh)
    lap("extract_mesh")
    textured = refine_texture(textured, prompt, recipe.texture, engine, seed=seed) if engine else textured
    lap("refine_texture")
    textured, _ = elsewhere(dress, textured, fine, prompt, recipe.dress, cloud)
    elsewhere(save_glb, folder / "asset.glb", textured, name="asset")
    save_splat(folder / "splat.ply", start)
    lap("dress")
    levels, _ = elsewhere(levels_of, textured, recipe.levels)
    named = {f"LOD{i}": level.textured for i, level in enumerate(levels)}
    elsewhere(save_levels, folder / "lods.glb", named, name="asset")
    bodies, _ = elsewhere(bodies_of, textured.mesh, recipe.levels)
    save_bodies(folder / "collision.glb", bodies, name="asset")
    lap("levels")
    look, picture = recipe.evaluate, elsewhere(preview, textured, size=2 * recipe.evaluate.resolution)
    save_png(folder / "preview.png", picture)
    frames = elsewhere(turntable, textured, frames=look.turntable_frames, size=look.resolution)
    save_turntable(folder / "turntable.webp", frames)
    save_webp(folder / "stages.webp", elsewhere(stages, [start] * 3, textured, picture))
    metrics = measure(spec, start, start, textured)
    lap("evaluate")
    errors = [each for each in check_asset(delivered(spec, folder), spec, whole=False) if each.severity == "error"]
    print(*errors, sep="\n", flush=True)
    lap("validate")
    return metrics | {"distilled": len(gaussians), "faces": len(textured.faces), "finding_errors": len(errors)}


def delivered(spec: AssetSpec, made: Path) -> Path:
    """The deliverables of what lies in ``made``, below it: in metres, and marked as generated."""
    frame = STANDARD | frame_of(bounds(made / "asset.glb"), spec.height_m, spec.size_m).to_json()
    told = {"asset_id": spec.asset_id, "prompt": spec.prompt, "seed": spec.seed}
    told |= {"models": {}, "code_version": "", "frame": frame}
    folder = made / "delivered"
    folder.mkdir()
    for row in DELIVERABLES:
        if row.exporter:
            row.export()(made / row.source, folder / row.file, spec=spec, provenance=told)
        else:
            shutil.copy(made / row.source, folder / row.file)
        if (folder / row.file).suffix in xmp.SUFFIXES:
            xmp.mark_file(folder / row.file, xmp.Mark.of(told))
    return folder


def compile_kernels() -> None:
    """Make one small asset, so that the CPU's kernels lie compiled in the cache, which a bare machine lacks."""
    recipe = begun_by_the_starter(RECIPES["dreamgaussian"], num_points=512).override(SMALL)
    with tempfile.TemporaryDirectory() as folder:
        whole(AssetSpec(prompt=PROMPT, recipe=recipe), None, Path(folder), lambda stage: None)
