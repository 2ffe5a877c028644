"""Benchmarks at their smallest size, so that they do not rot: the last line of each is one JSON document."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

BENCH = Path(__file__).parents[2] / "bench"
HASTY = [
    "init.num_points=300", "init.sampler_steps=4", "geometry.steps=1", "geometry.carve=0", "mesh.grid=24",
    "mesh.texture_size=64", "mesh.bake_views=6", "mesh.bake_resolution=64", "dress.splat_steps=1",
]  # fmt: skip
SMALLEST = {
    "recipes.py": (
        ["--prompts", "1", "--seeds", "1", "--only", "draft", *(word for each in HASTY for word in ("--set", each))],
        {"judge", "prompts", "seeds", "recipes", "ablations"},
    ),
    "fidelity.py": (
        ["--prompts", "1", "--skip-assets", "--skip-samples", "--skip-ball"],
        {"prompts", "r_precision", "r_precision_128_truth", "f_score_2_truth", "cpu_s_per_asset"},
    ),
}


@pytest.mark.parametrize("name", SMALLEST)
def test_it_runs_and_says_what_it_should(name, tmp_path):
    words, keys = SMALLEST[name]
    done = subprocess.run(
        [sys.executable, str(BENCH / name), *words], capture_output=True, text=True, cwd=tmp_path, timeout=600
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert keys <= said.keys()


def test_a_picture_is_found_again_by_its_row(tmp_path):
    from tests.bench.recipes import RECIPES, Made, load_judge

    judge = load_judge("starter")
    for value, name in enumerate(("z", "a", "m")):
        strip = np.full((8, 16, 3), 80 * value, np.uint8)
        Made(tmp_path, 0, 1).add(name, {"cpu_s": value}, RECIPES["draft"], judge, strip)
    made = Made(tmp_path, 0, 1)
    assert [round(np.asarray(made.strip(name)).mean() / 80) for name in ("a", "m", "z")] == [1, 2, 0]
    assert [made.row(name, RECIPES["draft"], judge) for name in "az"] == [{"cpu_s": 1}, {"cpu_s": 0}]
