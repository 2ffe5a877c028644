"""Every family of image priors, on a tiny checkpoint of its true architecture: does it share calls, and tell the truth?

    python tests/bench/priors.py                     # half a minute of CPU
    python tests/bench/priors.py --only sd3 flux2    # some of the table
    python tests/bench/priors.py --flow FOLDER       # and measure a trained flow: what assets gain over their start

``load_s``: from a folder to a prior that guides. ``calls``, ``rows``: of its network, in an engine's step of eight
assets that begin together. ``alone``: the largest difference of an asset's Gaussians made alone and among the eight.
``noise``, ``x0``, ``mode``: the largest errors on the toy (``tests/gaussian_toy.py``), whose network knows that latents
are one Gaussian: of the noise and the x_0 that predictions imply, and of where distillation arrives.
``flow_asset_vs_start`` is of the transformer that ``train-starter`` trains (``flow``): the newest committed
``results/flow-starter-<yyyy-mm-dd>.json``, or measured with ``--flow``; null where there is neither, which is said.
The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["SPLATMILL_PRECISION"] = "float32"
sys.path[0] = str(Path(__file__).resolve().parents[2])  # not this folder: a module here may have a room's name

import torch  # noqa: E402

from pipeline_core.config import Densify, Distill, Lora, ModelRef  # noqa: E402
from pipeline_core.engine.engine import DistillationEngine  # noqa: E402
from pipeline_core.engine.gaussian_job import GaussianJob  # noqa: E402
from pipeline_core.picture import Picture  # noqa: E402
from pipeline_core.priors.families import FAMILIES, family_of  # noqa: E402
from pipeline_core.priors.image import load_image_prior  # noqa: E402
from pipeline_core.priors.resolve import resolve_model  # noqa: E402
from pipeline_core.priors.text import quiet_libraries  # noqa: E402
from pipeline_core.types import Gaussians  # noqa: E402
from tests.gaussian_toy import believe, distill, errors, gaussian  # noqa: E402
from tests.pipeline_core.priors.checkpoints import WRITERS  # noqa: E402
from tests.pipeline_core.priors.one_file import write_one_file  # noqa: E402
from tests.pipeline_core.priors.test_guiding import grey_ball  # noqa: E402
from tests.pipeline_core.priors.test_lora import UNET, diffusers_file, pairs  # noqa: E402
from tests.pipeline_core.priors.test_zero123 import picture  # noqa: E402

RESULTS = Path(__file__).parent / "results"
PROMPT, ASSETS = "a red mug", 8
STAGE = Distill(
    steps=2, views=1, resolution=((1.0, 16),), guidance_scale=5.0, t_max=(0.9, 0.5), t_min=(0.5, 0.1),
    densify=Densify(every=0),
)  # fmt: skip
COLUMNS = ("load_s", "calls", "rows", "alone", "noise", "x0", "mode")
KEYS = ("r_precision_start", "r_precision_asset", "margin_start", "margin_asset")


@dataclass(frozen=True)
class Kind:
    """A row of the table: which checkpoint it is written from, and what is made of its folder."""

    checkpoint: str
    named: Callable[[Path, Path], Any] = lambda folder, scratch: str(folder)


def with_lora(folder: Path, scratch: Path) -> ModelRef:
    """The model with a LoRA of random weights on its attention."""
    layers = {"unet": pairs(load_image_prior(str(folder)).unet, UNET)}
    file = diffusers_file(scratch / "lora.safetensors", layers)
    return ModelRef(str(folder), loras=(Lora(path=str(file)),))


def with_encoder(folder: Path, scratch: Path) -> ModelRef:
    """The model with a distilled encoder."""
    return ModelRef(str(folder), encoder=str(WRITERS["taesd"](scratch / "taesd")))


def in_one_file(folder: Path, scratch: Path) -> ModelRef:
    """The model's weights in one file, read with the folder's configurations."""
    file = write_one_file(folder, scratch / f"{folder.name}.safetensors")
    return ModelRef(str(file), config=str(folder))


# fmt: off
KINDS: dict[str, Kind] = {
    "sd": Kind("sd"),                             # Stable Diffusion 1.5: epsilon
    "sd-v": Kind("sd-v"),                         # Stable Diffusion 2.1: v
    "sdxl": Kind("sdxl"),                         # two text encoders, pooled vector, time ids
    "ssd-1b": Kind("ssd-1b"),                     # SDXL distilled: a middle without attention, deeper on the way up
    "vega": Kind("vega"),
    "pixel": Kind("pixel"),                       # DeepFloyd IF: no autoencoder, learned variance
    "mvdream": Kind("mvdream"),                   # four views that see each other
    "zero123": Kind("zero123-xl"),                # is shown a picture
    "zero123-community": Kind("zero1to3-community"),
    "starter": Kind("starter-image"),             # the layout of ours
    "sd3": Kind("sd3"),
    "sd3-without-t5": Kind("sd3-without-t5"),
    "sana": Kind("sana"),
    "flux2": Kind("flux2"),
    "z-image": Kind("z-image"),
    "sd, one file": Kind("sd", in_one_file),
    "sdxl, one file": Kind("sdxl", in_one_file),
    "sd + lora": Kind("sd", with_lora),
    "sd + encoder": Kind("sd", with_encoder),
}
# fmt: on


def engine_run(prior: Any, stages: list[Distill], shown: Picture | None) -> tuple[Gaussians, int]:
    """The first of these assets, all of which begin together, and the engine's steps."""
    engine = DistillationEngine(prior, max_active=len(stages))
    jobs = [GaussianJob(grey_ball(), PROMPT, stage, seed=i, picture=shown) for i, stage in enumerate(stages)]
    with engine._wake:
        futures = [engine.submit(job) for job in jobs]
    results = [future.result(timeout=300) for future in futures]
    engine.close()
    return results[0][0], engine.steps


