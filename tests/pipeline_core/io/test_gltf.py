"""GLB: exact round trips, deterministic bytes, a clean bill from our checker and from the Khronos rules it mirrors."""

import json
import struct

import numpy as np
import pytest

from pipeline_core.errors import DataError
from pipeline_core.io import gltf, scene
from pipeline_core.types import TexturedMesh
from tests.gltf_check import check_glb, severity_counts


def tetrahedron(texture: int = 8) -> TexturedMesh:
    """Four triangles with their own corners, flat normals, one uv triangle each."""
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 1]], np.float32) + np.float32([0.3, -0.4, 0.1])
    faces = np.array([[0, 2, 1], [0, 1, 3], [1, 2, 3], [0, 3, 2]])
    vertices = corners[faces].reshape(-1, 3)
    normals = np.cross(vertices[1::3] - vertices[::3], vertices[2::3] - vertices[::3])
    normals = np.repeat(normals / np.linalg.norm(normals, axis=1, keepdims=True), 3, axis=0).astype(np.float32)
    offsets = np.array([[0, 0], [0.5, 0], [0, 0.5], [0.5, 0.5]], np.float32)
    uvs = (offsets[:, None] + np.array([[0.05, 0.05], [0.45, 0.05], [0.05, 0.45]], np.float32)).reshape(-1, 2)
    image = np.rint(np.random.default_rng(0).random((texture, texture, 3)) * 255).astype(np.float32) / 255
    return TexturedMesh(vertices, np.arange(12, dtype=np.int32).reshape(-1, 3), normals, uvs, image)


def test_round_trip_in_object_units_is_exact(tmp_path):
    before = tetrahedron()
    gltf.save_glb(tmp_path / "a.glb", before, name="Oak Crate!", extras={"seed": 3})
    after = gltf.load_glb(tmp_path / "a.glb")
    for field in ("vertices", "faces", "normals", "uvs", "texture"):
        assert np.array_equal(getattr(before, field), getattr(after, field)), field
    assert gltf.read_glb(tmp_path / "a.glb")[0]["asset"]["extras"] == {"seed": 3}
    assert check_glb(tmp_path / "a.glb") == []


def test_height_puts_it_on_the_ground_and_can_be_undone(tmp_path):
    before = tetrahedron()
    gltf.save_glb(tmp_path / "a.glb", before, name="crate", height_m=0.75)
    metres = gltf.load_glb(tmp_path / "a.glb", object_units=False).vertices
    assert metres[:, 1].min() == pytest.approx(0, abs=1e-6)
    assert metres[:, 1].max() == pytest.approx(0.75, abs=1e-6)
    for axis in (0, 2):
        assert metres[:, axis].min() == pytest.approx(-metres[:, axis].max(), abs=1e-6)
    assert np.ptp(metres[:, 0]) / np.ptp(metres[:, 1]) == pytest.approx(0.5, rel=1e-5)
    np.testing.assert_allclose(gltf.load_glb(tmp_path / "a.glb").vertices, before.vertices, atol=2e-7)
    assert check_glb(tmp_path / "a.glb", grounded=True) == []
    gltf.save_glb(tmp_path / "b.glb", before, name="crate")
    assert [f.code for f in check_glb(tmp_path / "b.glb", grounded=True)] == ["PIVOT_NOT_CENTRE_BOTTOM"]


def test_same_mesh_same_bytes_and_names():
    data = gltf.glb_bytes(
        tetrahedron(), name="Eiche 7 / Stuhl", height_m=1.0, copyright="CC0", extras={"prompt": "ein Stuhl für Öl"}
    )
    assert data == gltf.glb_bytes(
        tetrahedron(), name="Eiche 7 / Stuhl", height_m=1.0, copyright="CC0", extras={"prompt": "ein Stuhl für Öl"}
    )
    size = struct.unpack_from("<I", data, 12)[0]
    document = json.loads(data[20 : 20 + size])
    assert document["meshes"][0]["name"] == "SM_eiche-7-stuhl"
    assert document["materials"][0]["name"] == "M_eiche-7-stuhl"
    assert document["images"][0]["name"] == "T_eiche-7-stuhl_BC"
    assert document["asset"]["extras"]["prompt"] == "ein Stuhl für Öl"
    assert document["materials"][0]["pbrMetallicRoughness"]["metallicFactor"] == 0
    assert len(data) % 4 == 0


@pytest.mark.parametrize(
    ("name", "want"),
    [("", "asset"), ("7 dwarfs", "asset-7-dwarfs"), ("../../etc", "etc"), ("É", "asset"), ("a" * 99, "a" * 64)],
)
def test_slug(name, want):
    assert gltf.slug(name) == want


