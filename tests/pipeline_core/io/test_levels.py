"""Levels and bodies as files: names, MSFT_lod, one material, metres, and what glTF asks for."""

import numpy as np

from pipeline_core.frame import frame_of
from pipeline_core.io.gltf import load_meshes, read_glb
from pipeline_core.io.levels import export, load_bodies, save_bodies, save_levels
from pipeline_core.meshing.levels import reduced
from pipeline_core.spec import AssetSpec
from pipeline_core.types import TexturedMesh
from tests.gltf_check import check_glb
from tests.pipeline_core.meshing.test_collapse import six_charts


def mesh():
    vertices, faces, uvs = six_charts(4)
    middle = (vertices - 0.5).astype(np.float32)
    normals = middle / np.linalg.norm(middle, axis=1, keepdims=True)
    return TexturedMesh(
        middle, faces.astype(np.int32), normals, uvs.astype(np.float32), np.zeros((8, 8, 3), np.float32)
    )


PROVENANCE = {"asset_id": "a-cube", "prompt": "a cube", "seed": 1, "models": {}, "code_version": "x"}


def test_levels_have_names_one_material_and_msft_lod(tmp_path):
    whole = mesh()
    levels = {"LOD0": whole, "LOD1": reduced(whole, 96), "LOD2": reduced(whole, 12)}
    save_levels(tmp_path / "lods.glb", levels, name="asset")
    frame = frame_of(whole.vertices, 2.0)
    provenance = PROVENANCE | {"frame": frame.to_json()}
    export(tmp_path / "lods.glb", tmp_path / "out.glb", spec=AssetSpec(prompt="a cube", asset_id="a-cube"),
           provenance=provenance)  # fmt: skip
    document, _ = read_glb(tmp_path / "out.glb")
    assert [node["name"] for node in document["nodes"]] == ["SM_a-cube_LOD1", "SM_a-cube_LOD2", "SM_a-cube_LOD0"]
    assert document["scenes"][0]["nodes"] == [2] and document["extensionsUsed"] == ["MSFT_lod"]
    assert document["nodes"][2]["extensions"]["MSFT_lod"]["ids"] == [0, 1]
    assert document["nodes"][2]["extras"]["MSFT_screencoverage"] == [0.5, 0.25, 0.0]
    assert len(document["materials"]) == len(document["images"]) == 1
    metres = load_meshes(tmp_path / "out.glb", object_units=False)
    assert [len(each.faces) for each in metres.values()] == [96, 12, 192]
    assert all(np.ptp(each.vertices[:, 1]) == 2 and each.vertices[:, 1].min() == 0 for each in metres.values())
    back = load_meshes(tmp_path / "out.glb")["SM_a-cube_LOD0"]
    assert np.abs(back.vertices - whole.vertices).max() < 1e-6
    assert not check_glb(tmp_path / "out.glb")


def test_bodies_have_neutral_names_and_stand_where_the_mesh_does(tmp_path):
    whole = mesh()
    box = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32) - 0.5
    sides = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1], [2, 3, 7], [2, 7, 6],
                      [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]], np.int32)  # fmt: skip
    save_bodies(tmp_path / "collision.glb", [("hull", box, sides), ("00", box, sides)], name="asset")
    assert [name for name, _, _ in load_bodies(tmp_path / "collision.glb")] == ["hull", "00"]
    provenance = PROVENANCE | {"frame": frame_of(whole.vertices, 2.0).to_json()}
    export(tmp_path / "collision.glb", tmp_path / "out.glb", spec=AssetSpec(prompt="a cube", asset_id="a-cube"),
           provenance=provenance)  # fmt: skip
    document, _ = read_glb(tmp_path / "out.glb")
    assert [node["name"] for node in document["nodes"]] == ["COL_a-cube_hull", "COL_a-cube_00"]
    assert "materials" not in document
    [_, (name, vertices, faces)] = load_bodies(tmp_path / "out.glb")
    assert name == "00" and np.array_equal(faces, sides)
    assert vertices.min(axis=0).tolist() == [-1, 0, -1] and vertices.max(axis=0).tolist() == [1, 2, 1]
