"""Which small network makes the better point prior of the same compute: one over single points, or Point-E's?

    python tests/bench/point_priors.py                       # ten CPU-minutes of training each
    python tests/bench/point_priors.py --seconds 60 --prompts 8
    python tests/bench/point_priors.py --device cuda --seconds 20 --scale 4 --workers 14

All are trained from scratch on the same procedural clouds (held-out colour and category pairs are never sampled), in
turns of equal time (of the CPU, or on a GPU of the clock, with the data resident), with the same optimiser, schedule
and text encoder:

* ``independent``  the starter's: an MLP on single points, tied together by a latent of the object
* ``small``        the same, 192 wide and with 8 blocks
* ``transformer``  Point-E's base network in small: attention among the points, text and time as tokens

Then each draws a cloud for every held-out prompt with the starter's sampler. ``f_score`` is that of the points (tau 5 %
of the height) against the best procedural instance, ``colour`` the share of points whose nearest colour of the palette
is one that the best instance's points have near them. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from pipeline_core.metrics import fidelity
from pipeline_core.priors.independent_points import BIAS, SCALE, IndependentPointDiffusion
from pipeline_core.priors.karras import guided_denoiser, karras_sigmas, sample_heun
from pipeline_core.priors.point_e import PointTransformer
from pipeline_core.priors.points import cosine_schedule
from pipeline_core.props.captions import caption
from pipeline_core.props.props import COLOURS, PropSpec, build
from pipeline_core.props.raycast import sample_points
from pipeline_core.training.tokenizer import tokenize
from pipeline_core.training.train_points import PointPart, PointSettings, ResidentClouds
from tests.bench.equal_compute import Contestant, name_of, train_in_turns
from tests.bench.fidelity import heldout_prompts, interval

POINTS = 512
"""Points of a sampled cloud."""


class SmallPointE(nn.Module):
    """Point-E's base network with the starter's text encoder in CLIP's place; what it answers is the noise alone."""

    def __init__(self, text: nn.Module, width: int, layers: int) -> None:
        super().__init__()
        self.text, self.core = text, PointTransformer(width, layers)
        self.embed_text = nn.Linear(text.config.hidden_size, width)
        nn.init.zeros_(self.core.output_proj.weight)
        nn.init.zeros_(self.core.output_proj.bias)

    def condition(self, ids: Tensor) -> Tensor:
        """Text vectors [B, D]."""
        return self.text(ids).last_hidden_state[:, -1]

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Noise [B, 6, N] of x [B, 6, N] at t [B]."""
        return self.core.run(x, [self.embed_text(condition)[:, None], self.core.time_token(t)])[:, :6]


class Points(Contestant):
    """A point network in training, its data, and how to sample it."""

    def __init__(
        self, name: str, folder: Path, batch: int, points: int, first: Points | None, device: torch.device,
        chunks: int, **settings: int,
    ) -> None:  # fmt: skip
        network = {} if name == "transformer" else settings
        part = PointPart(PointSettings(points=points, chunks=chunks, **network), folder, seed=0, batch=batch)
        model: IndependentPointDiffusion = part.modules["model"]
        if name == "transformer":
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                part.modules = nn.ModuleDict({"model": SmallPointE(model.text_encoder, **settings)})
        steps = None
        if first is not None:
            part.steps.pool = first.part.steps.pool
        if device.type == "cuda":
            steps = ResidentClouds(part.steps, device, None if first is None else first.steps.chunks)
        part.modules.to(device)
        super().__init__(name, part, lr=1.5e-3, device=device, steps=steps)
        self.model = part.modules["model"]

    def loss(self, inputs: dict[str, Tensor]) -> Tensor:
        """The starter's loss, or plain noise prediction."""
        if self.name != "transformer":
            return super().loss(inputs)
        noisy = self.part.scheduler.add_noise(inputs["x0"], inputs["noise"], inputs["t"])
        with self.autocast():
            out = self.model(noisy, inputs["t"], self.model.condition(inputs["ids"])).float()
        return (out - inputs["noise"]).square().mean()

    @torch.no_grad()
    def sample(self, prompt: str, seed: int) -> np.ndarray:
        """A cloud [POINTS, 6] of the averaged weights: guidance 2 at sigma 0.3 and above, as recipes have it."""
        generator = torch.Generator().manual_seed(seed)
        ids = tokenize(self.part.tokenizer, [prompt, ""]).to(self.device)
        if self.name != "transformer":
            rows = [self.model.condition(ids[:1], [generator]), self.model.condition(ids[1:])]
        else:
            rows = [row[None] for row in self.model.condition(ids)]
        limits = torch.tensor([0.7 * s for s in SCALE[:3]] + [1.0] * 3, device=self.device).reshape(6, 1)
        denoise = guided_denoiser(self.model, cosine_schedule(), *rows, 2.0, limits, 0.3)
        x = torch.randn(1, 6, POINTS, generator=generator).to(self.device) * 120.0
        x = sample_heun(denoise, x, karras_sigmas(16, 1e-3, 120.0), [generator], 3.0)
        cloud = (x[0].T.cpu() - torch.tensor(BIAS)) / torch.tensor(SCALE)
        return torch.cat([cloud[:, :3], cloud[:, 3:].clamp(0, 1)], 1).numpy()


