"""The atlas: same surface, inside the square, no overlap, deterministic; texels square, charts apart, none lost."""

import numpy as np
import pytest
from scipy import ndimage

from pipeline_core.errors import DataError
from pipeline_core.meshing import unwrap as U
from pipeline_core.meshing.surface import surface
from pipeline_core.meshing.unwrap import LIGHTMAP_PADDING, PADDING, cut, pack, size_for, unwrap
from pipeline_core.metrics.mesh_health import atlas_scores, weld
from pipeline_core.tangents import mirrored
from pipeline_core.texturing.bake import chart_texels
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


@pytest.fixture(scope="module")
def charts():
    """Of a long box with round corners, whose charts make no square page by themselves, and a speck beside it."""
    x = np.linspace(-1, 1, 24)
    at = np.stack(np.meshgrid(x, x, x, indexing="ij"))
    field = 2 - 2 * ((at / np.array([0.8, 0.3, 0.2])[:, None, None, None]) ** 4).sum(axis=0)
    vertices, faces = surface(field.clip(0, None).astype(np.float32), iso=1.0, face_budget=400)
    speck = vertices.max(axis=0) + np.array([[1, 0, 0], [1.02, 0, 0], [1, 0.001, 0]])
    faces = np.concatenate([faces, len(vertices) + np.array([[0, 1, 2]])])
    return cut(Mesh(np.concatenate([vertices, speck]).astype(np.float32), faces))


def textured(charts, uvs, size):
    return TexturedMesh(charts.vertices, charts.faces, charts.vertices, uvs, np.zeros((size, size, 3), np.float32))


def owners(charts, uvs, size):
    """Number [S, S] of the chart that owns each texel, -1 = none."""
    out = np.full((size, size), -1)
    for chart in range(charts.chart.max() + 1):
        texels = chart_texels(charts.vertices, charts.faces[charts.chart == chart], uvs, charts.vertices, size)
        out[tuple(texels.index.T)] = chart
    return out


def test_texels_are_square_everywhere_alike_and_never_mirrored(charts):
    scores = atlas_scores(textured(charts, pack(charts, 256), 256), charts.area)
    assert scores["uv_stretch"] < 1.06 and scores["max_uv_stretch"] < 1.3
    assert scores["texel_spread"] < 1.3
    assert scores["uv_mirrored"] == 0


@pytest.mark.parametrize("lightmap, padding", [(False, PADDING), (True, LIGHTMAP_PADDING)])
@pytest.mark.parametrize("size", [64, 256, 512])
def test_every_chart_owns_a_texel_and_keeps_its_distance_at_every_size(charts, size, lightmap, padding):
    uvs = pack(charts, size, lightmap=lightmap)
    owner = owners(charts, uvs, size)
    assert set(np.unique(owner)) == {-1, *range(charts.chart.max() + 1)} and uvs.min() >= 0 and uvs.max() <= 1
    width = 2 * padding + 1
    lowest = ndimage.minimum_filter(np.where(owner < 0, 10**9, owner), width)
    highest = ndimage.maximum_filter(owner, width)
    assert not ((owner >= 0) & (lowest != highest)).any()
    rows = np.argwhere(owner >= 0)
    assert rows.min() >= padding // 2 and size - 1 - rows.max() >= padding // 2


def test_a_density_is_met_exactly_by_the_smallest_power_of_two(charts):
    asked = 120 / charts.area**0.5
    size, uvs = size_for(charts, asked)
    assert size == 256
    scores = atlas_scores(textured(charts, uvs, size), charts.area)
    assert scores["texel_density_median"] == pytest.approx(asked, rel=0.05)
    assert atlas_scores(textured(charts, uvs, size), charts.area, 2.0)["texel_density"] == scores["texel_density"] / 2
    with pytest.raises(DataError, match=r"mesh\.texels_per_metre asks for .* a texture has at most 8192"):
        size_for(charts, 1e6 * asked)


def test_large_meshes_are_cut_in_blocks(monkeypatch):
    mesh = ball()
    monkeypatch.setattr(U, "BLOCK", 120)
    parts = U.blocks(mesh.vertices, mesh.faces)
    assert max(map(len, parts)) <= 120 and sorted(np.concatenate(parts)) == list(range(len(mesh.faces)))
    source, faces, _ = U.flatten(mesh.vertices, mesh.faces)
    assert np.array_equal(source[faces], mesh.faces)


def test_pieces_by_the_hundred_are_laid_or_refused_at_once():
    corners = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0]]) * 0.01
    spots = np.stack(np.meshgrid(*[np.arange(12)] * 2, [0, 1, 2, 3]), axis=-1).reshape(-1, 1, 3)
    pieces = Mesh((spots + corners).reshape(-1, 3).astype(np.float32), np.arange(3 * len(spots)).reshape(-1, 3))
    charts = cut(pieces)
    assert charts.chart.max() + 1 == len(spots) == 576
    uvs = pack(charts, 256)
    assert not mirrored(charts.faces, uvs).any()
    with pytest.raises(DataError, match=r"576 charts do not fit into a texture of 64 .* mesh\.texture_size"):
        pack(charts, 64)
    with pytest.raises(DataError, match=r"576 charts .* 64 texels with 2 between them; .* mesh\.lightmap_size"):
        pack(charts, 64, lightmap=True)


def test_faces_without_area_are_laid_too():
    line, dot = [[2, 0, 0], [3, 0, 0], [4, 0, 0]], [[5, 5, 5], [5, 5, 5], [5, 5, 5]]
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], *line, *dot], np.float32)
    faces = np.arange(9).reshape(-1, 3)
    for some in (faces, faces[1:]):
        charts = cut(Mesh(vertices, some))
        uvs = pack(charts, 64)
        assert np.isfinite(uvs).all() and set(np.unique(owners(charts, uvs, 64))) == {-1, *range(len(some))}


def test_vertices_that_are_not_finite_are_told():
    with pytest.raises(DataError, match="no UV atlas: 1 vertices are not finite"):
        cut(Mesh(np.array([[0, 0, 0], [1, 0, 0], [0, np.nan, 0]], np.float32), np.array([[0, 1, 2]])))
