"""One asset, from its prompt to the catalogue: read this first.

    prompt -> points -> Gaussians -> refined Gaussians -> mesh -> better texture -> pictures, numbers -> deliverables
              (prior)   (SDS)        (SDS, densify)       (marching cubes, UV)       (metrics)          (catalogue)

Each arrow is a row of the table in ``pipeline_core/stages.py`` and a task of the same name in ``tasks/``. The task
calls ``pipeline_core``, and the equations are there (all paths below ``pipeline_core/``):

    init_points          priors/karras.py             Heun's sampler of the point prior (EDM, Algorithm 2)
                         priors/point_e.py, priors/independent_points.py: the networks
    optimize_gaussians   gaussians/initialise.py      points to Gaussians
                         engine/gaussian_job.py       one step: render, encode, noise, guide, back
                         guidance/sds.py              the gradient of score distillation (DreamFusion, Equation 3)
                         guidance/variants.py         its other forms, which ask otherwise: CSD, ISM, SDI, multistep
                         guidance/point_sds.py        the same in 3D, by the point prior (GSGen)
                         priors/process.py            how priors add noise and take it away: diffusion, rectified flow
                         guidance/prompts.py          guidance, view prompts, Perp-Neg
                         guidance/views.py            cameras;  guidance/schedules.py: noise levels, rates, sizes
                         rendering/reference.py       the rasteriser that the fast ones are tested against
                         engine/carving.py            gaps that the prior sees through;  gaussians/carve.py: what goes
                         gaussians/stains.py          the background's colour where it does not belong
    densify_prune        gaussians/strategies.py      clone, split, fill, prune (3DGS, DreamGaussian, GSGen)
    extract_mesh         rendering/density.py         the field of the Gaussians (DreamGaussian, Equation 4)
                         meshing/surface.py           marching cubes, clean-up;  meshing/settle.py, meshing/unwrap.py
                         texturing/bake.py            colours onto the atlas
    refine_texture       texturing/refine.py          noise a render, denoise it, paint the change (SDEdit)
                         texturing/fit.py             the same by gradient descent, as DreamGaussian published it
    dress                texturing/dress.py           materials.py: what it is made of;  relief.py: normals, occlusion
                         texturing/draw.py            a splat on the finished mesh
    levels               meshing/levels.py            fewer triangles from afar;  meshing/collision.py: convex bodies
    evaluate             metrics/                     fidelity.py, judge.py, consistency.py, mesh_health.py, views.py
    validate             validation/asset.py          what is wrong with the files: findings
    accept               acceptance.py                the contract's clauses, and the verdict
    record               deliverables.py              what is delivered;  io/: one file a format

A task writes a folder under ``<library>/stages/``, named by everything that it depends on, and hands on a small
reference to it. What is there and whole is not made again, whoever made it, so this function may be killed anywhere
and called again. Tasks that optimise share the process's engine: assets that are on their way at the same time share
its model calls.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from prefect import flow

from flows.choice import choose
from pipeline_core import stages
from pipeline_core.errors import DamagedInput
from pipeline_core.spec import AssetSpec
from tasks.journey import Journey, discard_damaged, finished, plan_journey
from tasks.policy import Made, come_through, forgetting
from tasks.rules import MENDED, RESEEDED, RESEEDS, attempts, rank, reseeded
from tasks.stage import Reference, verdict_of


def make_asset(journey: Journey) -> Reference:
    """Make one asset; returns the reference to its deliverables. Raises what its stage raised.

    When an optimisation diverges or the contract rejects what was made, the journey begins anew from another seed.
    Where no attempt is accepted, the best is delivered, and stays rejected.
    """
    rejected: list[tuple[Journey, Made]] = []
    diverged, most = 0, attempts(journey)
    while len(rejected) < most:
        tried = reseeded(journey, len(rejected) + diverged)
        try:
            made = mended(tried, [each["accept"] for _, each in rejected])
        except RESEEDED:
            diverged += 1
            if diverged <= RESEEDS:
                continue
            if not rejected:
                raise
            break
        if stages.DELIVERY in made:
            return made[stages.DELIVERY]
        rejected.append((tried, made))
    chosen, of_it = min(rejected, key=lambda each: rank(*each))
    others = [made["accept"] for _, made in rejected if made is not of_it]
    return mended(chosen, others, finally_=True)[stages.DELIVERY]


def mended(journey: Journey, others: Sequence[Reference], *, finally_: bool = False) -> Made:
    """:func:`choose`, :func:`travel`; when a file on the way is damaged, again, and only what is damaged is made."""
    for damages in itertools.count(1):
        try:
            return travel(*choose(journey), others, finally_=finally_)
        except DamagedInput:
            if damages > MENDED:
                raise
            discard_damaged(journey)
    raise AssertionError


@forgetting
def travel(journey: Journey, made: Made, others: Sequence[Reference] = (), *, finally_: bool = False) -> Made:
    """Run stage after stage and give each the outputs that its row names; returns the references by stage.

    ``made`` are those that are known already. What the contract rejects is not delivered, unless ``finally_``: then
    every stage leaves a row, the latest of its asset. ``others`` are references to the verdicts of the other attempts.
    """
    made = {} if finally_ else dict(made)
    for stage in stages.STAGES:
        if stage.name in made:
            continue
        delivers = stage.name == stages.DELIVERY
        if delivers and not finally_ and not finished(journey) and verdict_of(journey, made["accept"]).failed:
            break
        come_through(journey, made, stage.name, others if delivers else (), anew=finally_)
    return made


@flow(name="asset", log_prints=False)
def asset(spec: dict[str, Any], library: str, run_id: str) -> bool:
    """Make one asset in a flow of its own. Returns False when it was made already."""
    journey = plan_journey(library, run_id, AssetSpec.from_json(spec))
    if finished(journey):
        return False
    make_asset(journey)
    return True
