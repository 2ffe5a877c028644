"""Faults that are put into a GLB are found, by their codes; a whole one has none."""

import struct
from dataclasses import replace

import numpy as np
import pytest

from pipeline_core.io.gltf import read_glb, save_glb
from pipeline_core.io.scene import Scene
from pipeline_core.meshing.surface import face_components
from pipeline_core.types import TexturedMesh
from pipeline_core.validation.glb import check_atlas, check_glb
from tests.pipeline_core.io.test_gltf import rewrite, tetrahedron

CUBE = np.array([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)], np.float32)
CUBE_FACES = np.array([[0, 1, 3], [0, 3, 2], [4, 6, 7], [4, 7, 5], [0, 4, 5], [0, 5, 1],
                       [2, 3, 7], [2, 7, 6], [0, 2, 6], [0, 6, 4], [1, 5, 7], [1, 7, 3]])  # fmt: skip


def codes(findings):
    return {each.code: each.count for each in findings}


def scene_of(*meshes, names=(), lods=()):
    """Document and body of a scene of bare meshes: (vertices, faces)."""
    scene = Scene("props")
    for at, (vertices, faces) in enumerate(meshes):
        name = names[at] if names else f"SM_{at}"
        extensions = {"MSFT_lod": {"ids": list(lods)}} if lods and at == 0 else None
        scene.node(name, scene.mesh(name, [scene.primitive({"POSITION": vertices}, faces)]), extensions=extensions)
    return scene


def check(scene, tmp_path):
    (tmp_path / "a.glb").write_bytes(scene.glb())
    return codes(check_glb(*read_glb(tmp_path / "a.glb")))


@pytest.fixture
def glb(tmp_path):
    save_glb(tmp_path / "a.glb", tetrahedron(), name="crate", height_m=1)
    return tmp_path / "a.glb"


def poke(view, at, data):
    """A change that overwrites the bytes of a buffer view."""

    def change(document, body):
        start = document["bufferViews"][view]["byteOffset"] + at
        body[start : start + len(data)] = data

    return change


def say(*path, value):
    """A change of one place in the document."""

    def change(document, body):
        for key in path[:-1]:
            document = document[key]
        document[path[-1]] = value

    return change


def test_a_whole_file_has_no_findings(glb):
    assert check_glb(*read_glb(glb)) == [] and check_atlas(tetrahedron()) == []


@pytest.mark.parametrize("code, severity, change", [
    ("ACCESSOR_INVALID_FLOAT", "error", poke(0, 0, struct.pack("<f", float("nan")))),
    ("ACCESSOR_INVALID_FLOAT", "error", poke(2, 0, struct.pack("<f", float("inf")))),
    ("ACCESSOR_VECTOR3_NON_UNIT", "error", poke(1, 0, struct.pack("<3f", 0, 2, 0))),
    ("UV_OUT_OF_RANGE", "warning", poke(2, 0, struct.pack("<f", 1.5))),
    ("ACCESSOR_INDEX_OOB", "error", poke(3, 0, struct.pack("<H", 500))),
    ("UNUSED_VERTICES", "info", poke(3, 0, struct.pack("<H", 1))),
    ("IMAGE_DATA_INVALID", "error", poke(4, 1, b"JPG")),
    ("ACCESSOR_MIN_MISMATCH", "error", say("accessors", 0, "max", value=[9, 9, 9])),
    ("ACCESSOR_TOO_LONG", "error", say("accessors", 1, "count", value=10_000)),
    ("BUFFER_VIEW_TOO_LONG", "error", say("bufferViews", 4, "byteLength", value=10_000_000)),
    ("UNRESOLVED_REFERENCE", "error", say("accessors", 0, "bufferView", value=99)),
    ("UNRESOLVED_REFERENCE", "error", say("nodes", 0, "mesh", value=3)),
    ("UNRESOLVED_REFERENCE", "error", say("scenes", 0, "nodes", value=[7])),
    ("UNRESOLVED_REFERENCE", "error", say("meshes", 0, "primitives", 0, "attributes", "NORMAL", value=44)),
    ("UNRESOLVED_REFERENCE", "error", say("textures", 0, "source", value=-1)),
    ("UNKNOWN_ASSET_MAJOR_VERSION", "error", say("asset", "version", value="1.0")),
    ("EMPTY_ENTITY", "error", say("meshes", value=[])),
])  # fmt: skip
def test_a_fault_is_found_by_its_code(glb, code, severity, change):
    rewrite(glb, change)
    found = {each.code: each.severity for each in check_glb(*read_glb(glb))}
    assert found.get(code) == severity, found


