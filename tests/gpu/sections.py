"""The sections of ``tests/gpu/run.py``: each takes the device, the notes to fill, whether it is dry, and a clock."""

from __future__ import annotations

import copy
import functools
import gc
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from pipeline_core.benchmark import counters, gpu
from pipeline_core.benchmark.random_priors import random_encoder, random_prior
from pipeline_core.cameras import orbit
from pipeline_core.config import RECIPES, Densify, Recipe
from pipeline_core.engine import adam, gaussian_job
from pipeline_core.engine.distill import distill
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.engine.fixed_sizes import FixedSizes
from pipeline_core.engine.gaussian_job import render_scene
from pipeline_core.engine.scenes import Scene, render_together
from pipeline_core.gaussians.initialise import ball, from_points
from pipeline_core.gaussians.strategies import fill_gaps, grow, prune
from pipeline_core.priors import compiled
from pipeline_core.priors.image import DiffusersPrior, load_image_prior
from pipeline_core.priors.points import load_point_prior
from pipeline_core.rendering.rasterize import rasterize
from pipeline_core.spec import AssetSpec
from pipeline_core.texturing.refine import refine_texture
from pipeline_core.types import Gaussians, rgb_to_sh0

PROMPT = "a red mug"
BATCH_S = 300
"""Seconds that the section ``batch`` wants: 265 on an H200 when it was three stages, not measured with all."""
SMALL = {
    "mesh.grid": 32, "mesh.face_budget": 500, "mesh.texture_size": 128, "mesh.bake_views": 6,
    "mesh.bake_resolution": 64, "dress.occlusion_sides": 4, "levels.hulls": 2, "evaluate.views": 2,
    "evaluate.resolution": 32, "evaluate.turntable_frames": 2,
}  # fmt: skip
"""Settings at which a CPU is soon done with an asset's stages, those that optimise aside."""
Clock = Callable[[], float]


def half(dry: bool) -> torch.dtype:
    """Precision of the networks."""
    return torch.float32 if dry else torch.float16


def timed(device: torch.device, call: Callable[[], Any], times: int = 5) -> float:
    """Milliseconds of ``call``, after two that warm up."""
    for _ in range(2):
        call()
    counters.synchronize(device)
    began = time.perf_counter()
    for _ in range(times):
        call()
    counters.synchronize(device)
    return round((time.perf_counter() - began) / times * 1e3, 2)


def difference(found: Tensor, wanted: Tensor) -> float:
    """|found - wanted| / |wanted|."""
    found, wanted = found.detach().double().cpu(), wanted.detach().double().cpu()
    return float((found - wanted).norm() / wanted.norm().clamp(min=1e-30))


# ------------------------------------------------------------------------------------------------------- correctness


def parity(device: torch.device, notes: dict[str, Any], dry: bool, left: Clock) -> None:
    """gsplat against the CPU kernels: images, gradients, what is seen; many scenes in one launch against each alone;
    the fast networks against diffusers' own."""
    for name, count, views, size, degree, mode in (
        ("plain", 5000, 4, 128, None, "RGB"), ("harmonics and depth", 3000, 2, 96, 3, "RGB+ED"),
        ("absolute gradient", 5000, 1, 512, None, "RGB"), ("needles", 2000, 2, 128, None, "RGB+D"),
    ):  # fmt: skip
        if dry:
            count, size = 100, 32
        notes[name] = _one_scene(device, count, views, size, degree, mode)
    if not dry:  # in a process of its own: a fault there would end this one
        done = subprocess.run([sys.executable, "-c", EMPTY], capture_output=True, text=True, check=False)
        notes["no Gaussians"] = {"ends with": done.returncode, "says": (done.stdout + done.stderr)[-300:]}
    notes["together"] = _together(device, 24 if dry else 256)
    prior = random_prior("tiny" if dry else "sd21", device, half(dry))
    notes["networks"] = _networks(prior, fast=not dry)


EMPTY = """
import torch
from pipeline_core.cameras import orbit
from pipeline_core.rendering.rasterize import rasterize
from pipeline_core.rendering.visibility import chosen_backend, visibility
none = lambda *shape: torch.zeros(*shape, device="cuda", requires_grad=True)
c = orbit(torch.tensor([0.0, 90.0]), torch.tensor([0.0]), size=64).to("cuda")
image, _, _ = rasterize(none(0, 3), none(0, 4), none(0, 3), none(0), none(0, 3), c.viewmats, c.Ks, 64, 64,
                        backgrounds=torch.ones(2, 3, device="cuda"))
image.sum().backward()
print(tuple(image.shape), float(image.mean()))
"""


