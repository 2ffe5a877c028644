"""What one GPU does with 1, 2, 4, 8 and 16 assets at once: models of the true sizes, weights drawn from a seed.

    python tests/bench/gpu.py [--model sd15|sd21|tiny] [--recipe dreamgaussian] [--steps 20] [--active 1 2 4 8 16]

Builds the U-Net and autoencoder of Stable Diffusion 1.5 or 2.1-base with random weights: the speed does not depend on
their values, so this is an honest measure of speed and no measure of quality. Each run distils that many balls of
Gaussians with the recipe's geometry stage squeezed to ``--steps`` steps, so that its render sizes keep their shares.
``fraction_of_peak`` is the U-Net's and autoencoder's floating-point operations over their time, against a large half
precision matrix product timed on the same device. ``vs_sequential`` is the best throughput over that of one active
asset: the plain loop of one asset after the other, on the same kernels. ``tiny`` is a check of this script on any
machine. The last line of stdout is one JSON document; ``--csv`` writes one row for each number of assets.
"""

from __future__ import annotations

import argparse
import csv
import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline_core.device import configure, default_dtype, pick_device

configure()

import torch  # noqa: E402
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from pipeline_core.config import RECIPES, Distill  # noqa: E402
from pipeline_core.engine.engine import PARTS, DistillationEngine  # noqa: E402
from pipeline_core.engine.gaussian_job import GaussianJob  # noqa: E402
from pipeline_core.gaussians.initialise import ball, from_points  # noqa: E402
from pipeline_core.priors.image import ImagePrior, Parts  # noqa: E402


@dataclass(frozen=True)
class Size:
    """Published configuration of a latent text-to-image model."""

    unet: dict[str, Any]
    vae: dict[str, Any]
    size: int
    prediction: str


