"""Baking a ball whose colour is known: texels are right wherever a view looks, filled where none does, never black."""

from dataclasses import replace

import numpy as np
import torch

from pipeline_core.cameras import orbit
from pipeline_core.config import Dress
from pipeline_core.io.gltf import load_glb, load_meshes, save_glb
from pipeline_core.io.levels import save_levels
from pipeline_core.meshing.levels import reduced
from pipeline_core.rendering.rasterize import rasterize_views
from pipeline_core.texturing import bake as B
from pipeline_core.texturing.dress import dress
from pipeline_core.types import Gaussians, Mesh, rgb_to_sh0
from pipeline_core.validation.glb import check_atlas
from tests.gltf_check import check_glb


def test_texels_have_the_colour_of_the_surface(textured, true_colour):
    texels = B.chart_texels(textured.vertices, textured.faces, textured.uvs, textured.normals, 128)
    want, clear = true_colour(texels.position)
    got = textured.texture[tuple(texels.index.T)]
    error = np.abs(got - want).max(axis=1)[clear]
    assert clear.sum() > 2000
    assert np.quantile(error, 0.99) < 0.08
    assert error.mean() < 0.02


def test_no_texel_is_empty(textured):
    assert textured.texture.max(axis=2).min() > 0.5  # every side of the ball has a bright channel
    assert textured.texture.min() >= 0 and textured.texture.max() <= 1


def test_normals_point_outward_and_are_smooth_across_seams(textured):
    direction = textured.vertices / np.linalg.norm(textured.vertices, axis=1, keepdims=True)
    assert (direction * textured.normals).sum(axis=1).min() > 0.9
    _, group = np.unique(textured.vertices, axis=0, return_inverse=True)
    for axis in range(3):
        low, high = (np.full(group.max() + 1, v) for v in (np.inf, -np.inf))
        np.minimum.at(low, group.reshape(-1), textured.normals[:, axis])
        np.maximum.at(high, group.reshape(-1), textured.normals[:, axis])
        assert np.array_equal(low, high)