def _one_scene(
    device: torch.device, count: int, views: int, size: int, degree: int | None, mode: str
) -> dict[str, Any]:
    draw = torch.Generator().manual_seed(1)
    thin = 0.002 if mode == "RGB+D" else 0.01
    colours = (
        torch.rand(count, 3, generator=draw) if degree is None else torch.randn(count, 16, 3, generator=draw) * 0.3
    )
    values = [
        torch.rand(count, 3, generator=draw) - 0.5, torch.randn(count, 4, generator=draw),
        torch.rand(count, 3, generator=draw) * 0.08 + thin, torch.rand(count, generator=draw) * 0.98 + 0.01, colours,
    ]  # fmt: skip
    cameras = orbit(torch.linspace(0, 300, views), torch.linspace(-60, 60, views), size=size)
    background = torch.rand(views, 3, generator=draw)
    found = []
    for where in (torch.device("cpu"), device):
        leaves = [value.to(where).clone().requires_grad_() for value in values]
        there = cameras.to(where)
        image, alpha, info = rasterize(
            *leaves, there.viewmats, there.Ks, size, size, sh_degree=degree, backgrounds=background.to(where),
            render_mode=mode, absgrad=size == 512,
        )  # fmt: skip
        info["means2d"].retain_grad()
        weight = torch.rand(image.shape, generator=torch.Generator().manual_seed(2)).to(where)
        ((image * weight).sum() + (alpha * weight[..., :1]).sum()).backward()
        found.append((image, info["radii"].cpu(), [leaf.grad for leaf in leaves] + [info["means2d"].grad]))
    (image, radii, gradients), (image_there, radii_there, gradients_there) = found
    return {
        "largest difference": float((image - image_there.cpu()).detach().abs().max()),
        "psnr": float(-10 * (image - image_there.cpu()).square().mean().clamp(min=1e-20).log10()),
        "gradients": max(difference(b, a) for a, b in zip(gradients, gradients_there, strict=True)),
        "seen differently": float(((radii > 0) != (radii_there > 0)).any(-1).float().mean()),
    }


def _scenes(device: torch.device, size: int, sizes: tuple[int, ...]) -> list[Scene]:
    """Scenes of different numbers of Gaussians and different cameras."""
    scenes = []
    for i, count in enumerate(sizes):
        draw = torch.Generator().manual_seed(i)
        raw = Gaussians(
            torch.rand(count, 3, generator=draw) - 0.5, torch.randn(count, 4, generator=draw),
            torch.randn(count, 3, generator=draw) * 0.3 - 3.5, torch.randn(count, generator=draw),
            rgb_to_sh0(torch.rand(count, 3, generator=draw)), torch.zeros(count, 0, 3),
        )  # fmt: skip
        params = {name: torch.nn.Parameter(value.to(device)) for name, value in raw.tensors().items()}
        cameras = orbit(torch.tensor([40.0 * i]), torch.tensor([10.0 * (i % 4)]), size=size)
        scenes.append(Scene(params, cameras.to(device), torch.ones(1, 3, device=device)))
    return scenes


def _together(device: torch.device, size: int) -> dict[str, float]:
    found = []
    for renders in (lambda scenes: [render_scene(scene) for scene in scenes], render_together):
        scenes = _scenes(device, size, (500, 731, 1, 300))
        answers = renders(scenes)
        sum((image * torch.linspace(0, 1, size, device=device)).sum() for image, _ in answers).backward()
        found.append((scenes, answers))
    (scenes, alone), (others, together) = found
    leaves = [(a.params[name], b.params[name]) for a, b in zip(scenes, others, strict=True) for name in a.params]
    return {
        "images": max(difference(b[0], a[0]) for a, b in zip(alone, together, strict=True)),
        "gradients": max(difference(b.grad, a.grad) for a, b in leaves if a.numel()),
        "means2d": max(
            difference(b[1]["means2d"].grad, a[1]["means2d"].grad) for a, b in zip(alone, together, strict=True)
        ),
        "radii differ": sum(
            int((a[1]["radii"] != b[1]["radii"]).sum()) for a, b in zip(alone, together, strict=True)
        ),
    }  # fmt: skip


