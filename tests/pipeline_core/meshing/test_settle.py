"""Settling: onto the anchors from outside, whichever way faces turn, two sides kept, closed kept."""

import numpy as np
import pytest
import torch

from pipeline_core.config import Init, Meshing
from pipeline_core.gaussians.initialise import from_points
from pipeline_core.meshing import surface as S
from pipeline_core.meshing.extract import extract_mesh
from pipeline_core.meshing.settle import KEPT, settle
from pipeline_core.types import PointCloud

N = 40


def sphere(count, radius=1.0, seed=0):
    x = np.random.default_rng(seed).normal(size=(count, 3))
    return radius * x / np.linalg.norm(x, axis=1, keepdims=True)


def swollen_ball():
    """A sphere of radius 14 grid units about the middle, and anchors on one of radius 12."""
    x = np.stack(np.meshgrid(*[np.arange(N)] * 3, indexing="ij"), -1) - (N - 1) / 2
    field = (15.0 - np.linalg.norm(x, axis=-1)).clip(0, None).astype(np.float32)
    return field, sphere(4000, 12.0) + (N - 1) / 2


@pytest.mark.parametrize("flip", [False, True])
def test_vertices_come_to_rest_on_the_anchors(flip):
    field, anchors = swollen_ball()
    vertices, faces = S.surface(field, iso=1.0, face_budget=10**6, smooth=0)
    faces = faces[:, ::-1] if flip else faces
    radius = np.linalg.norm(settle(vertices, faces, anchors) - (N - 1) / 2, axis=1)
    assert radius.mean() == pytest.approx(12 + KEPT, abs=0.1) and radius.std() < 0.1


def test_a_closed_surface_stays_closed_and_within_its_budget():
    vertices, faces = S.surface(*swollen_ball(), iso=1.0, face_budget=800)
    assert S.edge_counts(faces)["watertight"] == 1 and len(faces) <= 800
    assert S.tetra_volumes(vertices, faces).sum() == pytest.approx(4 / 3 * np.pi * 12.2**3, rel=0.03)


def test_a_single_sheet_keeps_two_sides():
    x = np.stack(np.meshgrid(np.arange(24), np.arange(24), np.arange(13), indexing="ij"), -1).astype(float)
    inside = (np.abs(x[..., :2] - 11.5).max(-1) < 8) & (np.abs(x[..., 2] - 6) < 2.5)
    vertices, faces = S.surface(inside.astype(np.float32), iso=0.5, face_budget=10**6, smooth=0)
    plane = np.stack(np.meshgrid(np.arange(4, 19.5, 0.5), np.arange(4, 19.5, 0.5), indexing="ij"), -1).reshape(-1, 2)
    settled = settle(vertices, faces, np.column_stack([plane, np.full(len(plane), 6.0)]))
    middle = np.abs(vertices[:, :2] - 11.5).max(1) < 5
    above, below = settled[middle & (vertices[:, 2] > 6), 2], settled[middle & (vertices[:, 2] < 6), 2]
    assert above.mean() == pytest.approx(6 + KEPT, abs=0.05) and below.mean() == pytest.approx(6 - KEPT, abs=0.05)


def test_nothing_moves_without_anchors_and_nothing_moves_outwards():
    field, anchors = swollen_ball()
    vertices, faces = S.surface(field, iso=1.0, face_budget=10**6, smooth=0)
    assert np.array_equal(settle(vertices, faces, anchors[:3]), vertices)
    far = (anchors - (N - 1) / 2) * 2 + (N - 1) / 2
    moved = np.linalg.norm(settle(vertices, faces, far) - (N - 1) / 2, axis=1)
    assert moved.max() <= np.linalg.norm(vertices - (N - 1) / 2, axis=1).max() + 1e-9


def test_a_ball_of_points_becomes_a_mesh_of_its_size():
    """Radius 0.5 in, radius 0.5 out, where the level alone is a standard deviation too large."""
    cloud = PointCloud(torch.from_numpy(sphere(2000, 0.5)).float(), torch.full((2000, 3), 0.5))
    gaussians = from_points(cloud, Init(num_points=2000, scale_factor=1.2), torch.Generator().manual_seed(0))
    radius = {
        on: np.linalg.norm(extract_mesh(gaussians, Meshing(grid=48, settle=on, face_budget=2000)).vertices, axis=1)
        for on in (False, True)
    }
    assert radius[False].mean() > 0.53
    assert radius[True].mean() == pytest.approx(0.506, abs=0.01)
