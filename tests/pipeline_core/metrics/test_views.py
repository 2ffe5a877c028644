"""Pictures of meshes: right colours in the right places, antialiased edges; consistency against the splat."""

import numpy as np
import pytest
import torch

from pipeline_core.cameras import DISTANCE, FOVY, orbit
from pipeline_core.config import Evaluate
from pipeline_core.metrics import views
from pipeline_core.metrics.consistency import consistency, psnr, ring_cameras
from pipeline_core.types import Gaussians, TexturedMesh, rgb_to_sh0


def card(texture) -> TexturedMesh:
    """A 1 x 1 square at the origin that faces +Z, v = 0 at the top."""
    vertices = np.array([[-0.5, 0.5, 0], [0.5, 0.5, 0], [0.5, -0.5, 0], [-0.5, -0.5, 0]], np.float32)
    uvs = np.array([[0, 0], [1, 0], [1, 1], [0, 1]], np.float32)
    normals = np.tile(np.float32([0, 0, 1]), (4, 1))
    return TexturedMesh(vertices, np.array([[0, 2, 1], [0, 3, 2]], np.int32), normals, uvs, texture.astype(np.float32))


def quarters():
    texture = np.zeros((32, 32, 3))
    texture[:16, :16], texture[:16, 16:], texture[16:, :16], texture[16:, 16:] = (
        [1, 0, 0],
        [0, 1, 0],
        [0, 0, 1],
        [1, 1, 0],
    )
    return texture


def test_texture_is_upright_and_not_mirrored():
    camera = orbit(torch.tensor([0.0]), torch.tensor([0.0]), size=64)
    image, coverage = views.render_mesh(card(quarters()), camera)
    assert image[0, 24, 24].tolist() == [1, 0, 0]
    assert image[0, 24, 40].tolist() == [0, 1, 0]
    assert image[0, 40, 24].tolist() == [0, 0, 1]
    assert image[0, 40, 40].tolist() == [1, 1, 0]
    assert image[0, 0, 0].tolist() == [1, 1, 1]
    side = 64 / (2 * DISTANCE * np.tan(np.radians(FOVY / 2)))
    assert float(coverage.sum()) == pytest.approx(side**2, rel=0.03)


def test_background_shows_where_nothing_is():
    camera = orbit(torch.tensor([90.0]), torch.tensor([0.0]), size=16)  # the card seen edge-on
    image, coverage = views.render_mesh(card(quarters()), camera, background=(0.2, 0.4, 0.6))
    torch.testing.assert_close(image[0, 3, 3], torch.tensor([0.2, 0.4, 0.6]))
    assert coverage.sum() < 16


def test_shading_darkens_what_turns_away():
    cameras = orbit(torch.tensor([0.0, 60.0]), torch.tensor([0.0, 0.0]), size=32)
    image, _ = views.render_mesh(card(np.full((8, 8, 3), 0.8)), cameras, shade=0.5)
    assert float(image[0, 16, 16, 0]) == pytest.approx(0.8, abs=0.01)
    assert float(image[1, 16, 16, 0]) == pytest.approx(0.8 * (1 - 0.5 * 0.5), abs=0.02)


def test_preview_and_turntable_have_their_sizes_and_are_deterministic():
    first, second = (views.preview(card(quarters()), size=64) for _ in range(2))
    assert first.shape == (64, 64, 3) and first.tobytes() == second.tobytes()
    assert first.min() >= 0 and first.max() <= 1
    frames = views.turntable(card(quarters()), frames=6, size=32)
    assert frames.shape == (6, 32, 32, 3)
    assert np.abs(frames[0] - frames[3]).max() > 0.1


def splat_card(colour, shift=0.0) -> Gaussians:
    """The card as a dense sheet of small Gaussians of one colour."""
    x = torch.linspace(-0.48, 0.48, 33)
    means = torch.cartesian_prod(x + shift, x, torch.zeros(1))
    n = len(means)
    return Gaussians(
        means=means,
        quats=torch.tensor([1.0, 0, 0, 0]).expand(n, 4).clone(),
        scales=torch.tensor([0.02, 0.02, 0.002]).log().expand(n, 3).clone(),
        opacities=torch.full((n,), 6.0),
        sh0=rgb_to_sh0(torch.tensor(colour).expand(n, 3)).clone(),
        shN=torch.zeros(n, 0, 3),
    )


def test_consistency_tells_colour_and_shape_apart():
    settings = Evaluate(views=3, resolution=64)  # 0, 120 and 240 degrees: never edge-on
    mesh = card(np.full((8, 8, 3), [0.8, 0.4, 0.2]))
    same = consistency(splat_card([0.8, 0.4, 0.2]), mesh, settings)
    recoloured = consistency(splat_card([0.2, 0.4, 0.8]), mesh, settings)
    moved = consistency(splat_card([0.8, 0.4, 0.2], shift=0.4), mesh, settings)
    assert same["mesh_iou"] > 0.85 and recoloured["mesh_iou"] == same["mesh_iou"]
    assert same["mesh_psnr"] > recoloured["mesh_psnr"] + 6
    assert moved["mesh_iou"] < 0.7


def test_psnr():
    assert psnr(torch.zeros(9), torch.full((9,), 0.1)) == pytest.approx(20)
    assert psnr(torch.ones(3), torch.ones(3)) == 99
    assert psnr(torch.ones(0), torch.ones(0)) == 0


def test_ring_cameras_go_all_the_way_round():
    cameras = ring_cameras(8, 16)
    assert len(cameras) == 8 and cameras.width == 16
    assert cameras.azimuth.tolist() == [45.0 * i for i in range(8)]
    assert len(set(cameras.elevation.tolist())) == 3


def test_the_row_of_stages_shows_splats_then_the_body_then_the_preview():
    mesh = card(np.full((8, 8, 3), [0.9, 0.1, 0.1]))
    picture = views.preview(mesh, size=128)
    row = views.stages([splat_card([0.1, 0.1, 0.9]), splat_card([0.1, 0.9, 0.1])], mesh, picture, size=64)
    assert row.shape == (64, 4 * 64, 3) and 0 <= row.min() and row.max() <= 1
    blue, green, clay, last = np.split(row, 4, axis=1)
    assert blue[32, 32].argmax() == 2 and green[32, 32].argmax() == 1  # in the middle stands the card
    assert np.ptp(clay[32, 32]) < 1e-6 and clay[32, 32, 0] != pytest.approx(clay[0, 0, 0], abs=0.05)
    np.testing.assert_allclose(last[32, 32], picture[64, 64], atol=0.02)
    np.testing.assert_allclose(blue[0, 0], last[0, 0], atol=0.02)  # one backdrop