def measure(kind: Kind, scratch: Path) -> dict[str, Any]:
    """One row of the table."""
    with quiet_libraries():
        folder = scratch / kind.checkpoint
        folder = folder if folder.is_dir() else WRITERS[kind.checkpoint](folder)
        named = kind.named(folder, scratch)
    started = time.perf_counter()
    prior: Any = load_image_prior(named)
    seconds = time.perf_counter() - started

    family = family_of(resolve_model(named, "image"), "image")
    shown, rows = picture() if family.shown else None, []
    network = getattr(prior, "unet", None) or prior.transformer
    counted = getattr(network, "t_embedder", network)  # Z-Image's modules are called one by one, this one once a call
    hook = counted.register_forward_hook(lambda module, given, answer: rows.append(len(given[0])))
    stage = STAGE.model_copy(update={"views": prior.num_views})
    among, steps = engine_run(prior, [stage] * ASSETS, shown)
    calls = len(rows) / steps
    hook.remove()
    alone, _ = engine_run(prior, [stage], shown)
    both = zip(alone.tensors().values(), among.tensors().values())
    apart = max(float((a - b).abs().max()) for a, b in both if a.numel())

    data = gaussian(0, (prior.latent_channels, prior.latent_size, prior.latent_size))
    believe(prior, data)
    row = prior.encode_image(shown) if shown else prior.encode_prompts([PROMPT])[0]
    noise, x0 = errors(prior, data, row)
    reached = distill(prior, PROMPT, torch.zeros(1, *data.mean.shape), picture=shown)[0]
    return {
        "family": family.name, "load_s": seconds, "calls": calls, "rows": rows[0], "alone": apart,
        "noise": noise, "x0": x0, "mode": float((reached - data.mean).abs().max()),
    }  # fmt: skip


# ------------------------------------------------------------------------------------------------ a trained flow


def committed() -> dict[str, Any] | None:
    """What was measured of the newest trained flow."""
    files = sorted(RESULTS.glob("flow-starter-*.json"), key=lambda file: file.stem[-10:])
    if not files:
        return None
    notes = json.loads(files[-1].read_text())
    return {key: notes[key] for key in KEYS} | {"file": files[-1].name}


def measure_flow(folder: str, prompts: int) -> dict[str, Any]:
    """The same, measured (flow_starter.py): held-out prompts by the judge, distilled from starts without colours."""
    from tests.bench import flow_starter

    with contextlib.redirect_stdout(io.StringIO()) as said:
        flow_starter.main([folder, "--prompts", str(prompts)])
    notes = json.loads(said.getvalue().splitlines()[-1])
    return {key: notes[key] for key in (*KEYS, "prompts")}


def main() -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(KINDS), default=list(KINDS), metavar="NAME")
    parser.add_argument("--flow", help="folder of a trained flow transformer: measure it")
    parser.add_argument("--prompts", type=int, default=24, help="held-out prompts for --flow")
    args = parser.parse_args()

    table: dict[str, dict[str, Any]] = {}
    print(f"{'':18}" + "".join(f"{title:>10}" for title in COLUMNS))
    with tempfile.TemporaryDirectory() as scratch:
        for name in args.only:
            row = table[name] = measure(KINDS[name], Path(scratch))
            print(f"{name:18}" + "".join(f"{row[title]:>10.2g}" for title in COLUMNS), flush=True)
    flow = measure_flow(args.flow, args.prompts) if args.flow else committed()
    if flow is None:
        print("flow_asset_vs_start: no trained flow is committed, and none was given (--flow FOLDER)")
    seen = {row["family"] for row in table.values()}
    report = {
        "bench": "priors",
        "families": {name: {k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in row.items()}
                     for name, row in table.items()},
        "families_not_measured": [row.name for row in FAMILIES if row.kind == "image" and row.name not in seen],
        **{f"worst_{name}_error": float(f"{max(row[name] for row in table.values()):.3g}")
           for name in ("noise", "x0", "mode")},
        "worst_alone_vs_batched": float(f"{max(row['alone'] for row in table.values()):.3g}"),
        "most_calls_per_step": max(row["calls"] for row in table.values()),
        "flow_asset_vs_start": flow,
    }  # fmt: skip
    print(json.dumps(report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
