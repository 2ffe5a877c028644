"""All recipes that run on the starter, ``factory`` with each addition removed in turn, and with what it does without.

    python tests/bench/recipes.py --library bench-recipes        # 24 held-out prompts x 2 seeds; kept, and gone on with
    python tests/bench/recipes.py --prompts 2 --seeds 1 --only factory draft --set geometry.steps=4
    python tests/bench/recipes.py --library bench-recipes --share 3/16           # every 16th prompt and seed, no table
    python tests/bench/recipes.py --library bench-recipes --sheet sheet.webp       # every result, none left out

On a GPU (``SPLATMILL_SHARE_GPU=1`` for several shares at once) rows have no CPU-seconds, which are a processor's.

Of each asset: the judge's answer and Janus; F-score at 2 and 5 % of the height against the best of 32 procedural
instances, and how its normals agree with that instance's (1 = everywhere); silhouettes and colours of the mesh and of
the splat that is delivered against each other, and that splat's caption margin; mesh health; CPU-seconds of this
process and its children from prompt to refined texture and splat. What two rows have in common (a cloud, a stage) is
made once for both and counted for both. The judge is one that no recipe asks.

What failed counts as wrong everywhere. Materials, levels, collision and the choice of a start or a seed are not in it:
``tests/bench/acceptance.py`` measures the latter, ``tests/bench/guidance.py`` other forms of guidance. Prompts are of
every third category. Intervals of the paired differences are 95 % bootstrap over assets. A run that was interrupted
goes on from the rows that its ``--library`` has, and new rows join them. The last line of stdout is one JSON document:
``recipes`` and ``ablations`` by name, the latter with ``of`` and the ``difference`` to it.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: a module here may have a room's name

import numpy as np  # noqa: E402
from PIL import Image, ImageDraw  # noqa: E402
from scipy.spatial import cKDTree  # noqa: E402

from pipeline_core import make, models  # noqa: E402
from pipeline_core.config import RECIPES, Distill, Init, LearningRates, Recipe  # noqa: E402
from pipeline_core.errors import SplatmillError  # noqa: E402
from pipeline_core.files import write_json  # noqa: E402
from pipeline_core.manifest import parse_override  # noqa: E402
from pipeline_core.metrics import fidelity  # noqa: E402
from pipeline_core.metrics.consistency import consistency  # noqa: E402
from pipeline_core.metrics.judge import Judge, load_judge  # noqa: E402
from pipeline_core.metrics.mesh_health import mesh_health  # noqa: E402
from pipeline_core.props.captions import caption  # noqa: E402
from pipeline_core.props.props import PropSpec  # noqa: E402
from pipeline_core.rendering.mesh import render_mesh  # noqa: E402
from pipeline_core.texturing.draw import draw  # noqa: E402
from pipeline_core.types import Gaussians, TexturedMesh  # noqa: E402
from tests.bench.committed import OTHER_JUDGE  # noqa: E402
from tests.bench.shared import heldout_prompts, paired, picture  # noqa: E402

FACTORY = "factory"
WITHOUT: dict[str, dict[str, Any]] = {
    "a ball, not a cloud": {"init.start": "ball"},
    "cloud not tidied": {"init.tidy_neighbours": 0},
    "wide Gaussians": {"init.scale_limit": 3.0},
    "nothing distilled": {"geometry.steps": 0},
    "gaps not carved": {"geometry.carve": 0.0},
    "stains not mended": {"geometry.destain": False},
    "white or black behind": {"geometry.background": "white_black"},
    "published noise": {"geometry.t_max": (0.98, 0.02), "geometry.t_min": (0.98, 0.02)},
    "more guidance": {"geometry.guidance_scale": 5.0},
    "published guidance": {"geometry.guidance_scale": 100.0},
    "published rates": {f"geometry.lr.{name}": field.default for name, field in LearningRates.model_fields.items()},
    "density not smoothed": {"mesh.blur": 0.0},
    "surface at density 1": {"mesh.iso": 1.0},
    "surface not settled": {"mesh.settle": False},
    "edges not sharpened": {"mesh.sharpen": 0.0},
    "splat not drawn": {"dress.splat": "optimised"},
}
"""What ``factory`` has beyond the papers, each as it would be without."""
GROWS = {"geometry.densify.grad_quantile": 0.9}
WITH: dict[str, tuple[str, dict[str, Any]]] = {
    "grows": (FACTORY, GROWS | {"geometry.densify.every": 25}),
    "grows, gaps filled": (
        "grows",
        {"geometry.densify.compactness": True, "geometry.densify.fill_share": 0.1},
    ),
    "draft grows": ("draft", GROWS | {"geometry.densify.every": 10}),
    "appearance distilled too": (FACTORY, {"appearance.steps": 30}),
    "texture refined": (FACTORY, {"texture.steps": 4}),
    "texture fitted": (FACTORY, {"texture.steps": 4, "texture.method": "fit"}),
    "fewer steps": (FACTORY, {"geometry.steps": 36}),
    "narrow Gaussians": (FACTORY, {"init.scale_factor": 0.9}),
    "surface smoothed": (FACTORY, {"mesh.smooth": 12}),
    "discs": (FACTORY, {"init.thickness": 0.3}),
    "colour by view, splat not drawn": (
        "splat not drawn",
        {"init.sh_degree": 1, "geometry.lr.shN": 0.0025},  # a 20th of sh0's, as in 3DGS
    ),
    "judged in 3D too": (
        FACTORY,
        {
            "geometry.point_weight": 0.01, "geometry.point_guidance_scale": 1.0,
            "geometry.point_t_max": (0.3, 0.05), "geometry.point_t_min": (0.3, 0.05),
        },
    ),
}  # fmt: skip
"""What is there and off: whose it becomes part of, and what it is. Thresholds by quantile and 3D guidance as in
``gsgen-starter``."""
ABLATIONS = dict.fromkeys(WITHOUT, FACTORY) | {name: base for name, (base, _) in WITH.items()}
"""What each is compared with."""
MEANS = (
    "r_precision", "caption_margin", "splat_margin", "janus_rate", "f_score_2", "f_score_5", "normals", "mesh_iou",
    "mesh_psnr", "watertight", "self_intersections", "cpu_s",
)  # fmt: skip
WRONG = set(MEANS) - {"self_intersections", "cpu_s"}
"""What is 0 where an asset failed; what it has none of says nothing of what it costs."""
HASTY = {"init.num_points": 500, "init.sampler_steps": 8, "geometry.steps": 1, "texture.steps": 1, "mesh.grid": 32}
TAUS = {"f_score_2": 0.02, "f_score_5": 0.05}
"""Distances of the F-scores as shares of the height."""
EVERY = 3
"""Of so many categories one has a prompt: with 24 prompts all kinds of things are there, a fence and a cactus too."""
FLAT_OF = 8
"""Points whose plane gives a normal."""
NOT_OF_THE_CLOUD = {name: Init.model_fields[name].default for name in (
    "tidy_neighbours", "opacity", "scale_factor", "scale_of", "scale_limit", "scale", "thickness", "sh_degree",
    "colours", "radius",
)}  # fmt: skip
"""What makes Gaussians of a cloud."""
Row = dict[str, float]
Thing = TypeVar("Thing")


def variants(only: list[str], changes: dict[str, Any]) -> dict[str, Recipe]:
    """Recipes by their names, then ablations by what they change; all, or those that are named and what these are
    compared with; with ``changes``."""
    on_starter = [each for each in RECIPES.values() if each.image_prior == each.init.point_prior == "starter"]
    found = {recipe.name: recipe.override(changes) for recipe in on_starter}
    found |= {name: found[FACTORY].override(without) for name, without in WITHOUT.items()}
    for name, (base, added) in WITH.items():
        found[name] = found[base].override(added)
    if unknown := set(only) - set(found):
        raise SystemExit(f"--only {sorted(unknown)[0]}: one of {', '.join(found)}")
    wanted = {FACTORY, *(only or found)}
    while further := {ABLATIONS[name] for name in wanted if name in ABLATIONS} - wanted:
        wanted |= further
    return {name: recipe for name, recipe in found.items() if name in wanted}


def cpu_seconds() -> float:
    """Of this process and the children that it has waited for, so far."""
    return sum(os.times()[:4])


class Workshop:
    """Makes the assets of one prompt and seed; what two of them have in common is made once."""

    def __init__(self, prompt: str, seed: int) -> None:
        self.prompt, self.seed = prompt, seed
        self.made: dict[str, tuple[Any, float]] = {}

    def asset(self, recipe: Recipe) -> tuple[Gaussians, TexturedMesh, float]:
        """Splat and refined mesh as they are delivered, and the CPU-seconds of all that they took."""
        prompt, seed, spent, key = self.prompt, self.seed, 0.0, ""

        def once(more: str, work: Callable[[], Thing]) -> Thing:
            nonlocal key, spent
            key += more
            if key not in self.made:
                began = cpu_seconds()
                self.made[key] = work(), cpu_seconds() - began
            made: Thing = self.made[key][0]
            spent += self.made[key][1]
            return made

        drawn = recipe.init.model_copy(update=NOT_OF_THE_CLOUD)
        cloud = once(drawn.fingerprint(), lambda: make.points(prompt, recipe, seed=seed))
        start = once(recipe.init.fingerprint(), lambda: make.start(cloud, recipe, seed=seed))

        def distilled(begin: Gaussians, stage: Distill) -> Gaussians:
            return once(stage.fingerprint(), lambda: make.distill(begin, prompt, recipe, stage=stage, seed=seed))

        splat = distilled(distilled(start, recipe.geometry), recipe.appearance)
        mesh = once(recipe.mesh.fingerprint(), lambda: make.extract_mesh(splat, recipe))
        mesh = once(recipe.texture.fingerprint(), lambda: make.refine_texture(mesh, prompt, recipe, seed=seed))
        if recipe.dress.splat == "mesh":
            splat = once(recipe.dress.fingerprint(), lambda: draw(mesh, len(splat), recipe.dress))
        return splat, mesh, spent


def normals_of(points: np.ndarray) -> np.ndarray:
    """Normals [N, 3], of either sign, of the planes through the nearest of ``points`` [N, 3]."""
    _, near = cKDTree(points).query(points, k=FLAT_OF + 1)
    offset = points[near] - points[near].mean(axis=1, keepdims=True)
    return np.linalg.eigh(np.einsum("nki,nkj->nij", offset, offset))[1][:, :, 0]


def shape(textured: TexturedMesh, spec: PropSpec) -> Row:
    """F-scores at :data:`TAUS`, each against the instance that is best at it, and agreement of normals with the last's:
    the mean cosine, both ways, to the nearest point's."""
    points = fidelity.surface_points(textured.vertices, textured.faces, fidelity.POINTS, np.random.default_rng(0))
    tree, best = cKDTree(points), dict.fromkeys(TAUS, -1.0)
    nearest: tuple[np.ndarray, np.ndarray, np.ndarray] | None = None
    for reference, height in fidelity.instances_of(spec.category, spec.part, spec.material, fidelity.INSTANCES):
        (there, forth), (back, here) = reference.query(points), tree.query(reference.data)
        for name, tau in TAUS.items():
            precision, recall = (there < tau * height).mean(), (back < tau * height).mean()
            score = float(2 * precision * recall / max(precision + recall, 1e-12))
            if score > best[name]:
                best[name] = score
                nearest = np.asarray(reference.data), forth, here  # the last name's instance in the end
    assert nearest is not None
    theirs, forth, here = nearest
    ours, theirs = normals_of(points), normals_of(theirs)
    agree = [np.abs((ours * theirs[forth]).sum(1)).mean(), np.abs((theirs * ours[here]).sum(1)).mean()]
    return best | {"normals": float(np.mean(agree))}


