"""What the start was, for the stages that go on from it or are judged against it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tasks.journey import Journey
from tasks.stage import Reference, path_of

if TYPE_CHECKING:
    from pipeline_core.types import Gaussians

START = "start.ply"
"""The Gaussians of a splat that a row named; other starts are points alone."""


CONTROL = "control.ply"
"""What another file that a row named looks like, as a splat."""


def control_of(journey: Journey, points: Reference) -> Gaussians:
    """What the result is judged against: the file as it was, where there was one, else the start."""
    from pipeline_core.io.ply import load_splat

    if CONTROL in points["outputs"]:
        return load_splat(path_of(journey, points, CONTROL))
    return start_of(journey, points)


def start_of(journey: Journey, points: Reference) -> Gaussians:
    """The Gaussians that distillation begins with: the file's own, or new ones at the points."""
    from pipeline_core import make
    from pipeline_core.io.ply import load_points, load_splat

    if START in points["outputs"]:
        return load_splat(path_of(journey, points, START))
    cloud = load_points(path_of(journey, points, "points.ply"))
    return make.start(cloud, journey.spec.recipe, seed=journey.spec.seed)
