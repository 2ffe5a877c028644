"""A ball of Gaussians whose colour is known everywhere: each face of the surrounding cube has its own."""

import numpy as np
import pytest
import torch

from pipeline_core.config import Meshing
from pipeline_core.meshing.extract import extract_mesh
from pipeline_core.texturing.bake import bake
from pipeline_core.types import Gaussians, rgb_to_sh0

SIDES = np.array(
    [[0.9, 0.2, 0.2], [0.2, 0.8, 0.3], [0.2, 0.3, 0.9], [0.9, 0.8, 0.2], [0.8, 0.3, 0.8], [0.2, 0.8, 0.8]], np.float32
)
RADIUS = 0.5


def side(points):
    """Number of the cube face that a direction [P, 3] goes through."""
    axis = np.abs(points).argmax(axis=1)
    return 2 * axis + (np.take_along_axis(points, axis[:, None], 1)[:, 0] < 0)


def ball_of_gaussians(count=2500):
    i = np.arange(count) + 0.5
    polar, turn = np.arccos(1 - 2 * i / count), i * np.pi * (1 + 5**0.5)
    xyz = np.stack([np.cos(turn) * np.sin(polar), np.cos(polar), np.sin(turn) * np.sin(polar)], axis=1)
    colour = torch.from_numpy(SIDES[side(xyz)])
    return Gaussians(
        means=torch.from_numpy(RADIUS * xyz).float(),
        quats=torch.tensor([1.0, 0, 0, 0]).expand(count, 4).clone(),
        scales=torch.full((count, 3), 0.02).log(),
        opacities=torch.full((count,), 3.0),
        sh0=rgb_to_sh0(colour).float(),
        shN=torch.zeros(count, 0, 3),
    )


@pytest.fixture(scope="session")
def settings():
    return Meshing(grid=40, face_budget=600, texture_size=128, bake_views=14, bake_resolution=96)


@pytest.fixture(scope="session")
def gaussians():
    return ball_of_gaussians()


@pytest.fixture(scope="session")
def mesh(gaussians, settings):
    return extract_mesh(gaussians, settings)


@pytest.fixture(scope="session")
def textured(gaussians, mesh, settings):
    return bake(gaussians, mesh, settings)


@pytest.fixture(scope="session")
def true_colour():
    """Colour [P, 3] of directions [P, 3], and which are clearly inside one side of the cube."""

    def look_up(points):
        size = np.sort(np.abs(points), axis=1)
        return SIDES[side(points)], size[:, 1] < 0.8 * size[:, 2]

    return look_up
