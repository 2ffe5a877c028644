"""The data types refuse wrong shapes and activate what they store."""

import math

import numpy as np
import pytest
import torch

from pipeline_core.types import Gaussians, Mesh, PointCloud, rotation_matrices


def gaussians(n=3, rest=0):
    return Gaussians(
        torch.zeros(n, 3),
        torch.zeros(n, 4),
        torch.zeros(n, 3),
        torch.zeros(n),
        torch.zeros(n, 1, 3),
        torch.zeros(n, rest, 3),
    )


def test_activation_is_exp_and_sigmoid():
    active = gaussians().activated()
    assert torch.equal(active["scales"], torch.ones(3, 3)) and torch.equal(active["opacities"], torch.full((3,), 0.5))


@pytest.mark.parametrize(("rest", "degree"), [(0, 0), (3, 1), (8, 2), (15, 3)])
def test_sh_degree_follows_the_number_of_coefficients(rest, degree):
    assert gaussians(rest=rest).sh_degree == degree


def test_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"shN must be \(3, 0\|3\|8\|15, 3\), got \(3, 4, 3\)"):
        gaussians(rest=4)
    with pytest.raises(ValueError, match=r"xyz and rgb must both be \[N, 3\]"):
        PointCloud(torch.zeros(3, 3), torch.zeros(2, 3))
    with pytest.raises(ValueError, match=r"faces must be \[F, 3\]"):
        Mesh(np.zeros((3, 3)), np.zeros((1, 4)))


def test_rotation_matrices_are_rotations_and_wxyz():
    rotation = rotation_matrices(torch.randn(50, 4))
    torch.testing.assert_close(rotation @ rotation.transpose(1, 2), torch.eye(3).expand(50, 3, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(50))
    half = math.sqrt(0.5)
    about_z = rotation_matrices(torch.tensor([[half, 0.0, 0.0, half]]))[0]
    torch.testing.assert_close(about_z @ torch.tensor([1.0, 0, 0]), torch.tensor([0.0, 1, 0]), atol=1e-6, rtol=0)
