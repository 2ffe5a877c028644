"""Kits: one atlas and one material, equal texel density, and pictures as those of the assets alone."""

import json
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch

from pipeline_core.cameras import orbit
from pipeline_core.errors import DataError
from pipeline_core.io.gltf import load_meshes, read_glb
from pipeline_core.io.images import decode_image
from pipeline_core.io.xmp import read, read_file
from pipeline_core.packing import kit as kits
from pipeline_core.packing.profiles import profile
from pipeline_core.rendering.mesh import render_mesh
from pipeline_core.types import Mesh, TexturedMesh
from pipeline_core.validation.glb import check_glb
from tests.pipeline_core.io.test_gltf import tetrahedron


def smooth(size, seed):
    """A texture without noise: as colours of props are."""
    grid = np.random.default_rng(seed).random((8, 8, 3)).astype(np.float32)
    return kits._resampled(grid, size)


@dataclass
class Asset:
    """What a kit asks of a finished asset."""

    name: str
    mesh: TexturedMesh
    levels: dict = field(default_factory=dict)
    hulls: list = field(default_factory=list)

    @property
    def told(self):
        return {"asset_id": self.name, "prompt": f"a {self.name}", "models": {}, "code_version": "1"}


@pytest.fixture(scope="module")
def assets():
    """Three of different sizes; one has a normal map, one a level of detail and a hull."""
    plain = tetrahedron()
    made = []
    for at, (name, scale, size) in enumerate((("barrel", 1.0, 64), ("chest", 0.7, 64), ("mug", 0.5, 32))):
        made.append(Asset(name, replace(plain, vertices=plain.vertices * scale, texture=smooth(size, at))))
    bumps = kits._resampled(np.random.default_rng(9).random((8, 8, 3)).astype(np.float32) * 0.2 + (0.4, 0.4, 0.8), 64)
    made[1].mesh = replace(made[1].mesh, normal_map=bumps.astype(np.float32), lightmap_uvs=plain.uvs / 2)
    made[0].levels, made[0].hulls = {1: made[0].mesh}, [Mesh(made[0].mesh.vertices, made[0].mesh.faces)]
    return made


@pytest.fixture(scope="module")
def kit(assets):
    return kits.make_kit("tavern", assets)


def pictures(mesh):
    low, high = mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)
    centred = replace(mesh, vertices=((mesh.vertices - (low + high) / 2) / (high - low).max()).astype(np.float32))
    angles = torch.arange(3) * 120.0
    return render_mesh(centred, orbit(angles, torch.full((3,), 20.0), size=64))


def test_texels_are_equally_dense_and_every_page_lies_apart(kit, assets):
    assert kit.spread <= 1.1 and kit.size & (kit.size - 1) == 0 and min(kit.scales.values()) >= kits.KEPT
    for asset, member in zip(assets, kit.members, strict=True):
        seen = kits.density(replace(member.mesh, texture=np.zeros((kit.size, kit.size, 3), np.float32)))
        assert seen == pytest.approx(kit.densities[asset.name], rel=1e-3)
        assert member.mesh.lightmap_uvs is asset.mesh.lightmap_uvs
    taken = np.zeros((kit.size, kit.size), int)
    for place in kit.places.values():
        taken[place.y - kits.BORDER :, place.x - kits.BORDER :][: place.side + 16, : place.side + 16] += 1
    assert taken.max() == 1


def test_each_asset_looks_as_it_does_alone(kit, assets):
    for asset, member in zip(assets, kit.members, strict=True):
        (alone, mask), (together, _) = pictures(asset.mesh), pictures(member.mesh)
        error = ((alone - together) ** 2)[mask > 0].mean()
        assert -10 * torch.log10(error) >= 40, asset.name


