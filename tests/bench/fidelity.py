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
prompts, paired where two rows are compared. The last line of stdout is one JSON document. Beside the columns of the
table it has, of the assets, and with ``_truth`` and ``_control`` of those (null where there is nothing to measure):

=====================  ==============================================================================================
r_precision_128        the true caption first among 128: every other colour and category, the second colour elsewhere
                       or another; also of ``splat``
f_score_2, f_score_5   median F-score of 4096 points at 2 and 5 % of the height, against the best of 32 instances
f_score_2_surface      the same at 2 % between surfaces, not 4096 points of each: of these a true thing has 0.8, so far
                       are they apart; not of ``_control``, which is points alone
normal_consistency     mean absolute cosine of the normals of points and of the nearest ones of the best instance, both
                       ways; a normal is that of the plane through 12 neighbours, of either sign
parts_shown            share of the wheels, fences and cacti of which most of the gaps are seen through from the front:
                       what closing the outline of the most similar instance would fill
edge_width_texels      median width of the texture's edges, in texels of an atlas of 512: contrast over steepest slope
luma_front_back        light left in the texture: mean relative difference of the lumas of the two sides, of things
                       that are of one colour
metallic_gap           mean metallic of clouds of things in metal (golden where they are yellow) less that of the same
                       things in wood or the like, over so many held-out pairs as there are prompts; with ``_truth``
mesh_iou               mean overlap of the outlines of mesh and delivered splat, as the stage ``evaluate`` has it
cpu_s_per_asset        CPU seconds of the run over the assets that it made; null where some were there or failed
=====================  ==============================================================================================
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
sys.path.insert(0, str(Path(__file__).parents[2]))

import numpy as np
import torch
from scipy.ndimage import binary_closing
from scipy.spatial import cKDTree
from torch import Tensor

from pipeline_core.cameras import orbit
from pipeline_core.config import RECIPES, Recipe
from pipeline_core.engine.distill import distill
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.errors import SplatmillError
from pipeline_core.gaussians.initialise import ball as ball_cloud
from pipeline_core.gaussians.initialise import from_points
from pipeline_core.gaussians.tidy import normals
from pipeline_core.io.gltf import load_glb
from pipeline_core.io.images import save_png
from pipeline_core.io.ply import load_points, load_splat
from pipeline_core.metrics import fidelity
from pipeline_core.metrics.judge import Judge, load_judge
from pipeline_core.metrics.negatives import HARDER, candidates, full
from pipeline_core.metrics.views import render_gaussians
from pipeline_core.priors.image import load_image_prior
from pipeline_core.priors.points import DiffusionPointPrior, load_point_prior
from pipeline_core.props.captions import caption
from pipeline_core.props.primitives import ball, pack, plain
from pipeline_core.props.props import CATEGORIES, COLOURS, TABLE, PropSpec, build, is_heldout
from pipeline_core.props.raycast import render, sample_points, sample_surface
from pipeline_core.rendering.mesh import render_mesh
from pipeline_core.texturing.bake import chart_texels
from pipeline_core.types import Gaussians, PointCloud, TexturedMesh
from tests.bench.shared import (
    FROM_A_BALL,
    TRUTH_SEED,
    Row,
    column,
    gain,
    heldout_prompts,
    interval,
    picture,
    run_factory,
    sample_views,
    truth_points,
    truth_row,
)

SHOWN = (
    "r_precision", "r_precision_128", "r_precision_views", "category_correct", "colour_correct", "front_found", "janus",
    "f_score",
)  # fmt: skip
ONE_COLOUR = ("chair", "mug", "column", "key", "anvil")
"""Things whose sides are all of one colour, where a prompt names no other."""
FACING = 0.7
"""Cosine of a normal with a direction from which on it faces there."""
GAPPED = ("wheel", "fence", "cactus")
"""Things that one sees through between their parts, from the front."""
DENSE, CLOSEST = 32768, 4
"""Points that stand for a surface, and instances, the best by fewer points, that are compared so."""
MASK, CLOSED, SHOWN_FROM = 96, 5, 0.5
"""Side of the outlines of those, pixels; steps of the closing that fills their gaps; share of these that is shown."""
NEAR, CONTRAST = 8, 0.2
"""Texels on each side of an edge that belong to it, and how far its colours differ at least."""
FAILED = dict.fromkeys(
    ("r_precision", "r_precision_views", "category_correct", "colour_correct", "f_score", "f_score_2",
     "f_score_2_surface", "normal_consistency", "mesh_iou"), 0.0,
)  # fmt: skip


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


