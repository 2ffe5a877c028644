"""Khronos' validator: run where it is, and never missed in silence."""

import json
import shutil

import pytest

from pipeline_core.findings import Finding
from pipeline_core.io.gltf import save_glb
from pipeline_core.validation import khronos
from tests.pipeline_core.io.test_gltf import tetrahedron

FAKE = """
exports.validateBytes = async (bytes) => ({issues: {messages: bytes.length < 9 ? [] : [
  {code: "X", message: "first", severity: 1}, {code: "X", message: "second", severity: 1},
  {code: "Y", message: "a hint", severity: 3}]}});
"""
needs_node = pytest.mark.skipif(not shutil.which("node"), reason="Node is not installed")


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package of its shape, which this machine has."""
    folder = tmp_path / "gltf-validator"
    folder.mkdir()
    (folder / "package.json").write_text(json.dumps({"version": "9.9", "main": "index.js"}))
    (folder / "index.js").write_text(FAKE)
    monkeypatch.setenv(khronos.VARIABLE, str(folder))
    return folder


@needs_node
def test_what_it_says_becomes_findings_by_file(package, tmp_path):
    (tmp_path / "a.glb").write_bytes(b"")
    (tmp_path / "b.glb").write_bytes(b"123456789")
    found = khronos.validate([tmp_path / "a.glb", tmp_path / "b.glb"])
    assert khronos.found().version == "gltf-validator 9.9"
    assert {each.code: each for each in found} == {
        "X": Finding("X", "warning", "first", "b.glb", 2),
        "Y": Finding("Y", "info", "a hint", "b.glb"),
    }


@needs_node
def test_one_that_breaks_is_told(package, tmp_path):
    (package / "index.js").write_text("throw new Error('no')")
    (tmp_path / "a.glb").write_bytes(b"")
    (only,) = khronos.validate([tmp_path / "a.glb"])
    assert only.code == "KHRONOS_VALIDATOR_NOT_RUN" and "could not be run" in only.message


@pytest.mark.parametrize("path, variable", [("/nowhere", ""), (None, "/nowhere/gltf-validator")])
def test_one_that_is_not_there_is_told_with_what_to_do(monkeypatch, tmp_path, path, variable):
    monkeypatch.setenv(khronos.VARIABLE, variable)
    if path:
        monkeypatch.setenv("PATH", path)
    (only,) = khronos.validate([tmp_path / "a.glb"])
    assert only.severity == "info" and ("npm install -g gltf-validator" in only.message or variable in only.message)


@pytest.mark.skipif(bool(khronos.found().missing), reason=khronos.found().missing)
def test_the_real_one_finds_nothing_in_what_we_write(tmp_path):
    save_glb(tmp_path / "a.glb", tetrahedron(), name="a")
    assert khronos.validate([tmp_path / "a.glb"]) == []
