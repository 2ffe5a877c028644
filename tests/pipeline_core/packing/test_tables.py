"""The tables of profiles, formats, tools and compressions."""

import sys

import pytest

from pipeline_core.errors import RequestError
from pipeline_core.io.splats import SPLAT_FORMATS
from pipeline_core.packing import tools
from pipeline_core.packing.compress import COMPRESSIONS, compressions
from pipeline_core.packing.formats import FORMATS, formats
from pipeline_core.packing.pack import tools as needed
from pipeline_core.packing.profiles import PROFILES, profile, safe


def test_rows_have_names_of_their_own_and_what_they_name_is_there():
    for table in (PROFILES, FORMATS, tools.TOOLS, COMPRESSIONS):
        assert len({row.name for row in table}) == len(table)
    names = {tool.name for tool in tools.TOOLS}
    assert {row.tool for row in FORMATS} - {""} <= names
    assert {tool for row in COMPRESSIONS for tool in row.tools} <= names
    for row in PROFILES:
        assert formats(row.formats) and compressions(row.compress or ["none"]) == row.compress
    for row in FORMATS:
        assert callable(row.write()), row.name
    assert {row.name: row.suffix for row in FORMATS if row.of == "splat"} == {
        name: row.suffix for name, row in SPLAT_FORMATS.items()
    }


@pytest.mark.parametrize(
    ("name", "mesh", "level", "hull"),
    [
        ("unreal", "SM_mug_LOD0", "SM_mug_LOD2", "UCX_SM_mug_LOD0_01"),
        ("unity", "mug", "mug_LOD2", "mug_collision1"),
        ("godot", "mug", "mug_LOD2", "mug_1-convcolonly"),
    ],
)
def test_each_engine_has_its_names(name, mesh, level, hull):
    row = profile(name)
    assert (row.level_of("mug", 0), row.level_of("mug", 2), row.hull_of("mug", 1)) == (mesh, level, hull)


def test_what_no_table_has_is_refused_with_what_it_has():
    for call, words in [
        (lambda: profile("maya"), "--profile maya: one of unreal, unity"),
        (lambda: formats(["glb", "3ds"]), "--format 3ds: some of glb, usdz"),
        (lambda: compressions(["zip"]), "--compress zip: none, or some of webp"),
        (lambda: compressions(["draco", "meshopt"]), "draco or meshopt, not both"),
    ]:
        with pytest.raises(RequestError, match=words):
            call()


def test_a_missing_tool_is_told_with_how_to_get_it(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setenv(tools.BLENDER, "no-such-blender")
    wanted = needed(profile("web"), formats(["glb", "fbx", "obj"]))
    assert wanted == {"gltf-transform", "blender"}
    with pytest.raises(RequestError, match=r"blender \(put .*SPLATMILL_BLENDER.*gltf-transform \(npm install"):
        tools.require(wanted)
    assert needed(profile("web"), formats(["obj"])) == set()


def test_blender_is_a_program_or_a_python_that_has_it(monkeypatch):
    monkeypatch.setenv(tools.BLENDER, sys.executable)
    assert tools.command("blender") == [sys.executable]


def test_names_that_a_system_keeps_for_itself_become_others():
    assert [safe(name) for name in ("con", "lpt1", "console", "mug")] == ["con_", "lpt1_", "console", "mug"]