def test_chart_texels_lie_where_the_uvs_say():
    """One triangle: the texel centre (i + 0.5) / size is interpolated exactly."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [0, 2, 0]], np.float32)
    uvs = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    normals = np.tile(np.float32([0, 0, 1]), (3, 1))
    texels = B.chart_texels(vertices, np.array([[0, 1, 2]]), uvs, normals, 8)
    row, column = texels.index.T
    want = np.stack([(column + 0.5) / 8, 2 * (row + 0.5) / 8, 0 * row], axis=1)
    np.testing.assert_allclose(texels.position, want, atol=1e-6)
    assert len(row) in range(28, 37)  # the diagonal texels may fall on either side


def test_hidden_texels_take_the_nearest_gaussians(gaussians, true_colour):
    points = np.array([[0, 0.45, 0], [0.4, 0, 0], [0, 0, -0.48]], np.float32)
    want, _ = true_colour(points)
    np.testing.assert_allclose(B.colours_at(gaussians, points), want, atol=1e-3)


def test_a_surface_behind_another_is_not_seen():
    """Two squares, one behind the other, seen from the front."""
    square = np.array([[-0.3, -0.3, 0], [0.3, -0.3, 0], [0.3, 0.3, 0], [-0.3, 0.3, 0]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3]])
    mesh = Mesh(
        np.concatenate([square + [0, 0, 0.3], square - [0, 0, 0.3]]).astype(np.float32),
        np.concatenate([faces, faces + 4]),
    )
    cameras = orbit(torch.tensor([0.0]), torch.tensor([0.0]), size=64)
    depth = B.visibility(mesh.vertices, mesh.faces, None, cameras).depth[0]
    position = torch.tensor([[0.0, 0, 0.3], [0, 0, -0.3], [0.29, 0.29, 0.3]])
    normal = torch.tensor([[0.0, 0, 1]]).expand(3, 3)
    seen, uv, weight = B.view_weight(position, normal, depth, cameras, 0)
    assert seen.tolist() == [0, 2]
    torch.testing.assert_close(uv[0], torch.zeros(2), atol=1e-6, rtol=0)
    assert weight[0] == 1
    assert B.view_weight(position, -normal, depth, cameras, 0)[0].tolist() == []


def test_bake_cameras_look_from_everywhere():
    cameras = B.bake_cameras(26, 32)
    eyes = -np.einsum("vji,vj->vi", cameras.viewmats[:, :3, :3].numpy(), cameras.viewmats[:, :3, 3].numpy())
    eyes /= np.linalg.norm(eyes, axis=1, keepdims=True)
    rng = np.random.default_rng(0)
    direction = rng.normal(size=(2000, 3))
    direction /= np.linalg.norm(direction, axis=1, keepdims=True)
    assert (direction @ eyes.T).max(axis=1).min() > np.cos(np.radians(35))


def test_bake_cameras_have_the_recipes_field_of_view():
    focal = B.bake_cameras(26, 32, 49.1).Ks[:, 0, 0]
    torch.testing.assert_close(focal, torch.full((26,), 1.0947 * 32), rtol=1e-4, atol=0)


def test_padding_is_the_nearest_texel():
    nothing = np.zeros((2, 3), np.float32)
    texels = B.Texels(4, np.array([[0, 0], [3, 3]]), nothing, nothing, np.zeros(2, int), nothing)
    nearest = B.nearest_texel(texels)
    assert nearest[0, 0] == nearest[0, 1] == nearest[1, 0] == 0
    assert nearest[3, 3] == nearest[2, 3] == nearest[3, 2] == 1


def test_a_light_map_has_uvs_of_its_own_through_all_that_follows(gaussians, mesh, settings, textured, tmp_path):
    asked = settings.model_copy(update={"lightmap_size": 64, "bake_views": 6, "bake_resolution": 32})
    lit = B.bake(gaussians, mesh, asked)
    assert textured.lightmap_uvs is None and np.array_equal(lit.uvs, textured.uvs)
    assert len(B.chart_texels(lit.vertices, lit.faces, lit.lightmap_uvs, lit.normals, 64).index) > 0.3 * 64**2
    lit, _ = dress(lit, mesh, "a ball", Dress(occlusion_sides=0))
    save_glb(tmp_path / "asset.glb", lit, name="asset", height_m=2)
    assert np.array_equal(load_glb(tmp_path / "asset.glb").lightmap_uvs, lit.lightmap_uvs)
    assert check_atlas(lit) == [] and check_glb(tmp_path / "asset.glb") == []
    save_levels(tmp_path / "lods.glb", {"LOD0": lit, "LOD1": reduced(lit, len(lit.faces) // 2)}, name="asset")
    less, whole = load_meshes(tmp_path / "lods.glb").values()
    pairs = [{(*a, *b) for a, b in zip(each.uvs, each.lightmap_uvs, strict=True)} for each in (less, whole)]
    assert len(less.faces) < len(whole.faces) and pairs[0] < pairs[1]
    assert check_glb(tmp_path / "lods.glb") == []


def test_same_gaussians_same_bytes(gaussians, settings, textured):
    again = B.bake(gaussians, B.Mesh(*_mesh_of(gaussians, settings)), settings)
    for name in ("vertices", "faces", "normals", "uvs", "texture"):
        assert getattr(again, name).tobytes() == getattr(textured, name).tobytes(), name


def _mesh_of(gaussians, settings):
    from pipeline_core.meshing.extract import extract_mesh

    mesh = extract_mesh(gaussians, settings)
    return mesh.vertices, mesh.faces


def test_what_lies_behind_a_surface_does_not_colour_it(textured, gaussians):
    """A red ball within the other, of which a shell of half-clear Gaussians lets some through."""
    thin = replace(gaussians, opacities=torch.full_like(gaussians.opacities, 0.5).logit())
    inner = replace(thin, means=0.7 * thin.means, sh0=rgb_to_sh0(torch.tensor([[1.0, 0.0, 0.0]])).expand_as(thin.sh0))
    both = Gaussians(**{name: torch.cat([value, inner.tensors()[name]]) for name, value in thin.tensors().items()})
    texels = B.chart_texels(textured.vertices, textured.faces, textured.uvs, textured.normals, 64)
    mesh, cameras = Mesh(textured.vertices, textured.faces), B.bake_cameras(14, 128)
    alone, filled = (B.seen_colours(each, texels, mesh, cameras)[0] for each in (thin, both))
    assert np.abs(filled - alone).max() < 0.02
    mixed = [rasterize_views(each, cameras)[0] for each in (thin, both)]
    assert (mixed[1] - mixed[0]).abs().max() > 0.1  # a render of all of them does show it


def test_what_is_seen_past_the_gaussians_does_not_colour_a_texel(textured, gaussians, monkeypatch):
    """A mesh that reaches farther than its Gaussians (they are its upper half), before a red wall."""
    upper = gaussians.chosen(gaussians.means[:, 1] > 0)
    turn = torch.linspace(0, 2 * torch.pi, 61)[:-1]
    ring = torch.stack([0.9 * turn.cos(), 0.9 * turn.sin() - 0.2, torch.full_like(turn, -0.9)], dim=1)
    pick = {name: value[: len(ring)] for name, value in upper.tensors().items()}
    red = rgb_to_sh0(torch.tensor([[1.0, 0.0, 0.0]])).expand_as(pick["sh0"])
    wall = pick | {"means": ring, "sh0": red, "scales": torch.full_like(pick["scales"], 0.15).log()}
    both = Gaussians(**{name: torch.cat([value, wall[name]]) for name, value in upper.tensors().items()})
    texels = B.chart_texels(textured.vertices, textured.faces, textured.uvs, textured.normals, 64)
    mesh, camera = Mesh(textured.vertices, textured.faces), orbit(torch.zeros(1), torch.zeros(1), size=128)

    def reddened():
        alone, filled = (B.seen_colours(each, texels, mesh, camera) for each in (upper, both))
        return (filled[1] > 1e-6) & (np.abs(filled[0] - alone[0]).max(axis=1) > 0.1)

    assert not reddened().any()
    monkeypatch.setattr(B, "ASIDE", 1e6)
    assert reddened().sum() > 20
