"""Mesh metrics on meshes whose numbers are known: a box with six charts, and broken variants of it."""

from dataclasses import replace

import numpy as np
import pytest

from pipeline_core.metrics.mesh_health import mesh_health
from pipeline_core.types import TexturedMesh

SIZE = np.array([1.0, 2.0, 0.5])


def box() -> TexturedMesh:
    """A 1 x 2 x 0.5 box: every side has its own four vertices and a 0.2-wide square of the atlas."""
    vertices, normals, uvs, faces = [], [], [], []
    for side in range(6):
        axis, sign = side % 3, 1.0 if side < 3 else -1.0
        u, v = np.eye(3)[(axis + 1) % 3], np.eye(3)[(axis + 2) % 3]
        normal = sign * np.eye(3)[axis]
        corners = [normal + a * u + b * v for a, b in ((-1, -1), (1, -1), (1, 1), (-1, 1))]
        corners = corners if sign > 0 else corners[::-1]
        origin = np.array([0.05 + 0.3 * (side % 3), 0.05 + 0.3 * (side // 3)])
        faces += [[4 * side, 4 * side + 1, 4 * side + 2], [4 * side, 4 * side + 2, 4 * side + 3]]
        vertices += [0.5 * SIZE * c for c in corners]
        normals += [normal] * 4
        uvs += [origin + 0.2 * np.array(p) for p in ((0, 0), (1, 0), (1, 1), (0, 1))]
    arrays = [np.array(a, np.float32) for a in (vertices, normals, uvs)]
    return TexturedMesh(arrays[0], np.array(faces, np.int32), arrays[1], arrays[2], np.zeros((64, 64, 3), np.float32))


def test_numbers_of_a_box():
    scores = mesh_health(box())
    assert scores["faces"] == 12 and scores["vertices"] == 24 and scores["seam_vertices"] == 16
    assert scores["components"] == 1 and scores["degenerate_faces"] == 0
    assert scores["watertight"] == 1 and scores["boundary_edges"] == 0 and scores["nonmanifold_edges"] == 0
    assert scores["volume"] == pytest.approx(1.0)
    assert scores["area"] == pytest.approx(7.0)
    assert [scores[f"size_{a}"] for a in "xyz"] == pytest.approx([1, 2, 0.5])
    assert scores["uv_utilisation"] == pytest.approx(6 * 0.04, rel=0.01)
    assert scores["uv_overlap"] < 1e-3
    assert scores["texel_density"] == pytest.approx(64 * np.sqrt(0.24 / 7))
    assert all(np.isfinite(v) and isinstance(v, float) for v in scores.values())


def test_a_missing_face_opens_it():
    t = box()
    scores = mesh_health(replace(t, faces=t.faces[1:]))
    assert scores["watertight"] == 0 and scores["boundary_edges"] == 3


def test_a_flipped_face_is_not_manifold():
    t = box()
    faces = t.faces.copy()
    faces[0] = faces[0][::-1]
    scores = mesh_health(replace(t, faces=faces))
    assert scores["watertight"] == 0 and scores["nonmanifold_edges"] == 3


def test_overlapping_charts_and_uvs_outside_are_seen():
    t = box()
    uvs = t.uvs.copy()
    uvs[4:8] = uvs[0:4]
    assert mesh_health(replace(t, uvs=uvs))["uv_overlap"] == pytest.approx(0.04, rel=0.05)
    uvs[0] = 1.5
    assert mesh_health(replace(t, uvs=uvs))["uv_outside"] == pytest.approx(1 / 24)


def test_degenerate_faces_and_components_are_counted():
    t = box()
    two = TexturedMesh(
        *(np.concatenate([a, b]) for a, b in zip(
            (t.vertices, t.faces, t.normals, t.uvs), (t.vertices + 5, t.faces + 24, t.normals, t.uvs), strict=True)),
        t.texture,
    )  # fmt: skip
    assert mesh_health(two)["components"] == 2
    faces = np.concatenate([t.faces, [[0, 0, 1]]]).astype(np.int32)
    assert mesh_health(replace(t, faces=faces))["degenerate_faces"] == 1


def test_an_empty_mesh_has_numbers_too():
    t = box()
    scores = mesh_health(replace(t, faces=np.zeros((0, 3), np.int32)))
    assert scores["watertight"] == 0 and scores["components"] == 0
    assert all(np.isfinite(v) for v in scores.values())


def test_stray_pieces_crossing_faces_and_slivers_are_counted():
    t = box()
    scores = mesh_health(t)
    assert (scores["debris_faces"], scores["self_intersections"]) == (0, 0)
    assert scores["aspect_max"] == pytest.approx((4 + 0.25) / (2 * 0.5))  # half of the 2 x 0.5 side
    speck = 0.01 * t.vertices + [0.5, 0, 0]  # half inside
    both = TexturedMesh(
        np.concatenate([t.vertices, speck.astype(np.float32)]), np.concatenate([t.faces, t.faces + 24]),
        np.concatenate([t.normals, t.normals]), np.concatenate([t.uvs, t.uvs]), t.texture,
    )  # fmt: skip
    scores = mesh_health(both)
    assert scores["debris_faces"] == 12
    assert scores["self_intersections"] >= 9  # eight of the speck's, and what they pierce