def test_one_map_has_all_and_who_has_none_is_flat_in_it(kit):
    assert set(kit.maps) == {"texture", "normal_map"}
    flat, bumpy = kit.places["barrel"], kit.places["chest"]
    page = kit.maps["normal_map"][bumpy.y :, bumpy.x :][: bumpy.side, : bumpy.side] * 2 - 1
    assert np.allclose(np.linalg.norm(page, axis=2), 1, atol=1e-3)
    rest = kit.maps["normal_map"][flat.y :, flat.x :][: flat.side, : flat.side]
    assert np.array_equal(np.unique(rest.reshape(-1, 3), axis=0), [[0.5, 0.5, 1.0]])


def test_the_file_has_all_assets_on_one_material_and_each_apart_names_the_same_pictures(kit, tmp_path):
    files = kits.write(kit, tmp_path, profile("unreal"))
    document, body = read_glb(tmp_path / "tavern.glb")
    assert [node["name"] for node in document["nodes"]] == [
        "SM_barrel_LOD0", "SM_barrel_LOD1", "UCX_SM_barrel_LOD0_00", "SM_chest_LOD0", "SM_mug_LOD0"]  # fmt: skip
    assert len(document["materials"]) == 1 and len(document["images"]) == 2
    assert {each.code for each in check_glb(document, body)} <= {"LOD_ORDER"}  # the test's level has as many faces
    said = read_file(tmp_path / "tavern.glb")
    assert said.generated and said.prompt == "a barrel\na chest\na mug"
    moves = [node["translation"][0] for node in document["nodes"] if node["name"].endswith("LOD0")]
    assert moves == sorted(moves) and len(load_meshes(tmp_path / "tavern.glb", object_units=False)) >= 3
    apart = json.loads((tmp_path / "tavern" / "SM_mug.gltf").read_text())
    assert [image["uri"] for image in apart["images"]] == ["T_tavern_BC.png", "T_tavern_N.png"]
    assert apart["buffers"][0]["byteLength"] == (tmp_path / "tavern" / "SM_mug.bin").stat().st_size
    assert apart["extensionsUsed"] and all(view["buffer"] == 0 for view in apart["bufferViews"])
    picture = (tmp_path / "tavern" / "T_tavern_BC.png").read_bytes()
    assert read(picture).generated and decode_image(picture).shape == (kit.size, kit.size, 3)
    told = json.loads((tmp_path / "tavern.json").read_text())
    assert told["assets"]["mug"]["side"] == kit.places["mug"].side and all(each.is_file() for each in files)
    before = {each: each.read_bytes() for each in files}
    kits.write(kit, tmp_path, profile("unreal"))
    assert before == {each: each.read_bytes() for each in files}


def test_where_the_atlas_is_too_small_all_shrink_alike(assets):
    small = kits.make_kit("tavern", assets, most=256)
    assert small.size == 256 and small.spread <= 1.1
    tight = kits.make_kit(
        "tavern", [replace(each, name=f"{each.name}{i}") for i in range(9) for each in assets], most=256
    )
    assert max(tight.scales.values()) < max(small.scales.values()) and tight.spread <= 1.1


@pytest.mark.parametrize("change, words", [
    ({"assets": []}, "it has no asset"),
    ({"most": 1000}, "power of two"),
    ({"twice": True}, "two assets are called barrel"),
    ({"many": 40}, "do not fit|too unlike"),
])  # fmt: skip
def test_what_cannot_be_a_kit_is_told(assets, change, words):
    given = [replace(each, name=f"{each.name}{i}") for i in range(change.get("many", 0)) for each in assets] or assets
    given = [*given, given[0]] if change.get("twice") else change.get("assets", given)
    with pytest.raises(DataError, match=words):
        kits.make_kit("tavern", given, most=change.get("most", 256))


@pytest.mark.parametrize("seed", range(5))
def test_squares_are_packed_without_overlap(seed):
    rng = np.random.default_rng(seed)
    sides = {str(at): int(rng.integers(1, 60)) for at in range(20)}
    places = kits.pack_squares(sides, 512)
    taken = np.zeros((512, 512), int)
    for place in places.values():
        taken[place.y - 8 : place.y + place.side + 8, place.x - 8 : place.x + place.side + 8] += 1
    assert len(places) == 20 and taken.max() == 1 and kits.pack_squares(sides, 64) == {}
