"""What makes the better image prior of the same compute? One change at a time against what ships.

    python tests/bench/image_priors.py                                   # five CPU-minutes of training each
    python tests/bench/image_priors.py --seconds 90 --only "shipped,x0,pooled text"
    python tests/bench/image_priors.py --device cuda --seconds 10 --batch 512 --workers 14

All are trained from scratch on the same procedural renders (held-out colour and category pairs are never sampled), in
turns of equal time: of the CPU, or on a GPU of the clock, with the data resident. ``error_*`` is the mean squared error
of the predicted x_0 on renders of *held-out* pairs, as seen clean, conditioned on caption and camera, over low (0.05 to
0.2), middle (0.2 to 0.5) and high (0.5 to 0.95) shares of the noise: variance of the noise, not timestep, so that
schedules compare. In units of the pixels' own, since the autoencoder is orthonormal. ``category`` and ``colour`` are
the judge's, on samples (16 DDIM steps, guidance 3) at four of the evaluation cameras; ``front`` whether the view from
azimuth 0 of things with a front shows it.
The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from torch import Tensor, nn

from pipeline_core.guidance.prompts import view_prompt
from pipeline_core.metrics import fidelity
from pipeline_core.metrics.judge import load_judge
from pipeline_core.props.captions import caption
from pipeline_core.props.props import PropSpec, build
from pipeline_core.props.raycast import UNLIT_COLOUR, render
from pipeline_core.training.data import DISTANCE, ELEVATION, FOVY, view_word
from pipeline_core.training.pictures import ResidentPictures, as_planes, over
from pipeline_core.training.tokenizer import tokenize
from pipeline_core.training.train_image import ImagePart, ImageSettings
from tests.bench.equal_compute import Contestant, name_of, train_in_turns
from tests.bench.shared import heldout_prompts

BANDS = {"low": (0.05, 0.1, 0.2), "middle": (0.27, 0.35, 0.42, 0.5), "high": (0.6, 0.7, 0.8, 0.9, 0.95)}
"""Variances of the noise at which errors are taken."""
VIEWS = (0, 1, 3, 4)
"""Of the evaluation cameras, those that are sampled."""
VARIANTS: dict[str, dict] = {
    "shipped": {},
    "white background": {"background": (1.0, 1.0, 1.0)},
    "x0": {"prediction": "sample"},
    "noise of 64 px": {"noise_shift": 0.3},
    "unshifted noise": {"noise_shift": 1.0},
    "no middle": {"middle": 0.0},
    "no degraded": {"degraded": 0.0},
    "words for camera": {"drop_camera": 1.0, "view_words": 1.0},
    "no words": {"words_weight": 0.0},
    "pooled text": {"attention": (False, False, False, False)},
    "attention at 4x4": {"attention": (False, False, False, True)},
    "narrow": {"widths": (32, 64, 128, 192)},
    "8 px patches": {"patch": 8, "channels": 32, "widths": (80, 144, 192), "attention": (False, True, True)},
    "muon": {},
    "half the rate": {},
    "twice the rate": {},
}
RATES = {"half the rate": 0.5, "twice the rate": 2.0}
RATE = 1e-3
"""Peak learning rate at a batch of 32."""


class Images(Contestant):
    """An image prior in training, and how it is judged."""

    def __init__(
        self, name: str, folder: Path, batch: int, first: Images | None, device: torch.device, data: dict[str, int]
    ) -> None:
        part = ImagePart(ImageSettings(**{**data, **VARIANTS[name]}), folder, seed=0, batch=batch)
        steps = None
        if first is not None:
            part.steps.pool = first.part.steps.pool
        if device.type == "cuda":
            part.steps.pool.ahead = 0
            part.steps.pool.wait_for(0)
            shared = None if first is None else first.steps.chunks
            steps = ResidentPictures(part.steps, device, shared)
        part.prepare(device)
        part.modules.to(device)
        lr = RATE * (batch / 32) ** 0.25 * RATES.get(name, 1.0)
        optimisers = muon(part.modules, lr) if name == "muon" else None
        super().__init__(name, part, lr=lr, warmup=6400 // batch, optimisers=optimisers, device=device, steps=steps)

    def asked(self, texts: list[str], azimuth: Tensor, elevation: Tensor) -> tuple[list[str], Tensor]:
        """Texts and azimuths as the network was trained to take them: the view as an angle, or in words alone."""
        if self.part.settings.drop_camera < 1:
            return texts, azimuth
        views = zip(azimuth.tolist(), elevation.tolist(), strict=True)
        texts = [view_prompt(text, view_word(*view)) for text, view in zip(texts, views, strict=True)]
        return texts, torch.full_like(azimuth, torch.nan)

    @torch.no_grad()
    def errors(self, rgba: Tensor, texts: list[str], azimuth: Tensor, elevation: Tensor) -> dict[str, float]:
        """Mean squared error of x_0 [one number a band] over straight RGBA [B, 4, S, S] in [0, 1]."""
        part, s = self.part, self.part.settings
        texts, azimuth = self.asked(texts, azimuth, elevation)
        ids, camera = tokenize(part.tokenizer, texts), part.steps.labels(azimuth, elevation, torch.zeros(len(texts)))
        rgba, ids, camera = (x.to(self.device) for x in (rgba, ids, camera))
        latents = part.vae.encode(over(rgba, s.background)).latent_dist.mean * part.vae.config.scaling_factor
        text = part.modules["text_encoder"](ids).last_hidden_state
        alphas = part.scheduler.alphas_cumprod.to(self.device)
        generator, found = torch.Generator().manual_seed(0), {}
        for band, variances in BANDS.items():
            total = 0.0
            for variance in variances:
                t = int((1 - alphas - variance).abs().argmin())
                noise = torch.randn(latents.shape, generator=generator).to(self.device)
                times = torch.full((len(latents),), t, device=self.device)
                noisy = part.scheduler.add_noise(latents, noise, times)
                with self.autocast():
                    out = part.modules["unet"](noisy, times, text, class_labels=camera).sample.float()
                if s.prediction == "v_prediction":
                    out = alphas[t].sqrt() * noisy - (1 - alphas[t]).sqrt() * out
                error = (out - latents).square().sum() / part.vae.config.scaling_factor**2
                total += float(error) / (4 * 3 * s.size**2 * len(latents))  # latents in [-1, 1], pixels in [0, 1]
            found[f"error_{band}"] = total / len(variances)
        return found

    @torch.no_grad()
    def judged(self, specs: list[PropSpec], judge) -> dict[str, float]:
        """Rates over samples of ``specs``."""
        cameras, n = fidelity.evaluation_cameras(), len(VIEWS)
        azimuths, elevations = cameras.azimuth[list(VIEWS)], cameras.elevation[list(VIEWS)]
        texts = [caption(spec) for spec in specs for _ in VIEWS]
        texts, azimuth = self.asked(texts, azimuths.repeat(len(specs)), elevations.repeat(len(specs)))
        with self.autocast():
            images = self.part.sample(
                self.part.modules, texts, azimuth, elevations.repeat(len(specs)), steps=16, guidance_scale=3.0
            ).float()
        rows = [
            fidelity.score(images[i * n : (i + 1) * n], azimuths, elevations, caption(spec), judge=judge)
            for i, spec in enumerate(specs)
        ]
        names = {"r_precision": "r_precision", "category": "category_correct", "colour": "colour_correct",
                 "front": "front_found"}  # fmt: skip
        told = {short: [row[name] for row in rows if name in row] for short, name in names.items()}
        return {short: float(np.mean(values)) for short, values in told.items() if values}  # not all have a front


def muon(modules: nn.ModuleDict, lr: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices that torch's takes (two dimensions, not embeddings), AdamW for the rest."""
    embeddings = {id(m.weight) for m in modules.modules() if isinstance(m, nn.Embedding)}
    matrices, others = [], []
    for parameter in modules.parameters():
        (matrices if parameter.ndim == 2 and id(parameter) not in embeddings else others).append(parameter)
    return [
        torch.optim.Muon(matrices, lr=lr, weight_decay=0.01, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True),
    ]


