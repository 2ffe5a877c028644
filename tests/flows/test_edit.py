"""An edited splat on its journey: from the mesh on everything is new, and its lineage is told wherever one looks."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
import trimesh
from typer.testing import CliRunner

from catalog import query
from flows.batch import prepare, run_batch
from flows.cli import app
from flows.edit import prepare_edit
from flows.verify import verify
from pipeline_core import models, stages
from pipeline_core.config import RECIPES
from pipeline_core.errors import DataError, ManifestError, RequestError
from pipeline_core.frame import STANDARD, frame_of
from pipeline_core.io import gltf, ply
from pipeline_core.manifest import load_manifest
from pipeline_core.spec import AssetSpec
from pipeline_core.storage import Library, sha256_file
from pipeline_core.types import Gaussians, TexturedMesh, rgb_to_sh0, sh0_to_rgb
from tasks.policy import task_of
from tests.flows.tiny import TINY

PROMPT = 'a red "post" \U0001f600 <b>with</b> a ball'


@pytest.fixture
def library(tmp_path):
    """A library with one finished asset, as if it had been made: a red post 2 m high with a blue speck beside it."""
    root = Library(tmp_path / "library").create().root
    recipe = RECIPES["draft"].override(TINY | {"texture.steps": 0, "evaluate.turntable_frames": 0})
    spec = AssetSpec(prompt=PROMPT, asset_id="post", seed=3, height_m=2.0, recipe=recipe, tags={"set": "yard"})
    post = trimesh.creation.box((0.3, 1.2, 0.3))
    corners, faces = post.triangles.reshape(-1, 3).astype(np.float32), np.arange(36, dtype=np.int32).reshape(-1, 3)
    mesh = TexturedMesh(corners, faces, corners * 0 + 1, np.zeros((36, 2), np.float32), np.ones((4, 4, 3), np.float32))
    means = torch.from_numpy(trimesh.sample.sample_surface(post, 400, seed=0)[0]).float()
    means = torch.cat([means, torch.tensor([[0.6, 0.6, 0.6]]) + 0.01 * torch.rand(5, 3)])
    colours = torch.tensor([[0.8, 0.1, 0.1]] * 400 + [[0.1, 0.1, 0.8]] * 5)
    splat = Gaussians(
        means, torch.tensor([[1.0, 0, 0, 0]]).repeat(405, 1), torch.full((405, 3), -3.2), torch.full((405,), 3.0),
        rgb_to_sh0(colours), torch.zeros(405, 0, 3),
    )  # fmt: skip
    frame = frame_of(corners, 2.0)
    told = {"asset_id": "post", "prompt": PROMPT, "seed": 3, "models": {}, "code_version": "1"}
    told |= {"spec": spec.to_json(), "frame": STANDARD | frame.to_json()}
    folder = root / "assets" / "post"
    folder.mkdir(parents=True)
    gltf.save_glb(tmp_path / "mesh.glb", mesh)
    ply.save_splat(tmp_path / "stage.ply", splat)
    gltf.export(tmp_path / "mesh.glb", folder / "asset.glb", spec=spec, provenance=told)
    ply.export(tmp_path / "stage.ply", folder / "splat.ply", spec=spec, provenance=told)
    told["files"] = {path.name: {"sha256": sha256_file(path)} for path in folder.iterdir()}
    (folder / "asset.json").write_text(json.dumps(told))
    yield root
    models.close_engines()


def travel(journey):
    """The journey without Prefect."""
    made = {}
    for stage in stages.STAGES:
        made[stage.name] = task_of(stage.name).fn(journey, *(made[name] for name in stage.upstream))
    return made


EDITS = ("remove floaters=0.05", "remove box=-1,1.5,-1,1,9,1", "recolour  hue=120")


def test_an_edited_splat_becomes_an_asset_with_a_lineage(library, monkeypatch):
    request = prepare_edit(str(library), "post", EDITS, new_id="green-stump")
    plan = prepare(request)
    [journey] = plan.todo.missing
    spec = journey.spec
    assert (spec.prompt, spec.seed, spec.tags) == (PROMPT, 3, {"set": "yard"})
    assert spec.height_m == pytest.approx(1.5, abs=0.1)
    assert (
        spec.recipe.mesh
        == AssetSpec.from_json(json.loads((library / "assets/post/asset.json").read_text())["spec"]).recipe.mesh
    )
    assert spec.recipe.geometry.steps == spec.recipe.appearance.steps == spec.recipe.texture.steps == 0
    summary = run_batch(request, travel, plan=plan)
    assert summary.made == ["green-stump"] and not summary.failures
    assert verify(str(library), "green-stump", library.parent / "scratch").verdict == "same"

    before = ply.load_splat(library / "edits/green-stump/splat.ply")
    folder = library / "assets" / "green-stump"
    after = ply.load_splat(folder / "splat.ply", frame="metres")
    assert len(after) == len(before) and not torch.equal(after.means, before.means)  # it stands on its own foot now
    torch.testing.assert_close(after.sh0, before.sh0)
    torch.testing.assert_close(
        sh0_to_rgb(after.sh0), torch.tensor([0.1, 0.8, 0.1]).expand(len(after), 3), atol=1e-5, rtol=0
    )
    assert gltf.bounds(folder / "asset.glb")[1][1] == pytest.approx(spec.height_m, rel=1e-5)

    sha256 = sha256_file(library / "assets/post/splat.ply")
    lineage = {"parents": [{"asset_id": "post", "sha256": sha256}], "edits": [*EDITS[:2], "recolour hue=120"]}
    assert json.loads((folder / "asset.json").read_text())["spec"]["edited"] == lineage
    [row] = query.rows(library, "select asset_id, place, parent_id, parent_sha256, edits from edits")
    assert row == {
        "asset_id": "green-stump", "place": 0, "parent_id": "post", "parent_sha256": sha256, "edits": lineage["edits"],
    }  # fmt: skip

    again = prepare(prepare_edit(str(library), "post", EDITS, new_id="green-stump"))  # the same edit is the same asset
    assert not again.todo.missing and again.todo.made[0].keys == journey.keys
    other = prepare(prepare_edit(str(library), "post", EDITS[:2], new_id="stump")).todo.missing[0]
    assert other.keys["init_points"] != journey.keys["init_points"]

    held, contract = [], library.parent / "contract.yaml"
    contract.write_text("faces: 9000\ntags: {set=yard: {faces: 1, attempts: 1}}\n")
    monkeypatch.setattr("flows.local.run_here", lambda request, **_: held.append(run_batch(request, travel)) or 0)
    words = ["edit", "post", *(f"--do={edit}" for edit in EDITS), "--as", "green-stump", "--library", str(library)]
    done = CliRunner().invoke(app, [*words, "--accept", str(contract)])
    assert done.exit_code == 0, done.output
    [why] = held[0].rejected
    assert why["asset_id"] == "green-stump" and why["why"].endswith(" (at most 1)") and not held[0].ok


def test_ids_prompts_and_what_an_edit_asks_for(library):
    request = prepare_edit(str(library), "post", ["recolour hue=120"], prompt="a green post", recipe="factory")
    [spec] = load_manifest(request.manifest).specs
    assert spec.asset_id.startswith("post-edit-") and spec.prompt == "a green post" and spec.height_m == 2.0
    assert spec.edited.parents[0].asset_id == "post" and spec.init_file.name == "splat.ply"
    assert prepare_edit(str(library), "post", ["recolour hue=120"]).manifest == request.manifest
    with pytest.raises(RequestError, match="what is to be done"):
        prepare_edit(str(library), "post", [])
    with pytest.raises(RequestError, match="would replace the asset"):
        prepare_edit(str(library), "post", ["recolour hue=120"], new_id="post")
    with pytest.raises(RequestError, match=r"--as \.\./x"):
        prepare_edit(str(library), "post", ["recolour hue=120"], new_id="../x")
    with pytest.raises(DataError, match="nobody holds no finished asset"):
        prepare_edit(str(library), "post", ["merge asset=nobody"])
    merged = prepare_edit(str(library), "post", ["merge asset=post at=1,0,0"], new_id="two-posts")
    [spec] = load_manifest(merged.manifest).specs
    assert [parent.asset_id for parent in spec.edited.parents] == ["post", "post"]


def test_a_damaged_parent_and_a_made_up_lineage_are_refused(library, tmp_path):
    (library / "assets/post/splat.ply").write_bytes(b"ply\n")
    with pytest.raises(DataError, match="is not the file that was delivered"):
        prepare_edit(str(library), "post", ["recolour hue=120"])
    (tmp_path / "m.jsonl").write_text('{"prompt": "a mug", "edited": {"parents": [], "edits": []}}\n')
    with pytest.raises(ManifestError, match="row 1, edited"):
        load_manifest(tmp_path / "m.jsonl")
