"""``usdchecker --arkit`` has nothing to say."""

from __future__ import annotations

import shutil

from pipeline_core.packing.formats import formats
from pipeline_core.packing.pack import pack
from pipeline_core.packing.profiles import profile
from tests.clients.conftest import HERE, run, told


def test_usdz_is_clean_for_arkit(assets, installed, tmp_path):
    files = []
    for asset in assets:
        packed = pack(asset, tmp_path, profile("web"), formats(["usdz", "usd"]))
        files += [tmp_path / each.file for each in packed.files if each.file.endswith((".usdz", ".usd"))]
    found = told(run(installed / "usd" / "bin" / "python", HERE / "arkit.py", *files), "FOUND")
    assert {each["file"]: each["found"] for each in found} == {str(path): [] for path in files}


def test_it_is_not_blind(box, installed, tmp_path):
    pack(box, tmp_path, profile("web"), formats(["usd"]))
    shutil.rmtree(tmp_path / "box" / "textures")
    (found,) = told(run(installed / "usd" / "bin" / "python", HERE / "arkit.py", tmp_path / "box" / "box.usd"), "FOUND")
    assert any("T_box_BC.png" in each for each in found["found"])
