"""Benchmarks at their smallest size, so that they do not rot: the last line of each is one JSON document."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pipeline_core.spec import AssetSpec
from tests.chromium import chromium
from tests.finished_asset import finished

BENCH = Path(__file__).parents[2] / "bench"
HASTY = [
    word
    for each in (
        "init.num_points=300", "init.sampler_steps=4", "geometry.steps=1", "geometry.carve=0", "mesh.grid=24",
        "mesh.texture_size=128", "mesh.face_budget=500", "mesh.bake_views=6", "mesh.bake_resolution=64",
        "texture.resolution=32", "dress.splat_steps=1", "dress.occlusion_sides=0", "evaluate.turntable_frames=0",
    )
    for word in ("--set", each)
]  # fmt: skip
LITTLE_DATA = ["--seconds", "0.1", "--prompts", "1", "--chunks", "1"]
SMALLEST = {
    "acceptance.py": (
        ["--prompts", "1", "--impossible", "1", "--candidates", "2", *HASTY],
        {"prompts", "accepted_2", "margin_gain"},
    ),
    "catalog.py": (
        "--rows 100 --rounds 1 --appends 2 --delta-appends 2 --live-files 5".split(),
        {"appends_asked", "appends_stored", "vs_delta"},
    ),
    "constants.py": (
        ["--prompts", "1", "--only", "strategies", "carve.OWN", "settle.KEPT", "bake.NEIGHBOURS", *HASTY],
        {"prompts", "judge", "constants"},
    ),
    "engine.py": (
        "--active 1 --steps 1 --rounds 1 --recipe draft".split(),
        {"ms_per_step", "gpu"},
    ),
    "fanout.py": ([], {"8 alike, guided shards"}),
    "fidelity.py": (
        ["--prompts", "1", "--skip-assets", "--skip-samples", "--skip-ball"],
        {"prompts", "r_precision", "r_precision_128_truth", "f_score_2_truth", "cpu_s_per_asset"},
    ),
    "gpu.py": ([], {"gpu"}),
    "guidance.py": (["--prompts", "1", "--only", "sds"], {"forms", "models"}),
    "image_priors.py": (
        [*LITTLE_DATA, "--chunk-size", "32", "--batch", "8", "--renders", "2", "--only", "shipped"],
        {"prompts", "shipped"},
    ),
    "meshing.py": (["mug"], {"extract_s", "mesh_iou"}),
    "orchestration.py": ("--assets 2 --only prefect files".split(), {"assets", "client_ms_per_asset"}),
    "point_priors.py": (
        [*LITTLE_DATA, "--chunk-size", "8", "--networks", "independent", "--categories", "mug"],
        {"prompts", "f2_independent"},
    ),
    "priors.py": (["--only", "sd"], {"families", "flow_asset_vs_start"}),
    "rasterize.py": (
        "--sizes 100@16 --peer-sizes 50@16 --rounds 1 --skip-compile".split(),
        {"rows", "load_average"},
    ),
    "recipes.py": (
        ["--prompts", "1", "--seeds", "1", "--only", "draft", *HASTY],
        {"judge", "prompts", "seeds", "recipes", "ablations"},
    ),
    "watch.py": (
        "--assets 100 --workers 2 --looks 2 --appends 2".split(),
        {"assets", "look_p50_s"},
    ),
}
"""Words, and keys of what it says. ``flow_starter.py`` wants a trained folder; the others that are left out follow."""


@pytest.mark.parametrize("name", SMALLEST)
def test_it_runs_and_says_what_it_should(name, tmp_path):
    words, keys = SMALLEST[name]
    assert keys <= said(name, words, tmp_path).keys()


def test_deliverables_of_a_library(tmp_path):
    folder = finished(tmp_path / "library" / "assets")
    told = json.loads((folder / "asset.json").read_text())
    (folder / "asset.json").write_text(json.dumps(told | {"spec": AssetSpec(asset_id="box", prompt="a box").to_json()}))
    found = said("deliverables.py", [str(tmp_path / "library")], tmp_path)
    assert found["assets"] == 1 and "glb" in found["formats"]


@pytest.mark.skipif(chromium() is None, reason="needs Chromium")
def test_the_gallery(tmp_path):
    assert said("gallery.py", "--assets 20 --figures 3 --times 1".split(), tmp_path)["assets"] == 20


def test_none_is_left_out():
    benches = {path.name for path in BENCH.glob("*.py") if "__main__" in path.read_text()}
    assert benches == {*SMALLEST, "deliverables.py", "gallery.py", "flow_starter.py"}


def said(name, words, folder):
    """The last line of a benchmark."""
    command = [sys.executable, str(BENCH / name), *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1], parse_constant=pytest.fail)


def test_a_picture_is_found_again_by_its_row(tmp_path):
    from tests.bench.recipes import RECIPES, Made, load_judge

    judge = load_judge("starter")
    for value, name in enumerate(("z", "a", "m")):
        strip = np.full((8, 16, 3), 80 * value, np.uint8)
        Made(tmp_path, 0, 1).add(name, {"cpu_s": value}, RECIPES["draft"], judge, strip)
    made = Made(tmp_path, 0, 1)
    assert [round(np.asarray(made.strip(name)).mean() / 80) for name in ("a", "m", "z")] == [1, 2, 0]
    assert [made.row(name, RECIPES["draft"], judge) for name in "az"] == [{"cpu_s": 1}, {"cpu_s": 0}]
