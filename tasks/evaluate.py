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
    journey: Journey, folder: Path, points: Reference, gaussians: Reference, asset: Reference
) -> dict[str, float]:
    """Write ``preview.png``, ``turntable.webp`` where the recipe wants frames, and ``metrics.json``."""
    from pipeline_core.frame import stretch_of
    from pipeline_core.io.gltf import load_glb
    from pipeline_core.io.images import save_png, save_turntable
    from pipeline_core.io.ply import load_splat
    from pipeline_core.metrics.views import preview, turntable

    settings = journey.spec.recipe.evaluate
    splat = load_splat(path_of(journey, gaussians, "splat.ply"))
    textured = load_glb(path_of(journey, asset, "asset.glb"))
    shown = stretch_of(textured.vertices, journey.spec.size_m).textured(textured)
    save_png(folder / "preview.png", preview(shown, size=2 * settings.resolution))
    if settings.turntable_frames:
        frames = turntable(shown, frames=settings.turntable_frames, size=settings.resolution)
        save_turntable(folder / "turntable.webp", frames)
    metrics = measure(journey.spec, control_of(journey, points), splat, textured)
    write_json(folder / "metrics.json", metrics)
    return metrics
