"""The evaluation takes pictures of the finished asset and measures it."""

from __future__ import annotations

from pathlib import Path

from pipeline_core.files import write_json
from tasks.journey import Journey
from tasks.measure import measure
from tasks.policy import stage_task
from tasks.stage import Reference, path_of
from tasks.start import control_of


@stage_task
def evaluate(
    journey: Journey, folder: Path, points: Reference, shaped: Reference, gaussians: Reference, asset: Reference
) -> dict[str, float]:
    """Write ``preview.png``, ``stages.webp``, ``turntable.webp`` where the recipe wants frames, ``metrics.json``."""
    from pipeline_core.aside import elsewhere
    from pipeline_core.frame import stretch_of
    from pipeline_core.io.gltf import load_glb
    from pipeline_core.io.images import save_png, save_turntable, save_webp
    from pipeline_core.io.ply import load_splat
    from pipeline_core.metrics.views import preview, stages, turntable

    settings = journey.spec.recipe.evaluate
    splat = load_splat(path_of(journey, gaussians, "splat.ply"))
    textured = load_glb(path_of(journey, asset, "asset.glb"))
    stretch = stretch_of(textured.vertices, journey.spec.size_m)
    shown = stretch.textured(textured)
    picture = elsewhere(preview, shown, size=2 * settings.resolution)
    save_png(folder / "preview.png", picture)
    if settings.turntable_frames:
        frames = elsewhere(turntable, shown, frames=settings.turntable_frames, size=settings.resolution)
        save_turntable(folder / "turntable.webp", frames)
    start = control_of(journey, points)
    delivered = load_splat(path_of(journey, asset, "splat.ply")) if "splat.ply" in asset["outputs"] else None
    splats = [start, load_splat(path_of(journey, shaped, "splat.ply")), splat]
    row = elsewhere(stages, [stretch.gaussians(each) for each in splats], shown, picture)
    save_webp(folder / "stages.webp", row)
    metrics = measure(journey.spec, start, splat, textured, delivered)
    write_json(folder / "metrics.json", metrics)
    return metrics
