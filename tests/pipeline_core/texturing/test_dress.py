"""Maps of a bumpy ball that decimation smoothed: its normals come back, its dents are dark; materials by the prompt."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline_core.cameras import orbit
from pipeline_core.config import Dress
from pipeline_core.meshing.collapse import simplify
from pipeline_core.meshing.levels import reduced
from pipeline_core.meshing.normals import vertex_normals
from pipeline_core.meshing.surface import surfaces
from pipeline_core.meshing.unwrap import unwrap
from pipeline_core.rendering.lit import render_lit
from pipeline_core.texturing.bake import chart_texels
from pipeline_core.texturing.dress import dress, finish_at, light_of, parts_of
from pipeline_core.texturing.materials import GLOWING, MATERIALS, materials_of
from pipeline_core.types import Mesh, PointCloud, TexturedMesh
from tests.bench.deliverables import normal_gain

SIZE = 128
YELLOW, BROWN, WHITE = (0.85, 0.7, 0.1), (0.4, 0.25, 0.12), (1.0, 0.98, 0.7)


@pytest.fixture(scope="module")
def fine():
    """A ball with waves on it."""
    x = np.linspace(-1, 1, 44)
    at = np.stack(np.meshgrid(x, x, x, indexing="ij"))
    waves = 0.15 * np.cos(14 * at).prod(axis=0)
    vertices, faces, *_ = surfaces(
        (2 - 1.6 * np.linalg.norm(at, axis=0) + waves).clip(0, None).astype(np.float32), iso=1.0, face_budget=30_000
    )
    return Mesh((vertices * (x[1] - x[0]) - 1).astype(np.float32), faces)


@pytest.fixture(scope="module")
def coarse(fine):
    vertices, faces = simplify(fine.vertices, fine.faces, 300)
    mesh = Mesh(vertices.astype(np.float32), faces.astype(np.int32))
    vertices, faces, uvs, source = unwrap(mesh, SIZE)
    normals = vertex_normals(mesh.vertices, mesh.faces)[source].astype(np.float32)
    return TexturedMesh(vertices, faces, normals, uvs, np.full((SIZE, SIZE, 3), BROWN, np.float32))


@pytest.fixture(scope="module")
def dressed(coarse, fine):
    return dress(coarse, fine, "a brown ball", Dress())


def test_with_its_normal_map_the_coarse_mesh_is_lit_more_like_the_fine_one(coarse, fine, dressed):
    normals = vertex_normals(fine.vertices, fine.faces).astype(np.float32)
    uvs = np.full((len(normals), 2), 0.5, np.float32)
    truth = TexturedMesh(fine.vertices, fine.faces, normals, uvs, coarse.texture)
    cameras = orbit(torch.tensor([0.0, 120.0]), torch.tensor([20.0, -10.0]), size=96)
    meshes = (truth, replace(coarse, normal_map=dressed[0].normal_map), coarse)
    (want, with_map, without), covers = zip(*(render_lit(each, cameras, supersample=1) for each in meshes), strict=True)
    inside = torch.stack(covers).amin(dim=0) > 0  # no map changes an outline
    assert (with_map - want)[inside].square().mean() < 0.4 * (without - want)[inside].square().mean()


def test_a_lower_level_with_the_normal_map_is_nearer_to_the_whole_than_without(dressed):
    gain = normal_gain(dressed[0], reduced(dressed[0], len(dressed[0].faces) // 4))
    assert gain > 0.5, gain


def test_the_map_is_of_unit_vectors_and_flat_where_nothing_was_taken(coarse, dressed):
    vectors = 2 * dressed[0].normal_map - 1
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=2), 1, atol=1e-5)
    assert vectors[..., 2].min() > 0 and vectors[..., 2].mean() > 0.9
    same = dress(coarse, Mesh(coarse.vertices, coarse.faces), "a ball", Dress(occlusion_sides=6))[0]
    assert (2 * same.normal_map - 1)[..., 2].mean() > 0.985


def test_dents_are_darker_than_bumps(coarse, dressed):
    texels = chart_texels(coarse.vertices, coarse.faces, coarse.uvs, coarse.normals, SIZE)
    occlusion = dressed[0].orm[tuple(texels.index.T)][:, 0]
    height = np.linalg.norm(texels.position, axis=1)
    low, high = np.quantile(height, [0.2, 0.8])
    assert occlusion[height < low].mean() < occlusion[height > high].mean() - 0.015
    assert occlusion.min() > 0.15 and occlusion.max() <= 1


def test_without_a_word_the_material_is_the_constant_and_says_so(dressed):
    textured, told = dressed
    assert told["material_source"] == "constant" and told["materials"][0]["name"] == "plain"
    assert np.unique(textured.orm[..., 1:].reshape(-1, 2), axis=0).tolist() == [pytest.approx([0.9, 0.0])]
    assert textured.emissive is None and "emissive" not in told


def test_the_base_colour_is_what_the_texture_shows_of_a_metal_too(coarse, fine):
    textured, told = dress(coarse, fine, "a golden ball", Dress(occlusion_sides=0))
    assert told["materials"][0]["metallic"] == 1 and textured.texture is coarse.texture


def test_a_recipe_may_say_it_and_leave_maps_out(coarse, fine):
    settings = Dress(normal_map=False, occlusion_sides=0, metallic=1.0)
    textured, told = dress(coarse, fine, "a wooden ball", settings)
    assert told["material_source"] == "recipe" and textured.normal_map is None
    assert np.unique(textured.orm.reshape(-1, 3), axis=0).tolist() == [pytest.approx([1.0, 0.75, 1.0])]


@pytest.fixture(scope="module")
def banded(fine):
    """Points of the brown ball, with a belt of metal."""
    xyz = torch.from_numpy(fine.vertices)
    belt = xyz[:, 1:2].abs() < 0.25
    finish = torch.where(belt, torch.tensor([1.0, 0.4]), torch.tensor([0.0, 0.7]))
    return PointCloud(xyz, torch.tensor(BROWN).expand_as(xyz), finish)


def test_where_no_word_says_it_points_that_know_materials_do_texel_by_texel(coarse, fine, banded):
    settings = Dress(occlusion_sides=0)
    textured, told = dress(coarse, fine, "a brown ball", settings, banded)
    texels = chart_texels(coarse.vertices, coarse.faces, coarse.uvs, coarse.normals, SIZE)
    roughness, metallic = textured.orm[tuple(texels.index.T)][:, 1:].T
    height = np.abs(texels.position[:, 1])
    assert metallic[height < 0.1].mean() > 0.9 and metallic[height > 0.5].max() == 0
    assert roughness[height > 0.5] == pytest.approx(0.7) and set(np.unique(metallic)) == {0.0, 1.0}
    assert told["material_source"] == "points"
    assert [(each["name"], each["metallic"]) for each in told["materials"]] == [("plain", 0.0), ("metal", 1.0)]
    assert sum(each["share"] for each in told["materials"]) == pytest.approx(1, abs=1e-3)


def test_words_and_recipes_stand_above_points_and_points_without_materials_say_nothing(coarse, fine, banded):
    settings = Dress(occlusion_sides=0)
    assert dress(coarse, fine, "a wooden ball", settings, banded)[1]["material_source"] == "prompt"
    textured, told = dress(coarse, fine, "a ball", Dress(occlusion_sides=0, metallic=0.0), banded)
    assert told["material_source"] == "recipe" and textured.orm[..., 2].max() == 0 and np.ptp(textured.orm[..., 1]) > 0
    unsaid, told = dress(coarse, fine, "a ball", settings, replace(banded, finish=None))
    assert told == dress(coarse, fine, "a ball", settings)[1] and told["material_source"] == "constant"


def test_on_the_edge_of_a_band_the_points_of_the_texels_own_colour_speak_for_it():
    x = torch.linspace(-1, 1, 41)
    xyz = torch.stack([x, 0 * x, 0 * x], dim=1)
    metal = x > 0
    rgb = torch.where(metal[:, None], torch.tensor(YELLOW), torch.tensor(BROWN))
    cloud = PointCloud(xyz, rgb, torch.stack([metal.float(), torch.full_like(x, 0.5)], dim=1))
    position = np.array([[-0.02, 0, 0], [-0.02, 0, 0]])
    assert finish_at(cloud, position, np.array([YELLOW, BROWN]))[0].tolist() == [1.0, 0.0]


def test_the_same_mesh_has_the_same_maps(coarse, fine, dressed):
    again, told = dress(coarse, fine, "a brown ball", Dress())
    assert told == dressed[1]
    for name in ("normal_map", "orm"):
        assert getattr(again, name).tobytes() == getattr(dressed[0], name).tobytes()


@pytest.mark.parametrize(("prompt", "names"), [
    ("a Golden mug", ["gold"]),
    ("an iron-bound wooden chest with iron bands", ["metal", "wood"]),
    ("a blue mug", []),
    ("<b>\"steel\"</b> 🗡", ["metal"]),
    ("a pine", []),
])  # fmt: skip
def test_words_name_materials(prompt, names):
    assert [material.name for material in materials_of(prompt)] == names


def test_a_word_names_one_material_and_metals_are_metals_alone():
    words = [word for material in MATERIALS for word in material.words]
    assert len(set(words)) == len(words) and all(word == word.lower() for word in words)
    assert {material.metallic for material in MATERIALS} == {0.0, 1.0}


def test_two_materials_are_told_apart_by_colour_where_both_are_seen():
    colours = np.float32([YELLOW] * 30 + [BROWN] * 70)
    materials, which, source = parts_of("a wooden chest with golden bands", colours)
    assert [material.name for material in materials] == ["wood", "gold"] and source == "prompt"
    assert which.tolist() == [1] * 30 + [0] * 70
    materials, which, _ = parts_of("a wooden chest with golden bands", np.float32([BROWN] * 100))
    assert [material.name for material in materials] == ["wood"] and not which.any()


def test_only_bright_and_warm_texels_of_what_glows_give_light():
    colours = np.float32([WHITE] * 5 + [BROWN] * 95)
    light, word = light_of("a lit brass Lantern", colours)
    assert word == "lit" and (light[:5] > 0.5).any(axis=1).all() and not light[5:].any()
    assert light_of("a mug", colours) == (None, None)
    assert light_of("a lantern", np.float32([BROWN] * 100)) == (None, None)


def test_the_page_on_prompts_has_the_table_of_materials():
    page = (Path(__file__).parents[3] / "docs" / "PROMPTS.md").read_text()
    for material in MATERIALS:
        assert f"| {', '.join(material.words)} | {material.metallic:g} | {material.roughness:g} |" in page
    assert ", ".join(GLOWING) in " ".join(page.split())
