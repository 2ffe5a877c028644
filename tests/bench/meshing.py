"""Seconds from Gaussians to a finished asset, stage by stage, for procedural props at the ``factory`` settings.

    python tests/bench/meshing.py [category ...]

Marching cubes, clean-up and the UV atlas run in child processes whose start (about 0.3 s of imports each) is included.
The texture is not refined here: that time is the image prior's. Last line: JSON, medians over the props.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[0] = str(ROOT)  # not this folder: a module here may have a room's name

import numpy as np  # noqa: E402
import torch  # noqa: E402

from pipeline_core.config import RECIPES, Init  # noqa: E402
from pipeline_core.gaussians.initialise import from_points  # noqa: E402
from pipeline_core.io.gltf import save_glb  # noqa: E402
from pipeline_core.meshing.extract import extract_mesh  # noqa: E402
from pipeline_core.metrics.consistency import consistency  # noqa: E402
from pipeline_core.metrics.mesh_health import mesh_health  # noqa: E402
from pipeline_core.metrics.views import preview, turntable  # noqa: E402
from pipeline_core.props import props, raycast  # noqa: E402
from pipeline_core.texturing.bake import bake  # noqa: E402
from pipeline_core.types import PointCloud  # noqa: E402
from tests.gltf_check import check_glb  # noqa: E402

CATEGORIES = ("mushroom", "chair", "house", "mug", "sword", "fence")


def main(categories: tuple[str, ...]) -> None:
    recipe = RECIPES["factory"]
    rows = []
    for category in (categories[0], *categories):  # the first one compiles the kernels and is not counted
        prop = props.build(props.sample_spec(np.random.default_rng(5), category=category))
        xyz, rgb = raycast.sample_points(prop, 3000, np.random.default_rng(0))
        cloud = PointCloud(torch.from_numpy(xyz), torch.from_numpy(rgb))
        gaussians = from_points(cloud, Init(num_points=3000), torch.Generator().manual_seed(0))
        clock = [time.perf_counter()]
        mesh = extract_mesh(gaussians, recipe.mesh)
        clock.append(time.perf_counter())
        textured = bake(gaussians, mesh, recipe.mesh)
        clock.append(time.perf_counter())
        preview(textured)
        turntable(textured, recipe.evaluate.turntable_frames, recipe.evaluate.resolution)
        clock.append(time.perf_counter())
        scores = mesh_health(textured) | consistency(gaussians, textured, recipe.evaluate)
        clock.append(time.perf_counter())
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "asset.glb"
            save_glb(path, textured, name=category, height_m=1.0)
            findings, size = len(check_glb(path, grounded=True)), path.stat().st_size
        seconds = dict(zip(("extract", "bake", "pictures", "metrics"), np.diff(clock).tolist(), strict=True))
        row = {f"{name}_s": value for name, value in seconds.items()} | {"glb_bytes": size, "glb_findings": findings}
        row |= {name: scores[name] for name in ("faces", "watertight", "mesh_iou", "mesh_psnr", "uv_utilisation")}
        rows.append(row)
        print(f"{category:10s} " + "  ".join(f"{name} {value:.3g}" for name, value in row.items()), flush=True)
    print(json.dumps({name: round(statistics.median(row[name] for row in rows[1:]), 4) for name in rows[0]}))


if __name__ == "__main__":
    main(tuple(sys.argv[1:]) or CATEGORIES)