VAE = {
    "block_out_channels": (128, 256, 512, 512),
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "layers_per_block": 2,
    "latent_channels": 4,
    "scaling_factor": 0.18215,
}
SIZES = {
    "sd15": Size({"cross_attention_dim": 768, "attention_head_dim": 8}, VAE, 512, "epsilon"),
    "sd21": Size(
        {"cross_attention_dim": 1024, "attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True},
        VAE, 512, "epsilon",
    ),
    "tiny": Size(
        {"cross_attention_dim": 32, "block_out_channels": (32, 32, 32, 32), "attention_head_dim": 2},
        VAE | {"block_out_channels": (32,) * 4, "layers_per_block": 1}, 64, "epsilon",
    ),
}  # fmt: skip


def random_prior(name: str, device: torch.device) -> ImagePrior:
    """An :class:`ImagePrior` of published shape with random weights and random text embeddings."""
    size, dtype = SIZES[name], default_dtype(device)
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(sample_size=size.size // 8, **size.unet).to(dtype)
        vae = AutoencoderKL(sample_size=size.size, **size.vae).to(dtype)
    layout = torch.channels_last if device.type == "cuda" else torch.preserve_format
    networks = [net.to(memory_format=layout).requires_grad_(False).eval() for net in (unet, vae)]
    width = size.unet["cross_attention_dim"]

    def embed(prompt: str) -> tuple[Tensor, None]:
        return torch.randn(77, width, generator=torch.Generator().manual_seed(len(prompt))), None

    schedule = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    parts = Parts(
        *networks[:1], [embed], networks[1], schedule.alphas_cumprod, size.prediction, "none", None, size.size, False
    )
    return ImagePrior(parts, f"random {name}", device, dtype)


def run(prior: ImagePrior, stage: Distill, points: int, active: int, device: torch.device) -> dict[str, Any]:
    """Time one squeezed stage of ``active`` jobs, after a short one that compiles and allocates."""
    recipe = RECIPES["dreamgaussian"]
    init = recipe.init.model_copy(update={"num_points": points})
    start = from_points(ball(points, torch.Generator().manual_seed(0)), init, torch.Generator().manual_seed(0))
    engine = DistillationEngine(prior, device=device, max_active=active, profile=True)
    on_cuda = device.type == "cuda"
    for steps in (2, stage.steps):
        if on_cuda:
            torch.cuda.reset_peak_memory_stats()
        engine.seconds = dict.fromkeys(PARTS, 0.0)
        began = time.perf_counter()
        jobs = [
            GaussianJob(start, "a red mug", stage.model_copy(update={"steps": steps}), seed=i) for i in range(active)
        ]
        for future in [engine.submit(job) for job in jobs]:
            future.result()
        taken = time.perf_counter() - began
    halved = engine.max_active < active
    engine.close()
    return {
        "active": active,
        "out_of_memory": halved,
        "seconds_per_step": taken / stage.steps,
        "peak_gb": torch.cuda.max_memory_allocated() / 1e9 if on_cuda else None,
        **{f"{part}_s": engine.seconds[part] / stage.steps for part in PARTS},
    }


def model_flops(prior: ImagePrior, stage: Distill) -> float:
    """Floating-point operations of one asset's encode (forward and backward) and U-Net call."""
    images = torch.rand(stage.views, 3, prior.size, prior.size, device=prior.device, requires_grad=True)
    rows = stage.views * (1 if stage.guidance_scale == 1 else 2)
    with FlopCounterMode(display=False) as counter:
        latents = prior.encode(images)
        latents.sum().backward()
        x = latents.detach()[:1].expand(rows, -1, -1, -1)
        t = torch.full((rows,), 500, device=prior.device)
        prior.predict_noise(x, t, prior.encode_prompts(["a red mug"] * rows))
    return float(counter.get_total_flops())


def peak_flops(device: torch.device) -> float:
    """Operations a second of an 8192 x 8192 matrix product in the working precision (512 on a CPU): best of five."""
    n = 8192 if device.type == "cuda" else 512
    a = torch.randn(n, n, device=device, dtype=torch.bfloat16 if device.type == "cuda" else torch.float32)
    best = 0.0
    for _ in range(5):
        if device.type == "cuda":
            torch.cuda.synchronize()
        began = time.perf_counter()
        for _ in range(10):
            a @ a
        if device.type == "cuda":
            torch.cuda.synchronize()
        best = max(best, 10 * 2 * n**3 / (time.perf_counter() - began))
    return best


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", choices=list(SIZES), default="sd21")
    parser.add_argument("--recipe", choices=list(RECIPES), default="dreamgaussian")
    parser.add_argument("--active", type=int, nargs="+", default=[1, 2, 4, 8, 16])
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--csv", type=Path)
    args = parser.parse_args()

    device = pick_device(args.device)
    recipe = RECIPES[args.recipe]
    stage = recipe.geometry.model_copy(update={"steps": args.steps, "point_weight": 0.0})
    prior = random_prior(args.model, device)
    flops, peak = model_flops(prior, stage), peak_flops(device)
    rows = []
    for active in args.active:
        row = run(prior, stage, recipe.init.num_points, active, device)
        row["assets_per_hour"] = 3600 * active / (row["seconds_per_step"] * recipe.geometry.steps)
        # the encoder's backward runs inside the common backward, with the renderer's: a lower bound of the fraction
        busy = row["encode_s"] + row["unet_s"] + row["backward_s"]
        row["fraction_of_peak"] = active * flops / busy / peak
        rows.append(row)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    rates = {str(row["active"]): round(row["assets_per_hour"], 2) for row in rows if not row["out_of_memory"]}
    figures = {
        "name": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "assets_per_hour": rates,
        "peak_gb_at_1": rows[0]["peak_gb"],
        "vs_sequential": round(max(rates.values()) / rates["1"], 2) if "1" in rates else None,
        "vs_dreamgaussian": None,
        "fraction_of_peak": round(max(row["fraction_of_peak"] for row in rows), 3),
    }
    print(json.dumps({
        "bench": "gpu", "weights": "random: speed only", "model": args.model, "recipe": args.recipe,
        "cpu_assets_per_hour": None, "gpu": figures if device.type == "cuda" else None,
        "check": None if device.type == "cuda" else figures,
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
