"""Looks: a planted duplicate is near, however it was planted; the demo's ten props are far from each other."""

from __future__ import annotations

import io
import itertools
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from catalog import views
from pipeline_core.io.images import to_uint8
from pipeline_core.manifest import load_manifest
from pipeline_core.metrics import look
from pipeline_core.props.captions import parse_caption
from pipeline_core.props.props import build
from pipeline_core.props.raycast import render
from pipeline_core.types import TexturedMesh
from tests.finished_asset import box


def turned(mesh: TexturedMesh, degrees: float) -> TexturedMesh:
    angle = np.radians(degrees)
    about = np.array([[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]], np.float32)
    return replace(mesh, vertices=mesh.vertices @ about.T, normals=mesh.normals @ about.T)


def recompressed(mesh: TexturedMesh) -> TexturedMesh:
    buffer = io.BytesIO()
    Image.fromarray(to_uint8(mesh.texture)).save(buffer, "JPEG", quality=30)
    return replace(mesh, texture=np.asarray(Image.open(buffer), np.float32) / 255)


def smaller(mesh: TexturedMesh) -> TexturedMesh:
    return replace(mesh, texture=mesh.texture[::4, ::4])


def recoloured(mesh: TexturedMesh) -> TexturedMesh:
    return replace(mesh, texture=mesh.texture[..., [2, 0, 1]])


def squeezed(mesh: TexturedMesh) -> TexturedMesh:
    return replace(mesh, vertices=mesh.vertices * np.float32([0.5, 1.8, 0.7]))


@pytest.fixture(scope="module")
def first() -> dict[str, float]:
    return look.look(box(4))


def test_a_planted_duplicate_is_near(first) -> None:
    assert look.distance(first, look.look(box(4))) == 0
    planted = {
        "turned by 3 degrees": turned(box(4), 3),
        "recompressed": recompressed(box(4)),
        "a quarter of the texels": smaller(box(4)),
        "a sixteenth of the faces": box(1),
    }
    assert all(look.distance(first, look.look(each)) <= look.NEAR for each in planted.values())


def test_another_colour_shape_or_side_is_another_look(first) -> None:
    for other in (recoloured(box(4)), squeezed(box(4)), turned(box(4), 90)):
        assert look.distance(first, look.look(other)) > look.NEAR


def test_the_ten_props_of_the_demo_are_far_from_each_other() -> None:
    specs = [parse_caption(each.prompt) for each in load_manifest("deployments/manifests/starter.csv").specs]
    azimuth = np.tile(np.arange(look.VIEWS) * (360.0 / look.VIEWS), (len(specs), 1))
    elevation = np.full_like(azimuth, look.ELEVATION)
    rgba = render([build(spec) for spec in specs if spec], azimuth, elevation, size=look.SIZE) / np.float32(255)
    looks = [look.pack(each[..., :3] * each[..., 3:] + 1 - each[..., 3:]) for each in rgba]
    assert len(looks) == 10
    assert min(look.distance(*pair) for pair in itertools.combinations(looks, 2)) > 2 * look.NEAR


def test_a_look_is_whole_numbers_that_the_catalogue_knows_by_name(first) -> None:
    assert tuple(first) == look.NAMES == views.LOOKS
    assert all(word == int(word) and 0 <= word < 2**48 for word in first.values())