def _networks(prior: DiffusersPrior, *, fast: bool) -> dict[str, Any]:
    """Latents, their gradients on the images, and the U-Net's answer: in float32, as diffusers has it, and sped up."""
    images = torch.rand(2, 3, prior.size, prior.size, generator=torch.Generator().manual_seed(0)).to(prior.device)
    text = prior.encode_prompts([PROMPT, ""])
    t = torch.tensor([0.2, 0.7], device=prior.device)
    weight: Tensor | None = None

    def answers(prior: DiffusersPrior, strength: float) -> list[Tensor]:
        nonlocal weight
        leaf = images.clone().requires_grad_()
        latents = prior.encode(leaf)
        if weight is None:
            weight = torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)).to(prior.device)
        latents.backward(weight * strength)
        return [latents, leaf.grad / strength, prior.predict(weight, t, text)]

    exact = copy.copy(prior)
    exact.unet, exact.vae = copy.deepcopy(prior.unet).float(), copy.deepcopy(prior.vae).float()
    wanted = answers(exact, 1.0)
    names, found = ("latents", "gradient", "noise"), {}
    for strength in (1e-6, 1.0, 1e4):
        found[f"half, gradients of {strength:g}"] = dict(
            zip(names, map(difference, answers(prior, strength), wanted), strict=True)
        )
    if fast:
        prior.speed_up()
        found["sped up"] = dict(zip(names, map(difference, answers(prior, 1.0), wanted), strict=True))
        x, texts = wanted[0].half(), torch.cat([text, text.flip(0)])
        apart = prior.predict(x.repeat(2, 1, 1, 1), t.repeat(2), texts)
        found["runs that share their start"] = difference(prior.predict(x, t, texts), apart)
    return found


def strategies(device: torch.device, notes: dict[str, Any], dry: bool, left: Clock) -> None:
    """Densification on both devices: the same counts; many optimisers stepped together: the same bits."""
    for where in (torch.device("cpu"), device):
        draw, count = torch.Generator().manual_seed(3), 4000
        raw = {
            "means": torch.rand(count, 3, generator=draw) - 0.5, "quats": torch.randn(count, 4, generator=draw),
            "scales": torch.randn(count, 3, generator=draw) * 0.5 - 3.5,
            "opacities": torch.randn(count, generator=draw) * 2, "sh0": torch.rand(count, 1, 3, generator=draw),
            "shN": torch.zeros(count, 0, 3),
        }  # fmt: skip
        params = {name: torch.nn.Parameter(value.to(where)) for name, value in raw.items()}
        optimizers = {n: torch.optim.Adam([p], lr=1e-3, eps=1e-15, fused=True) for n, p in params.items() if p.numel()}
        sum((p * p).sum() for p in params.values() if p.numel()).backward()
        adam.step_each(list(optimizers.values()))
        gradient = torch.rand(count, generator=torch.Generator().manual_seed(4)).to(where) * 0.02
        settings = Densify(max_gaussians=7000, split_scale=0.04, floater_share=0.02)
        done: dict[str, Any] = grow(params, optimizers, gradient, settings, torch.Generator().manual_seed(5))
        done["filled"] = fill_gaps(params, optimizers, settings)
        done["pruned"] = prune(params, optimizers, settings)
        notes[str(where)] = done | {"left": len(params["means"])}
    notes["Adam, same bits"] = _same_adam(device)


def _same_adam(device: torch.device) -> bool:
    results = []
    for step in (adam.step_each, adam.step_together):
        draw = torch.Generator().manual_seed(6)
        leaves = [torch.randn(50, 3, generator=draw).to(device).requires_grad_() for _ in range(6)]
        optimizers = [
            torch.optim.Adam([leaf], lr=1e-3 * (1 + i % 2), eps=1e-15, fused=True) for i, leaf in enumerate(leaves)
        ]
        for _ in range(3):
            for leaf in leaves:
                leaf.grad = torch.randn(leaf.shape, generator=draw).to(device)
            step(optimizers)
        results.append(torch.stack([leaf.detach() for leaf in leaves]))
    return bool(torch.equal(*results))


