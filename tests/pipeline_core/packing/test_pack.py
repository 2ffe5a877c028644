"""An asset goes into a folder whole, or not at all; every format holds what the asset has, where it should be."""

from __future__ import annotations

import json
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest

from pipeline_core.errors import DataError
from pipeline_core.io import obj
from pipeline_core.io.gltf import load_meshes, read_accessor, read_glb
from pipeline_core.io.ply import load_splat
from pipeline_core.io.scene import pack as packed_glb
from pipeline_core.io.splats import SPLAT_FORMATS
from pipeline_core.io.xmp import read_file
from pipeline_core.packing.finished import Finished
from pipeline_core.packing.formats import formats
from pipeline_core.packing.pack import pack
from pipeline_core.packing.profiles import PROFILES, profile
from pipeline_core.storage import sha256_file
from tests.finished_asset import HEIGHT_M, HOSTILE, finished
from tests.gltf_check import check_glb

SIZE = np.array([1.6, HEIGHT_M, 1.2])
WEB = replace(profile("web"), compress=())


def names(path):
    return [node["name"] for node in read_glb(path)[0]["nodes"]]


def test_unreal_has_levels_and_hulls_as_nodes_by_its_names(whole, tmp_path):
    packed = pack(whole, tmp_path, profile("unreal"), formats(["glb"]))
    path = tmp_path / "box" / "SM_box.glb"
    assert [each.file for each in packed.files] == ["box/SM_box.glb"]
    levels = [f"SM_box_LOD{number}" for number in range(3)]
    assert names(path) == [*levels, "UCX_SM_box_LOD0_00", "UCX_SM_box_LOD0_01"]
    meshes = load_meshes(path, object_units=False)
    assert [len(meshes[name].faces) for name in levels] == [192, 48, 12]
    assert len(read_glb(path)[0]["images"]) == 3  # all levels share the maps
    assert packed.without == ()


def test_light_maps_uvs_and_the_rest_of_a_material_go_along(tmp_path):
    place = finished(tmp_path / "library")
    document, body = read_glb(place / "asset.glb")
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    attributes["TEXCOORD_1"] = attributes["TEXCOORD_0"]
    document["materials"][0]["doubleSided"] = True
    (place / "asset.glb").write_bytes(packed_glb(document, body))
    told = json.loads((place / "asset.json").read_text())
    told["files"]["asset.glb"]["sha256"] = sha256_file(place / "asset.glb")
    (place / "asset.json").write_text(json.dumps(told))
    pack(Finished(place), tmp_path / "out", profile("unreal"), formats(["glb"]))
    document, body = read_glb(tmp_path / "out" / "box" / "SM_box.glb")
    first, second = (mesh["primitives"][0]["attributes"] for mesh in document["meshes"][:2])
    uvs = [read_accessor(document, body, first[f"TEXCOORD_{number}"]) for number in (0, 1)]
    assert (uvs[0] == uvs[1]).all() and "TEXCOORD_1" not in second
    assert document["materials"][0]["doubleSided"]


def test_unity_has_the_lower_levels_out_of_the_scene_and_collision_beside_it(whole, tmp_path):
    packed = pack(whole, tmp_path, profile("unity"), formats(["glb"]))
    assert [each.file for each in packed.files] == ["box/box.glb", "box/box_collision.glb"]
    document, _ = read_glb(tmp_path / "box" / "box.glb")
    (root,) = document["scenes"][0]["nodes"]
    node = document["nodes"][root]
    assert node["name"] == "box"
    lower = node["extensions"]["MSFT_lod"]["ids"]
    assert node["extras"]["MSFT_screencoverage"] == [0.5, 0.25, 0.0]
    assert [document["nodes"][each]["name"] for each in lower] == ["box_LOD1", "box_LOD2"]


def test_godot_has_hulls_by_its_suffix_and_levels_beside_it(whole, tmp_path):
    packed = pack(whole, tmp_path, profile("godot"), formats(["glb"]))
    assert [each.file for each in packed.files] == ["box/box.glb", "box/box_LOD1.glb", "box/box_LOD2.glb"]
    assert names(tmp_path / "box" / "box.glb") == ["box", "box_0-convcolonly", "box_1-convcolonly"]


@pytest.mark.parametrize("row", [*(row for row in PROFILES if not row.compress), WEB], ids=lambda row: row.name)
def test_every_glb_is_valid_marked_and_in_metres(row, whole, tmp_path):
    packed = pack(whole, tmp_path, row, formats(["glb"]))
    for each in packed.files:
        path = tmp_path / each.file
        found = [f.message for f in check_glb(path) if f.severity == "error"]
        assert set(found) <= {"the primitive lacks NORMAL, TEXCOORD_0"}, each.file  # hulls are only collided with
        assert (each.sha256, each.bytes) == (sha256_file(path), path.stat().st_size)
        assert read_file(path).generated, each.file
    document, _ = read_glb(tmp_path / packed.files[0].file)
    assert document["asset"]["extras"]["prompt"] == HOSTILE
    mesh = next(iter(load_meshes(tmp_path / packed.files[0].file, object_units=False).values()))
    assert np.allclose(np.ptp(mesh.vertices, axis=0), SIZE, atol=1e-6)
    assert abs(mesh.vertices[:, 1].min()) < 1e-6


