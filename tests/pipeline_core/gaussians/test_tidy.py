"""Tidying a cloud: closer to the surface that was sampled, without strays, colours and sharp parts kept."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pipeline_core.gaussians.tidy import project, strays, tidy
from pipeline_core.types import PointCloud


def cube(count: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Noisy points of the surface of a cube of half side 0.4, and the clean ones."""
    rng = np.random.default_rng(seed)
    clean = rng.uniform(-0.4, 0.4, (count, 3))
    axis, sign = rng.integers(3, size=count), rng.choice([-0.4, 0.4], count)
    clean[np.arange(count), axis] = sign
    return clean + rng.normal(0, noise, clean.shape), clean


def off_cube(xyz: np.ndarray) -> np.ndarray:
    """Distance of points to the surface of the cube of half side 0.4."""
    outside = np.linalg.norm(np.maximum(np.abs(xyz) - 0.4, 0), axis=1)
    return np.where(outside > 0, outside, 0.4 - np.abs(xyz).max(axis=1))


def test_noise_across_the_surface_shrinks_several_times():
    noisy, clean = cube(4096, 0.015)
    xyz = noisy
    for _ in range(3):
        xyz = project(xyz, 48)
    inner = np.sort(np.abs(clean), axis=1)[:, 1] < 0.25
    assert off_cube(xyz)[inner].std() < 0.3 * off_cube(noisy)[inner].std()
    assert off_cube(xyz).mean() < off_cube(noisy).mean()
    assert (np.abs(xyz).max(axis=0) > 0.38).all()  # edges and corners are not worn away


def test_a_plane_is_a_fixed_point():
    rng = np.random.default_rng(1)
    xyz = np.concatenate([rng.uniform(-1, 1, (500, 2)), np.zeros((500, 1))], axis=1)
    np.testing.assert_allclose(project(xyz, 16), xyz, atol=1e-12)


def test_strays_go_and_nothing_else():
    xyz, _ = cube(4096, 0.0)
    far = np.array([[0.7, 0.7, 0.7], [0.0, 0.9, 0.0]])
    assert np.flatnonzero(strays(np.concatenate([xyz, far]))).tolist() == [4096, 4097]


def test_tidy_keeps_order_and_agrees_on_colours():
    noisy, clean = cube(3000, 0.005)
    rgb = np.where(clean[:, :1] > 0, [1.0, 0.0, 0.0], [0.0, 0.0, 1.0])
    speckled = rgb.copy()
    speckled[::9] = [0.0, 1.0, 0.0]
    out = tidy(PointCloud(torch.from_numpy(noisy).float(), torch.from_numpy(speckled).float()), 32)
    assert len(out) == 3000 and out.xyz.dtype == out.rgb.dtype == torch.float32
    assert (out.xyz.numpy() - clean).std() < 0.02
    away = np.abs(clean[:, 0]) > 0.1
    np.testing.assert_allclose(out.rgb.numpy()[away], rgb[away], atol=1e-6)


def test_specks_of_a_few_neighbouring_points_go_and_bands_stay():
    noisy, clean = cube(6000, 0.002)
    rgb = np.where(np.abs(clean[:, 1:2]) < 0.06, [0.1, 0.1, 0.1], [0.9, 0.5, 0.2])
    spots = np.argsort(np.linalg.norm(clean - [0.4, 0.25, 0.1], axis=1))[:6]  # of 16 neighbours fewer than half
    speckled = rgb.copy()
    speckled[spots] = [0.1, 0.1, 0.1]
    out = tidy(PointCloud(torch.from_numpy(noisy).float(), torch.from_numpy(speckled).float()), 24).rgb.numpy()
    np.testing.assert_allclose(out[spots], rgb[spots], atol=1e-6)
    told, true = out[:, 0] < 0.5, rgb[:, 0] < 0.5
    assert (told == true).mean() > 0.97 and told.sum() == pytest.approx(true.sum(), rel=0.05)


@pytest.mark.parametrize(("count", "neighbours"), [(100, 0), (20, 48), (5, 3)])
def test_small_clouds_and_zero_are_left_alone(count, neighbours):
    cloud = PointCloud(torch.rand(count, 3), torch.rand(count, 3))
    assert tidy(cloud, neighbours) is cloud


def test_coinciding_points_do_no_harm():
    out = tidy(PointCloud(torch.zeros(100, 3), torch.full((100, 3), 0.5)), 16)
    assert bool(out.xyz.isfinite().all()) and len(out) == 100
