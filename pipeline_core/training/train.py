"""Train the starter prior: one loop for both parts, with exact resume.

    python -m pipeline_core.training.train --part image --out runs/starter --steps 11000
    python -m pipeline_core.training.train --part points --out runs/starter --minutes 20
    splatmill train-starter --out runs/starter                       # the same, both parts

Every random choice of a step is a function of (seed, step), so a checkpoint is the weights, their moving average, the
optimiser and a step number; stopping (Ctrl-C or SIGTERM) writes one and starting again goes on from it, bit for bit.
The learning rate is constant after a warm-up and falls to zero over the last share of the budget (``--decay``), in
steps or in time, so the budget may change between sittings. ``OUT/<part>`` holds curve.jsonl, samples/*.png,
checkpoint.safetensors and, after each export, model/.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader

from pipeline_core.errors import RequestError
from pipeline_core.training.checkpoint import Groups, load_training, save_training
from pipeline_core.training.recorded import RecordedLoss

PARTS = ("image", "points")
"""What ships."""
ALL_PARTS = (*PARTS, "flow")
"""``flow`` ships nowhere: it is asked for by name."""


@dataclass(frozen=True)
class Optimisation:
    """How one part is optimised."""

    batch: int = 32
    lr: float = 1e-3
    warmup: int = 200
    decay_share: float = 0.2
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.99)
    grad_clip: float = 1.0
    ema: float = 0.998


@dataclass
class Progress:
    """What a checkpoint knows beside tensors. ``decay_from`` and ``steps`` are None until the budget has got there."""

    step: int = 0
    seconds: float = 0.0
    samples: int = 0
    sittings: int = 0
    loss: float = float("nan")
    decay_from: int | None = None
    steps: int | None = None


def rate(step: int, warmup: int, decay_from: int | None, steps: int | None) -> float:
    """Learning-rate factor: linear warm-up, constant, linear to zero between ``decay_from`` and ``steps``."""
    factor = min(1.0, (step + 1) / max(1, warmup))
    if decay_from is not None and steps is not None and step >= decay_from:
        factor *= max(0.0, (steps - step) / max(1, steps - decay_from))
    return factor


def default_autocast(device: torch.device) -> Callable[[], contextlib.AbstractContextManager]:
    """bfloat16 autocast where the hardware multiplies bfloat16 (any CUDA device, CPUs with AVX512-BF16)."""
    if device.type == "cuda" or torch.cpu._is_avx512_bf16_supported():
        return lambda: torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext


class Averaged:
    """Exponential moving average of parameters, with a warm-up so that early averages are not the initial weights."""

    def __init__(self, modules: nn.ModuleDict, decay: float) -> None:
        self.decay = decay
        self.values = {name: p.detach().clone() for name, p in modules.named_parameters()}

    def update(self, modules: nn.ModuleDict, step: int) -> None:
        """Move towards the current weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        values = list(self.values.values())
        current = [p.detach() for _, p in modules.named_parameters()]
        torch._foreach_lerp_(values, current, 1 - decay)

    @contextlib.contextmanager
    def applied(self, modules: nn.ModuleDict):
        """Within the block, ``modules`` hold the average and are in eval mode."""
        params = dict(modules.named_parameters())
        saved = {name: p.data for name, p in params.items()}
        for name, p in params.items():
            p.data = self.values[name]
        modules.eval()
        try:
            yield modules
        finally:
            for name, p in params.items():
                p.data = saved[name]
            modules.train()


def save_checkpoint(
    path: Path,
    modules: nn.ModuleDict,
    average: Averaged,
    optimiser: torch.optim.Optimizer,
    progress: Progress,
    seed: int,
) -> None:
    """Write all that the next step depends on."""
    save_training(path, _groups(modules, average), optimiser, asdict(progress) | {"seed": seed})