def score(cloud: np.ndarray, spec: PropSpec) -> dict[str, float]:
    """F-score of the points, and how many have a colour that is right where they lie."""
    palette = cKDTree(np.array(list(COLOURS.values())))
    truth_xyz, truth_rgb = sample_points(build(spec), fidelity.POINTS, np.random.default_rng(0))
    _, near = cKDTree(truth_xyz).query(cloud[:, :3], k=8)
    said, there = palette.query(cloud[:, 3:])[1], palette.query(truth_rgb[near].reshape(-1, 3))[1].reshape(-1, 8)
    return {
        "f_score": fidelity.geometry(cloud[:, :3], spec)["f_score"],
        "colour": float((said[:, None] == there).any(1).mean()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=600.0, help="training of each network")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--scale", type=int, default=1, help="how much larger batches are than a CPU's")
    parser.add_argument(
        "--workers", type=int, default=0, help="processes that write the data for a GPU; 0: another does"
    )
    parser.add_argument("--chunks", type=int, default=PointSettings.chunks)
    parser.add_argument("--prompts", type=int, default=36)
    parser.add_argument("--width", type=int, default=128, help="of the transformer")
    parser.add_argument("--layers", type=int, default=6, help="of the transformer")
    parser.add_argument("--data", type=Path, help="where clouds are kept (default: a temporary folder)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.data or Path(tempfile.mkdtemp(prefix="splatmill-bench-"))
    # Independent points learn from few of many objects; a set must be seen whole.
    device, contestants = torch.device(options.device), []
    for name, batch, points, network in (
        ("independent", 128, 64, {}),
        ("small", 128, 64, {"width": 192, "depth": 8}),
        ("transformer", 24, 256, {"width": options.width, "layers": options.layers}),
    ):
        first = contestants[0] if contestants else None
        contestants.append(
            Points(name, folder, batch * options.scale, points, first, device, options.chunks, **network)
        )
    if options.workers:
        contestants[0].part.steps.pool.fill(options.workers, wait=False)
    train_in_turns(contestants, options.seconds)
    specs = heldout_prompts(options.prompts)
    result: dict[str, object] = {"prompts": len(specs), "seconds": options.seconds, "device": name_of(device)}
    for c in contestants:
        c.part.steps.pool.close()
        with c.average.applied(c.part.modules):
            began = time.process_time()
            rows = [score(c.sample(caption(spec), seed), spec) for seed, spec in enumerate(specs)]
            sampling = (time.process_time() - began) / len(specs)
        means = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        print(
            f"{c.name:12} {c.parameters / 1e6:.1f} M parameters, {c.step} steps, loss {np.mean(c.losses[-200:]):.4f}; "
            + ", ".join(f"{k} {v.mean():.3f} [{interval(v)[0]:.3f}, {interval(v)[1]:.3f}]" for k, v in means.items())
            + f"; {sampling:.1f} CPU-s a cloud with its score"
        )
        result |= {f"{k}_{c.name}": round(float(v.mean()), 4) for k, v in means.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