def test_what_an_old_asset_has_not_is_told(plain, tmp_path):
    packed = pack(plain, tmp_path, profile("unreal"), formats(["glb"]))
    assert packed.without == ("levels of detail", "collision")
    assert names(tmp_path / "old-box" / "SM_old-box.glb") == ["SM_old-box_LOD0"]


def test_an_obj_has_its_unit_its_maps_and_a_prompt_on_one_line(whole, tmp_path):
    pack(whole, tmp_path, profile("unreal"), formats(["obj"]))
    folder = tmp_path / "box"
    (surface,) = obj.load_surfaces(folder / "SM_box.obj")
    assert len(surface.corners) == 192
    assert np.allclose(np.ptp(surface.corners.reshape(-1, 3), axis=0), SIZE * 100, atol=1e-3)
    lines = (folder / "SM_box.obj").read_text().splitlines()
    assert json.loads(lines[0][2:])["prompt"] == HOSTILE
    assert [line for line in lines if line.startswith("f 1 2 3")] == []
    material = (folder / "SM_box.mtl").read_text()
    told = dict(line.split(" ", 1) for line in material.splitlines())
    assert told["map_Kd"] == "textures/T_box_BC.png" and told["norm"] == "textures/T_box_N.png"
    for key in ("map_Kd", "norm", "map_Pr", "map_Pm"):
        assert read_file(folder / told[key]).generated


def test_an_stl_is_in_millimetres_and_stands_on_the_bed(whole, tmp_path):
    trimesh = pytest.importorskip("trimesh")
    pack(whole, tmp_path, profile("blender"), formats(["stl"]))
    mesh = trimesh.load(tmp_path / "box" / "box.stl")
    assert np.allclose(mesh.extents, SIZE[[0, 2, 1]] * 1000, atol=1e-2)
    assert abs(mesh.bounds[0][2]) < 1e-3 and mesh.is_watertight and mesh.volume > 0


def test_an_old_splat_is_turned_to_where_the_mesh_is(plain, tmp_path):
    pack(plain, tmp_path, profile("web"), formats(["ply"]))
    path = tmp_path / "old-box" / "old-box.ply"
    assert np.allclose(load_splat(path, frame="metres").means, plain.splat.means, atol=1e-6)
    assert plain.splat.means[:, 1].min() > 0
    assert load_splat(path, frame="file").means[:, 1].max() < 0


def test_splats_are_in_metres_where_the_mesh_is_in_every_format(whole, tmp_path):
    pack(whole, tmp_path, profile("web"), formats(list(SPLAT_FORMATS)))
    for row in SPLAT_FORMATS.values():
        path = tmp_path / "box" / f"box{row.suffix}"
        found = row.read(path).means if row.suffix != ".ply" else load_splat(path, frame="metres").means
        assert np.allclose(np.sort(found, axis=0), np.sort(whole.splat.means, axis=0), atol=2e-3), row.text
    assert read_file(tmp_path / "box" / "box.splat.glb").generated


def test_what_is_there_already_stays_unless_asked(whole, tmp_path):
    pack(whole, tmp_path, profile("godot"), formats(["stl"]))
    path = tmp_path / "box" / "box.stl"
    path.write_text("mine")
    with pytest.raises(DataError, match=r"box\.stl is another file: --overwrite replaces it"):
        pack(whole, tmp_path, profile("godot"), formats(["glb", "stl"]))
    assert path.read_text() == "mine" and sorted(each.name for each in path.parent.iterdir()) == ["box.stl"]
    pack(whole, tmp_path, profile("godot"), formats(["ply", "obj"]))  # others may be added
    pack(whole, tmp_path, profile("godot"), formats(["ply", "obj"]))  # and what is the same stays
    pack(whole, tmp_path, profile("godot"), formats(["stl"]), overwrite=True)
    assert path.stat().st_size > 100
    assert [each.name for each in tmp_path.iterdir()] == ["box"]


def test_large_meshes_take_seconds(tmp_path):
    """49 152 faces, each format; four times as many, with textures of 4096 texels, took 1.4 to 3.4 CPU-seconds each."""
    place, began = finished(tmp_path / "library", steps=64, parts=False), time.process_time()
    pack(Finished(place), tmp_path / "out", profile("unreal"), formats(["glb", "obj", "stl"]))
    assert time.process_time() - began < 15


def test_a_format_that_fails_leaves_nothing(whole, tmp_path, monkeypatch):
    def fail(*_):
        raise DataError("no")

    monkeypatch.setattr("pipeline_core.packing.stl.pack", fail)
    with pytest.raises(DataError):
        pack(whole, tmp_path, profile("godot"), formats(["glb", "stl"]))
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_or_unfinished_folder_is_told(tmp_path):
    place = finished(tmp_path / "library", splat=False)
    with pytest.raises(DataError, match=r"no ply, for it was delivered without splat\.ply"):
        pack(Finished(place), tmp_path / "out", profile("godot"), formats(["glb", "ply"]))
    (place / "asset.glb").write_bytes((place / "asset.glb").read_bytes()[:-4])
    with pytest.raises(DataError, match=r"asset\.glb is not the file that was delivered"):
        pack(Finished(place), tmp_path / "out", profile("godot"), formats(["glb"]))
    shutil.rmtree(place)
    with pytest.raises(DataError, match="holds no finished asset"):
        Finished(place)
