"""What the start was, for the stages that go on from it or are judged against it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from tasks.journey import Journey
from tasks.stage import Reference, path_of

if TYPE_CHECKING:
    from pipeline_core.types import Gaussians

START = "start.ply"
"""The Gaussians of a splat that a row named, or of a row's parts; other starts are points alone."""


PARTS = "parts.npz"
"""Beside a splat of several parts: whose each Gaussian is, and where the parts stand."""


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
    from pipeline_core.io.ply import load_points

    if START in points["outputs"]:
        return splat_of(journey, points, START)
    cloud = load_points(path_of(journey, points, "points.ply"))
    return make.start(cloud, journey.spec.recipe, seed=journey.spec.seed)


def splat_of(journey: Journey, made: Reference, name: str = "splat.ply") -> Gaussians:
    """A stage's splat, with its parts where it has several."""
    from pipeline_core.composition import load_parts
    from pipeline_core.io.ply import load_splat

    gaussians = load_splat(path_of(journey, made, name))
    return load_parts(path_of(journey, made, PARTS), gaussians) if PARTS in made["outputs"] else gaussians


def save(folder: Path, gaussians: Gaussians, name: str = "splat.ply", *, comment: str = "") -> None:
    """Write what :func:`splat_of` reads."""
    from pipeline_core.composition import Composed, save_parts
    from pipeline_core.io.ply import save_splat

    save_splat(folder / name, gaussians, comment=comment)
    if isinstance(gaussians, Composed):
        save_parts(folder / PARTS, gaussians)