def test_many_vertices_use_wide_indices(tmp_path):
    t = tetrahedron()
    copies = 65536 // 12 + 1
    vertices, normals, uvs = (np.tile(a, (copies, 1)) for a in (t.vertices, t.normals, t.uvs))
    big = TexturedMesh(vertices, np.arange(12 * copies, dtype=np.int32).reshape(-1, 3), normals, uvs, t.texture)
    gltf.save_glb(tmp_path / "a.glb", big, name="big")
    assert np.array_equal(gltf.load_glb(tmp_path / "a.glb").faces, big.faces)


def test_zero_and_nan_normals_are_written_as_unit_vectors():
    fixed = scene.unit_normals(np.array([[0, 0, 0], [np.nan, 0, 0], [0, 0, 5]], np.float32))
    assert fixed.tolist() == [[0, 1, 0], [0, 1, 0], [0, 0, 1]]


def test_refusals(tmp_path):
    t = tetrahedron()
    empty = TexturedMesh(t.vertices, np.zeros((0, 3), np.int32), t.normals, t.uvs, t.texture)
    with pytest.raises(DataError, match="mesh is empty"):
        gltf.save_glb(tmp_path / "a.glb", empty, name="x")
    with pytest.raises(DataError, match="0 m"):
        gltf.save_glb(tmp_path / "a.glb", t, name="x", height_m=0)
    (tmp_path / "b.glb").write_bytes(b"glTF, but not really a file")
    with pytest.raises(DataError, match=r"b\.glb"):
        gltf.load_glb(tmp_path / "b.glb")
    with pytest.raises(DataError, match="does not exist"):
        gltf.load_glb(tmp_path / "c.glb")


def test_truncated_anywhere_never_crashes(tmp_path):
    data = gltf.glb_bytes(tetrahedron(), name="x")
    for cut in range(0, len(data), 97):
        (tmp_path / "cut.glb").write_bytes(data[:cut])
        with pytest.raises(DataError):
            gltf.load_glb(tmp_path / "cut.glb")
        assert check_glb(tmp_path / "cut.glb")[0].code == "GLB_INVALID"


def rewrite(path, change):
    """Apply ``change(document, body)`` to the GLB at ``path``."""
    document, body = gltf.read_glb(path)
    body = bytearray(body)
    change(document, body)
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<II", len(text), 0x4E4F534A) + text + struct.pack("<II", len(body), 0x004E4942) + bytes(body)
    path.write_bytes(struct.pack("<III", 0x46546C67, 2, 12 + len(chunks)) + chunks)


def _scale_first_normal(document, body):
    start = document["bufferViews"][1]["byteOffset"]
    body[start : start + 12] = struct.pack("<3f", 0, 2, 0)


def _index_out_of_range(document, body):
    start = document["bufferViews"][3]["byteOffset"]
    body[start : start + 2] = struct.pack("<H", 500)


def _uv_outside(document, body):
    start = document["bufferViews"][2]["byteOffset"]
    body[start : start + 4] = struct.pack("<f", 1.5)


@pytest.mark.parametrize(
    ("change", "severity", "code"),
    [
        (_scale_first_normal, "error", "ACCESSOR_VECTOR3_NON_UNIT"),
        (_index_out_of_range, "error", "ACCESSOR_INDEX_OOB"),
        (_uv_outside, "warning", "UV_OUT_OF_RANGE"),
        (lambda d, b: d["accessors"][0]["min"].__setitem__(0, -9.0), "error", "ACCESSOR_MIN_MISMATCH"),
        (lambda d, b: d["bufferViews"][0].pop("target"), "hint", "BUFFER_VIEW_TARGET_MISSING"),
        (lambda d, b: d["bufferViews"][2].update(byteLength=10**9), "error", "BUFFER_VIEW_TOO_LONG"),
        (lambda d, b: d["meshes"][0].update(name="My Mesh"), "warning", "NAME_UNCONVENTIONAL"),
        (lambda d, b: d["asset"].update(version="1.0"), "error", "UNKNOWN_ASSET_MAJOR_VERSION"),
        (lambda d, b: d["meshes"][0]["primitives"][0]["attributes"].pop("NORMAL"), "error", "ATTRIBUTE_MISSING"),
    ],
)
def test_checker_finds_each_defect(tmp_path, change, severity, code):
    path = tmp_path / "a.glb"
    gltf.save_glb(path, tetrahedron(), name="x")
    rewrite(path, change)
    findings = check_glb(path)
    assert (severity, code) in [(f.severity, f.code) for f in findings]
    assert severity_counts(findings)[severity] >= 1


def test_checker_wants_power_of_two_textures(tmp_path):
    gltf.save_glb(tmp_path / "a.glb", tetrahedron(texture=12), name="x")
    assert [f.code for f in check_glb(tmp_path / "a.glb")] == ["TEXTURE_NOT_POWER_OF_TWO"]
