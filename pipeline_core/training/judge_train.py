"""Train the starter judge: renders of procedural props under other lights, textures, backgrounds and cameras.

    OMP_NUM_THREADS=1 python -m pipeline_core.training.judge_train --out runs/judge --steps 3000

Every random choice of a step is a function of (seed, step), and data chunks of (seed, index), so a run that is
stopped (Ctrl-C, SIGTERM) and started again ends with the same bits on the same machine. ``OUT`` holds data/*.npz,
checkpoint.safetensors, curve.jsonl and, at the end, model/ with its card.

The judge is trained on every pair of colour and category, also on those that the prior never sees: it must be right
about them. It shares no weights, words, lights or cameras with the prior, and nothing is ever guided by it.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pipeline_core.metrics.fidelity import evaluation_cameras, score, truth_images
from pipeline_core.metrics.judge import SIDES, JudgeNetwork, JudgeShape, StarterJudge, load_network, save_judge
from pipeline_core.metrics.negatives import candidates, full
from pipeline_core.props.captions import VOCABULARY, caption
from pipeline_core.props.props import CATEGORIES, COLOURS, FRONTED, sample_spec
from pipeline_core.storage import sha256_file
from pipeline_core.training.checkpoint import load_training, save_training
from pipeline_core.training.judge_data import CHUNK, HARD, SPLATS, Batch, Chunks, codes_agree, make_batch
from pipeline_core.training.train import commit, rate, weights_of


@dataclass(frozen=True)
class Settings:
    """How the judge is trained."""

    batch: int = 96
    lr: float = 2e-3
    warmup: int = 60
    decay_share: float = 0.4
    weight_decay: float = 0.02
    reuse: float = 4.0
    """Times an image is seen on average."""
    auxiliary: float = 0.3
    """Weight of each classification loss beside the contrastive one."""
    side: float = 1.0
    """Weight of the loss of the side that is seen."""


# -------------------------------------------------------------------------------------------------------- training


def batch_loss(network: JudgeNetwork, batch: Batch, settings: Settings) -> tuple[Tensor, dict[str, float]]:
    """Contrastive loss over the batch and its hard negatives, plus the heads' cross-entropies; and what was right."""
    b = len(batch.images)
    with torch.autocast("cpu", torch.bfloat16) if fast_bfloat16() else contextlib.nullcontext():
        features = network.image(batch.images)
        words = network.text(network.word_ids([t or "" for t in batch.texts]))
    features = features.float()
    pictures = F.normalize(network.project(features), dim=-1)
    words = F.normalize(words.float(), dim=-1)
    scale = network.log_scale.exp().clamp(max=60)
    pairs = scale * pictures @ words[:b].T
    codes = [tuple(row) for row in batch.codes.tolist()]
    unfair = torch.tensor([[i != j and codes_agree(codes[j], codes[i]) for j in range(b)] for i in range(b)])
    pairs = pairs.masked_fill(unfair, -1e4)
    hard = scale * (words[b:].view(b, len(HARD), -1) @ pictures[:, :, None])[..., 0]
    absent = torch.tensor([t is None for t in batch.texts[b:]]).view(b, len(HARD))
    rows = torch.cat([pairs, hard.masked_fill(absent, -1e4)], 1)
    target = torch.arange(b)
    loss = F.cross_entropy(rows, target) + 0.5 * F.cross_entropy(pairs.T, target)
    for head, label in ((network.category, 0), (network.colour, 1), (network.colour2, 2)):
        loss = loss + settings.auxiliary * F.cross_entropy(head(features), batch.codes[:, label])
    sides = network.side(features)
    known = batch.side >= 0
    if known.any():
        loss = loss + settings.side * F.cross_entropy(sides[known], batch.side[known])
    right = {
        "caption": float((rows.argmax(1) == target).float().mean()),
        "side": float((sides.argmax(1) == batch.side)[known].float().mean()),
    }
    return loss, right