def make_assets(specs: list[PropSpec], library: Path, recipe: str, changes: list[str]) -> float | None:
    """Run the factory on the prompts; what the library has is not made again. Failed assets show in the table.

    Returns CPU seconds an asset; None where not all of them were made here.
    """
    ids = [asset_id(i, spec) for i, spec in enumerate(specs)]
    records = [library / "assets" / name / "asset.json" for name in ids]
    there, before = any(record.is_file() for record in records), resource.getrusage(resource.RUSAGE_CHILDREN)
    run_factory(library, "prompts.csv", ids, map(caption, specs), 1000, changes, "--recipe", recipe)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return None if there or not all(record.is_file() for record in records) else round(spent / len(specs), 1)


def asset_id(index: int, spec: PropSpec) -> str:
    """Name of an asset of this benchmark."""
    return f"bench-{index:03d}-{spec.category}"


def asset_rows(library: Path, name: str, spec: PropSpec, recipe: Recipe, judge) -> dict[str, tuple[Row, Tensor | None]]:
    """Scores and pictures of the asset, its splat and its control; wrong everywhere where they are not there."""
    cameras, prompt = fidelity.evaluation_cameras(), caption(spec)
    try:
        folder = library / "assets" / name
        record = json.loads((folder / "asset.json").read_text())
        keys = record["stages"]
        textured = load_glb(folder / "asset.glb")
        splat = load_splat(folder / "splat.ply")
        cloud = load_points(library / "stages" / "init_points" / keys["init_points"] / "points.ply")
    except (OSError, KeyError, ValueError, SplatmillError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        unseen = {"parts_shown": 0.0} if spec.category in GAPPED else {}
        return dict.fromkeys(("asset", "splat", "control"), (FAILED | unseen, None))
    control = from_points(cloud, recipe.init, torch.Generator().manual_seed(0))
    asset = fidelity.score_mesh(textured, prompt, judge=judge)
    if len(prompt.split()) == 3 and prompt.endswith(ONE_COLOUR):
        asset["luma_front_back"] = luma_front_back(textured)
    if (width := edge_width(textured)) is not None:
        asset["edge_width_texels"] = width
    if "mesh_iou" in record["metrics"]:
        asset["mesh_iou"] = record["metrics"]["mesh_iou"]
    points = fidelity.surface_points(textured.vertices, textured.faces, DENSE, np.random.default_rng(0))
    asset |= shape(points[: fidelity.POINTS], spec, front_mask(textured), points)
    splatted = front_mask(control)
    points = np.random.default_rng(0).permutation(control.means.numpy())[: fidelity.POINTS]
    control_row = fidelity.score_gaussians(control, prompt, judge=judge) | shape(points, spec, splatted)
    return {
        "asset": (asset, render_mesh(textured, cameras)[0]),
        "splat": (fidelity.score_gaussians(splat, prompt, judge=judge), render_gaussians(splat, cameras)[0]),
        "control": (control_row, render_gaussians(control, cameras)[0]),
    }


def shape(points: np.ndarray, spec: PropSpec, mask: np.ndarray, dense: np.ndarray | None = None) -> Row:
    """F-score at 2 % and normals of ``points`` [N, 3] against the best instances, and of what is a surface that by
    ``dense`` [DENSE, 3] of its points; of what has gaps, whether the outline ``mask`` [S, S] from the front shows most
    of them."""
    tree = cKDTree(points)
    instances = fidelity.instances_of(spec.category, spec.part, spec.material, fidelity.INSTANCES)
    scores = [fidelity.f_score(tree, reference, 0.02 * tall)[0] for reference, tall in instances]
    best = instances[int(np.argmax(scores))][0]
    own, its = normals(points, 12), normals(best.data, 12)
    forth = np.abs((own * its[best.query(points)[1]]).sum(axis=1)).mean()
    back = np.abs((its * own[tree.query(best.data)[1]]).sum(axis=1)).mean()
    row = {"f_score_2": max(scores), "normal_consistency": float(forth + back) / 2}
    if dense is not None:
        row["f_score_2_surface"] = surface_shape(dense, spec, scores)
    if spec.category in GAPPED:
        row["parts_shown"] = float(gaps_shown(mask, spec) >= SHOWN_FROM)
    return row


def surface_shape(points: np.ndarray, spec: PropSpec, scores: list[float]) -> float:
    """F-score at 2 % of the height between the surface that ``points`` [DENSE, 3] are of and the best instance's: which
    share of either lies within that distance of the other. ``scores`` are those of the instances by fewer points."""
    kind, tree, best = (spec.category, spec.part, spec.material), cKDTree(points), 0.0
    few = np.random.default_rng(0).permutation(points)[: fidelity.POINTS]
    instances = fidelity.instances_of(*kind, fidelity.INSTANCES)
    for seed in np.argsort(scores)[-CLOSEST:].tolist():
        its, tau = instances[seed][0].data, 0.02 * instances[seed][1]
        rng = np.random.default_rng(fidelity.INSTANCES + seed)  # other points than ``its``
        dense = cKDTree(sample_points(fidelity.instance(*kind, seed), DENSE, rng)[0])
        precision = float((dense.query(few)[0] < tau).mean())
        recall = float((tree.query(its)[0] < tau).mean())
        best = max(best, 2 * precision * recall / max(precision + recall, 1e-12))
    return best


def front_mask(thing: TexturedMesh | Gaussians) -> np.ndarray:
    """[MASK, MASK] bool: where ``thing`` is, from the front."""
    front = orbit(torch.zeros(1), torch.zeros(1), size=MASK)
    seen = render_mesh(thing, front) if isinstance(thing, TexturedMesh) else render_gaussians(thing, front)
    mask: np.ndarray = seen[1][0].squeeze().numpy() > 0.5
    return mask


def outline(spec: PropSpec) -> np.ndarray:
    """[MASK, MASK] bool: where the procedural thing is, from the front."""
    return render([build(spec)], np.zeros((1, 1)), np.zeros((1, 1)), size=MASK)[0, 0, ..., 3] > 127


def gaps_shown(mask: np.ndarray, spec: PropSpec) -> float:
    """Share of the gaps of the instance whose outline is most like ``mask`` that are gaps there too."""
    most, shown = -1.0, 0.0
    for seed in range(fidelity.INSTANCES):
        whole = outline(replace(spec, seed=seed))
        gaps = binary_closing(np.pad(whole, CLOSED), iterations=CLOSED)[CLOSED:-CLOSED, CLOSED:-CLOSED] & ~whole
        like = (mask & whole).sum() / (mask | whole).sum()
        if like > most and gaps.any():
            most, shown = like, float((gaps & ~mask).sum() / gaps.sum())
    return shown


def edge_width(textured: TexturedMesh) -> float | None:
    """Median width in texels of an atlas of 512 of edges between colours; None where there is none.

    An edge is where colours change fastest along a row or a column, within NEAR texels of the same chart on each side.
    Its width is how far they differ there over the change of one texel, brought to the direction across the edge.
    """
    size = textured.texture.shape[0]
    texels = chart_texels(textured.vertices, textured.faces, textured.uvs, textured.normals, size)
    inside = np.zeros((size, size), bool)
    inside[tuple(texels.index.T)] = True
    widths = []
    for colours, there in ((textured.texture, inside), (textured.texture.swapaxes(0, 1), inside.T)):
        along, across = np.diff(colours, axis=1)[:-1], np.diff(colours, axis=0)[:, :-1]
        steep, other = np.linalg.norm(along, axis=2), np.linalg.norm(across, axis=2)
        span = 2 * NEAR
        windows = np.lib.stride_tricks.sliding_window_view
        whole = windows(there[:-1], span, axis=1).all(axis=2)
        peak = steep[:, NEAR - 1 : NEAR - 1 + whole.shape[1]]
        top = windows(steep, span - 1, axis=1).max(axis=2)[:, : whole.shape[1]]
        rows, columns = np.nonzero(whole & (peak == top) & (peak >= other[:, NEAR - 1 : NEAR - 1 + whole.shape[1]]))
        for row, left in zip(rows, columns, strict=True):
            step = along[row, left + NEAR - 1]
            values = colours[row, left : left + span] @ (step / max(float(np.linalg.norm(step)), 1e-9))
            contrast = float(np.ptp(values))
            if contrast >= CONTRAST:
                slope, aside = peak[row, left], other[row, left + NEAR - 1]
                widths.append(contrast / float(np.hypot(slope, aside)))
    return float(np.median(widths)) * 512 / size if widths else None


def metallic_gap(prior: DiffusionPointPrior, count: int) -> tuple[float | None, float | None]:
    """Mean metallic of clouds of the first ``count`` held-out pairs in metal, less that in wood or the like; and the
    truth's. None where the prior knows no materials."""
    pairs = [(c, k) for k in sorted(COLOURS, reverse=True) for c in CATEGORIES if is_heldout(c, k)]
    gaps: list[tuple[float, float]] = []
    for category, colour in pairs if prior.channels > 6 else []:
        options = TABLE[category].materials
        metals = ("golden", "metal") if colour == "yellow" else ("metal",)
        metal = next((m for m in metals if m in options), None)
        other = next((m for m in ("wooden", *options) if m in options and m not in ("golden", "metal")), None)
        if metal is None or other is None or len(gaps) == count:
            continue
        found = []
        for material in (metal, other):
            spec = PropSpec(category, colour, material=material, seed=TRUTH_SEED)
            generator = torch.Generator().manual_seed(0)
            cloud = prior.sample([caption(spec)], [generator], guidance_scale=1.0, steps=16, num_points=512)[0]
            truth = sample_surface(build(spec), 2048, np.random.default_rng(0)).finish
            found.append((float(cloud.finish[:, 0].mean()), float(truth[:, 0].mean())))
        gaps.append((found[0][0] - found[1][0], found[0][1] - found[1][1]))
    return tuple(np.mean(gaps, axis=0).round(4).tolist()) if gaps else (None, None)


def luma_front_back(textured: TexturedMesh) -> float:
    """Difference of the mean lumas of what faces the front and of what faces the back, over their mean: light that is
    left in the texture of a thing of one colour."""
    size = textured.texture.shape[0]
    texels = chart_texels(textured.vertices, textured.faces, textured.uvs, textured.normals, size)
    row, column = texels.index.T
    luma = textured.texture[row, column] @ np.array([0.299, 0.587, 0.114])
    front, back = (luma[side * texels.normal[:, 2] > FACING].mean() for side in (1, -1))
    return float(abs(front - back) / (front + back) * 2)


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


def summary(table: dict[str, list[Row]], prompts: int, others: dict[str, float | None]) -> dict[str, object]:
    """The numbers of the last line: means over the prompts, the median F-scores, paired differences, and ``others``."""

    def mean(label: str, name: str) -> float | None:
        values = column(table.get(label, []), name)
        return round(float(values.mean()), 4) if len(values) else None

    def median(label: str, name: str = "f_score") -> float | None:
        values = column(table.get(label, []), name)
        return round(float(np.median(values)), 4) if len(values) else None

    result: dict[str, object] = {
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
        "edge_width_texels": median("asset", "edge_width_texels"),
        "mesh_iou": mean("asset", "mesh_iou"),
    } | others
    for label, end in (("asset", ""), ("truth", "_truth"), ("control", "_control")):
        result |= {f"f_score_2{end}": median(label, "f_score_2"), f"f_score_5{end}": median(label)}
        means = ("normal_consistency", "parts_shown", "r_precision_128")
        result |= {f"{name}{end}": mean(label, name) for name in means}
    for label, end in (("asset", ""), ("truth", "_truth")):
        result[f"f_score_2_surface{end}"] = median(label, "f_score_2_surface")
    result["r_precision_128_splat"] = mean("splat", "r_precision_128")
    if "asset" in table:
        result["r_precision_gain"] = gain(table["asset"], table["control"])
        result["r_precision_views_gain"] = gain(table["asset"], table["control"], "r_precision_views")
    if "from a ball" in table:
        result["r_precision_gain_from_a_ball"] = gain(table["from a ball"], table["ball"])
    return result


def first_of_128(images: Tensor, spec: PropSpec, judge: Judge) -> float:
    """1 where the caption of ``spec`` fits eight ``images`` better than 127 that are nearly right."""
    images = images.permute(0, 3, 1, 2) if images.shape[-1] == 3 else images
    texts, _ = candidates(full(spec), 128, HARDER)
    fits = judge.embed_images(images).mean(0) @ judge.embed_texts(texts).T
    return float(fits[0] > fits[1:].max())


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
        "truth": [
            truth_row(spec, judge) | shape(truth_points(spec), spec, outline(spec), truth_points(spec, DENSE))
            for spec in specs
        ],
        "truth as splat": [truth_splat_row(spec, recipe, judge) for spec in specs],
    }
    others: dict[str, float | None] = {"cpu_s_per_asset": None}
    points = load_point_prior(recipe.init.point_prior)
    known = isinstance(points, DiffusionPointPrior)
    others["metallic_gap"], others["metallic_gap_truth"] = metallic_gap(points, len(specs)) if known else (None, None)
    pictures: dict[str, list[Tensor | None]] = {"truth": [fidelity.truth_images(spec) for spec in specs]}
    if not args.skip_assets:
        library = args.library or Path(tempfile.mkdtemp(prefix="splatmill-bench-"))
        others["cpu_s_per_asset"] = make_assets(specs, library, args.recipe, args.changes)
        for i, spec in enumerate(specs):
            for label, (row, images) in asset_rows(library, asset_id(i, spec), spec, recipe, judge).items():
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
    for label, shown in pictures.items():
        for row, images, spec in zip(table[label], shown, specs, strict=True):
            row["r_precision_128"] = 0.0 if images is None else first_of_128(images, spec, judge)
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
    print(json.dumps(summary(table, len(specs), others)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