def load_checkpoint(
    path: Path, modules: nn.ModuleDict, average: Averaged, optimiser: torch.optim.Optimizer, seed: int
) -> Progress:
    """Load what :func:`save_checkpoint` wrote into the given objects."""
    facts = load_training(path, _groups(modules, average), optimiser, seed)
    return Progress(**{name: value for name, value in facts.items() if name != "seed"})


def _groups(modules: nn.ModuleDict, average: Averaged) -> Groups:
    return {"model": dict(modules.named_parameters()), "ema": average.values}


def _plan(progress: Progress, steps: int | None, minutes: float | None, o: Optimisation) -> float:
    """The learning-rate factor of the next step. A time budget has it fall with time: it ends when the time does,
    however quick the steps become, and fixes ``decay_from`` and ``steps`` when it gets there."""
    if steps is not None:
        progress.steps, progress.decay_from = steps, int(steps * (1 - o.decay_share))
        return rate(progress.step, o.warmup, progress.decay_from, steps)
    assert minutes is not None
    left = max(0.0, 1 - progress.seconds / (60 * minutes))
    if left > o.decay_share:
        progress.decay_from = progress.steps = None
    elif progress.decay_from is None:
        progress.decay_from = progress.step
    progress.steps = None if left else progress.step
    return rate(progress.step, o.warmup, None, None) * min(1.0, left / max(o.decay_share, 1e-9))


def step_inputs(
    part: Any, start: int, device: torch.device, workers: int, resident: bool = False
) -> Iterator[dict[str, Tensor]]:
    """Inputs of steps ``start``, ``start + 1`` ... on ``device``, drawn here, or ahead of time by worker processes.

    With ``resident`` the chunks are kept on ``device`` and steps are drawn there; ``workers`` then only write them,
    and without any another process is expected to.
    """
    if resident:
        steps = part.steps.resident(device)
        try:
            yield from (steps[step] for step in itertools.count(start))
        finally:
            steps.close()
    if workers:
        part.steps.pool.fill(workers)  # workers of a loader may not have children of their own
    # An item is a whole batch, and a function of its step alone: workers change nothing but the time it takes.
    loader = DataLoader(
        part.steps, batch_size=None, sampler=range(start, sys.maxsize), num_workers=workers,
        pin_memory=device.type == "cuda", multiprocessing_context="spawn" if workers else None,
        generator=torch.Generator(),
    )  # fmt: skip
    for inputs in loader:
        yield {name: value.to(device, non_blocking=True) for name, value in inputs.items()}


