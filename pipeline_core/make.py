"""From a prompt to a textured mesh, one function a stage: what the tasks of a batch call, and what a notebook calls.

    cloud = points(prompt, recipe, seed=7)
    splat = distill(cloud, prompt, recipe, seed=7)
    mesh  = refine_texture(extract_mesh(splat, recipe), prompt, recipe, seed=7)

Every function takes the whole recipe and reads its own sections. Models are loaded at first use and kept
(``pipeline_core.models``); calls from several threads share the engine's batches. A batch hands its stages on as
files with 8 bits a colour; in memory colours keep their precision, so the two agree but for that rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from pipeline_core import models
from pipeline_core.aside import elsewhere
from pipeline_core.composition import Composed, stretched
from pipeline_core.composition import compose as composed
from pipeline_core.config import RECIPES, Distill, Init, Recipe
from pipeline_core.engine import distill as stage_of_distillation
from pipeline_core.engine.jobs import Progress
from pipeline_core.errors import RequestError
from pipeline_core.gaussians.initialise import ball, from_points
from pipeline_core.meshing import extract
from pipeline_core.picture import Picture
from pipeline_core.seeds import stream
from pipeline_core.spec import Part
from pipeline_core.starts import DENSE, Start, load_start
from pipeline_core.texturing import refine
from pipeline_core.texturing.bake import bake
from pipeline_core.types import Gaussians, PointCloud, TexturedMesh

FACTORY = RECIPES["factory"]


def generator_of(seed: int, stage: str) -> torch.Generator:
    """The random numbers of one stage of an asset with this ``seed``."""
    return torch.Generator("cpu").manual_seed(stream(seed, stage))


def points(prompt: str, recipe: Recipe = FACTORY, *, seed: int = 0) -> PointCloud:
    """What ``prompt`` looks like to the recipe's point prior, as one sample; a grey ball where ``init.start`` asks."""
    settings, generator = recipe.init, generator_of(seed, "init_points")
    if settings.start == "file":
        raise RequestError("init.start is file: starts are read by start_of(path, recipe)")
    if settings.start == "ball":
        return ball(settings.num_points, generator)
    prior = models.point_prior(settings.point_prior)
    with models.sampling:  # one sampler at a time: side by side they would only share the same cores
        [cloud] = prior.sample(
            [prompt],
            [generator],
            guidance_scale=settings.guidance_scale,
            guidance_sigma_min=settings.guidance_sigma_min,
            steps=settings.sampler_steps,
            num_points=settings.num_points,
        )
    return cloud


def compose(parts: Sequence[Part], recipe: Recipe = FACTORY, *, seed: int = 0) -> Composed:
    """Gaussians of several parts, each begun by its own prompt and put in its place: what :func:`distill` begins with.

        book = Part(prompt="a red book", position=(0, 0.7, 0), size=0.3)
        compose([Part(prompt="a brown table", size=(1, 0.7, 0.6)), book])

    Every part has as many Gaussians as an asset alone, and random numbers of its own.
    """
    own = []
    for number, part in enumerate(parts):
        its_seed = stream(seed, f"parts[{number}]")
        cloud = points(part.prompt, recipe, seed=its_seed)
        own.append(start(replace(cloud, xyz=stretched(cloud.xyz, part)), recipe, seed=its_seed))
    return composed(parts, own)


def start_of(path: str | Path, recipe: Recipe = FACTORY, *, seed: int = 0) -> Start:
    """What another generator's file holds (.ply, .glb or .obj), in our frame: ``start_of(path).begin`` is distilled.

    Raises DataError where it cannot be used.
    """
    return load_start(Path(path), recipe.init, generator_of(seed, "init_points"))


def start(cloud: PointCloud, recipe: Recipe = FACTORY, *, seed: int = 0) -> Gaussians:
    """The Gaussians that distillation begins with: ``recipe.init`` of them at the points of ``cloud``.

    Points of a file are taken to be on its surface already, and are not tidied.
    """
    settings = recipe.init
    if settings.start == "file":
        settings = settings.model_copy(update={"tidy_neighbours": 0})
    return from_points(cloud, settings, generator_of(seed, "start"))


