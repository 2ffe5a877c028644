"""Blender reads every mesh format: sizes, unit, faces, materials, levels and collision; upright and facing us."""

from __future__ import annotations

import re
import struct

import numpy as np
import pytest

from pipeline_core.io.images import decode_image
from pipeline_core.packing.formats import formats
from pipeline_core.packing.pack import pack
from pipeline_core.packing.profiles import profile
from tests.clients.conftest import HERE, PICTURES, run, told
from tests.finished_asset import HOSTILE

LOW, HIGH = (-0.8, -0.6, 0), (0.8, 0.6, 0.8)
"""The box in Blender's axes: as deep as it is behind and before the origin, standing on the floor."""
MAPS = ["T_box_BC", "T_box_N", "T_box_ORM", "T_box_ORM"]


@pytest.fixture(scope="module")
def looked(box, installed, tmp_path_factory):
    """What Blender finds in the files of three profiles, by profile and format."""
    target = tmp_path_factory.mktemp("blender")
    found = {}
    for name in ("unreal", "unity", "blender"):
        row = profile(name)
        packed = pack(box, target / name, row, formats(["glb", "usd", "usdz", "obj", "stl", "fbx"]))
        files = [target / name / each.file for each in packed.files]
        files = [path for path in files if path.suffix in (".glb", ".usd", ".usdz", ".obj", ".stl", ".fbx")]
        text = run(installed / "blender" / "bin" / "python", HERE / "in_blender.py", *files)
        for each in told(text, "LOOK"):
            for path, what in each.items():
                found[name, path.rpartition("/")[2]] = what
    return target, found


@pytest.mark.parametrize(("name", "stem"), [("unreal", "SM_box"), ("unity", "box"), ("blender", "box")])
@pytest.mark.parametrize("suffix", [".glb", ".usd", ".usdz", ".obj", ".fbx", ".stl"])
def test_it_stands_in_metres_as_it_was_made(looked, name, stem, suffix):
    what = looked[1][name, stem + suffix]
    mesh = max(what["meshes"].values(), key=lambda each: each["faces"])
    unit = {".stl": 1000, ".obj": 100 if name == "unreal" else 1}.get(suffix, 1)  # neither says its unit
    assert what["unit"] == 1 and mesh["faces"] == 192
    assert np.allclose(mesh["low"], np.array(LOW) * unit, atol=1e-5 * unit)
    assert np.allclose(mesh["high"], np.array(HIGH) * unit, atol=1e-5 * unit)
    if suffix != ".stl":
        ((material, images),) = mesh["materials"].items()
        assert material == "M_box" and images[0].startswith("T_box_BC") and len(images) >= 2


def test_levels_and_collision_come_by_their_names(looked):
    faces = {key: {n: m["faces"] for n, m in what["meshes"].items()} for key, what in looked[1].items()}
    levels = {"SM_box_LOD0": 192, "SM_box_LOD1": 48, "SM_box_LOD2": 12}
    hulls = {"UCX_SM_box_LOD0_00": 12, "UCX_SM_box_LOD0_01": 12}
    assert faces["unreal", "SM_box.glb"] == faces["unreal", "SM_box.fbx"] == levels | hulls
    assert faces["unity", "box.fbx"] == {"box_LOD0": 192, "box_LOD1": 48, "box_LOD2": 12}
    assert faces["unity", "box_collision.glb"] == {"box_collision0": 12, "box_collision1": 12}
    assert faces["blender", "box.glb"] == {"box": 192} and faces["blender", "box_LOD1.glb"] == {"box_LOD1": 48}
    assert looked[1]["blender", "box.glb"]["meshes"]["box"]["materials"] == {"M_box": sorted(set(MAPS))}
    parents = {name: mesh["parent"] for name, mesh in looked[1]["unreal", "SM_box.fbx"]["meshes"].items()}
    assert parents == dict.fromkeys(levels, "SM_box") | dict.fromkeys(hulls, "")  # levels below their LOD group


def test_an_fbx_says_its_unit_and_keeps_the_prompt_as_text(looked):
    target, found = looked
    for name, centimetres in (("unreal", 1.0), ("unity", 100.0)):
        path = next((target / name / "box").glob("*.fbx"))
        unit = re.search(rb"UnitScaleFactor.*?D(.{8})", path.read_bytes(), re.DOTALL)
        assert struct.unpack("<d", unit[1]) == (centimetres,)
        mesh = max(found[name, path.name]["meshes"].values(), key=lambda each: each["faces"])
        assert mesh["told"]["prompt"] == HOSTILE


def test_a_picture_of_it_is_right_side_up(assets, installed, tmp_path):
    for asset in assets:
        pack(asset, tmp_path, profile("blender"), formats(["glb"]))
        picture = PICTURES / f"blender-{asset.name}.png"
        path = tmp_path / asset.asset_id / f"{asset.name}.glb"
        run(installed / "blender" / "bin" / "python", HERE / "in_blender.py", "--picture", picture, path, timeout=400)
        check_picture(picture, box=asset.name == "box")


def check_picture(path, *, box):
    """Something is drawn; of the box the red top is above the green front."""
    pixels = decode_image(path.read_bytes())
    assert pixels.std() > 0.05, path
    if box:
        red = pixels[..., 0] - pixels[..., 1:].max(axis=-1) > 0.2
        green = pixels[..., 1] - pixels[..., ::2].max(axis=-1) > 0.2
        assert red.sum() > 2000 and green.sum() > 2000, path
        assert np.nonzero(red)[0].mean() < np.nonzero(green)[0].mean() - 20, path
        assert abs(np.nonzero(red)[1].mean() - np.nonzero(green)[1].mean()) < 20, path