def measured(splat: Gaussians, mesh: TexturedMesh, recipe: Recipe, spec: PropSpec, judge: Judge) -> tuple[Row, Any]:
    """The row of one asset but for its cost, and its eight pictures."""
    cameras = fidelity.evaluation_cameras(max(fidelity.SIZE, judge.size))
    images = render_mesh(mesh, cameras)[0]
    pixels = images.permute(0, 3, 1, 2)
    told = fidelity.score(pixels, cameras.azimuth, cameras.elevation, caption(spec), judge=judge)
    row = {name: told[name] for name in ("r_precision", "caption_margin")}
    row |= {"janus_rate": told["janus"]} if "janus" in told else {}
    seen = fidelity.score_gaussians(splat, caption(spec), judge=judge, shape=False)
    row["splat_margin"] = seen["caption_margin"]
    health = mesh_health(mesh)
    row |= shape(mesh, spec) | consistency(splat, mesh, recipe.evaluate)
    return row | {name: float(health[name]) for name in ("watertight", "self_intersections")}, images


def results(
    specs: list[PropSpec], seeds: int, chosen: dict[str, Recipe], folder: Path, judge: Judge,
    share: tuple[int, int] = (0, 1),
) -> dict[str, list[Row]]:  # fmt: skip
    """Rows by variant, in the order of prompts and seeds; of ``share`` (k, n) every n-th prompt and seed from the k-th
    on. What ``folder`` has is read, the rest made."""
    rows: dict[str, list[Row]] = {name: [] for name in chosen}
    Workshop("a red mug", 0).asset(RECIPES["draft"].override(HASTY))  # loads models and kernels: no asset's time
    for i, spec in enumerate(specs):
        for seed in range(seeds):
            if (i * seeds + seed) % share[1] != share[0]:
                continue
            workshop, made = Workshop(caption(spec), 1000 + 100 * i + seed), Made(folder, i, seed)
            for name, recipe in chosen.items():
                if name not in made.rows:
                    row, images = {**dict.fromkeys(WRONG, 0.0), "janus_rate": 1.0, "failed": 1.0}, None
                    try:
                        splat, mesh, spent = workshop.asset(recipe)
                        row, images = measured(splat, mesh, recipe, spec, judge)
                        row |= {} if models.device().type == "cuda" else {"cpu_s": spent}
                    except SplatmillError as error:
                        print(f"{name}, {caption(spec)}, seed {seed}: {error}", file=sys.stderr)
                    made.add(name, row, recipe, judge, (picture(images).clip(0, 1) * 255).astype(np.uint8))
                rows[name].append(made.row(name, recipe, judge))
            print(f"{caption(spec)}, seed {seed}: done", file=sys.stderr, flush=True)
    return rows


