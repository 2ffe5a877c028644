"""A splat drawn on a mesh: as many Gaussians as asked, thin across the surface, and renders like the mesh's."""

import numpy as np
import pytest
import torch
import trimesh

from pipeline_core.config import Dress, Evaluate
from pipeline_core.meshing.unwrap import unwrap
from pipeline_core.metrics.consistency import consistency
from pipeline_core.texturing.bake import chart_texels, nearest_texel
from pipeline_core.texturing.draw import THIN, draw, pieces
from pipeline_core.types import Mesh, TexturedMesh, rotation_matrices, sh0_to_rgb

COUNT = 2000
SETTINGS = Dress(splat_steps=30, splat_resolution=192)
LOOK = Evaluate(views=4, resolution=192)


def textured(shape, paint):
    """``shape`` of trimesh in the colours ``paint(position)`` [T, 3]."""
    mesh = Mesh(np.asarray(shape.vertices, np.float32), np.asarray(shape.faces, np.int32))
    vertices, faces, uvs, source = unwrap(mesh, 128)
    normals = np.asarray(shape.vertex_normals, np.float32)[source]
    texels = chart_texels(vertices, faces, uvs, normals, 128)
    return TexturedMesh(vertices, faces, normals, uvs, paint(texels.position).astype(np.float32)[nearest_texel(texels)])


@pytest.fixture(scope="module")
def striped():
    """A ball with stripes."""
    shape = trimesh.creation.icosphere(subdivisions=3, radius=0.5)
    return textured(shape, lambda at: np.where((at[:, 1:2] * 6 % 2) < 1, (0.8, 0.2, 0.1), (0.1, 0.2, 0.6)))


@pytest.fixture(scope="module")
def drawn(striped):
    return draw(striped, COUNT, SETTINGS)


def test_it_looks_like_the_mesh_and_fitting_is_why(striped, drawn):
    begun, done = (consistency(each, striped, LOOK) for each in (pieces(striped, COUNT)[0], drawn))
    assert begun["mesh_iou"] > 0.9 and done["mesh_iou"] > 0.96
    assert done["mesh_psnr"] > max(20, begun["mesh_psnr"] + 4)  # of sharp stripes
    assert len(drawn) == COUNT and all(value.isfinite().all() for value in drawn.tensors().values())


def test_every_gaussian_lies_on_the_surface(striped):
    gaussians, width = pieces(striped, COUNT)
    outward = torch.nn.functional.normalize(gaussians.means, dim=1)
    axis = rotation_matrices(gaussians.quats)[:, :, 2]
    assert (axis * outward).sum(1).abs().min() > 0.98
    assert (gaussians.means.norm(dim=1) - 0.5).abs().max() < 0.01
    torch.testing.assert_close(gaussians.scales[:, 2].exp(), torch.full((COUNT,), THIN * width))
    assert 0.25 < gaussians.scales[:, :2].exp().median() / width < 0.75


def test_the_sides_of_a_thin_sheet_keep_their_colours():
    sheet = trimesh.creation.box((0.8, 0.8, 0.03)).subdivide().subdivide()
    two = textured(sheet, lambda at: np.where(at[:, 2:] > 0, (0.9, 0.1, 0.1), (0.1, 0.1, 0.9)))
    gaussians = draw(two, COUNT, SETTINGS)
    inner = gaussians.means[:, :2].abs().amax(1) < 0.35
    red = sh0_to_rgb(gaussians.sh0)[inner][:, 0]
    assert ((red > 0.7) | (red < 0.3)).float().mean() > 0.98


def test_the_same_mesh_is_the_same_splat_to_the_bit_with_any_number_of_threads(striped, drawn):
    threads = torch.get_num_threads()
    torch.set_num_threads(3 - min(threads, 2))
    try:
        again = draw(striped, COUNT, SETTINGS)
    finally:
        torch.set_num_threads(threads)
    for name, value in again.tensors().items():
        assert torch.equal(value, drawn.tensors()[name]), name
