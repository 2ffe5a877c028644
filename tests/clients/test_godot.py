"""Godot imports a project of our GLBs: the mesh with its maps in metres, hulls as bodies by their names' suffix."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import numpy as np

from pipeline_core.packing.formats import formats
from pipeline_core.packing.pack import pack
from pipeline_core.packing.profiles import profile
from tests.clients.conftest import HERE, PICTURES, run, told
from tests.clients.test_blender import check_picture

PROJECT = """config_version=4

[application]
config/name="check"
run/main_scene="res://main.tscn"

[rendering]
quality/driver/driver_name="GLES2"
"""
MAIN = """[gd_scene load_steps=2 format=2]

[ext_resource path="res://godot_picture.gd" type="Script" id=1]

[node name="main" type="Spatial"]
script = ExtResource( 1 )
"""


def import_with_editor(project, count, env):
    """Let the editor import all scenes of a project; without a window it does not end by itself."""
    log = project.parent / "editor.log"
    with log.open("wb") as output:
        words = ["godot3-server", "--path", project, "--editor"]
        editor = subprocess.Popen(words, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        end = time.monotonic() + 240
        while len(list(project.glob(".import/*.md5"))) < count and editor.poll() is None and time.monotonic() < end:
            time.sleep(0.2)
        editor.kill()
        editor.wait()
    assert len(list(project.glob(".import/*.scn"))) == count, log.read_text()[-2000:]


def test_a_picture_of_it_is_right_side_up(assets, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "project.godot").write_text(PROJECT)
    (project / "main.tscn").write_text(MAIN)
    shutil.copy(HERE / "godot_picture.gd", project)
    for asset in assets:
        pack(asset, tmp_path / "out", profile("godot"), formats(["glb"]))
        shutil.copy(tmp_path / "out" / asset.asset_id / f"{asset.name}.glb", project)
    home = os.environ | {"HOME": str(tmp_path)}
    import_with_editor(project, len(assets), home)
    window = ("xvfb-run", "-a", "godot3", "--path", project, "--audio-driver", "Dummy", "--resolution", "512x512")
    for asset in assets:
        picture = PICTURES / f"godot-{asset.name}.png"
        run(*window, env=home | {"SCENES": f"{asset.name}.glb", "PICTURE": str(picture)})
        check_picture(picture, box=asset.name == "box")


def test_a_project_imports_mesh_materials_levels_and_collision(box, tmp_path):
    packed = pack(box, tmp_path / "out", profile("godot"), formats(["glb"]))
    project = tmp_path / "project"
    project.mkdir()
    (project / "project.godot").write_text(PROJECT)
    shutil.copy(HERE / "in_godot.gd", project)
    names = [each.file.partition("/")[2] for each in packed.files]
    for each in packed.files:
        shutil.copy(tmp_path / "out" / each.file, project)
    home = os.environ | {"HOME": str(tmp_path), "SCENES": ",".join(names)}
    import_with_editor(project, len(names), home)
    found = told(run("godot3-server", "--path", project, "-s", "in_godot.gd", env=home), "NODE")
    meshes = {each["scene"]: each for each in found if each["class"] == "MeshInstance"}
    faces = {name: mesh["faces"] for name, mesh in meshes.items()}
    assert faces == {"box.glb": 192, "box_LOD1.glb": 48, "box_LOD2.glb": 12}
    mesh = meshes["box.glb"]
    assert np.allclose(mesh["low"], (-0.8, 0, -0.6), atol=1e-4)
    assert np.allclose(mesh["size"], (1.6, 0.8, 1.2), atol=1e-4)
    assert mesh["material"] == "M_box" and set(mesh["maps"]) >= {"albedo", "normal", "roughness", "metallic"}
    shapes = [each for each in found if each["class"] == "CollisionShape"]
    assert [(each["body"], each["shape"]) for each in shapes] == [
        ("box_0", "ConvexPolygonShape"), ("box_1", "ConvexPolygonShape"),
    ]  # fmt: skip