class Made:
    """Rows and pictures of one prompt and seed in a library: one JSON and one WebP, whose pictures are below
    each other as they came."""

    def __init__(self, folder: Path, i: int, seed: int) -> None:
        self.path = folder / f"{i:03d}-{seed}.json"
        self.rows: dict[str, dict[str, Any]] = {}
        self.strips: list[np.ndarray] = []
        if self.path.exists():
            self.rows = json.loads(self.path.read_text())
            stack = np.asarray(Image.open(self.path.with_suffix(".webp")).convert("RGB"))
            self.strips = np.split(stack, 1 + max(row["picture"] for row in self.rows.values()))

    def add(self, name: str, row: Row, recipe: Recipe, judge: Judge, strip: np.ndarray) -> None:
        """Keep what ``recipe`` made, and what ``judge`` said of it."""
        by = {"recipe": recipe.fingerprint(), "judge": judge.model_id, "picture": len(self.strips)}
        self.rows[name] = {key: round(value, 5) for key, value in row.items()} | by
        self.strips.append(strip)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.concatenate(self.strips)).save(self.path.with_suffix(".webp"), quality=80)
        write_json(self.path, self.rows)

    def row(self, name: str, recipe: Recipe, judge: Judge) -> Row:
        """What was measured of ``recipe``'s."""
        row = dict(self.rows[name])
        row.pop("picture")
        if (row.pop("recipe"), row.pop("judge")) != (recipe.fingerprint(), judge.model_id):
            raise SystemExit(f"{self.path} is of other settings of {name}, or by another judge: name another --library")
        return row

    def strip(self, name: str) -> Image.Image:
        """Its picture."""
        return Image.fromarray(self.strips[self.rows[name]["picture"]])


