"""exiftool reads from each file that a model made it, and of which prompt."""

from __future__ import annotations

import json
import subprocess

from pipeline_core.io.xmp import GENERATED, SUFFIXES
from pipeline_core.packing.formats import formats
from pipeline_core.packing.pack import pack
from pipeline_core.packing.profiles import profile
from tests.finished_asset import HOSTILE


def test_it_reads_the_mark_and_the_prompt_from_each_file(assets, tmp_path):
    files = []
    for row in ("blender", "web"):
        for asset in assets:
            packed = pack(asset, tmp_path / row, profile(row), formats(["glb", "usd", "obj"]))
            files += [tmp_path / row / each.file for each in packed.files if each.file.endswith(SUFFIXES)]
    files = [path for path in files if "collision" not in path.name]  # hulls have no picture, so no packet of XMP
    command = ["exiftool", "-json", "-charset", "utf8", "-scanForXMP", "-XMP:all", *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)  # it ends with 1: GLB is unknown to it
    told = json.loads(done.stdout)
    assert len(told) == len(files) > 8
    for each in told:
        assert each.get("DigitalSourceType") == GENERATED, each["SourceFile"]
    box = [each for each in told if "/box/" in each["SourceFile"]]
    assert {each["Description"] for each in box} == {HOSTILE}