def asset(device: torch.device, notes: dict[str, Any], dry: bool, left: Clock) -> None:
    """One asset from prompt to texture with the starter's weights, on the CPU and on the GPU: seconds and likeness."""
    from pipeline_core.meshing.extract import extract_mesh
    from pipeline_core.texturing.bake import bake

    short = {"init.num_points": 512, "init.sampler_steps": 4, "geometry.steps": 2, "texture.steps": 1}
    recipe = RECIPES["draft"].override(short | SMALL if dry else {})
    looks: list[Tensor] = []
    runs = [("cpu", torch.float32)] + ([] if dry else [("cuda", torch.float32), ("cuda", torch.float16)])
    for where, precision in runs:
        there, seconds, began = torch.device("cpu") if where == "cpu" else device, {}, time.monotonic()

        def lap(name: str, seconds: dict[str, Any] = seconds, there: torch.device = there) -> None:
            nonlocal began
            counters.synchronize(there)
            seconds[name], began = round(time.monotonic() - began, 2), time.monotonic()

        prior, points = (
            load_image_prior("starter", device=there, dtype=precision),
            load_point_prior("starter", device=there),
        )
        lap("load")
        draw, init = torch.Generator().manual_seed(7), recipe.init
        cloud = points.sample(
            [PROMPT], [draw], guidance_scale=init.guidance_scale, steps=init.sampler_steps, num_points=init.num_points
        )[0]
        start = from_points(cloud, init, draw)
        lap("points")
        engine = DistillationEngine(prior, points, device=there, max_active=1)
        gaussians, curves = distill(start, PROMPT, "", recipe.geometry, engine, seed=7)
        lap("distill")
        textured = bake(gaussians, extract_mesh(gaussians, recipe.mesh), recipe.mesh)
        lap("mesh and bake")
        textured = refine_texture(textured, PROMPT, recipe.texture, engine, seed=7)
        lap("refine")
        engine.close()
        looks.append(_look(gaussians))
        likeness = None if len(looks) == 1 else float(-10 * (looks[0] - looks[-1]).square().mean().log10())
        notes[f"{where}, {precision}"] = seconds | {
            "gaussians": len(gaussians), "faces": len(textured.faces), "loss": curves["loss_image"][-1],
            "psnr to the CPU's": likeness,
        }  # fmt: skip


def _look(gaussians: Gaussians) -> Tensor:
    cameras = orbit(torch.tensor([0.0, 90.0, 180.0, 270.0]), torch.tensor([15.0]), size=128)
    with torch.no_grad():
        return rasterize(
            **gaussians.activated(), viewmats=cameras.viewmats, Ks=cameras.Ks, width=128, height=128, sh_degree=0
        )[0]


def graphs(device: torch.device, notes: dict[str, Any], dry: bool, left: Clock) -> None:
    """A recorded U-Net answers what the U-Net answers."""
    prior = random_prior("tiny" if dry else "sd21", device, half(dry))
    if not dry:
        prior.speed_up()
    text = prior.encode_prompts([PROMPT, ""])
    for rows in (2, 5, 8):
        x = torch.randn(rows, 4, prior.latent_size, prior.latent_size, device=device)
        t, rows_of_text = torch.rand(rows, device=device), text[torch.arange(rows) % 2]
        wanted, found = prior.predict(x, t, rows_of_text), {}
        for recorded in (False, True):
            fixed = FixedSizes(lambda *inputs: prior.predict(*inputs, None), device, graphs=recorded and not dry)
            answer = fixed(x, t, rows_of_text)
            milliseconds = timed(device, partial(fixed, x, t, rows_of_text))
            found["recorded" if recorded else "called"] = {
                "difference": difference(answer, wanted), "ms": milliseconds, "graphs": fixed.graphs
            }  # fmt: skip
            fixed.forget()
        notes[f"{rows} rows"] = found


# -------------------------------------------------------------------------------------------------------------- speed


def parts(device: torch.device, notes: dict[str, Any], dry: bool, left: Clock) -> None:
    """The parts of a step of 16 assets alone, in milliseconds: as diffusers has the networks, sped up, compiled."""
    prior = random_prior("tiny" if dry else "sd21", device, half(dry))
    views = 2 if dry else 16
    scenes = _scenes(device, 32 if dry else 512, tuple(3000 + 250 * i for i in range(views)))
    optimizers = [torch.optim.Adam([p], fused=True) for s in scenes for p in s.params.values() if p.numel()]
    for name, renders in (
        ("one by one", lambda: [render_scene(s) for s in scenes]),
        ("together", lambda: render_together(scenes)),
    ):
        notes[f"render, {name}"] = timed(device, lambda r=renders: sum(image.sum() for image, _ in r()).backward())
    sum(image.sum() for image, _ in render_together(scenes)).backward()
    gradients = [group["params"][0].grad for o in optimizers for group in o.param_groups]
    for name, step in (("one by one", adam.step_each), ("together", adam.step_together)):

        def update(step: Callable[..., None] = step) -> None:
            for optimizer, gradient in zip(optimizers, gradients, strict=True):
                optimizer.param_groups[0]["params"][0].grad = gradient
            step(optimizers)

        notes[f"Adam, {name}"] = timed(device, update)
    for name, compiling in (("diffusers", "0"), ("sped up", "0"), ("compiled", "1")):
        if name == "compiled" and (dry or left() < 100):
            break
        if name == "sped up" and not dry:
            prior.speed_up()
        began = time.monotonic()
        with patch.dict(os.environ, {compiled.COMPILE: compiling}):
            notes[name] = _model_times(prior, views) | {"s": round(time.monotonic() - began, 1)}