def fast_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16."""
    return torch.cpu._is_avx512_bf16_supported()


def new_network(seed: int, widths: tuple[int, ...] = JudgeShape.widths, start: Path | None = None) -> JudgeNetwork:
    """A network with weights drawn from ``seed``; torch's global generator is left as it was.

    What the judge in ``start`` knows of it is that one's: all but the words and the categories that came later.
    """
    known = None if start is None else load_network(start)
    shape = JudgeShape(tuple(VOCABULARY), len(CATEGORIES), len(COLOURS), widths=widths)
    shape = shape if known is None else replace(known.shape, words=shape.words, categories=shape.categories)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = JudgeNetwork(shape)
    if known is not None:
        state, begun = network.state_dict(), known.state_dict()
        rows = [0, 1, *(shape.words.index(word) + 2 for word in known.shape.words)]
        for name, value in begun.items():
            at = rows if name == "text.words.weight" else slice(len(value)) if value.ndim else ...
            state[name][at] = value
    return network


def train_judge(
    out: Path,
    *,
    steps: int,
    seed: int = 4242,
    settings: Settings | None = None,
    start: Path | None = None,
    keep: float = 0.0,
    widths: tuple[int, ...] = JudgeShape.widths,
    chunk: int = CHUNK,
    log_every: int = 50,
    checkpoint_every: int = 200,
    examine_count: int = 256,
    should_stop: Callable[[], bool] = lambda: False,
) -> JudgeNetwork | None:
    """Train for ``steps`` steps in all, resuming what ``out`` holds; None when stopped early.

    ``start`` is a judge's folder to go on from, with new data and a new optimiser; it may know fewer words. What is
    saved is ``keep`` of the weights that it began with and the rest of those that it came to (Wortsman et al. 2022,
    "Robust fine-tuning of zero-shot models"): two ends of one run are wrong about different things.
    """
    settings = settings or Settings()
    out.mkdir(parents=True, exist_ok=True)
    network = new_network(seed, widths, start).train()
    decay: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in network.parameters():
        (decay if parameter.ndim > 1 else plain).append(parameter)
    decays = [{"params": decay, "weight_decay": settings.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(decays, lr=settings.lr, betas=(0.9, 0.98), fused=True)
    facts: dict[str, Any] = {"step": 0, "cpu_seconds": 0.0, "sittings": 0, "seed": seed}
    checkpoint, groups = out / "checkpoint.safetensors", {"model": network.state_dict()}
    if checkpoint.exists():
        facts = load_training(checkpoint, groups, optimiser, seed)
    facts["sittings"] += 1
    chunks = Chunks(out / "data", seed, chunk)
    decay_from = int(steps * (1 - settings.decay_share))
    running: list[tuple[float, float, float]] = []
    spent = time.process_time()
    while facts["step"] < steps:
        step = facts["step"]
        for group in optimiser.param_groups:
            group["lr"] = settings.lr * rate(step, settings.warmup, decay_from, steps)
        loss, right = batch_loss(
            network, make_batch(chunks, step, size=settings.batch, reuse=settings.reuse, seed=seed), settings
        )
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 2.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        running.append((float(loss.detach()), right["caption"], right["side"]))
        now = time.process_time()
        facts["step"], facts["cpu_seconds"], spent = step + 1, facts["cpu_seconds"] + now - spent, now
        stop = should_stop()
        if stop or facts["step"] % checkpoint_every == 0 or facts["step"] == steps:
            save_training(checkpoint, groups, optimiser, facts)
        if facts["step"] % log_every == 0:
            loss_mean, caption_mean, side_mean = np.nanmean(np.array(running), axis=0)
            running.clear()
            row = {"step": facts["step"], "cpu_seconds": round(facts["cpu_seconds"], 1), "loss": round(loss_mean, 4),
                   "caption": round(caption_mean, 4), "side": round(side_mean, 4)}  # fmt: skip
            with (out / "curve.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
        if stop:
            return None
    if keep:
        assert start is not None  # main
        begun = new_network(seed, widths, start).state_dict()
        for name, value in network.state_dict().items():
            if value.is_floating_point():
                value.lerp_(begun[name], keep)
    network.eval()
    save_judge(network, out / "model")
    scores = examine(StarterJudge(network, "trained"), count=examine_count, seed=seed + 1)
    (out / "model" / "README.md").write_text(model_card(out / "model", facts, settings, scores, network, start, keep))
    return network


# -------------------------------------------------------------------------------------------------------- examining


def examine(judge: StarterJudge, *, count: int, seed: int, split: str = "heldout") -> dict[str, float]:
    """Means of `fidelity.score` over fresh props, rendered as finished assets are: the training light, white, 8 views.

    ``beats_<kind>`` is the share of props whose true caption beats every negative of that kind; ``side`` the share of
    views at quarter turns whose side is named right.
    """
    rng = np.random.default_rng([seed, 17])
    cameras = evaluation_cameras()
    scores: dict[str, list[float]] = {}
    for _ in range(count):
        spec = full(sample_spec(rng, split=split, composed=0.0))
        images = truth_images(spec)
        metrics = score(images, cameras.azimuth, cameras.elevation, caption(spec), judge=judge)
        texts, kinds = candidates(spec)
        similarity = (judge.embed_images(images) @ judge.embed_texts(texts).T).mean(0)
        for kind in dict.fromkeys(kinds[1:]):
            rivals = similarity[[k == kind for k in kinds]]
            metrics[f"beats_{kind}"] = float(similarity[0] > rivals.max())
        if spec.category in FRONTED:
            metrics["side"] = float((judge.sides(images[::2]).argmax(1) == torch.arange(4)).float().mean())
        for name, value in metrics.items():
            scores.setdefault(name, []).append(value)
    return {"props": float(count)} | {name: round(float(np.mean(values)), 4) for name, values in scores.items()}


def model_card(
    folder: Path,
    facts: dict,
    settings: Settings,
    scores: dict[str, float],
    network: JudgeNetwork,
    start: Path | None,
    keep: float,
) -> str:
    """The model card in Markdown; ``start`` is the judge that this one went on from and has ``keep`` of."""
    weights = folder / "model.safetensors"
    digest = sha256_file(weights)
    rows = {
        "trained with": "`python -m pipeline_core.training.judge_train "
        f"--seed {facts['seed']} --steps {facts['step']}`",
        "commit": commit(),
        "data": "procedural props of every colour and category, held-out pairs included, under random lights, "
        f"backgrounds and cameras, with perturbed textures; {SPLATS:.0%} of them as Gaussians at sampled points",
        "samples seen": f"{facts['step'] * settings.batch:,}, each image about {settings.reuse:g} times",
        "training time": f"{facts['cpu_seconds'] / 60:.1f} CPU-minutes in {facts['sittings']} sitting(s)",
        "parameters": f"{sum(p.numel() for p in network.parameters()):,}",
        "weights": f"{weights.stat().st_size / 1e6:.2f} MB fp16, sha256 `{digest}`",
        "licence": "Apache-2.0, weights and data alike: nothing here derives from third-party images or models",
    }
    if start is not None:
        kept = f"; the weights are {keep:g} of that one's and {1 - keep:g} of those it came to" if keep else ""
        rows["went on from"] = "; ".join(weights_of(start)) + kept
    table = "\n".join(f"| {k} | {v} |" for k, v in rows.items())
    scored = "\n".join(f"| {k} | {v:g} |" for k, v in scores.items())
    return (
        "# splatmill starter judge\n\nAn image-text dual encoder (convolutions over pixels and over words) that ranks "
        f"captions for renders of props, with a head for the side that is seen: {', '.join(SIDES)}. It scores; it "
        f"never guides. It knows the words of the starter's captions only.\n\n| | |\n|---|---|\n{table}\n\n"
        "On fresh held-out props, rendered as finished assets are (8 views, white background, 32 captions; the names "
        "are those of pipeline_core/metrics/fidelity.py):\n\n"
        f"| | |\n|---|---|\n{scored}\n\n```json\n{json.dumps(asdict(settings), indent=2)}\n```\n"
    )


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(prog="judge_train", description="Train the starter judge from a seed.")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--seed", type=int, default=4242)
    parser.add_argument("--start", type=Path, help="a judge's folder to go on from, with new data and words")
    parser.add_argument("--keep", type=float, default=0.0, help="share of that judge's weights in what is saved")
    parser.add_argument("--widths", type=int, nargs=4, default=JudgeShape.widths, help="channels of the image tower")
    parser.add_argument("--lr", type=float, default=Settings.lr, help="peak learning rate")
    args = parser.parse_args(argv)
    stopped = False

    def on_signal(signum: int, frame: object) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    if (args.keep and args.start is None) or not 0 <= args.keep < 1:
        parser.error(f"--keep {args.keep:g}: a share of the weights of --start, from 0 to below 1")
    network = train_judge(
        args.out, steps=args.steps, seed=args.seed, settings=Settings(lr=args.lr), start=args.start,
        keep=args.keep, widths=tuple(args.widths), should_stop=lambda: stopped,
    )  # fmt: skip
    if network is not None:
        print((args.out / "model" / "README.md").read_text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
