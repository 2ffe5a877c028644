"""A scene of several meshes: shared materials, extensions, points; what it writes is read back and keeps the rules."""

import json
import struct
from dataclasses import replace

import numpy as np
import pytest

from pipeline_core.errors import DataError
from pipeline_core.io import gltf
from pipeline_core.io.images import encode_png
from pipeline_core.io.scene import POINTS, Scene
from tests.gltf_check import check_glb
from tests.pipeline_core.io.test_gltf import tetrahedron


def with_maps():
    pictures = np.rint(np.random.default_rng(1).random((3, 8, 8, 3)) * 255).astype(np.float32) / 255
    return replace(tetrahedron(), **dict(zip(("normal_map", "orm", "emissive"), pictures, strict=True)))


def document_of(data):
    return json.loads(data[20 : 20 + struct.unpack_from("<I", data, 12)[0]])


def test_maps_are_read_back_exactly_and_kept_in_one_material(tmp_path):
    before = with_maps()
    gltf.save_glb(tmp_path / "a.glb", before, name="Lamp")
    after = gltf.load_glb(tmp_path / "a.glb")
    for field in ("vertices", "faces", "normals", "uvs", "texture", "normal_map", "orm", "emissive"):
        assert np.array_equal(getattr(before, field), getattr(after, field)), field
    document = gltf.read_glb(tmp_path / "a.glb")[0]
    material = document["materials"][0]
    assert [image["name"] for image in document["images"]] == ["T_lamp_BC", "T_lamp_ORM", "T_lamp_N", "T_lamp_E"]
    assert material["occlusionTexture"] == material["pbrMetallicRoughness"]["metallicRoughnessTexture"] == {"index": 1}
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 1 and material["emissiveFactor"] == [1, 1, 1]
    assert document["meshes"][0]["primitives"][0]["attributes"].keys() >= {"TANGENT"}
    assert check_glb(tmp_path / "a.glb") == []


def test_levels_share_a_material_and_stay_out_of_the_scene(tmp_path):
    textured = with_maps()
    scene = Scene("crate", extras={"prompt": "a <b>crate</b> 📦"}, copyright="CC0")
    material = scene.material_of(textured, "crate")
    low = scene.node("SM_crate_LOD1", scene.mesh("SM_crate_LOD1", [scene.surface(textured, material)]), root=False)
    hull = scene.mesh("UCX_crate_00", [scene.primitive({"POSITION": textured.vertices}, textured.faces)])
    collision = scene.node("UCX_crate_00", hull, translation=[0, 1, 0], extras={"for": "physics"})
    surface = scene.surface(textured, material, TEXCOORD_1=textured.uvs)
    scene.node(
        "SM_crate_LOD0", scene.mesh("SM_crate_LOD0", [surface]), children=[collision],
        extensions={"MSFT_lod": {"ids": [low]}},
    )  # fmt: skip
    scene.extend("KHR_xmp_json_ld", {"packets": [{}]})
    data = scene.glb()
    document = document_of(data)
    assert document["scenes"] == [{"name": "crate", "nodes": [2]}]
    assert document["extensionsUsed"] == ["MSFT_lod", "KHR_xmp_json_ld"] and "extensionsRequired" not in document
    assert document["extensions"] == {"KHR_xmp_json_ld": {"packets": [{}]}}
    assert document["nodes"][1] == {
        "name": "UCX_crate_00", "mesh": 1, "translation": [0, 1, 0], "extras": {"for": "physics"},
    }  # fmt: skip
    assert document["asset"]["extras"]["prompt"] == "a <b>crate</b> 📦"
    (tmp_path / "a.glb").write_bytes(data)
    meshes = gltf.load_meshes(tmp_path / "a.glb")
    assert list(meshes) == ["SM_crate_LOD1", "SM_crate_LOD0"]  # the hull has no texture
    assert meshes["SM_crate_LOD0"].orm is meshes["SM_crate_LOD1"].orm
    assert {"TEXCOORD_1", "TANGENT"} <= document["meshes"][2]["primitives"][0]["attributes"].keys()


def test_points_with_an_extension_and_no_picture():
    scene = Scene("splat")
    kernel = {"KHR_gaussian_splatting": {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}}
    attributes = {"POSITION": np.eye(3), "KHR_gaussian_splatting:OPACITY": np.ones(3)}
    scene.node("splat", scene.mesh("splat", [scene.primitive(attributes, mode=POINTS, extensions=kernel)]))
    document = document_of(scene.glb())
    assert document["meshes"][0]["primitives"][0]["mode"] == 0
    assert [each["type"] for each in document["accessors"]] == ["VEC3", "SCALAR"]
    assert document["extensionsUsed"] == ["KHR_gaussian_splatting"]
    assert {"textures", "images", "samplers", "materials"} & document.keys() == set()


def test_encoded_pictures_stay_as_they_are_and_others_are_refused():
    scene, png = Scene("x"), encode_png(np.zeros((2, 2, 3)))
    scene.texture("T_x_BC", png)
    scene.texture("T_x_N", b"RIFF\0\0\0\0WEBPVP8 ")
    data = scene.glb()
    document = document_of(data)
    assert png in data and [image["mimeType"] for image in document["images"]] == ["image/png", "image/webp"]
    assert document["textures"][1]["extensions"] == {"EXT_texture_webp": {"source": 1}}
    assert document["extensionsRequired"] == ["EXT_texture_webp"]
    with pytest.raises(DataError, match="'T_x_BC' is neither PNG"):
        scene.texture("T_x_BC", b"GIF89a..")
