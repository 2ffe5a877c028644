"""Which small network makes the better point prior of the same compute?

    python tests/bench/point_priors.py                       # ten CPU-minutes of training each
    python tests/bench/point_priors.py --seconds 60 --prompts 8 --networks set,independent
    python tests/bench/point_priors.py --seconds 200 --categories wheel,fence,cactus,cannon,key,mug
    python tests/bench/point_priors.py --device cuda --seconds 20 --scale 4 --workers 14

All are trained from scratch on the same procedural clouds (held-out colour and category pairs are never sampled), in
turns of equal time (of the CPU, or on a GPU of the clock, with the data resident), with the same optimiser, schedule
and text encoder:

* ``set``          an MLP on single points that attend to a set of tokens of the object, drawn by a flow
* ``independent``  an MLP on single points, tied together by one latent of the object, 256 wide and with 10 blocks
* ``wide``         the same, 384 wide
* ``induced``      points that see each other through tokens that read them at every noise level
* ``transformer``  Point-E's base network in small: attention among the points, text and time as tokens

Then each draws a cloud for every held-out prompt with the starter's sampler. ``f2`` and ``f5`` are F-scores of the
points
(tau 2 and 5 % of the height) against the best procedural instance, ``colour`` the share of points whose nearest colour
of the palette is one that the best instance's points have near them; ``kept`` is the F-score at 2 % of a cloud drawn
given the latents of a thing's own cloud, against that thing. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor, nn

from pipeline_core.metrics import fidelity
from pipeline_core.priors.independent_points import BIAS, SCALE, time_waves, waves
from pipeline_core.priors.karras import guided_denoiser, karras_sigmas, sample_heun
from pipeline_core.priors.point_e import PointTransformer
from pipeline_core.priors.points import cosine_schedule
from pipeline_core.priors.set_points import PointBlock, ReadBlock
from pipeline_core.props.captions import caption
from pipeline_core.props.props import CATEGORIES, COLOURS, PropSpec, build
from pipeline_core.props.raycast import sample_points
from pipeline_core.training.tokenizer import tokenize
from pipeline_core.training.train_points import PointPart, PointSettings, ResidentClouds
from tests.bench.equal_compute import Contestant, name_of, train_in_turns
from tests.bench.shared import heldout_prompts, interval

POINTS = 2048
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


class InducedPoints(nn.Module):
    """Points that see each other: tokens read all noisy points, think, and are read by each (a set transformer)."""

    def __init__(self, text: nn.Module, width: int, layers: int, tokens: int = 32, frequencies: int = 6) -> None:
        super().__init__()
        self.text, self.frequencies = text, frequencies
        self.embed_point = nn.Linear(6 * (1 + 2 * frequencies), width)
        self.embed_text = nn.Linear(text.config.hidden_size, width)
        self.embed_time = nn.Sequential(nn.Linear(64, width), nn.SiLU(), nn.Linear(width, width))
        self.tokens = nn.Parameter(0.02 * torch.randn(tokens, width))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.reads = nn.ModuleList(ReadBlock(width) for _ in range(layers))
        self.writes = nn.ModuleList(PointBlock(width, reads=True) for _ in range(layers))
        self.norm, self.out = nn.LayerNorm(width), nn.Linear(width, 6)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def condition(self, ids: Tensor) -> Tensor:
        """Text vectors [B, D]."""
        return self.text(ids).last_hidden_state[:, -1]

    def forward(self, x: Tensor, t: Tensor, condition: Tensor) -> Tensor:
        """Noise [B, 6, N] of x [B, 6, N] at t [B]."""
        c = nn.functional.silu(self.embed_time(time_waves(t)) + self.embed_text(condition))
        h = self.embed_point(waves(x.transpose(1, 2), self.frequencies))
        tokens = self.tokens + c[:, None]
        for norm, read, write in zip(self.norms, self.reads, self.writes, strict=True):
            tokens = read(tokens, norm(h))
            h = write(h, c, tokens)
        return self.out(self.norm(h)).transpose(1, 2)


WHOLE = {"transformer": SmallPointE, "induced": InducedPoints}
"""Networks that see a cloud as a whole, and have no latent."""


class Points(Contestant):
    """A point network in training, its data, and how to sample it."""

    def __init__(
        self, name: str, folder: Path, batch: int, points: int, first: Points | None, device: torch.device,
        chunks: int, chunk_size: int, categories: tuple[str, ...], **settings: Any,
    ) -> None:  # fmt: skip
        network = {} if name in WHOLE else settings
        data = PointSettings(points=points, chunks=chunks, chunk_size=chunk_size, channels=6, **network)
        part = PointPart(data, folder, seed=0, batch=batch)
        if name in WHOLE:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(0)
                part.modules = nn.ModuleDict({"model": WHOLE[name](part.modules["model"].text_encoder, **settings)})
        if categories:
            part.steps.pool.options["categories"] = categories
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
        if self.name not in WHOLE:
            return super().loss(inputs)
        noisy = self.part.scheduler.add_noise(inputs["x0"], inputs["noise"], inputs["t"])
        with self.autocast():
            out = self.model(noisy, inputs["t"], self.model.condition(inputs["ids"])).float()
        return (out - inputs["noise"]).square().mean()

    @torch.no_grad()
    def sample(self, prompt: str, seed: int, like: np.ndarray | None = None) -> np.ndarray:
        """A cloud [POINTS, 6] of the averaged weights, not guided, as recipes have it.

        With ``like`` [N, 6] the latents are those of that cloud.
        """
        generator = torch.Generator().manual_seed(seed)
        ids = tokenize(self.part.tokenizer, [prompt]).to(self.device)
        scale, bias = torch.tensor(SCALE[:6]), torch.tensor(BIAS[:6])
        if self.name in WHOLE:
            row = self.model.condition(ids)
        elif like is not None:
            row = self.model.recognise(ids, (torch.from_numpy(like) * scale + bias).T[None].to(self.device))
        else:
            row = self.model.condition(ids, [generator])
        limits = torch.tensor([0.7 * s for s in SCALE[:3]] + [1.0] * 3, device=self.device).reshape(6, 1)
        denoise = guided_denoiser(self.model, cosine_schedule(), row, row, 1.0, limits)
        x = torch.randn(1, 6, POINTS, generator=generator).to(self.device) * 120.0
        x = sample_heun(denoise, x, karras_sigmas(16, 1e-3, 120.0), [generator], 3.0)
        cloud = (x[0].T.cpu() - bias) / scale
        return torch.cat([cloud[:, :3], cloud[:, 3:].clamp(0, 1)], 1).numpy()


def score(cloud: np.ndarray, spec: PropSpec) -> dict[str, float]:
    """F-scores of the points, and how many have a colour that is right where they lie."""
    palette = cKDTree(np.array(list(COLOURS.values())))
    truth_xyz, truth_rgb = sample_points(build(spec), fidelity.POINTS, np.random.default_rng(0))
    _, near = cKDTree(truth_xyz).query(cloud[:, :3], k=8)
    said, there = palette.query(cloud[:, 3:])[1], palette.query(truth_rgb[near].reshape(-1, 3))[1].reshape(-1, 8)
    tree, found = cKDTree(cloud[:, :3]), {}
    for percent in (2, 5):
        instances = fidelity.instances_of(spec.category, spec.part, spec.material, fidelity.INSTANCES)
        found[f"f{percent}"] = max(fidelity.f_score(tree, them, percent / 100 * tall)[0] for them, tall in instances)
    return found | {"colour": float((said[:, None] == there).any(1).mean())}


def kept(contestant: Points, spec: PropSpec, seed: int) -> float:
    """F-score at 2 % of a cloud that is drawn given what the network says about the thing's own cloud."""
    prop = build(spec)
    like = np.concatenate(sample_points(prop, 4 * POINTS, np.random.default_rng(seed)), axis=1)
    truth, _ = sample_points(prop, fidelity.POINTS, np.random.default_rng(seed + 1))
    cloud = contestant.sample(caption(spec), seed, like)
    return fidelity.f_score(cKDTree(cloud[:, :3]), cKDTree(truth), 0.02 * float(np.ptp(prop.bounds[:, 1])))[0]


