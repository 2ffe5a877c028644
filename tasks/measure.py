"""The metrics of one asset, by the names under which the catalogue keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_core.spec import AssetSpec

if TYPE_CHECKING:
    from pipeline_core.types import Gaussians, TexturedMesh

CONTROLLED = ("r_precision", "category_correct", "colour_correct", "f_score")
"""Scores that are also taken of the initial cloud: a distillation that does not beat them is not working."""


def measure(spec: AssetSpec, start: Gaussians, gaussians: Gaussians, textured: TexturedMesh) -> dict[str, float]:
    """The health of the mesh, and what the judge sees: of the asset, and as ``control_*`` of what it started from.

    Health is that of the shape that is delivered; the judge knows no sizes and sees it before ``size_m`` stretches it.
    ``fidelity`` and ``consistency`` are the catalogue's headline columns: the share of views that put the true caption
    first, and the agreement between views. A prompt outside the judge's words has ``judged`` 0 and no scores. Of an
    asset that started from a file, ``start_psnr`` says how near its splat has stayed to it, whatever the prompt.
    """
    from pipeline_core.frame import frame_of, stretch_of
    from pipeline_core.metrics import fidelity, judge
    from pipeline_core.metrics.consistency import consistency, likeness
    from pipeline_core.metrics.mesh_health import mesh_health

    metrics = {"texture_size": float(textured.texture.shape[0]), "gaussians": float(len(gaussians))}
    shape = stretch_of(textured.vertices, spec.size_m).textured(textured)
    metres = max(frame_of(shape.vertices, spec.height_m, spec.size_m).scale)
    metrics |= {name: float(value) for name, value in mesh_health(shape, metres).items()}
    metrics |= consistency(gaussians, textured, spec.recipe.evaluate)
    if spec.init_file:
        metrics["start_psnr"] = likeness(start, gaussians, spec.recipe.evaluate)
    if not (judge.WEIGHTS / "model.safetensors").is_file():
        return metrics | {"judged": 0.0}
    metrics |= fidelity.score_mesh(textured, spec.prompt)
    if metrics["judged"]:
        metrics |= {"fidelity": metrics["r_precision_views"], "consistency": metrics["view_consistency"]}
        control = fidelity.score_gaussians(start, spec.prompt)
        metrics |= {f"control_{name}": control[name] for name in CONTROLLED if name in control}
    return metrics
