"""Noise goes from flat parts, and the edge between them stays where it is."""

import numpy as np

from pipeline_core.meshing import surface as S
from pipeline_core.meshing.sharpen import sharpen
from tests.pipeline_core.meshing.test_collapse import cube


def normals(vertices, faces):
    n = np.cross(*(vertices[faces[:, k]] - vertices[faces[:, 0]] for k in (1, 2)))
    return n / np.linalg.norm(n, axis=1, keepdims=True)


def test_a_noisy_cube_becomes_flat_and_keeps_its_edges():
    vertices, faces = cube(12)
    noisy = vertices + np.random.default_rng(0).normal(scale=0.008, size=vertices.shape)
    truth = normals(vertices, faces)
    before, after = (np.einsum("fi,fi->f", normals(v, faces), truth) for v in (noisy, sharpen(noisy, faces)))
    assert np.mean(1 - after) < 0.2 * np.mean(1 - before)
    edge = (vertices[faces] > 1 - 1e-9).any(axis=1).sum(axis=1) > 1  # faces along edges of the cube
    assert np.mean(1 - after[edge]) < 0.3 * np.mean(1 - before[edge])
    assert abs(S.tetra_volumes(sharpen(noisy, faces), faces).sum() - 1) < 0.02


def test_open_meshes_and_faces_without_area_are_taken():
    vertices, faces = cube(3)
    faces = np.concatenate([faces[1:], [[0, 0, 1]]])
    assert np.isfinite(sharpen(vertices, faces)).all()
