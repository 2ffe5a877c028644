"""The first stage makes the start: one sample of the point prior for the prompt or each part's, or what a file
holds."""

from __future__ import annotations

from pathlib import Path

from pipeline_core.errors import DataError
from tasks.journey import Journey
from tasks.policy import stage_task
from tasks.stage import input_of
from tasks.start import CONTROL, START, save


@stage_task
def init_points(journey: Journey, folder: Path) -> dict[str, float]:
    """Write ``points.ply``: what the prompt looks like to the point prior, a grey ball, or points of the row's file.

    A file that is a splat is also written as ``start.ply``, in our frame: distillation goes on from that. So are a
    row's parts, each begun by its own prompt and in its place, with ``parts.npz``. Of another file ``control.ply``
    shows what it looks like, as a splat: the result is judged against that.
    """
    from pipeline_core import make
    from pipeline_core.io.ply import save_points
    from pipeline_core.types import PointCloud, sh0_to_rgb

    spec, metrics = journey.spec, dict[str, float]()
    if spec.parts:
        whole = make.compose(spec.parts, spec.recipe, seed=spec.seed)
        save(folder, whole, START)
        cloud = PointCloud(whole.means, sh0_to_rgb(whole.sh0).clamp(0, 1))
    elif spec.init_file is None:
        cloud = make.points(spec.prompt, spec.recipe, seed=spec.seed)
    else:
        path = input_of(journey, "init_file")
        try:
            start = make.start_of(path, spec.recipe, seed=spec.seed)
        except DataError as error:
            raise DataError(f"init_file {str(error).replace(str(path), spec.init_file.name)}") from None
        cloud, metrics = start.cloud, start.metrics
        name = CONTROL if start.gaussians is None else START
        save(folder, make.picture_of(start), name, comment="frame y-up")
    save_points(folder / "points.ply", cloud)
    return {"points": len(cloud)} | metrics