def _model_times(prior: DiffusersPrior, views: int) -> dict[str, float]:
    """Encoder, forward and backward, of ``views``, and U-Net of twice as many rows."""
    images = torch.rand(views, 3, prior.size, prior.size, device=prior.device)
    text = prior.encode_prompts([PROMPT, ""])[torch.arange(2 * views) % 2]
    rows = views if prior.shares_start else 2 * views  # as the engine asks
    x = torch.randn(rows, 4, prior.latent_size, prior.latent_size, device=prior.device)
    t = torch.rand(rows, device=prior.device)

    def encode() -> None:
        prior.encode(images.clone().requires_grad_()).sum().backward()

    return {"encode": timed(prior.device, encode, 3), "U-Net": timed(prior.device, lambda: prior.predict(x, t, text))}


def _settings(dry: bool) -> Recipe:
    recipe = gpu.tiny(RECIPES["dreamgaussian"]) if dry else RECIPES["dreamgaussian"]
    return recipe.override({"geometry.point_weight": 0.0})


def bench(device: torch.device, notes: dict[str, Any], dry: bool, left: Clock) -> None:
    """``splatmill bench gpu`` row by row: DreamGaussian's loop, 16 assets at once with the networks compiled, one, 16
    with a distilled encoder, then others as long as there is time.

    100 steps for 500: the published mix of render sizes, because schedules follow the share of the steps done. Jobs
    look at their numbers every tenth step, as they do in 500.
    """
    with patch.object(gaussian_job, "CURVE_SAMPLES", 10):
        _bench(device, notes, dry, left)


def _bench(device: torch.device, notes: dict[str, Any], dry: bool, left: Clock) -> None:
    _kernels(dry)
    recipe = gpu.squeezed(_settings(dry), 0 if dry else 100)
    recipe = recipe.override({} if dry else {"texture.steps": 4, "mesh.texture_size": 256})  # of 50, and of 1024
    whole = RECIPES["dreamgaussian"]
    notes["geometry steps"] = [recipe.geometry.steps, whole.geometry.steps]
    notes["texture rounds"], notes["texture"] = [recipe.texture.steps, whole.texture.steps], recipe.texture.method
    prior = random_prior("tiny" if dry else "sd21", device, half(dry))
    draw = torch.Generator().manual_seed(0)
    start = from_points(ball(recipe.init.num_points, draw), recipe.init, draw)
    peak = counters.dense_peak(device, 64 if dry else 8192)
    flops = counters.model_flops(prior, 1, 2)
    notes["dense peak, TFLOP/s"], notes["TFLOP a step"] = peak / 1e12, flops / 1e12
    notes["attention, ms"] = _attentions(device, dry)
    seconds, notes["baseline"] = gpu.baseline(prior, recipe, start, None, sys.executable)
    notes["baseline, ms a step"] = seconds / recipe.geometry.steps * 1e3
    del prior

    def row(prior: DiffusersPrior, active: int, title: str, flops: float) -> None:
        gc.collect()
        found = gpu.measure(prior, recipe, start, active, (flops, peak))
        notes[title] = found.flat() | {"ms_per_asset_step": found.step_s / active * 1e3}

    most = 2 if dry else 16
    prior, notes["compiling"] = _fast_prior(device, dry)
    row(prior, most, f"{most} at once, compiled", flops)
    plain = patch.dict(os.environ, {compiled.COMPILE: "0"})
    with plain:
        row(prior, 1, "1 at once", flops)
    distilled = copy.copy(prior)
    distilled.use_encoder(random_encoder(prior))
    with patch.dict(os.environ, {compiled.COMPILE: "0" if dry else "1"}):
        notes["distilled encoder"] = _model_times(distilled, most)
    row(distilled, most, f"{most} at once, compiled, distilled encoder", counters.model_flops(distilled, 1, 2))
    for active in () if dry else (4, 8, 2):
        if left() < 20 + batch_s(left()):
            notes["left out"] = f"{active} at once and what follows: {left():.0f} s left"
            break
        with plain:
            row(prior, active, f"{active} at once", flops)


