"""DreamGaussian's first stage, one asset after the other: what the engine is compared with.

:func:`plain_loop` follows ``main.py`` and ``guidance/sd_utils.py`` of the release (one view a step, half precision, two
U-Net rows, one backward, Adam, a wait for the device after every step) on the same kernels as ours.
:func:`time_checkout` times the release itself where a checkout that runs is at hand.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline_core.benchmark.counters import synchronize
from pipeline_core.config import Distill
from pipeline_core.engine.gaussian_job import render
from pipeline_core.errors import RequestError
from pipeline_core.gaussians.strategies import GradientStats, grow, prune
from pipeline_core.guidance.schedules import linear, log_linear, resolution
from pipeline_core.guidance.views import draw_backgrounds, draw_cameras
from pipeline_core.priors.image import DiffusersPrior
from pipeline_core.types import Gaussians


def plain_loop(prior: DiffusersPrior, start: Gaussians, stage: Distill, prompt: str, device: torch.device) -> float:
    """Seconds of the whole ``stage`` for one asset."""
    generator, noise = torch.Generator().manual_seed(0), torch.Generator(device).manual_seed(0)
    text = prior.encode_prompts([prompt, ""])
    started = start.to(device).tensors()
    params: dict[str, Tensor] = {name: torch.nn.Parameter(value.clone()) for name, value in started.items()}
    rates = stage.lr.model_dump()
    optimizers: dict[str, torch.optim.Optimizer] = {
        n: torch.optim.Adam([p], lr=rates[n], eps=1e-15) for n, p in params.items() if p.numel()
    }
    stats = GradientStats.zeros(len(start), device)
    synchronize(device)
    began = time.perf_counter()
    for step in range(stage.steps):
        progress = step / max(stage.steps - 1, 1)
        cameras = draw_cameras(
            stage.views, resolution(stage.resolution, progress), generator, elevation=stage.elevation,
            distance=stage.distance, fovy=stage.fovy, fovy_jitter=stage.fovy_jitter,
            target_jitter=stage.target_jitter,
        )  # fmt: skip
        background = draw_backgrounds(stage.background, None, stage.views, generator).to(device)
        image, _, info = render(params, cameras.to(device), background)
        info["means2d"].retain_grad()
        low, high = linear(stage.t_min, progress), linear(stage.t_max, progress)
        t = prior.draw_t(low, high, stage.views, generator)
        image = image.permute(0, 3, 1, 2)
        _sds_loss(prior, image, t.to(device), text, stage.guidance_scale, noise).backward()
        optimizers["means"].param_groups[0]["lr"] = log_linear(
            stage.lr.means, stage.lr.means_final, progress, stage.lr.decay_until
        )
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        stats.accumulate(info)
        if stage.densify.every and (step + 1) % stage.densify.every == 0:
            grow(params, optimizers, stats.mean(), stage.densify, generator)
            prune(params, optimizers, stage.densify)
            stats = GradientStats.zeros(len(params["means"]), device)
        synchronize(device)
    return time.perf_counter() - began


def _sds_loss(
    prior: DiffusersPrior,
    images: torch.Tensor,
    t: torch.Tensor,
    text: torch.Tensor,
    scale: float,
    generator: torch.Generator,
) -> torch.Tensor:
    """0.5 |latents - (latents - grad)|^2 / B, grad = w(t) (eps - noise)."""
    images = F.interpolate(images, (prior.size, prior.size), mode="bilinear", align_corners=False)
    latents = prior.encode(images, generator)
    with torch.no_grad():
        noise = torch.randn(latents.shape, generator=generator, device=latents.device)
        noisy = prior.add_noise(latents, noise, t)
        rows = text.repeat_interleave(len(latents), dim=0)
        conditional, unconditional = prior.predict(torch.cat([noisy] * 2), torch.cat([t] * 2), rows).chunk(2)
        _, eps = prior.x0_and_noise(noisy, unconditional + scale * (conditional - unconditional), t)
        weight = prior.weight(t, "sds").reshape(-1, 1, 1, 1)
        target = latents - torch.nan_to_num(weight * (eps - noise))
    return 0.5 * F.mse_loss(latents, target, reduction="sum") / len(latents)


def time_checkout(folder: Path, steps: tuple[int, int] = (50, 150), python: str = sys.executable) -> float:
    """Seconds a step of the release in ``folder``: two runs of its own ``main.py``, so that loading cancels out.

    Its schedule follows the share of the steps done, so a short run has the published mix of render sizes. ``python``
    is the interpreter that has its extensions. Raises :class:`RequestError` with its last words where it does not run.
    """
    taken = []
    with tempfile.TemporaryDirectory() as out:
        for count in steps:
            settings = [f"iters={count}", f"outdir={out}", f"save_path=run{count}", "prompt=a red mug"]
            began = time.perf_counter()
            done = subprocess.run(
                [python, "main.py", "--config", "configs/text.yaml", *settings],
                cwd=folder, capture_output=True, text=True, check=False,
            )  # fmt: skip
            if done.returncode:
                words = (done.stderr or done.stdout).strip().splitlines() or ["no output"]
                raise RequestError(f"DreamGaussian in {folder} does not run with {python}: {words[-1]}")
            taken.append(time.perf_counter() - began)
    return (taken[1] - taken[0]) / (steps[1] - steps[0])
