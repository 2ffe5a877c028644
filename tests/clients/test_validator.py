"""The Khronos validator finds no error, warning or hint in any GLB that is exported."""

from __future__ import annotations

import os

import pytest

from pipeline_core.packing.compress import COMPRESSIONS
from pipeline_core.packing.formats import formats
from pipeline_core.packing.pack import pack
from pipeline_core.packing.profiles import PROFILES
from tests.clients.conftest import HERE, run, told

KNOWN = {
    "UNSUPPORTED_EXTENSION": "the validator does not know MSFT_lod, EXT_texture_webp, EXT_meshopt_compression and "
    "KHR_gaussian_splatting (information, no finding)",
    "MESH_PRIMITIVE_INVALID_ATTRIBUTE": "nor the attributes of KHR_gaussian_splatting",
    "NODE_EMPTY": "nor that MSFT_lod's nodes are used (information)",
    "UNUSED_OBJECT": "nor what those extensions refer to (information)",
}
"""Why some of its messages are about the validator."""


@pytest.mark.parametrize("row", PROFILES, ids=lambda row: row.name)
def test_exports_have_no_error_warning_or_hint(row, assets, installed, tmp_path):
    files = []
    for asset in assets:
        packed = pack(asset, tmp_path, row, formats(["glb", "splat-glb"]))
        files += [tmp_path / each.file for each in packed.files]
    text = run("node", HERE / "validate.mjs", *files, env=os.environ | {"NODE_PATH": str(installed / "node_modules")})
    for found in told(text, "ISSUES"):
        counts = (found["numErrors"], found["numWarnings"], found["numHints"])
        said = [(each["code"], each["message"]) for each in found["messages"]]
        if found["file"].endswith(".splat.glb"):
            assert {code for code, _ in said} <= set(KNOWN), said
            continue
        if row.compress:  # it does not decompress, so it cannot look at what is inside
            assert {code for code, _ in said} <= set(KNOWN) and counts == (0, 0, 0), said
            continue
        assert counts == (0, 0, 0), (found["file"], said)
    assert len(told(text, "ISSUES")) == len(files)


def test_every_compression_whose_tool_is_there_is_one(assets, tmp_path):
    from dataclasses import replace

    from pipeline_core.io.gltf import read_glb
    from pipeline_core.packing.tools import command

    tried = []
    for each in COMPRESSIONS:
        if all(command(tool) for tool in each.tools):
            row = replace(PROFILES[0], levels="", hulls="", compress=(each.name,))
            pack(assets[0], tmp_path / each.name, row, formats(["glb"]))
            document, _ = read_glb(tmp_path / each.name / "box" / "SM_box.glb")
            assert each.extension in document["extensionsUsed"]
            tried.append(each.name)
    assert {"webp", "meshopt", "draco"} <= set(tried)  # ktx2 wants KTX-Software, which Debian does not have
