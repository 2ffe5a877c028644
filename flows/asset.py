"""One asset, from its prompt to the catalogue: read this first.

    prompt -> points -> Gaussians -> refined Gaussians -> mesh -> better texture -> pictures, numbers -> deliverables
              (prior)   (SDS)        (SDS, densify)       (marching cubes, UV)       (metrics)          (catalogue)

Each arrow is one task (``tasks/``): it writes a folder under ``<library>/stages/``, named by everything that it
depends on, and hands on a small reference to it. What is there and whole is not made again, whoever made it, so this
function may be killed anywhere and called again. Tasks that optimise share the process's engine: assets that are on
their way at the same time share its model calls.
"""

from __future__ import annotations

from typing import Any

from prefect import flow

from pipeline_core.errors import DamagedInput
from pipeline_core.spec import AssetSpec
from tasks.densify_prune import densify_prune
from tasks.evaluate import evaluate
from tasks.extract_mesh import extract_mesh
from tasks.init_points import init_points
from tasks.journey import Journey, finished, plan_journey
from tasks.optimize_gaussians import optimize_gaussians
from tasks.policy import ask, forgetting
from tasks.record import record
from tasks.refine_texture import refine_texture
from tasks.rules import MENDED, RESEEDED, RESEEDS, reseeded
from tasks.stage import Reference


def make_asset(journey: Journey) -> Reference:
    """The whole journey of one asset; returns the reference to its deliverables. Raises what its stage raised.

    Where an optimisation diverged, it begins anew from another seed; where a file on the way was damaged, it is
    travelled again, and only what is damaged is made.
    """
    seeds = damages = 0
    while True:
        try:
            return travel(reseeded(journey, seeds))
        except RESEEDED:
            seeds += 1
            if seeds > RESEEDS:
                raise
        except DamagedInput:
            damages += 1
            if damages > MENDED:
                raise


@forgetting
def travel(journey: Journey) -> Reference:
    """Stage after stage; returns the reference to the deliverables."""
    points = ask(init_points, journey)
    gaussians = ask(optimize_gaussians, journey, points)
    refined = ask(densify_prune, journey, gaussians)
    mesh = ask(extract_mesh, journey, refined)
    textured = ask(refine_texture, journey, mesh)
    scores = ask(evaluate, journey, points, refined, textured)
    return ask(record, journey, refined, textured, scores)


@flow(name="asset", log_prints=False)
def asset(spec: dict[str, Any], library: str, run_id: str) -> bool:
    """One asset as a flow of its own. Returns False when it was made already."""
    journey = plan_journey(library, run_id, AssetSpec.from_json(spec))
    if finished(journey):
        return False
    make_asset(journey)
    return True
