"""Cameras against closed forms: where they stand, where they look, which way is up."""

import math

import pytest
import torch

from pipeline_core.cameras import camera_positions, orbit


@pytest.mark.parametrize(
    ("azimuth", "elevation", "expected"),
    [(0, 0, (0, 0, 2.5)), (90, 0, (2.5, 0, 0)), (180, 0, (0, 0, -2.5)), (-90, 0, (-2.5, 0, 0)), (0, 90, (0, 2.5, 0))],
)
def test_azimuth_zero_is_the_front_and_ninety_is_plus_x(azimuth, elevation, expected):
    position = camera_positions(torch.tensor([float(azimuth)]), torch.tensor([float(elevation)]))
    torch.testing.assert_close(position[0], torch.tensor(expected, dtype=torch.float32), atol=1e-6, rtol=0)


@pytest.mark.parametrize("elevation", [-90.0, -30.0, 0.0, 45.0, 90.0])
def test_viewmats_are_rigid_and_put_the_origin_on_the_optical_axis(elevation):
    cameras = orbit(torch.linspace(-180, 170, 12), torch.tensor(elevation), size=64)
    rotation = cameras.viewmats[:, :3, :3]
    torch.testing.assert_close(rotation @ rotation.mT, torch.eye(3).expand(12, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(12))
    origin = cameras.viewmats @ torch.tensor([0.0, 0.0, 0.0, 1.0])
    torch.testing.assert_close(origin[:, :3], torch.tensor([0.0, 0.0, 2.5]).expand(12, 3), atol=1e-6, rtol=0)


def project(cameras, point):
    """Pixel [V, 2] of a world point [3]."""
    local = (cameras.viewmats @ torch.cat([point, torch.ones(1)]))[:, :3]
    pixel = (cameras.Ks @ local.unsqueeze(-1)).squeeze(-1)
    return pixel[:, :2] / pixel[:, 2:]


def test_up_is_up_and_right_is_right_in_the_image():
    front = orbit(torch.tensor([0.0]), torch.tensor([0.0]), size=64)
    assert project(front, torch.tensor([0.0, 0.5, 0.0]))[0, 1] < 32, (
        "+Y is drawn above the centre (rows grow downwards)"
    )
    assert project(front, torch.tensor([0.5, 0.0, 0.0]))[0, 0] > 32, "seen from the front, +X is on the right"
    side = orbit(torch.tensor([90.0]), torch.tensor([0.0]), size=64)
    assert project(side, torch.tensor([0.0, 0.0, 0.5]))[0, 0] < 32, "seen from +X, the front (+Z) is on the left"


def test_focal_length_is_that_of_the_field_of_view():
    cameras = orbit(torch.tensor([0.0]), torch.tensor([0.0]), size=512, fovy=49.1)
    assert cameras.Ks[0, 0, 0].item() == pytest.approx(0.5 * 512 / math.tan(math.radians(49.1) / 2), rel=1e-6)
    assert cameras.Ks[0, 0, 0].item() / 512 == pytest.approx(1.0947, abs=1e-4)
