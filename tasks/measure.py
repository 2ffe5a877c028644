"""The metrics of one asset, by the names under which the catalogue keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_core.metrics.judges import judge_of
from pipeline_core.spec import AssetSpec

if TYPE_CHECKING:
    from pipeline_core.types import Gaussians, TexturedMesh

CONTROLLED = ("r_precision", "category_correct", "colour_correct", "f_score")
"""Scores that are also taken of the initial cloud: a distillation that does not beat them is not working."""


def measure(
    spec: AssetSpec,
    start: Gaussians,
    gaussians: Gaussians,
    textured: TexturedMesh,
    delivered: Gaussians | None = None,
) -> dict[str, float]:
    """The health of the mesh, and what the judge sees: of the asset, and as ``control_*`` of what it started from.

    Health is that of the shape that is delivered; the judge knows no sizes and sees it before ``size_m`` stretches it.
    ``fidelity`` and ``consistency`` are the catalogue's headline columns: the caption's margin over hard negatives, and
    the agreement between views. ``start_gain`` is what the splat's margin is above that of its start. A prompt outside
    the starter's words is judged by ``evaluate.judge`` (``judged_by_starter`` 0); without one ``judged`` is 0 and there
    are no scores. ``mesh_iou`` and ``mesh_psnr`` compare the mesh with the splat that is ``delivered``; where that is
    another than the optimised one, ``optimised_iou`` compares it with that. ``aesthetic`` is the mean rating of views
    in light, where the recipe names a predictor. Of an asset that started from a file, ``start_psnr`` says how near its
    optimised splat has stayed to it, whatever the prompt.
    """
    import torch

    from pipeline_core import models
    from pipeline_core.aside import elsewhere
    from pipeline_core.frame import frame_of, stretch_of
    from pipeline_core.metrics import fidelity
    from pipeline_core.metrics.aesthetic import load_predictor
    from pipeline_core.metrics.consistency import consistency, likeness
    from pipeline_core.metrics.judge import load_judge
    from pipeline_core.metrics.look import look
    from pipeline_core.metrics.mesh_health import mesh_health
    from pipeline_core.metrics.views import turntable

    optimised, delivered = (None, gaussians) if delivered is None else (gaussians, delivered)
    metrics = {"texture_size": float(textured.texture.shape[0]), "gaussians": float(len(delivered))}
    shape = stretch_of(textured.vertices, spec.size_m).textured(textured)
    metres = max(frame_of(shape.vertices, spec.height_m, spec.size_m).scale)
    metrics |= {name: float(value) for name, value in elsewhere(mesh_health, shape, metres).items()}
    metrics |= elsewhere(consistency, delivered, textured, spec.recipe.evaluate, optimised) | elsewhere(look, shape)
    if spec.init_file:
        metrics["start_psnr"] = elsewhere(likeness, start, gaussians, spec.recipe.evaluate)
    if spec.recipe.evaluate.aesthetic:
        rate = load_predictor(spec.recipe.evaluate.aesthetic, models.device())
        views = torch.from_numpy(elsewhere(turntable, shape, frames=8, size=rate.size)).permute(0, 3, 1, 2)
        metrics["aesthetic"] = float(rate(views).mean())
    ref = judge_of(spec.prompt, spec.recipe.evaluate)
    if ref is None:
        return metrics | {"judged": 0.0}
    judge = load_judge(ref, models.device())
    metrics |= fidelity.score_mesh(textured, spec.prompt, judge=judge)
    metrics |= {"judged_by_starter": float(ref == "starter"), "fidelity": metrics["caption_margin"]}
    control = fidelity.score_gaussians(start, spec.prompt, judge=judge)
    splat = fidelity.score_gaussians(gaussians, spec.prompt, judge=judge, shape=False)
    metrics |= {f"control_{name}": control[name] for name in CONTROLLED if name in control}
    gain = splat["caption_margin"] - control["caption_margin"]
    return metrics | {"start_gain": gain, "consistency": metrics["view_consistency"]}
