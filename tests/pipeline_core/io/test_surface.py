"""Strangers' meshes: what is drawn on them lies on them, in their colours; what cannot be read is said."""

import struct

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from pipeline_core.errors import DataError
from pipeline_core.io import gltf, surface
from pipeline_core.io.ply import look
from pipeline_core.io.surface import load_surfaces, sample
from tests.pipeline_core.io.glb import pack

TURN = trimesh.transformations.rotation_matrix(0.7, [1, 2, 3])


def drawn(path, count=4000):
    return sample(path, load_surfaces(path), count, torch.Generator().manual_seed(0))


def read(path):
    """As a start is read: a PLY's header first."""
    return look(path) and load_surfaces(path) if path.suffix == ".ply" else load_surfaces(path)


def pictured():
    """A material with a picture whose left half is red and right half blue."""
    pixels = np.zeros((8, 16, 3), np.uint8)
    pixels[:, :8], pixels[:, 8:] = (200, 30, 30), (30, 30, 200)
    return trimesh.visual.material.PBRMaterial(baseColorTexture=Image.fromarray(pixels))


def box(extents=(1, 2, 3), **visual):
    return trimesh.Trimesh(*(lambda m: (m.vertices, m.faces))(trimesh.creation.box(extents)), process=False, **visual)


@pytest.mark.parametrize("suffix", [".glb", ".obj", ".ply", ".ascii.ply"])
def test_points_lie_on_the_mesh_uniformly_in_its_colours(tmp_path, suffix):
    """As trimesh, which wrote the file, sees it: on the surface, as many on a side as it is large, interpolated."""
    mesh = box()
    colours = np.tile([[255, 0, 0, 255]], (8, 1))
    colours[mesh.vertices[:, 2] > 0] = (0, 255, 0, 255)
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=colours)
    path = tmp_path / f"box{suffix}"
    options = {"encoding": "ascii"} if suffix == ".ascii.ply" else {}
    mesh.export(path, file_type=suffix.rsplit(".")[-1], **options)
    cloud = drawn(path)
    xyz, rgb = cloud.xyz.numpy(), cloud.rgb.numpy()
    distance = trimesh.proximity.closest_point_naive(mesh, xyz[:500])[1]
    assert np.abs(distance).max() < 1e-6
    on_top = np.isclose(xyz[:, 1], 1.0, atol=1e-5).mean()  # 3 of 22
    assert on_top == pytest.approx(3 / 22, abs=0.02)
    share = (xyz[:, 2] + 1.5) / 3
    if suffix == ".glb":  # its colours are linear light
        share = np.where(share <= 0.0031308, share * 12.92, 1.055 * share ** (1 / 2.4) - 0.055)
    assert rgb[:, 1] == pytest.approx(share, abs=0.01) and (rgb[:, 2] == 0).all()


def test_a_scene_s_nodes_are_placed_and_each_material_has_its_colour(tmp_path):
    scene = trimesh.Scene()
    scene.add_geometry(box(), node_name="a", transform=TURN @ np.diag([2, 1, 1, 1]))
    ball = trimesh.creation.icosphere(subdivisions=2, radius=0.5)
    ball.visual = trimesh.visual.TextureVisuals(
        material=trimesh.visual.material.PBRMaterial(baseColorFactor=[255, 0, 0, 255])
    )
    scene.add_geometry(
        ball, node_name="b", parent_node_name="a", transform=trimesh.transformations.translation_matrix([4, 0, 0])
    )
    path = tmp_path / "scene.glb"
    scene.export(path)
    cloud = drawn(path, 3000)
    whole = scene.to_mesh()
    assert np.abs(trimesh.proximity.closest_point_naive(whole, cloud.xyz[:500].numpy())[1]).max() < 1e-5
    red = cloud.rgb[:, 1] < 0.5
    share = ball.copy().apply_transform(TURN @ np.diag([2, 1, 1, 1])).area / whole.area
    assert float(red.float().mean()) == pytest.approx(share, abs=0.03)
    assert torch.equal(cloud.rgb[red], torch.tensor([[1.0, 0, 0]]).expand(int(red.sum()), 3))