def _attentions(device: torch.device, dry: bool) -> dict[str, float]:
    """Milliseconds of each of torch's attentions at the sizes of a picture's tokens in the U-Net, 32 rows."""
    found, rows = {}, 2 if dry else 32
    for heads, count in ((1, 16),) if dry else ((5, 4096), (10, 1024)):
        q, k, v = torch.randn(3, rows, heads, count, 64, device=device, dtype=half(dry))
        fused = SDPBackend.CUDNN_ATTENTION, SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION
        for backend in (SDPBackend.MATH,) if dry else fused:
            with sdpa_kernel(backend):
                call = partial(torch.nn.functional.scaled_dot_product_attention, q, k, v)
                found[f"{count} tokens, {backend.name}"] = timed(device, call)
    return found


def batch_s(left: float) -> float:
    """Of the seconds ``left``, those to leave for the section after this one: none where it will not run."""
    asked = os.environ.get("ONLY", "")
    return BATCH_S if left >= BATCH_S and (not asked or "batch" in asked.split(",")) else 0


@functools.cache
def _fast_prior(device: torch.device, dry: bool) -> tuple[DiffusersPrior, dict[str, float]]:
    """A random prior, compiled for 16 assets at once, and its times."""
    prior, began = random_prior("tiny" if dry else "sd21", device, half(dry)), time.monotonic()
    if not dry:
        prior.speed_up()
    with patch.dict(os.environ, {compiled.COMPILE: "0" if dry else "1"}):
        return prior, _model_times(prior, 2 if dry else 16) | {"s": round(time.monotonic() - began, 1)}


@functools.cache
def _kernels(dry: bool) -> subprocess.Popen[bytes]:
    """A process that compiles the CPU's kernels into the cache, which a bare machine lacks and a farm has."""
    program = "" if dry else "from tests.gpu.whole import compile_kernels; compile_kernels()"
    return subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"SPLATMILL_DEVICE": "cpu"})


def batch(device: torch.device, notes: dict[str, Any], dry: bool, left: Clock) -> None:
    """Whole assets as published, twice as many as are active at once, through every stage from the starter's points to
    the findings about their files (``whole.py``); without Prefect and the catalogue (``tests/bench/orchestration.py``).
    """
    from tests.gpu.whole import begun_by_the_starter, whole

    active, count = (2, 3) if dry else (16, 32)
    recipe = begun_by_the_starter(_settings(dry), **({"num_points": 512, "sampler_steps": 4} if dry else {}))
    recipe = recipe.override({"geometry.densify.prune_scale_last": 10.0} | (SMALL if dry else {}))
    kernels = _kernels(dry)
    prior, _ = _fast_prior(device, dry)
    notes["kernels"] = kernels.wait()
    engine = DistillationEngine(prior, device=device, max_active=active, profile=True)
    began, shaped = time.monotonic(), []
    done: list[dict[str, float]] = []

    def one(seed: int) -> None:
        times, last = {}, time.monotonic()

        def lap(stage: str) -> None:
            nonlocal last
            times[stage], last = time.monotonic() - last, time.monotonic()
            if stage == "optimize_gaussians":
                shaped.append(last - began)
                if len(shaped) == active:
                    steps, parts = engine.steps, engine.clock.seconds
                    notes["first shapes, ms an asset-step"] = shaped[-1] / active / recipe.geometry.steps * 1e3
                    notes["first shapes, ms of a step's parts"] = {name: s / steps * 1e3 for name, s in parts.items()}

        with tempfile.TemporaryDirectory() as folder:
            found = whole(AssetSpec(prompt=PROMPT, seed=seed, recipe=recipe), engine, Path(folder), lap)
        done.append(times | {name: found[name] for name in ("distilled", "faces", "finding_errors")})
        notes["done after"] = [*notes.get("done after", []), round(time.monotonic() - began, 1)]
        notes["mean of an asset"] = {name: sum(each[name] for each in done) / len(done) for name in done[0]}
        notes["its course"] = list(samples)

    with counters.utilisation(device) as samples, ThreadPoolExecutor(count) as pool:
        list(pool.map(one, range(count)))
    seconds = time.monotonic() - began
    engine.close()
    notes["assets"], notes["s"], notes["assets per hour"] = count, seconds, 3600 * count / seconds
    notes["steps"] = {"geometry": recipe.geometry.steps, "texture rounds": recipe.texture.steps}
    notes["GPU utilisation"] = sum(samples) / len(samples) if samples else None
