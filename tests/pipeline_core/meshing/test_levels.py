"""Levels share the atlas, say how far their outline strays, and what strays too far is left out and told."""

import numpy as np
import pytest

from pipeline_core.config import Levels
from pipeline_core.meshing.levels import levels_of, outline_error, reduced, silhouettes, told_of
from pipeline_core.types import TexturedMesh
from tests.pipeline_core.meshing.test_collapse import six_charts


@pytest.fixture(scope="module")
def cube() -> TexturedMesh:
    vertices, faces, uvs = six_charts(10)
    middle = (vertices - 0.5).astype(np.float32)
    normals = middle / np.linalg.norm(middle, axis=1, keepdims=True)
    return TexturedMesh(
        middle, faces.astype(np.int32), normals, uvs.astype(np.float32), np.zeros((8, 8, 3), np.float32)
    )


def test_each_level_has_its_share_and_only_vertices_of_the_whole(cube):
    levels, left_out = levels_of(cube, Levels())
    assert [len(each.textured.faces) for each in levels] == [1200, 600, 300, 120] and not left_out
    assert max(each.error for each in levels) < 0.01  # a cube of fewer faces is the same cube
    rows = {(*v, *n, *u) for v, n, u in zip(cube.vertices, cube.normals, cube.uvs, strict=True)}
    less = levels[-1].textured
    assert {(*v, *n, *u) for v, n, u in zip(less.vertices, less.normals, less.uvs, strict=True)} < rows
    assert less.texture is cube.texture
    told = told_of(levels, left_out)
    assert (told["lods"], told["lods_left_out"], told["lod2_faces"]) == (4, 0, 300)


def test_what_its_charts_hold_is_left_out_and_told(cube):
    levels, left_out = levels_of(cube, Levels(shares=(0.5, 0.001)))
    assert len(levels) == 2
    assert left_out == [{"share": 0.001, "faces": 12, "error": left_out[0]["error"], "why": left_out[0]["why"]}]
    assert "charts" in left_out[0]["why"]


def test_an_outline_that_strays_is_measured_and_left_out(cube):
    outlines = silhouettes(cube.vertices, cube.faces)
    assert outline_error(outlines, cube) == 0
    tall = TexturedMesh(cube.vertices * np.float32([1, 1.2, 1]), cube.faces, cube.normals, cube.uvs, cube.texture)
    assert outline_error(outlines, tall) == pytest.approx(0.1 / 1.2, abs=0.03)
    levels, left_out = levels_of(cube, Levels(max_error=1e-9))
    assert all("strays more than" in each["why"] for each in left_out)
    assert len(levels) + len(left_out) == 4


def test_a_level_of_nothing_less_is_the_mesh_itself(cube):
    assert len(reduced(cube, 10**6).faces) == len(cube.faces)
