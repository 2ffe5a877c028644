"""``export --dataset`` as the libraries ``webdataset`` and ``datasets`` read it: every sample, in its split."""

from __future__ import annotations

import json

import pytest

from catalog.schema import Artifact, StageRun, request
from catalog.writer import append
from flows.dataset import make_dataset
from flows.export import Asked
from pipeline_core.io.images import save_png, save_turntable
from pipeline_core.storage import sha256_file
from tests.clients.conftest import HERE, run, told
from tests.finished_asset import HOSTILE, finished

PROMPTS = {"mug": "a blue mug", "mug-2": "a blue mug", "chair": HOSTILE} | {
    f"prop-{at}": f"thing {at}" for at in range(12)
}


@pytest.fixture
def dataset(tmp_path):
    """A dataset of fifteen assets with pictures, in shards of a few."""
    library = tmp_path / "library"
    for at, (name, prompt) in enumerate(PROMPTS.items()):
        place = finished(library / "assets", name, prompt=prompt, parts=False)
        pictures(place, at / len(PROMPTS))
        artifact = Artifact("glb", f"assets/{name}/asset.glb", "0" * 64, 1, "model/gltf-binary")
        metrics = {"fidelity": 0.1 * at, "judged": 1.0}
        row = StageRun(run_id="n", asset_id=name, stage="record", status="ok", metrics=metrics, artifacts=(artifact,))
        append(library, [request("n", name, {"prompt": prompt, "seed": at, "tags": {}}), row])
    make_dataset(str(library), list(PROMPTS), tmp_path / "set", Asked(shard_mb=0.1))
    return tmp_path / "set"


def pictures(place, grey):
    import numpy as np

    save_png(place / "preview.png", np.full((32, 32, 3), grey))
    save_turntable(place / "turntable.webp", np.linspace(0, 1, 24)[:, None, None, None] * np.ones((24, 32, 32, 3)))
    told_of = json.loads((place / "asset.json").read_text())
    for name in ("preview.png", "turntable.webp"):
        told_of["files"][name] = {"sha256": sha256_file(place / name), "bytes": (place / name).stat().st_size}
    (place / "asset.json").write_text(json.dumps(told_of))


def test_both_libraries_read_every_sample_in_its_split(dataset, installed, tmp_path):
    python = installed / "datasets" / "bin" / "python"
    found = {each["by"]: each for each in told(run(python, HERE / "in_datasets.py", dataset, tmp_path / "hf"), "READ")}
    samples = found["webdataset"]["samples"]
    assert {name: each["text"] for name, each in samples.items()} == PROMPTS
    assert {each["glb"] for each in samples.values()} == {"glTF"}
    assert {tuple(each["picture"]) for each in samples.values()} == {(32, 32, 3)}
    assert all({"view0.png", "view7.png", "ply", "turntable.webp"} <= set(each["names"]) for each in samples.values())
    for name in ("datasets assets", "datasets webdataset"):
        assert {key: split for split, keys in found[name]["keys"].items() for key in keys} == {
            key: each["split"] for key, each in samples.items()
        }
        assert sorted(found[name]["prompts"]) == sorted(PROMPTS.values())
        assert found[name]["picture"].endswith("ImageFile") and found[name]["size"] == [32, 32]
    assert samples["mug"]["split"] == samples["mug-2"]["split"]