def test_holes_debris_and_faces_without_area_are_counted(tmp_path):
    hole = scene_of((CUBE, CUBE_FACES[1:]))
    assert check(hole, tmp_path) == {"MESH_OPEN": 3}
    squares = np.stack(np.meshgrid(*[np.arange(8)] * 3), -1).reshape(-1, 3) * 2.0  # 512 cubes, and one speck
    many = np.concatenate([CUBE[None] + squares[:, None], CUBE[None] * 0.01 - 5]).reshape(-1, 3).astype(np.float32)
    joined = np.concatenate([CUBE_FACES + 8 * at for at in range(513)])
    assert len(np.unique(face_components(joined, len(many)))) == 513
    assert check(scene_of((many, joined)), tmp_path) == {"MESH_DEBRIS": 12}
    through = np.concatenate([CUBE, CUBE * (0.5, 3, 0.5) - (0.1, 1, 0.1)]).astype(np.float32)
    both = np.concatenate([CUBE_FACES, CUBE_FACES + 8])
    assert set(check(scene_of((through, both)), tmp_path)) == {"MESH_SELF_INTERSECTS"}
    fine = np.concatenate([CUBE_FACES, [[0, 1, 1], [2, 2, 2]]])
    assert check(scene_of((CUBE, fine)), tmp_path) == {"ACCESSOR_INDEX_TRIANGLE_DEGENERATE": 2}
    assert "MESH_EMPTY" in check(scene_of((CUBE, np.zeros((3, 3), int))), tmp_path)


def test_hulls_are_convex_closed_and_small(tmp_path):
    assert check(scene_of((CUBE, CUBE_FACES), names=["UCX_crate_00"]), tmp_path) == {}
    dented = CUBE.copy()
    dented[7] = 0.3
    assert check(scene_of((dented, CUBE_FACES), names=["UCX_crate_00"]), tmp_path) == {"COLLISION_NOT_CONVEX": 1}
    assert check(scene_of((CUBE, CUBE_FACES[1:]), names=["crate-convcol"]), tmp_path) == {"COLLISION_OPEN": 1}
    unnamed = read_glb(tmp_path / "a.glb")
    unnamed[0]["nodes"][0]["name"] = "hull"
    assert set(codes(check_glb(*unnamed))) == {"MESH_OPEN"} and set(codes(check_glb(*unnamed, hulls=True))) == {
        "COLLISION_OPEN"
    }
    names = [f"UCX_crate_{at:02d}" for at in range(9)]
    assert check(scene_of(*[(CUBE, CUBE_FACES)] * 9, names=names), tmp_path) == {"COLLISION_HULLS": 1}


def test_levels_of_detail_lose_faces_and_are_named(tmp_path):
    names = ["SM_crate_LOD0", "SM_crate_LOD1"]
    four = tetrahedron()
    fewer = (four.vertices, four.faces)
    assert check(scene_of((CUBE, CUBE_FACES), fewer, names=names, lods=[1]), tmp_path) == {}
    assert check(scene_of(fewer, (CUBE, CUBE_FACES), names=names, lods=[1]), tmp_path) == {"LOD_ORDER": 1}
    assert check(scene_of((CUBE, CUBE_FACES), fewer, names=names, lods=[5]), tmp_path) == {"LOD_UNRESOLVED": 1}


def test_charts_that_lie_over_each_other_are_told():
    whole = tetrahedron()
    over = TexturedMesh(whole.vertices, whole.faces, whole.normals, np.tile(whole.uvs[:3], (4, 1)), whole.texture)
    assert codes(check_atlas(over)) == {"UV_OVERLAP": 1}
    assert check_atlas(replace(whole, lightmap_uvs=whole.uvs)) == []
    (found,) = check_atlas(replace(whole, lightmap_uvs=over.uvs))
    assert found.code == "UV_OVERLAP" and "of the light map" in found.message
