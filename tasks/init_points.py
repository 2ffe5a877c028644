"""The first stage makes the start: one sample of the point prior for the prompt, or what a file holds."""

from __future__ import annotations

from pathlib import Path

from pipeline_core.errors import DataError
from tasks.journey import Journey
from tasks.policy import stage_task
from tasks.stage import input_of
from tasks.start import CONTROL, START


@stage_task
def init_points(journey: Journey, folder: Path) -> dict[str, float]:
    """Write ``points.ply``: what the prompt looks like to the point prior, a grey ball, or points of the row's file.

    A file that is a splat is also written as ``start.ply``, in our frame: distillation goes on from that. Of another
    file ``control.ply`` shows what it looks like, as a splat: the result is judged against that.
    """
    from pipeline_core import make
    from pipeline_core.io.ply import save_points, save_splat

    spec = journey.spec
    if spec.init_file is None:
        cloud, metrics = make.points(spec.prompt, spec.recipe, seed=spec.seed), {}
    else:
        path = input_of(journey, "init_file")
        try:
            start = make.start_of(path, spec.recipe, seed=spec.seed)
        except DataError as error:
            raise DataError(f"init_file {str(error).replace(str(path), spec.init_file.name)}") from None
        cloud, metrics = start.cloud, start.metrics
        name = CONTROL if start.gaussians is None else START
        save_splat(folder / name, make.picture_of(start), comment="frame y-up")
    save_points(folder / "points.ply", cloud)
    return {"points": len(cloud)} | metrics