def test_a_texture_is_seen_where_its_coordinates_lead_also_beyond_its_edge(tmp_path):
    plane = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    for shift in (0.0, 1.0, -3.0):
        uv = plane.vertices[:, :2] + shift
        plane.visual = trimesh.visual.TextureVisuals(uv=uv, material=pictured())
        plane.export(tmp_path / "plane.glb")
        cloud = drawn(tmp_path / "plane.glb", 500)
        left = cloud.xyz[:, 0] < 0.5
        assert torch.allclose(cloud.rgb[left], torch.tensor([200, 30, 30]) / 255, atol=1e-5)
        assert torch.allclose(cloud.rgb[~left], torch.tensor([30, 30, 200]) / 255, atol=1e-5)


def test_normalised_coordinates_and_moved_textures_are_understood(tmp_path):
    """As gltfpack writes them: uvs in 16 bits, moved by KHR_texture_transform."""
    plane = trimesh.Trimesh([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], [[0, 1, 2], [0, 2, 3]], process=False)
    plane.visual = trimesh.visual.TextureVisuals(uv=plane.vertices[:, :2], material=pictured())
    path = tmp_path / "plane.glb"
    plane.export(path)
    document, body = gltf.read_glb(path)
    info = document["materials"][0]["pbrMetallicRoughness"]["baseColorTexture"]
    attributes = document["meshes"][0]["primitives"][0]["attributes"]
    uvs = gltf.read_accessor(document, body, attributes["TEXCOORD_0"])
    data = np.rint(uvs / 2 * 65535).astype("<u2").tobytes()
    document["bufferViews"].append({"buffer": 0, "byteOffset": len(body), "byteLength": len(data)})
    view = len(document["bufferViews"]) - 1
    document["accessors"].append(
        {"bufferView": view, "componentType": 5123, "normalized": True, "count": 4, "type": "VEC2"}
    )
    attributes["TEXCOORD_0"] = len(document["accessors"]) - 1
    info["extensions"] = {"KHR_texture_transform": {"scale": [2, 2], "offset": [0.5, 0]}}
    document["extensionsRequired"] = ["KHR_texture_transform", "KHR_mesh_quantization"]
    pack(path, document, body + data)
    cloud = drawn(path, 500)
    left = cloud.xyz[:, 0] < 0.499
    assert torch.allclose(cloud.rgb[left], torch.tensor([30, 30, 200]) / 255, atol=1e-5)


def test_equal_seeds_draw_equal_points(tmp_path):
    box().export(tmp_path / "box.glb")
    assert torch.equal(drawn(tmp_path / "box.glb").xyz, drawn(tmp_path / "box.glb").xyz)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"extensionsRequired": ["KHR_draco_mesh_compression"]}, "needs KHR_draco_mesh_compression"),
        ({"buffers": [{"uri": "box.bin", "byteLength": 4}]}, "data in another file .box.bin.; export it as one GLB"),
        ({"images": [{"uri": "../../etc/passwd"}]}, "data in another file"),
        ({"nodes": [{"children": [0], "mesh": 0}]}, "its nodes are no tree"),
        ({"nodes": [{"mesh": 9}]}, "not a whole glTF scene"),
        ({"nodes": 7}, "not a whole glTF scene"),
        ({"scenes": [{"nodes": []}], "scene": 0}, "has no triangles"),
        ({"meshes": []}, "not a whole glTF scene"),
    ],
)
def test_a_glb_that_cannot_be_read_says_why(tmp_path, change, words):
    path = tmp_path / "box.glb"
    box().export(path)
    document, body = gltf.read_glb(path)
    pack(path, document | change, body)
    with pytest.raises(DataError, match=f"{path}.*{words}"):
        load_surfaces(path)


def test_other_kinds_of_triangles_and_lost_vertices_are_named(tmp_path):
    path = tmp_path / "box.glb"
    for name, words in (("mode", "triangle strips"), ("indices", "not a whole|names vertex")):
        box().export(path)
        document, body = gltf.read_glb(path)
        primitive = document["meshes"][0]["primitives"][0]
        primitive[name] = 5 if name == "mode" else primitive["attributes"]["POSITION"]
        body = body.replace(np.float32(-0.5).tobytes(), np.float32(-50).tobytes())
        pack(path, document, body)
        with pytest.raises(DataError, match=words):
            load_surfaces(path)


