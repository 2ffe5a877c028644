"""The atlas: same surface, inside the square, no overlap, deterministic."""

import numpy as np

from pipeline_core.meshing.surface import surface
from pipeline_core.meshing.unwrap import unwrap
from pipeline_core.metrics.mesh_health import atlas_scores, weld
from pipeline_core.types import Mesh, TexturedMesh


def ball():
    x = np.linspace(-1, 1, 24)
    field = (2 - 2 * np.linalg.norm(np.stack(np.meshgrid(x, x, x, indexing="ij")), axis=0)).clip(0, None)
    return Mesh(*surface(field.astype(np.float32), iso=1.0, face_budget=400))


def test_atlas_covers_the_same_surface_without_overlap():
    mesh = ball()
    vertices, faces, uvs, source = unwrap(mesh, 256)
    assert np.array_equal(vertices, mesh.vertices[source])
    assert np.array_equal(source[faces], mesh.faces)
    assert len(weld(vertices, faces)[0]) == len(mesh.vertices)
    assert uvs.min() >= 0 and uvs.max() <= 1
    textured = TexturedMesh(vertices, faces, vertices, uvs, np.zeros((256, 256, 3), np.float32))
    scores = atlas_scores(textured, 1.0)
    assert scores["uv_overlap"] < 2e-3
    assert scores["uv_utilisation"] > 0.3
    assert scores["texel_spread"] < 2


def test_same_mesh_same_atlas():
    mesh = ball()
    for a, b in zip(unwrap(mesh, 128), unwrap(mesh, 128), strict=True):
        assert a.tobytes() == b.tobytes()