def prompts(count: int, categories: tuple[str, ...]) -> list[PropSpec]:
    """``count`` held-out specs, of ``categories`` only where some are named."""
    if not categories:
        return heldout_prompts(count)
    return [s for s in heldout_prompts(count * len(CATEGORIES)) if s.category in categories][:count]


def networks(width: int, layers: int) -> dict[str, tuple[int, int, dict[str, Any]]]:
    """By name: clouds of a step, points of each that are denoised, and settings of the network."""
    one = {"network": "independent", "latent": 16, "context": 256, "encoder_frequencies": 4, "depth": 10}
    small = {"width": 128, "flow_width": 128, "flow_depth": 4, "set_size": 24, "context": 256}
    # Independent points learn from few of many objects; a set must be seen whole.
    return {
        "set": (32, 64, {"network": "set", **small}),
        "independent": (64, 64, {**one, "width": 256}),
        "wide": (64, 64, {**one, "width": 384}),
        "induced": (24, 256, {"width": width, "layers": layers}),
        "transformer": (24, 256, {"width": width, "layers": layers}),
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
    parser.add_argument("--chunk-size", type=int, default=PointSettings.chunk_size)
    parser.add_argument("--prompts", type=int, default=36)
    parser.add_argument("--networks", default="set,independent,wide,induced,transformer")
    parser.add_argument("--categories", default="", help="a smaller world, so that less compute tells them apart")
    parser.add_argument("--save", type=Path, help="a folder for the clouds that are drawn")
    parser.add_argument("--width", type=int, default=128, help="of the transformer")
    parser.add_argument("--layers", type=int, default=6, help="of the transformer")
    parser.add_argument("--data", type=Path, help="where clouds are kept (default: a temporary folder)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    folder = options.data or Path(tempfile.mkdtemp(prefix="splatmill-bench-"))
    device, contestants = torch.device(options.device), []
    categories = tuple(filter(None, options.categories.split(",")))
    for name in options.networks.split(","):
        batch, points, network = networks(options.width, options.layers)[name]
        first = contestants[0] if contestants else None
        contestants.append(
            Points(
                name, folder, batch * options.scale, points, first, device, options.chunks, options.chunk_size,
                categories, **network,
            )
        )  # fmt: skip
    if options.workers:
        contestants[0].part.steps.pool.fill(options.workers, wait=False)
    train_in_turns(contestants, options.seconds)
    specs = prompts(options.prompts, categories)
    result: dict[str, object] = {"prompts": len(specs), "seconds": options.seconds, "device": name_of(device)}
    for c in contestants:
        c.part.steps.pool.close()
        with c.average.applied(c.part.modules):
            began = time.process_time()
            clouds = [c.sample(caption(spec), seed) for seed, spec in enumerate(specs)]
            sampling = (time.process_time() - began) / len(specs)
            rows = [score(cloud, spec) for cloud, spec in zip(clouds, specs, strict=True)]
            if c.name not in WHOLE:
                rows = [row | {"kept": kept(c, spec, i)} for i, (row, spec) in enumerate(zip(rows, specs, strict=True))]
        if options.save:
            np.save(options.save / f"{c.name}.npy", np.stack(clouds))
        means = {name: np.array([row[name] for row in rows]) for name in rows[0]}
        print(
            f"{c.name:12} {c.parameters / 1e6:.1f} M parameters, {c.step} steps, loss {np.mean(c.losses[-200:]):.4f}; "
            + ", ".join(f"{k} {v.mean():.3f} [{interval(v)[0]:.3f}, {interval(v)[1]:.3f}]" for k, v in means.items())
            + f"; {sampling:.1f} CPU-s a cloud"
        )
        result |= {f"{k}_{c.name}": round(float(v.mean()), 4) for k, v in means.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