def heldout_renders(specs: list[PropSpec], seed: int = 5) -> tuple[Tensor, list[str], Tensor, Tensor]:
    """Straight unlit RGBA [B, 4, S, S] in [0, 1] of ``specs`` under cameras as in training, captions, angles [B]."""
    rng = np.random.default_rng(seed)
    azimuth, elevation = rng.uniform(-180, 180, (len(specs), 2)), rng.uniform(*ELEVATION, (len(specs), 2))
    props = [build(spec) for spec in specs]
    unlit, size = np.full(azimuth.shape, UNLIT_COLOUR), ImageSettings.size
    rgba = render(props, azimuth, elevation, size=size, distance=DISTANCE, fovy=FOVY, kind=unlit, threads=1)
    texts = [caption(spec) for spec in specs for _ in range(2)]
    angles = [torch.from_numpy(a.reshape(-1)).float() for a in (azimuth, elevation)]
    return as_planes(torch.from_numpy(rgba.reshape(-1, *rgba.shape[2:]))), texts, *angles


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="training of each network")
    parser.add_argument("--device", default="cpu")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that write the data for a GPU; 0: another does"
    )
    parser.add_argument("--chunks", type=int, default=ImageSettings.chunks)
    parser.add_argument("--chunk-size", type=int, default=ImageSettings.chunk_size)
    parser.add_argument("--prompts", type=int, default=36, help="held-out prompts to sample")
    parser.add_argument("--renders", type=int, default=256, help="of held-out pairs, of which errors are")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--only", help=f"comma-separated, of: {', '.join(VARIANTS)}")
    parser.add_argument("--data", type=Path, help="where renders are kept (default: a temporary folder)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    names = options.only.split(",") if options.only else list(VARIANTS)
    if unknown := set(names) - VARIANTS.keys():
        parser.error(f"--only: unknown {', '.join(sorted(unknown))}")
    folder = options.data or Path(tempfile.mkdtemp(prefix="splatmill-bench-"))
    contestants: list[Images] = []
    device = torch.device(options.device)
    data = {"chunks": options.chunks, "chunk_size": options.chunk_size}
    for name in names:  # all draw from the same renders
        first = contestants[0] if contestants else None
        contestants.append(Images(name, folder, options.batch, first, device, data))
    if options.workers:
        contestants[0].part.steps.pool.fill(options.workers, wait=False)
    train_in_turns(contestants, options.seconds)
    contestants[0].part.steps.pool.close()
    renders, judge = heldout_renders(heldout_prompts(options.renders // 2)), load_judge("starter")
    specs = heldout_prompts(options.prompts)
    result: dict[str, object] = {"prompts": len(specs), "seconds": options.seconds, "device": name_of(device)}
    for c in contestants:
        with c.average.applied(c.part.modules):
            found = c.errors(*renders) | c.judged(specs, judge)
        line = ", ".join(f"{k} {v:.5f}" if k.startswith("error") else f"{k} {v:.2f}" for k, v in found.items())
        print(f"{c.name:18} {c.parameters / 1e6:5.1f} M, {c.step:5} steps: {line}", flush=True)
        result[c.name] = {"steps": c.step} | {k: round(v, 6) for k, v in found.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
