"""Do assets show their prompts, and is distillation better than its own start? The table, with confidence intervals.

    python tests/bench/fidelity.py                                     # 64 held-out prompts, made here
    python tests/bench/fidelity.py --library bench-library --prompts 8 # kept: what is there is not made again
    python tests/bench/fidelity.py --skip-assets                       # judge, ceilings, floors, 2D samples only

Rows, each over the same prompts (colour and category pairs that the priors were never trained on):

* ``truth``           ceiling: the procedural thing itself, rendered by the same cameras
* ``truth as splat``  ceiling of what the initial cloud could be: points of the thing itself as Gaussians
* ``asset``           the finished GLB
* ``splat``           its Gaussians before they became a mesh
* ``control``         no distillation: the initial cloud rendered as Gaussians
* ``2D samples``      the image prior sampled at the eight cameras by itself: a weak prior or a weak distillation?
* ``from a ball``     distilled from a ball by the image prior alone, as DreamGaussian begins: does that work?
* ``wrong caption``   floor: the truth, asked whether it shows another prompt
* ``ball``            floor: a ball in the prompt's colour, what ``from a ball`` has to beat

Every prompt of the list counts; assets that failed count as wrong everywhere. Intervals are 95 % bootstrap over the
prompts, paired where two rows are compared. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from pipeline_core.config import RECIPES, Recipe
from pipeline_core.engine.distill import distill
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.errors import SplatmillError
from pipeline_core.gaussians.initialise import ball as ball_cloud
from pipeline_core.gaussians.initialise import from_points
from pipeline_core.guidance.prompts import view_prompt, view_word
from pipeline_core.io.gltf import load_glb
from pipeline_core.io.images import save_png
from pipeline_core.io.ply import load_points, load_splat
from pipeline_core.metrics import fidelity
from pipeline_core.metrics.judge import load_judge
from pipeline_core.metrics.negatives import full
from pipeline_core.metrics.views import render_gaussians
from pipeline_core.priors.image import load_image_prior
from pipeline_core.priors.sampling import sample_images
from pipeline_core.props.captions import caption
from pipeline_core.props.primitives import ball, pack, plain
from pipeline_core.props.props import CATEGORIES, COLOURS, PropSpec, build, sample_spec
from pipeline_core.props.raycast import render, sample_points
from pipeline_core.rendering.mesh import render_mesh
from pipeline_core.texturing.bake import chart_texels
from pipeline_core.types import Gaussians, PointCloud, TexturedMesh

FROM_A_BALL = RECIPES["dreamgaussian"].override(
    {
        "init.num_points": 2000, "geometry.steps": 120, "geometry.views": 4, "geometry.resolution": ((1.0, 128),),
        "geometry.elevation": (-15.0, 50.0), "geometry.fovy": 40.0, "geometry.background": "prior",
        "geometry.guidance_scale": 10.0,
    }
)  # fmt: skip
"""DreamGaussian's first stage, its rates and its noise, with the starter prior's cameras, guidance and budget."""
TRUTH_SEED = 1_000_003
"""Seeds of the true things start here, away from the instances that the F-score compares with."""
SHOWN = ("r_precision", "r_precision_views", "category_correct", "colour_correct", "front_found", "janus", "f_score")
ONE_COLOUR = ("chair", "mug", "column", "key", "anvil")
"""Things whose sides are all of one colour, where a prompt names no other."""
FACING = 0.7
"""Cosine of a normal with a direction from which on it faces there."""
FAILED = {"r_precision": 0.0, "r_precision_views": 0.0, "category_correct": 0.0, "colour_correct": 0.0, "f_score": 0.0}
Row = dict[str, float]


def heldout_prompts(count: int, seed: int = 2026) -> list[PropSpec]:
    """``count`` specs with different captions, held-out pairs only, the categories in turn."""
    rng = np.random.default_rng(seed)
    specs: list[PropSpec] = []
    while len(specs) < count:
        category = CATEGORIES[len(specs) % len(CATEGORIES)]
        drawn = sample_spec(rng, split="heldout", category=category, composed=0.0)
        spec = replace(full(drawn), seed=TRUTH_SEED + len(specs))
        if caption(spec) not in {caption(s) for s in specs}:
            specs.append(spec)
    return specs


def truth_row(spec: PropSpec, judge, prompt: str | None = None) -> Row:
    """The thing itself, asked for ``prompt`` (its own caption)."""
    cameras = fidelity.evaluation_cameras()
    points, _ = sample_points(build(spec), fidelity.POINTS, np.random.default_rng(spec.seed))
    prompt = prompt or caption(spec)
    return fidelity.score(
        fidelity.truth_images(spec), cameras.azimuth, cameras.elevation, prompt, points=points, judge=judge
    )


def truth_splat_row(spec: PropSpec, recipe: Recipe, judge) -> Row:
    """Points of the thing itself, as many as the recipe starts with, as Gaussians."""
    xyz, rgb = sample_points(build(spec), recipe.init.num_points, np.random.default_rng(spec.seed))
    cloud = PointCloud(torch.from_numpy(xyz), torch.from_numpy(rgb))
    gaussians = from_points(cloud, recipe.init, torch.Generator().manual_seed(0))
    return fidelity.score_gaussians(gaussians, caption(spec), judge=judge)


def ball_row(spec: PropSpec, judge) -> Row:
    """A ball of the prompt's colour."""
    prop = pack([ball((0, 0, 0), 1.0, plain(COLOURS[spec.colour]))])
    rgba = render([prop], np.array([fidelity.AZIMUTH]), np.array([fidelity.ELEVATION]), size=fidelity.SIZE)[0]
    pixels = torch.from_numpy(rgba).permute(0, 3, 1, 2).float() / 255
    cameras = fidelity.evaluation_cameras()
    points, _ = sample_points(prop, fidelity.POINTS, np.random.default_rng(0))
    images = pixels[:, :3] * pixels[:, 3:] + 1 - pixels[:, 3:]
    return fidelity.score(images, cameras.azimuth, cameras.elevation, caption(spec), points=points, judge=judge)