def picture_of(begun: Start) -> Gaussians:
    """Gaussians that look like what the file holds, to judge a result against: a splat's own, else many small ones."""
    if begun.gaussians is not None:
        return begun.gaussians
    settings = Init(start="file", num_points=max(64, min(len(begun.dense), DENSE)), opacity=0.95)
    return from_points(begun.dense, settings, torch.Generator("cpu").manual_seed(0))


def distill(
    begin: PointCloud | Gaussians,
    prompt: str,
    recipe: Recipe = FACTORY,
    *,
    stage: Distill | None = None,
    negative_prompt: str = "",
    picture: Picture | None = None,
    seed: int = 0,
    on_progress: Progress | None = None,
) -> Gaussians:
    """Gaussians whose renders are what the recipe's priors expect of ``prompt``; blocks until done.

    Args:
        begin: points become Gaussians first (:func:`start`); Gaussians go on from where they are.
        stage: settings of the one stage to run, say ``recipe.geometry.model_copy(update={"steps": 200})``; None runs
            ``recipe.geometry`` and then ``recipe.appearance``.
        picture: what the image prior is shown where it is one that reads no prompt (:func:`read_picture`).
        on_progress: called as ``on_progress(step, steps, report)`` about twice a second.

    Raises:
        DivergedError: the Gaussians became NaN; another seed may not.
        OutOfMemory: even one asset at a time does not fit.
    """
    gaussians = start(begin, recipe, seed=seed) if isinstance(begin, PointCloud) else begin
    stages = [("optimize_gaussians", recipe.geometry), ("densify_prune", recipe.appearance)]
    if stage is not None:  # of the two it draws as the one that it is, of others as the first
        stages = [(next((name for name, settings in stages if settings is stage), "optimize_gaussians"), stage)]
    for name, settings in stages:
        gaussians, _ = stage_of_distillation.distill(
            gaussians, prompt, negative_prompt, settings, models.engine(recipe), picture=picture,
            seed=stream(seed, name), on_progress=on_progress,
        )  # fmt: skip
    return gaussians


def extract_mesh(gaussians: Gaussians, recipe: Recipe = FACTORY) -> TexturedMesh:
    """The surface of ``gaussians`` as a closed mesh with a UV atlas, their colours baked into its texture. An object
    unit counts as a metre where ``mesh.texels_per_metre`` is set.

    Raises DataError where there is nothing to mesh, DivergedError where the density has no usable surface.
    """
    mesh = elsewhere(extract.extract_mesh, gaussians, recipe.mesh)
    return elsewhere(bake, gaussians, mesh, recipe.mesh)


def refine_texture(
    textured: TexturedMesh,
    prompt: str,
    recipe: Recipe = FACTORY,
    *,
    negative_prompt: str = "",
    picture: Picture | None = None,
    seed: int = 0,
    name: str = "",
    on_progress: Progress | None = None,
    checkpoint_path: Path | None = None,
) -> TexturedMesh:
    """``textured`` with the detail that the image prior adds to its renders; unchanged where ``texture.steps`` is 0.

    Args:
        picture: as in :func:`distill`.
        name: what errors call it; the prompt where none is given.
        on_progress: as in :func:`distill`.
        checkpoint_path: a file that exists only while this is unfinished: the same call goes on from it.

    Raises:
        DivergedError: the prior answered NaN.
    """
    if not recipe.texture.steps:
        return textured
    return refine.refine_texture(
        textured, prompt, recipe.texture, models.engine(recipe),
        seed=stream(seed, "refine_texture"), negative_prompt=negative_prompt, picture=picture, name=name,
        on_progress=on_progress, checkpoint_path=checkpoint_path,
    )  # fmt: skip