PLY = "ply\nformat ascii 1.0\nelement vertex 3\nproperty float x\nproperty float y\nproperty float z\nelement face 1\n"
PLY += "property list uchar int vertex_indices\nend_header\n0 0 0\n1 0 0\n0 1 0\n"


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 9\n", "a face names vertex 8"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 -9\n", "a face names vertex"),
        ("a.obj", "v 0 0 zero\n", "line 1: .*v 0 0 zero.* is not understood"),
        ("a.obj", "v 0 0\nf 1 1 1\n", "three numbers"),
        ("a.obj", "hello\n", "has no vertices"),
        ("a.obj", "v 0 0 0\nv 1 0 0\nv 0 1 0\n", "has no triangles"),
        ("a.obj", "v 0 0 0\nv 1 0 nan\nv 0 1 0\nf 1 2 3\n", "NaN or infinite"),
        ("a.obj", "\x80\x04\x95\0", "it is not text"),
        ("a.ply", PLY + "3 0 1 7\n", "a face names vertex 7"),
        ("a.ply", PLY + "3 0 1\n", "cut short"),
        ("a.ply", PLY + "-3 0 1\n", "cut short"),
        ("a.glb", "PK\x03\x04" + " " * 40, "is not a GLB file"),
    ],
)
def test_a_file_that_cannot_be_read_says_why(tmp_path, name, text, words):
    path = tmp_path / name
    path.write_text(text, encoding="latin-1")
    with pytest.raises(DataError, match=words):
        load_surfaces(path)


def test_a_mesh_without_area_and_one_that_is_too_large_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "flat.obj"
    path.write_text("v 0 0 0\nv 1 0 0\nv 2 0 0\nf 1 2 3\n")
    with pytest.raises(DataError, match="its 1 triangles have no area"):
        drawn(path)
    monkeypatch.setattr(surface, "MOST", 7)
    for suffix in (".obj", ".ply", ".glb"):
        box().export(tmp_path / f"box{suffix}")
        with pytest.raises(DataError, match=r"has \d+ (vertices|faces|triangles) or more; at most 7 are read"):
            read(tmp_path / f"box{suffix}")


def test_what_a_header_promises_is_not_believed(tmp_path):
    """Rows of nothing would be counted for ever, and an accessor that stands still would fill the memory."""
    path = tmp_path / "a.ply"
    path.write_text(PLY.replace("element face", "element nothing 9000000000\nelement face"))
    with pytest.raises(DataError, match="has 9000000000 rows of 'nothing' or more"):
        read(path)
    box().export(tmp_path / "box.glb")
    document, body = gltf.read_glb(tmp_path / "box.glb")
    primitive = document["meshes"][0]["primitives"][0]
    document["accessors"][primitive["indices"]]["count"] = 10**10
    document["bufferViews"][document["accessors"][primitive["indices"]]["bufferView"]]["byteStride"] = 0
    pack(tmp_path / "box.glb", document, body)
    with pytest.raises(DataError, match="has 3333333333 triangles or more"):
        read(tmp_path / "box.glb")
    path = tmp_path / "deep.glb"
    text = b'{"nodes":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    text += b" " * (-len(text) % 4)
    path.write_bytes(struct.pack("<IIIII", 0x46546C67, 2, 20 + len(text), len(text), 0x4E4F534A) + text)
    with pytest.raises(DataError, match="is not a whole glTF scene"):
        read(path)


def test_polygons_negative_numbers_and_grey(tmp_path):
    path = tmp_path / "quad.obj"
    path.write_text("mtllib quad.mtl\nv 0 0 0\nv 1 0 0\nv 1 1 0\nv 0 1 0\nvn 0 0 1\nf -4//1 -3//1 -2//1 -1//1\n")
    [square] = load_surfaces(path)
    assert square.areas.sum() == pytest.approx(1.0) and (square.colours == 0.5).all()