def summary(rows: list[Row]) -> dict[str, float | None]:
    """Means over all assets that have the figure."""
    told = {name: [row[name] for row in rows if name in row] for name in (*MEANS, "failed")}
    return {name: round(float(np.mean(values)), 4) if values else None for name, values in told.items()} | {
        "failed": len(told["failed"])
    }


def differences(rows: list[Row], whole: list[Row]) -> dict[str, dict[str, Any]]:
    """What is lost or gained against ``whole``, paired, with 95 % intervals."""
    both = list(zip(rows, whole, strict=True))
    pairs = {name: [a[name] - b[name] for a, b in both if name in a and name in b] for name in MEANS}
    return {name: paired(each, 4) for name, each in pairs.items() if each}


def save_sheet(path: Path, folder: Path, specs: list[PropSpec], seeds: int, names: list[str]) -> None:
    """All results as one picture: a row for each prompt and seed, a column for each variant, four sides each."""
    made = [Made(folder, i, seed) for i in range(len(specs)) for seed in range(seeds)]
    (wide, high), margin = made[0].strip(names[0]).size, 14
    sheet = Image.new("RGB", (wide * len(names), margin + (high + margin) * len(made)), "white")
    pen = ImageDraw.Draw(sheet)
    for column, name in enumerate(names):
        pen.text((column * wide + 2, 1), name, "black")
        for line, asset in enumerate(made):
            sheet.paste(asset.strip(name), (column * wide, margin + line * (high + margin) + margin))
    for line in range(len(made)):
        said = f"{caption(specs[line // seeds])}, seed {line % seeds}"
        pen.text((2, margin + line * (high + margin)), said, "grey")
    sheet.save(path, quality=80)


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--library", type=Path, help="kept between calls (default: a temporary folder)")
    parser.add_argument("--only", nargs="+", default=[], help="recipes and ablations by name; factory is always there")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="recipe field: geometry.steps=4")
    parser.add_argument("--judge", default=str(OTHER_JUDGE), help="starter, or the folder or hub id of a CLIP model")
    parser.add_argument("--sheet", type=Path, help="WebP or JPEG of every result")
    parser.add_argument("--share", default="0/1", help="K/N: every N-th prompt and seed from the K-th on, and no table")
    args = parser.parse_args(argv)
    part, parts = map(int, args.share.split("/"))
    chosen = variants(args.only, dict(parse_override(text) for text in args.changes))
    folder = args.library or Path(tempfile.mkdtemp(prefix="splatmill-bench-"))
    specs, judge = heldout_prompts(EVERY * args.prompts)[EVERY - 1 :: EVERY], load_judge(args.judge)
    rows = results(specs, args.seeds, chosen, folder, judge, (part, parts))
    if parts > 1:
        return 0
    from catalog.render import aligned  # not where only rows are made: it needs more packages

    table = {name: summary(each) for name, each in rows.items()}
    print(f"judge {judge.model_id}, {len(specs)} held-out prompts, {args.seeds} seeds each")
    cells = {name: ["-" if row[each] is None else f"{row[each]:.3g}" for each in MEANS] for name, row in table.items()}
    print(aligned(["", *MEANS], [[name, *row] for name, row in cells.items()]))
    if args.sheet:
        save_sheet(args.sheet, folder, specs, args.seeds, list(chosen))
    changed = {
        name: {"of": base, "difference": differences(rows[name], rows[base])}
        for name, base in ABLATIONS.items()
        if name in table
    }
    print(json.dumps({
        "judge": judge.model_id, "prompts": len(specs), "seeds": args.seeds,
        "recipes": {name: row for name, row in table.items() if name not in ABLATIONS},
        "ablations": {name: table[name] | each for name, each in changed.items()},
    }))  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
