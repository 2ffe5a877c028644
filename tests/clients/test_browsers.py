"""three.js and model-viewer, served on loopback, show every asset of the web profile in a headless Chromium."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest

from pipeline_core.packing.formats import formats
from pipeline_core.packing.pack import pack
from pipeline_core.packing.profiles import profile
from tests.clients.test_blender import check_picture


@pytest.mark.parametrize("compress", [(), ("webp", "meshopt"), ("draco",)], ids=["plain", "meshopt", "draco"])
def test_three_js_shows_it_right_side_up(box, site, shoot, tmp_path, compress):
    folder, _ = site
    pack(box, tmp_path, replace(profile("web"), compress=compress), formats(["glb"]))
    name = f"{'-'.join(compress) or 'plain'}.glb"
    shutil.copy(tmp_path / "box" / "box.glb", folder / name)
    picture, told = shoot(f"three.html?file={name}", f"three-box-{name}")
    check_picture(picture, box=True)
    assert np.allclose(told["size"], (1.6, 0.8, 1.2), atol=2e-3) and abs(told["low"][1]) < 2e-3
    (mesh,) = told["meshes"]
    assert mesh["faces"] == 192
    assert mesh["maps"] == ["map", "normalMap", "roughnessMap", "metalnessMap", "aoMap"]


def test_model_viewer_shows_it_right_side_up(box, site, shoot, tmp_path):
    folder, _ = site
    pack(box, tmp_path, replace(profile("web"), compress=()), formats(["glb"]))
    shutil.copy(tmp_path / "box" / "box.glb", folder / "model-viewer.glb")
    picture, told = shoot("model-viewer.html?file=model-viewer.glb", "model-viewer-box")
    check_picture(picture, box=True)
    assert np.allclose(told["size"], (1.6, 0.8, 1.2), atol=1e-3) and told["materials"] == ["M_box"]


def test_they_show_every_other_asset(assets, site, shoot, tmp_path):
    folder, _ = site
    for asset in assets[1:]:
        pack(asset, tmp_path, profile("web"), formats(["glb"]))
        pack(asset, tmp_path / "plain", replace(profile("web"), compress=()), formats(["glb"]))
        shutil.copy(tmp_path / asset.asset_id / f"{asset.name}.glb", folder / f"web-{asset.name}.glb")
        shutil.copy(tmp_path / "plain" / asset.asset_id / f"{asset.name}.glb", folder / f"{asset.name}.glb")
        check_picture(shoot(f"three.html?file=web-{asset.name}.glb", f"three-{asset.name}")[0], box=False)
        check_picture(shoot(f"model-viewer.html?file={asset.name}.glb", f"model-viewer-{asset.name}")[0], box=False)