def from_a_ball(engine: DistillationEngine, spec: PropSpec, seed: int) -> Gaussians:
    """Gaussians distilled from a ball that knows nothing of the prompt, by the image prior alone."""
    generator = torch.Generator().manual_seed(seed)
    start = from_points(ball_cloud(FROM_A_BALL.init.num_points, generator), FROM_A_BALL.init, generator)
    return distill(start, caption(spec), "", FROM_A_BALL.geometry, engine, seed=seed)[0]


def sample_views(prior, prompt: str, guidance_scale: float, steps: int, seed: int) -> Tensor:
    """Images [8, 3, S, S] of the image prior at the evaluation cameras, told in words where it takes none."""
    cameras = fidelity.evaluation_cameras()
    angles = (cameras.azimuth, cameras.elevation) if prior.camera == "angles" else None
    generator = torch.Generator().manual_seed(seed)
    prompts = [prompt] * len(cameras)
    if prior.camera == "none":
        views = zip(cameras.azimuth.tolist(), cameras.elevation.tolist(), strict=True)
        prompts = [view_prompt(prompt, view_word(*view)) for view in views]
    return sample_images(prior, prompts, generator, guidance_scale=guidance_scale, steps=steps, cameras=angles)


def make_assets(specs: list[PropSpec], library: Path, recipe: str, changes: list[str]) -> None:
    """Run the factory on the prompts; what the library has is not made again. Failed assets show in the table."""
    manifest = library / "prompts.csv"
    library.mkdir(parents=True, exist_ok=True)
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "prompt", "seed"])
        writer.writerows([asset_id(i, spec), caption(spec), 1000 + i] for i, spec in enumerate(specs))
    overrides = [part for change in changes for part in ("--set", change)]
    command = [sys.executable, "-m", "flows.cli", "run", str(manifest), "--library", str(library), "--recipe", recipe]
    subprocess.run([*command, *overrides], check=False, stdout=sys.stderr)


def asset_id(index: int, spec: PropSpec) -> str:
    """Name of an asset of this benchmark."""
    return f"bench-{index:03d}-{spec.category}"