def train_part(
    part: Any,
    out: Path,
    *,
    seed: int,
    optimisation: Optimisation,
    steps: int | None = None,
    minutes: float | None = None,
    device: str = "cpu",
    workers: int = 0,
    resident: bool = False,
    compiled: bool = False,
    recorded: bool = False,
    resume: bool = True,
    log_every: int = 50,
    sample_every: int = 2000,
    checkpoint_every: int = 500,
    should_stop: Callable[[], bool] = lambda: False,
) -> Progress:
    """Train ``part`` until ``steps``, or for about ``minutes`` of training time over all sittings, and export it.

    Args:
        part: an :class:`~pipeline_core.training.train_image.ImagePart` or ``PointPart``
        workers: processes that draw batches ahead, and write the data first; 0 draws in this one
        resident: keep the data on the device and draw there (see :func:`step_inputs`)
        compiled: compile the part's networks, for a GPU and long runs
        recorded: on a GPU, record a step as a CUDA graph (recorded.py); where that fails, go on without, and say so
        should_stop: asked after every step; True writes a checkpoint and returns early, without an export
    """
    if (steps is None) == (minutes is None):
        raise RequestError("give exactly one of steps and minutes")
    o = optimisation
    out.mkdir(parents=True, exist_ok=True)
    dev = torch.device(device)
    modules = part.modules.to(dev).train()
    average = Averaged(modules, o.ema)
    optimiser = torch.optim.AdamW(modules.parameters(), lr=o.lr, betas=o.betas, weight_decay=o.weight_decay, fused=True)
    checkpoint = out / "checkpoint.safetensors"
    progress = Progress()
    if resume and checkpoint.exists():
        progress = load_checkpoint(checkpoint, modules, average, optimiser, seed)
    progress.sittings += 1
    if resident:
        part.steps.pool.ahead = 0
        if workers:
            part.steps.pool.fill(workers, wait=False)
        part.steps.pool.wait_for(0)
    part.prepare(dev)
    if dev.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = True
    if compiled:
        for module in part.compilable():
            module.compile(dynamic=False)
    inputs = step_inputs(part, progress.step, dev, workers, resident)
    autocast = default_autocast(dev)
    running: list[Tensor] = []
    graph: RecordedLoss | None = None
    recorded = recorded and dev.type == "cuda"
    tick = time.monotonic()

    def save() -> None:
        save_checkpoint(checkpoint, modules, average, optimiser, progress, seed)

    while progress.steps is None or progress.step < progress.steps or steps is not None:
        factor = _plan(progress, steps, minutes, o)
        if progress.steps is not None and progress.step >= progress.steps:
            break
        for group in optimiser.param_groups:
            group["lr"] = o.lr * factor
        drawn = next(inputs)
        if recorded and graph is None:
            graph = try_to_record(part, autocast, drawn)
            recorded = graph is not None
        if graph is not None:
            loss = graph(drawn)
        else:
            loss = part.loss(drawn, autocast)
            loss.backward()
        norm = nn.utils.clip_grad_norm_(modules.parameters(), o.grad_clip)
        optimiser.step()
        if graph is None:
            optimiser.zero_grad(set_to_none=True)
        average.update(modules, progress.step)
        running.append(loss.detach())
        now = time.monotonic()
        progress.step, progress.samples = progress.step + 1, progress.samples + o.batch
        progress.seconds, tick = progress.seconds + now - tick, now
        if progress.step % log_every == 0:
            progress.loss = float(torch.stack(running).double().mean())
            running.clear()
            row = {"step": progress.step, "samples": progress.samples, "seconds": round(progress.seconds, 1),
                   "cpu_seconds": round(time.process_time(), 1), "loss": round(progress.loss, 5),
                   "grad_norm": round(float(norm), 4), "lr": optimiser.param_groups[0]["lr"]}  # fmt: skip
            with (out / "curve.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
        stop = should_stop()
        if stop or progress.step % checkpoint_every == 0:
            save()
        if stop:
            return progress
        if progress.step % sample_every == 0:
            write_samples(part, average, modules, out / "samples" / f"{progress.step:07d}.png")
            tick = time.monotonic()
    save()
    export_part(part, average, modules, out / "model", progress, seed, o)
    write_samples(part, average, modules, out / "samples" / f"{progress.step:07d}.png")
    return progress


def try_to_record(part: Any, autocast: Callable[[], Any], inputs: dict[str, Tensor]) -> RecordedLoss | None:
    """The step of ``part`` as a CUDA graph, or None, with a warning, where it cannot be one."""
    try:
        return RecordedLoss(part, autocast, inputs)
    except RuntimeError as error:
        torch.cuda.synchronize()
        part.modules.zero_grad(set_to_none=True)
        print(f"warning: {part.name} trains without a CUDA graph: {error}", file=sys.stderr, flush=True)
        return None


def export_checkpoint(
    part: Any, run: Path, folder: Path, *, seed: int, optimisation: Optimisation, note: str = ""
) -> Progress:
    """Export the averaged weights of the checkpoint in ``run``, finished or not; ``note`` joins the model card."""
    average = Averaged(part.modules, optimisation.ema)
    optimiser = torch.optim.AdamW(part.modules.parameters())
    progress = load_checkpoint(run / "checkpoint.safetensors", part.modules, average, optimiser, seed)
    part.prepare(torch.device("cpu"))
    export_part(part, average, part.modules, folder, progress, seed, optimisation, note)
    return progress


def write_samples(part: Any, average: Averaged, modules: nn.ModuleDict, path: Path) -> None:
    """Save the part's sample grid, drawn from the averaged weights."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with average.applied(modules), torch.no_grad(), torch.compiler.set_stance("force_eager"):
        Image.fromarray(part.grid(modules)).save(path)


def export_part(
    part: Any,
    average: Averaged,
    modules: nn.ModuleDict,
    folder: Path,
    progress: Progress,
    seed: int,
    o: Optimisation,
    note: str = "",
) -> None:
    """Write the averaged weights as fp16 safetensors, with a model card that says where they come from."""
    with average.applied(modules), torch.no_grad():
        part.export(modules, folder)
    (folder / "README.md").write_text(model_card(part, folder, progress, seed, o, note))


def model_card(part: Any, folder: Path, progress: Progress, seed: int, o: Optimisation, note: str) -> str:
    """The model card in Markdown: command, commit, seed, data, time, loss, settings, hashes."""
    hashes = "\n".join(f"- {line}" for line in weights_of(folder))
    rows = {
        "trained with": f"`python -m pipeline_core.training.train --part {part.name} --seed {seed}`",
        "commit": commit(),
        "seed": seed,
        "data": "the training split of the procedural props (pipeline_core/props/props.py), rendered on the "
        "fly; colour x category pairs for which `is_heldout` holds were never sampled",
        "samples seen": f"{progress.samples:,} in {progress.step:,} steps of {o.batch}",
        "training time": f"{progress.seconds / 3600:.2f} h wall in {progress.sittings} sitting(s)",
        "loss (mean of the last steps logged)": f"{progress.loss:.4f}",
        "learning rate at the end": f"{o.lr * rate(progress.step, o.warmup, progress.decay_from, progress.steps):.2g} "
        f"(peak {o.lr:g})",
        "parameters": f"{sum(p.numel() for p in part.modules.parameters()):,}",
        "licence": "Apache-2.0, weights and data alike: nothing here derives from third-party images or models",
    }
    if part.start is not None:
        rows["went on from"] = "; ".join(weights_of(part.start))
    table = "\n".join(f"| {k} | {v} |" for k, v in rows.items())
    settings = json.dumps({"settings": part.facts(), "optimisation": asdict(o)}, indent=2)
    return (
        f"# splatmill starter prior: {part.name}\n\n{part.summary}\n\n| | |\n|---|---|\n{table}\n\n"
        + (f"{note}\n\n" if note else "")
        + f"{hashes}\n\n"
        f"```json\n{settings}\n```\n"
    )


def weights_of(folder: Path) -> list[str]:
    """Name, size and sha256 of every file of weights in ``folder``."""
    return [
        f"`{path.relative_to(folder)}` ({path.stat().st_size / 1e6:.2f} MB) "
        f"sha256 `{hashlib.sha256(path.read_bytes()).hexdigest()}`"
        for path in sorted(folder.rglob("*.safetensors"))
    ]


def commit() -> str:
    """The checked-out commit, marked when the tree differs from it; "unknown" outside a checkout."""
    try:
        out = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return out.stdout.strip()


def _classes(name: str) -> tuple[type, type]:
    """The part called ``name``, one of :data:`ALL_PARTS`, and its settings."""
    if name == "image":
        from pipeline_core.training.train_image import ImagePart, ImageSettings

        return ImagePart, ImageSettings
    if name == "points":
        from pipeline_core.training.train_points import PointPart, PointSettings

        return PointPart, PointSettings
    if name == "flow":
        from pipeline_core.training.train_flow import FlowPart, FlowSettings

        return FlowPart, FlowSettings
    raise RequestError(f"part {name!r} must be one of {', '.join(ALL_PARTS)}")


def build_part(name: str, data_dir: Path, *, seed: int, batch: int, start: Path | None = None, **settings: Any) -> Any:
    """The part called ``name``, one of :data:`ALL_PARTS`, with changed settings, on from the weights of ``start``."""
    part, kind = _classes(name)
    return part(kind(**settings), data_dir, seed=seed, batch=batch, start=start)


OPTIMISATION = {"image": Optimisation(), "points": Optimisation(batch=128, lr=1.5e-3), "flow": Optimisation()}


def optimisation_of(name: str, batch: int | None = None, lr: float | None = None, **more: Any) -> Optimisation:
    """How the part called ``name`` is optimised, with another batch, peak learning rate, or any field, where given."""
    changes: dict[str, Any] = {"batch": batch, "lr": lr, **more}
    return replace(OPTIMISATION[name], **{k: v for k, v in changes.items() if v is not None})


def train_starter(
    out_dir: Path,
    *,
    parts: tuple[str, ...] = PARTS,
    seed: int = 0,
    device: str | None = None,
    workers: int = 0,
    resident: bool = False,
    compiled: bool = False,
    recorded: bool = False,
    patient: bool = True,
    batch: int | None = None,
    lr: float | None = None,
    decay_share: float | None = None,
    warmup: int | None = None,
    settings: dict[str, Any] | None = None,
    start: Path | None = None,
    steps: int | None = None,
    minutes: float | None = None,
    data_dir: Path | None = None,
    resume: bool = True,
    sample_every: int = 2000,
    should_stop: Callable[[], bool] = lambda: False,
) -> dict[str, Progress]:
    """Train the parts of the starter prior one after another; the models end up in ``out_dir/<part>/model``.

    Args:
        out_dir: where checkpoints, curves, samples and models go; a run found there is resumed
        parts: any of :data:`ALL_PARTS`
        device: None takes CUDA when there is one
        workers: processes that write the data and draw batches; 0 leaves both to this process and one helper
        resident, compiled, recorded: see :func:`train_part`
        patient: see :class:`~pipeline_core.training.data.ChunkPool`
        batch, lr: samples a step and the peak learning rate; None is the part's own
        decay_share, warmup: of the schedule, a share of the budget and steps; None is the part's own
        settings: fields of the parts' settings that differ from what ships, e.g. ``{"chunks": 256}``
        start: a model's folder to go on from with a new optimiser, where ``out_dir`` has no checkpoint; one part
        steps, minutes: the budget of *each* part; exactly one of them
        data_dir: where data chunks are kept; None is ``out_dir/data``
        sample_every: steps between two pictures of samples; there is one at the end too
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    done = {}
    for name in parts:
        optimisation = optimisation_of(name, batch, lr, decay_share=decay_share, warmup=warmup)
        part = build_part(
            name, data_dir or out_dir / "data", seed=seed, batch=optimisation.batch, start=start, **(settings or {})
        )
        part.steps.pool.patient = patient
        try:
            done[name] = train_part(
                part, out_dir / name, seed=seed, optimisation=optimisation, steps=steps, minutes=minutes,
                device=device, workers=workers, resident=resident, compiled=compiled, recorded=recorded,
                resume=resume, sample_every=sample_every, should_stop=should_stop,
            )  # fmt: skip
        finally:
            part.steps.pool.close()
        if should_stop():
            break
    return done


def arguments() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(prog="train-starter", description="Train the starter prior from a seed.")
    parser.add_argument(
        "--part", choices=[*ALL_PARTS, "all"], default="all",
        help="image and points are the starter, all is both; flow is a small transformer in SD3's format, which does "
        "not ship: it proves that path with real weights",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--data", type=Path, help="where data chunks are kept (default: OUT/data)")
    parser.add_argument("--seed", type=int, default=0)
    budget = parser.add_mutually_exclusive_group()
    budget.add_argument("--steps", type=int, help="steps of each part, over all sittings")
    budget.add_argument("--minutes", type=float, help="training time of each part, over all sittings (default: 120)")
    parser.add_argument("--batch", type=int, help="samples a step (default: 32 images, 128 clouds)")
    parser.add_argument("--set", dest="settings", action="append", default=[], help="a setting of the part: chunks=256")
    parser.add_argument("--start", type=Path, help="a model's folder to go on from, with new data and a new optimiser")
    parser.add_argument("--lr", type=float, help="peak learning rate (default: 0.001 images, 0.0015 clouds)")
    parser.add_argument("--decay", type=float, help="last share of the budget, in which the rate falls to 0 (0.2)")
    parser.add_argument("--warmup", type=int, help="steps in which the rate rises (200)")
    parser.add_argument("--sample-every", type=int, default=2000, help="steps between two pictures of samples (2000)")
    parser.add_argument("--device", help="default: cuda where there is one, else cpu")
    parser.add_argument("--threads", type=int, help="CPU threads of the trainer")
    parser.add_argument("--workers", type=int, default=0, help="processes that draw the data; a GPU wants most cores")
    parser.add_argument(
        "--resident", action="store_true",
        help="keep the data on the device and draw there; without --workers, another process writes it (--only-data)",
    )  # fmt: skip
    parser.add_argument(
        "--impatient", action="store_true",
        help="with --resident: train on the data that is there instead of waiting; no second run repeats the first",
    )  # fmt: skip
    parser.add_argument("--compile", action="store_true", help="compile the networks: for a GPU and long runs")
    parser.add_argument("--graph", action="store_true", help="record a step as a CUDA graph: small steps on a GPU")
    parser.add_argument("--only-data", action="store_true", help="only write the data, with --workers processes")
    parser.add_argument("--export", type=Path, help="only write the checkpoint's weights to EXPORT/<part>")
    parser.add_argument("--note", default="", help="a remark for the model cards that --export writes")
    return parser


def parse_settings(parts: tuple[str, ...], pairs: list[str]) -> dict[str, Any]:
    """``NAME=JSON`` pairs to settings of the only part."""
    if pairs and len(parts) > 1:
        raise RequestError(f"--set {pairs[0]}: the parts have different settings; give --part image or --part points")
    known = {f.name for f in fields(_classes(parts[0])[1])}
    settings = {}
    for pair in pairs:
        name, _, value = pair.partition("=")
        if name not in known:
            raise RequestError(f"--set {pair}: {name!r} must be one of {', '.join(sorted(known))}")
        try:
            settings[name] = json.loads(value)
        except ValueError as error:
            raise RequestError(f"--set {pair}: {value!r} is not JSON ({error})") from error
    return settings


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    args = arguments().parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.steps is None and args.minutes is None:
        args.minutes = 120.0
    parts = PARTS if args.part == "all" else (args.part,)
    settings = parse_settings(parts, args.settings)
    if args.export:
        for name in parts:
            optimisation = optimisation_of(name, args.batch, args.lr)
            part = build_part(
                name, args.data or args.out / "data", seed=args.seed, batch=optimisation.batch, start=args.start,
                **settings,
            )  # fmt: skip
            export_checkpoint(
                part, args.out / name, args.export / name, seed=args.seed, optimisation=optimisation, note=args.note
            )
            part.steps.pool.close()
        return 0
    if args.only_data:
        for name in parts:
            build_part(name, args.data or args.out / "data", seed=args.seed, batch=1, **settings).steps.pool.fill(
                max(args.workers, 1)
            )
        return 0
    stopped = False

    def on_signal(signum: int, frame: Any) -> None:
        nonlocal stopped
        stopped = True

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    done = train_starter(
        args.out, parts=parts, seed=args.seed, device=args.device, workers=args.workers, resident=args.resident,
        compiled=args.compile, recorded=args.graph, patient=not args.impatient, batch=args.batch, lr=args.lr,
        decay_share=args.decay, warmup=args.warmup, settings=settings, start=args.start, sample_every=args.sample_every,
        steps=args.steps, minutes=args.minutes, data_dir=args.data, should_stop=lambda: stopped,
    )  # fmt: skip
    for name, progress in done.items():
        print(json.dumps({"part": name, **asdict(progress)}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
