"""Numbers that no recipe has a field for, each at about half and double: does another value make better assets?

    python tests/bench/constants.py --library bench-constants    # 8 held-out prompts; kept, and gone on with
    python tests/bench/constants.py --prompts 1 --only settle.KEPT bake --set geometry.steps=2
    python tests/bench/constants.py --library bench-constants --share 1/2      # every second prompt, and no table

What ``factory`` makes of a prompt is made once, and from the stage on in which a constant counts again with each of its
values (:data:`TRIED`): from the cloud of the point prior, without distillation; from the Gaussians that are not carved
yet; from those that are; from their surface; or from its texture, which is then refined by four rounds. Of each mesh:
F-score at 2 % of the height and normals as ``tests/bench/recipes.py`` has them, overlap of silhouettes and PSNR of
colours (where both are) with the Gaussians that it was drawn around, caption margin by a judge that no recipe asks,
crossing faces, and whether it is watertight. Carving has prompts of its own, half of them things with gaps, whose share
that is shown is ``gaps``. What grows and is pruned is a ball, by ``dreamgaussian-starter``.

The differences to the value that is there are paired, with 95 % bootstrap intervals over the prompts. The last line of
stdout is one JSON document: ``constants``, by name and value.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any
from unittest.mock import patch

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: a module here may have a room's name

import numpy as np  # noqa: E402

from pipeline_core import make, models  # noqa: E402
from pipeline_core.config import RECIPES, Recipe  # noqa: E402
from pipeline_core.engine.distill import without_background  # noqa: E402
from pipeline_core.errors import SplatmillError  # noqa: E402
from pipeline_core.files import write_json  # noqa: E402
from pipeline_core.manifest import parse_override  # noqa: E402
from pipeline_core.meshing import extract, surface  # noqa: E402
from pipeline_core.metrics import fidelity  # noqa: E402
from pipeline_core.metrics.consistency import overlap, psnr, ring_cameras  # noqa: E402
from pipeline_core.metrics.judge import Judge, load_judge  # noqa: E402
from pipeline_core.metrics.judges import judged_categories  # noqa: E402
from pipeline_core.metrics.mesh_health import mesh_health  # noqa: E402
from pipeline_core.metrics.views import render_gaussians  # noqa: E402
from pipeline_core.props.captions import caption  # noqa: E402
from pipeline_core.props.props import PropSpec  # noqa: E402
from pipeline_core.rendering.mesh import render_mesh  # noqa: E402
from pipeline_core.texturing.bake import bake  # noqa: E402
from pipeline_core.types import Gaussians, Mesh, PointCloud, TexturedMesh  # noqa: E402
from tests.bench.committed import OTHER_JUDGE  # noqa: E402
from tests.bench.fidelity import GAPPED, front_mask, gaps_shown  # noqa: E402
from tests.bench.recipes import shape  # noqa: E402
from tests.bench.shared import heldout_prompts, paired  # noqa: E402

ROOMS = {
    "strategies": "gaussians.strategies", "carve": "gaussians.carve", "carving": "engine.carving",
    "tidy": "gaussians.tidy", "initialise": "gaussians.initialise", "extract": "meshing.extract",
    "surface": "meshing.surface", "settle": "meshing.settle", "sharpen": "meshing.sharpen",
    "untangle": "meshing.untangle", "bake": "texturing.bake", "edges": "texturing.edges",
    "refine": "texturing.refine",
}  # fmt: skip
"""Where constants live, below ``pipeline_core``."""
STAGES = {"ball": ("strategies",), "carving": ("carve", "carving"),
          "cloud": ("tidy", "initialise"), "mesh": ("extract", "surface", "settle", "sharpen", "untangle"),
          "bake": ("bake", "edges"), "texture": ("refine",)}  # fmt: skip
"""Whose constants count from which stage on."""
VIEWS = extract.SILHOUETTE_VIEWS
TRIED: dict[str, tuple[Any, ...]] = {
    "strategies.LINKED": (2.0, 8.0),
    "carve.OWN": (0.1, 0.4),
    "carve.THERE": (0.15, 0.6),
    "carve.LEAST": (2, 8),
    "carve.AROUND": (0.05, 0.2),
    "carve.MORE": (0.025, 0.1),
    "carve.PIECES": (0.005, 0.02),
    "carve.JOINED": (2.5, 10.0),
    "carving.TILTS": ((0.0, 0.23), (0.54, 0.85)),
    "tidy.STRAY_NEIGHBOURS": (6, 24),
    "tidy.STRAY_FACTOR": (2.0, 4.0),
    "tidy.ROUNDS": (1, 6),
    "tidy.COLOUR_NEIGHBOURS": (8, 32),
    "tidy.WIDTH": (0.3, 1.2),
    "initialise.SMALLEST": (1e-5, 1e-3),
    "initialise.NORMAL_NEIGHBOURS": (8, 32),
    "extract.ANCHOR_OPACITY": (0.1, 0.6),
    "extract.REACH": (2.0, 4.5),
    "extract.BOUND": (0.8, 2.0),
    "extract.LEVELS": (extract.LEVELS[::2], tuple(np.geomspace(3, 0.15, 17).tolist())),
    "extract.SILHOUETTE_VIEWS": (VIEWS[:3], VIEWS + tuple((azimuth + 30, tilt) for azimuth, tilt in VIEWS)),
    "extract.SILHOUETTE_SIZE": (48, 192),
    "extract.SILHOUETTE_ALPHA": (0.25, 0.75),
    "extract.CLEARLY": (0.0, 1e-3),
    "extract.THINNEST": (0.25, 1.0),
    "extract.FLAT": (1.5, 4.0),
    "extract.EMPTY": (1e-4, 1e-2),
    "surface.SEAL_RADIUS": (1.0, 4.0),
    "surface.FINE": (2, 8),
    "surface.APART": (0.02, 0.2),
    "settle.NEIGHBOURS": (4, 16),
    "settle.WIDTH": (0.3, 1.2),
    "settle.KEPT": (0.2, 0.5),
    "settle.LIMIT": (2.0, 8.0),
    "settle.SMOOTHING": (1, 6),
    "sharpen.DIFFERENCE": (0.18, 0.7),
    "sharpen.REACH": (0.75, 3.0),
    "sharpen.SWEEPS": (2, 10),
    "sharpen.STEPS": (5, 20),
    "untangle.ROUNDS": (8, 32),
    "untangle.BACK": (0.08, 0.3),
    "bake.COSINE_POWER": (3.0, 12.0),
    "bake.MIN_COSINE": (0.05, 0.5),
    "bake.DEPTH_SLACK": (0.01, 0.04),
    "bake.NEIGHBOURS": (4, 16),
    "bake.COVERED": (0.15, 0.6),
    "bake.FAINT": (0.02, 0.2),
    "edges.RING": (5, 17),
    "edges.MIXED": (4, 16),
    "edges.FACING": (2.0, 8.0),
    "edges.FAINT": (0.015, 0.06),
    "edges.TOLD": (1, 4),
    "refine.SUPERSAMPLE": (1, 4),
    "refine.HESITATION": (0.05, 0.2),
    "refine.ALONE": (0.25, 1.0),
    "refine.WELL_SEEN": (0.5, 2.0),
    "refine.LIKENESS": (0.5, 2.0),
    "refine.ALIKE": (4, 16),
    "refine.KNOWN": (10_000, 40_000),
    "refine.COARSEST": (8, 32),
}
"""The values beside the one that is there."""
FLAT_ONES = ("initialise.NORMAL_NEIGHBOURS", "extract.THINNEST", "extract.FLAT")
"""Constants of Gaussians that are discs: measured on those of the cloud, with ``init.thickness`` 0.3."""
REFINED = {"texture.steps": 4}
THERE = "there"
MEANS = ("f_score_2", "gaps", "normals", "mesh_iou", "colours", "caption_margin", "watertight", "self_intersections")
Row = dict[str, float]


@contextmanager
def changed(name: str, value: Any) -> Iterator[None]:
    """The constant ``name`` is ``value``; the surface is drawn in this process, where that holds."""
    room, constant = name.split(".")
    module = importlib.import_module(f"pipeline_core.{ROOMS[room]}")
    options = {"seal_radius": value} if name == "surface.SEAL_RADIUS" else {}
    assert hasattr(module, constant), name

    def here(_: str, *arrays: np.ndarray, **more: Any) -> tuple[np.ndarray, ...]:
        return surface.surfaces(*arrays, **more, **options)

    with patch.object(module, constant, value), patch.object(extract, "run_in_process", here):
        yield


class Workshop:
    """What ``recipe`` makes of one prompt, from each stage on."""

    def __init__(self, spec: PropSpec, recipe: Recipe, ball: Recipe, judge: Judge, seed: int) -> None:
        self.spec, self.recipe, self.ball, self.judge, self.seed = spec, recipe, ball, judge, seed
        self.prompt = caption(spec)

    @cached_property
    def cloud(self) -> PointCloud:
        """As the point prior drew it."""
        return make.points(self.prompt, self.recipe, seed=self.seed)

    @cached_property
    def whole(self) -> Gaussians:
        """Distilled, before anything is carved away."""
        as_it_is = self.recipe.override({"geometry.carve": 0.0, "geometry.destain": False})
        return make.distill(self.cloud, self.prompt, as_it_is, seed=self.seed)

    def carved(self) -> Gaussians:
        """What is left of them."""
        begun, engine = make.start(self.cloud, self.recipe, seed=self.seed), models.engine(self.recipe)
        return without_background(begun, self.whole, self.prompt, self.recipe.geometry, engine, seed=self.seed)[0]

    @cached_property
    def splat(self) -> Gaussians:
        """Distilled and carved."""
        return make.distill(self.cloud, self.prompt, self.recipe, seed=self.seed)

    @cached_property
    def mesh(self) -> Mesh:
        """Their surface."""
        return extract.extract_mesh(self.splat, self.recipe.mesh)

    @cached_property
    def textured(self) -> TexturedMesh:
        """With their colours."""
        return bake(self.splat, self.mesh, self.recipe.mesh)

    def row(self, stage: str, flat: bool = False) -> Row:
        """The figures of what is made from ``stage`` on."""
        if stage == "texture":
            settings = self.recipe.override(REFINED)
            return self.measured(make.refine_texture(self.textured, self.prompt, settings, seed=self.seed), self.splat)
        if stage == "bake":
            return self.measured(bake(self.splat, self.mesh, self.recipe.mesh), self.splat)
        if stage == "mesh":
            return self.surface_of(self.splat, self.recipe)
        if stage == "carving":
            return self.surface_of(self.carved(), self.recipe)
        if stage == "ball":
            ball = make.points(self.prompt, self.ball, seed=self.seed)
            return self.surface_of(make.distill(ball, self.prompt, self.ball, seed=self.seed), self.ball)
        settings = self.recipe.override({"init.thickness": 0.3}) if flat else self.recipe
        return self.surface_of(make.start(self.cloud, settings, seed=self.seed), self.recipe)

    def surface_of(self, splat: Gaussians, recipe: Recipe) -> Row:
        """The figures of the mesh that is drawn around ``splat``."""
        return self.measured(bake(splat, extract.extract_mesh(splat, recipe.mesh), recipe.mesh), splat)

    def measured(self, mesh: TexturedMesh, splat: Gaussians) -> Row:
        """The figures of ``mesh``, drawn around ``splat``."""
        told = fidelity.score_mesh(mesh, self.prompt, judge=self.judge)
        row = shape(mesh, self.spec) | alike(splat, mesh) | mesh_health(mesh) | told
        if self.spec.category in GAPPED:
            row["gaps"] = gaps_shown(front_mask(mesh), self.spec)
        return {name: round(float(row[name]), 6) for name in MEANS if name in row}


def alike(splat: Gaussians, mesh: TexturedMesh) -> Row:
    """Overlap of the silhouettes of ``splat`` and ``mesh``, and PSNR of their colours where both are: what the way of
    the outline takes no part in."""
    cameras = ring_cameras(8, 256)
    (theirs, alpha), (ours, coverage) = render_gaussians(splat, cameras), render_mesh(mesh, cameras)
    both = (alpha > 0.9) & (coverage > 0.9)
    return {"mesh_iou": overlap(alpha > 0.5, coverage > 0.5), "colours": psnr(theirs[both], ours[both])}


def stage_of(name: str) -> str:
    """From which stage on the constant ``name`` is measured."""
    room = name.split(".")[0]
    return "cloud" if name in FLAT_ONES else next(stage for stage, rooms in STAGES.items() if room in rooms)


def measure(shop: Workshop, names: list[str], rows: dict[str, Row], path: Path) -> dict[str, Row]:
    """Rows by ``constant=value``, and those of what is there by stage; ``path`` has those that are made."""
    for name in names:
        room, constant = name.split(".")
        present = getattr(importlib.import_module(f"pipeline_core.{ROOMS[room]}"), constant)
        for key, value in [(there(name), present), *((f"{name}={said(value)}", value) for value in TRIED[name])]:
            if key in rows:
                continue
            try:
                with changed(name, value):
                    rows[key] = shop.row(stage_of(name), name in FLAT_ONES)
            except SplatmillError as error:
                print(f"{key}, {caption(shop.spec)}: {error}", file=sys.stderr)
            else:
                write_json(path, rows)
    return rows


def there(name: str) -> str:
    """Key of the row that those of ``name`` are compared with."""
    return f"{THERE}: {stage_of(name)}{', discs' * (name in FLAT_ONES)}"


def said(value: Any) -> str:
    """A value as it stands in the table."""
    if isinstance(value, float | int):
        return f"{value:g}"
    return "/".join(f"{each:g}" for each in value) if len(value) == 2 else f"{len(value)} of them"


def table(rows: list[dict[str, Row]], names: list[str]) -> dict[str, dict[str, Any]]:
    """Means of the paired differences to what is there, with 95 % intervals, by constant and value."""
    found: dict[str, dict[str, Any]] = {}
    for name in names:
        for key in (f"{name}={said(value)}" for value in TRIED[name]):
            pairs = [(each[key], each[there(name)]) for each in rows if {key, there(name)} <= each.keys()]
            found[key] = {"failed": len(rows) - len(pairs)}
            for figure in MEANS:
                if both := [a[figure] - b[figure] for a, b in pairs if figure in a]:
                    found[key][figure] = paired(both, 5)
    return found


def others(count: int) -> list[PropSpec]:
    """So many held-out prompts of other things than those of ``recipes.py``."""
    return heldout_prompts(9 * count)[4::9]


def half_with_gaps(count: int) -> list[PropSpec]:
    """So many held-out prompts, of things with gaps and of others in turn."""
    rounds = heldout_prompts(len(judged_categories()) * count)
    gapped = [spec for spec in rounds if spec.category in GAPPED]
    plain = [spec for spec in others(count) if spec.category not in GAPPED]
    return [each for pair in zip(gapped, plain, strict=False) for each in pair][:count]


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--library", type=Path, help="kept between calls (default: a temporary folder)")
    parser.add_argument("--only", nargs="+", default=[], help="constants, or modules: settle.KEPT bake")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="recipe field: geometry.steps=4")
    parser.add_argument("--share", default="0/1", help="K/N: every N-th prompt from the K-th on, and no table")
    args = parser.parse_args(argv)
    names = [name for name in TRIED if not args.only or {name, name.split(".")[0]} & set(args.only)]
    changes = dict(parse_override(text) for text in args.changes)
    recipe, ball = (RECIPES[name].override(changes) for name in ("factory", "dreamgaussian-starter"))
    folder = args.library or Path(tempfile.mkdtemp(prefix="splatmill-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    judge, (part, parts) = load_judge(str(OTHER_JUDGE)), map(int, args.share.split("/"))
    found: dict[str, dict[str, Any]] = {}
    for kind, specs in (("", others(args.prompts)), ("carve-", half_with_gaps(args.prompts))):
        own = [name for name in names if (stage_of(name) == "carving") == bool(kind)]
        wanted, rows = {f"{name}={said(value)}" for name in own for value in TRIED[name]}, []
        for i, spec in enumerate(specs if own else []):
            if i % parts == part:
                path = folder / f"{kind}{i:03d}.json"
                made = json.loads(path.read_text()) if path.exists() else {}
                if wanted - set(made):
                    made = measure(Workshop(spec, recipe, ball, judge, 3000 + i), own, made, path)
                rows.append(made)
                print(f"{caption(spec)}: done", file=sys.stderr, flush=True)
        found |= table(rows, own)
    if parts > 1:
        return 0
    from catalog.render import aligned  # not where only rows are made: it needs more packages

    cells = {
        key: ["-" if figure not in row else "{mean:+.4f}".format(**row[figure]) for figure in MEANS]
        for key, row in found.items()
    }
    print(aligned(["", *MEANS], [[key, *row] for key, row in cells.items()]))
    print(json.dumps({"prompts": args.prompts, "judge": judge.model_id, "constants": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