def asset_rows(library: Path, name: str, prompt: str, recipe: Recipe, judge) -> dict[str, tuple[Row, Tensor | None]]:
    """Scores and pictures of the asset, its splat and its control; wrong everywhere where they are not there."""
    cameras = fidelity.evaluation_cameras()
    try:
        folder = library / "assets" / name
        keys = json.loads((folder / "asset.json").read_text())["stages"]
        textured = load_glb(folder / "asset.glb")
        splat = load_splat(folder / "splat.ply")
        cloud = load_points(library / "stages" / "init_points" / keys["init_points"] / "points.ply")
    except (OSError, KeyError, ValueError, SplatmillError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return {row: (dict(FAILED), None) for row in ("asset", "splat", "control")}
    control = from_points(cloud, recipe.init, torch.Generator().manual_seed(0))
    asset = fidelity.score_mesh(textured, prompt, judge=judge)
    if len(prompt.split()) == 3 and prompt.endswith(ONE_COLOUR):
        asset["luma_front_back"] = luma_front_back(textured)
    return {
        "asset": (asset, render_mesh(textured, cameras)[0]),
        "splat": (fidelity.score_gaussians(splat, prompt, judge=judge), render_gaussians(splat, cameras)[0]),
        "control": (fidelity.score_gaussians(control, prompt, judge=judge), render_gaussians(control, cameras)[0]),
    }


def luma_front_back(textured: TexturedMesh) -> float:
    """Difference of the mean lumas of what faces the front and of what faces the back, over their mean: light that is
    left in the texture of a thing of one colour."""
    size = textured.texture.shape[0]
    texels = chart_texels(textured.vertices, textured.faces, textured.uvs, textured.normals, size)
    row, column = texels.index.T
    luma = textured.texture[row, column] @ np.array([0.299, 0.587, 0.114])
    front, back = (luma[side * texels.normal[:, 2] > FACING].mean() for side in (1, -1))
    return float(abs(front - back) / (front + back) * 2)


def interval(values: np.ndarray, resamples: int = 4000) -> tuple[float, float]:
    """95 % bootstrap interval of the mean of ``values`` [n]."""
    rng = np.random.default_rng(0)
    means = values[rng.integers(0, len(values), (resamples, len(values)))].mean(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def column(rows: list[Row], name: str) -> np.ndarray:
    """The values of the rows that have ``name``."""
    return np.array([row[name] for row in rows if name in row])


def print_table(table: dict[str, list[Row]]) -> None:
    """Means and 95 % intervals."""
    print(f"{'':16}" + "".join(f"{name:>24}" for name in SHOWN))
    for label, rows in table.items():
        cells = []
        for name in SHOWN:
            values = column(rows, name)
            low, high = interval(values) if len(values) else (0.0, 0.0)
            cells.append(f"{values.mean():.2f} [{low:.2f}, {high:.2f}]" if len(values) else "-")
        print(f"{label:16}" + "".join(f"{cell:>24}" for cell in cells))


def summary(table: dict[str, list[Row]], prompts: int) -> dict[str, float | int | dict | None]:
    """The numbers of the last line: means over the prompts, the median F-scores, and paired differences."""

    def mean(label: str, name: str) -> float | None:
        values = column(table.get(label, []), name)
        return round(float(values.mean()), 4) if len(values) else None

    def median(label: str) -> float | None:
        values = column(table.get(label, []), "f_score")
        return round(float(np.median(values)), 4) if len(values) else None

    result: dict = {
        "prompts": prompts,
        "r_precision": mean("asset", "r_precision"),
        "r_precision_truth": mean("truth", "r_precision"),
        "r_precision_truth_splat": mean("truth as splat", "r_precision"),
        "r_precision_splat": mean("splat", "r_precision"),
        "r_precision_control": mean("control", "r_precision"),
        "r_precision_2d": mean("2D samples", "r_precision"),
        "r_precision_wrong": mean("wrong caption", "r_precision"),
        "r_precision_ball": mean("ball", "r_precision"),
        "r_precision_from_a_ball": mean("from a ball", "r_precision"),
        "category_accuracy": mean("asset", "category_correct"),
        "category_accuracy_control": mean("control", "category_correct"),
        "colour_accuracy": mean("asset", "colour_correct"),
        "colour_accuracy_control": mean("control", "colour_correct"),
        "janus_rate": mean("asset", "janus"),
        "janus_rate_truth": mean("truth", "janus"),
        "luma_front_back": mean("asset", "luma_front_back"),
        "f_score": median("asset"),
        "f_score_control": median("control"),
        "f_score_truth": median("truth"),
    }
    if "asset" in table:
        result["r_precision_gain"] = gain(table["asset"], table["control"])
        result["r_precision_views_gain"] = gain(table["asset"], table["control"], "r_precision_views")
    if "from a ball" in table:
        result["r_precision_gain_from_a_ball"] = gain(table["from a ball"], table["ball"])
    return result


def gain(rows: list[Row], before: list[Row], name: str = "r_precision") -> dict[str, float | tuple[float, float]]:
    """Paired difference of ``name`` with its 95 % interval."""
    differences = np.array([a[name] - b[name] for a, b in zip(rows, before)])
    return {"mean": round(float(differences.mean()), 4), "interval": interval(differences)}


def picture(images: Tensor | None) -> np.ndarray:
    """Front, quarter, side and back of eight images, side by side in a white frame; grey where there is nothing."""
    if images is None:
        images = torch.full((8, fidelity.SIZE, fidelity.SIZE, 3), 0.5)
    images = images.permute(0, 3, 1, 2) if images.shape[-1] == 3 else images
    images = interpolate(images, (fidelity.SIZE, fidelity.SIZE), mode="area").permute(0, 2, 3, 1)
    row = np.concatenate([images[i].numpy() for i in (0, 1, 2, 4)], axis=1)
    return np.pad(row, ((2, 2), (2, 2), (0, 0)), constant_values=1.0)


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=64)
    parser.add_argument("--library", type=Path, help="kept between calls (default: a temporary folder)")
    parser.add_argument("--recipe", default="factory", choices=list(RECIPES))
    parser.add_argument("--set", dest="changes", action="append", default=[], help="recipe field: geometry.steps=200")
    parser.add_argument("--judge", default="starter", help="starter, or a CLIP folder or hub id")
    parser.add_argument("--skip-assets", action="store_true")
    parser.add_argument("--skip-samples", action="store_true", help="leave the image prior's 2D samples out")
    parser.add_argument("--skip-ball", action="store_true", help="leave out what is distilled from a ball")
    parser.add_argument("--guidance-scale", type=float, default=3.0, help="of the 2D samples")
    parser.add_argument("--sampler-steps", type=int, default=25, help="of the 2D samples")
    parser.add_argument("--sheet", type=Path, help="contact sheet of everything: truth, control, splat, asset, 2D")
    args = parser.parse_args(argv)

    judge, recipe = load_judge(args.judge), RECIPES[args.recipe]
    specs = heldout_prompts(args.prompts)
    prompts = [caption(spec) for spec in specs]
    table: dict[str, list[Row]] = {
        "truth": [truth_row(spec, judge) for spec in specs],
        "truth as splat": [truth_splat_row(spec, recipe, judge) for spec in specs],
    }
    pictures: dict[str, list[Tensor | None]] = {"truth": [fidelity.truth_images(spec) for spec in specs]}
    if not args.skip_assets:
        library = args.library or Path(tempfile.mkdtemp(prefix="splatmill-bench-"))
        make_assets(specs, library, args.recipe, args.changes)
        for i, spec in enumerate(specs):
            for label, (row, images) in asset_rows(library, asset_id(i, spec), prompts[i], recipe, judge).items():
                table.setdefault(label, []).append(row)
                pictures.setdefault(label, []).append(images)
    if not args.skip_samples:
        prior, cameras = load_image_prior(recipe.image_prior), fidelity.evaluation_cameras()
        pictures["2D samples"] = [
            sample_views(prior, prompt, args.guidance_scale, args.sampler_steps, seed=i)
            for i, prompt in enumerate(prompts)
        ]
        table["2D samples"] = [
            fidelity.score(images, cameras.azimuth, cameras.elevation, prompt, judge=judge)
            for images, prompt in zip(pictures["2D samples"], prompts)
        ]
    if not args.skip_ball:
        with contextlib.closing(DistillationEngine(load_image_prior("starter"))) as engine:
            splats = [from_a_ball(engine, spec, seed=i) for i, spec in enumerate(specs)]
        pictures["from a ball"] = [render_gaussians(splat, fidelity.evaluation_cameras())[0] for splat in splats]
        table["from a ball"] = [
            fidelity.score_gaussians(splat, prompt, judge=judge) for splat, prompt in zip(splats, prompts)
        ]
    table["wrong caption"] = [truth_row(spec, judge, prompts[i - 1]) for i, spec in enumerate(specs)]
    table["ball"] = [ball_row(spec, judge) for spec in specs]
    print(f"judge {judge.model_id}, {len(specs)} held-out prompts, recipe {args.recipe}")
    print_table(table)
    if args.sheet:
        order = [
            name for name in ("truth", "control", "splat", "asset", "2D samples", "from a ball") if name in pictures
        ]
        rows = [np.concatenate([picture(pictures[name][i]) for name in order], axis=1) for i in range(len(specs))]
        save_png(args.sheet, np.concatenate(rows))
        print(
            f"{args.sheet}: one row a prompt; columns {', '.join(order)}; front, quarter, side, back", file=sys.stderr
        )
    print(json.dumps(summary(table, len(specs))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
