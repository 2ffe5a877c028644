"""``splatmill validate``, ``sign`` and ``kit``: what they tell and how they end."""

from __future__ import annotations

import json
import shutil

import pytest
from typer.testing import CliRunner

from flows.cli import app
from pipeline_core.errors import RequestError
from pipeline_core.io import signature
from tests.finished_asset import HOSTILE, finished


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """Two finished assets."""
    folder = tmp_path_factory.mktemp("library")
    for name in ("chair", "mug"):
        finished(folder / "assets", name, prompt=HOSTILE)
    (folder / "catalog").mkdir()
    (folder / "stages").mkdir()
    return folder


def splatmill(*words):
    return CliRunner().invoke(app, [*map(str, words)])


def test_validate_tells_findings_by_file_and_ends_with_one_on_errors(library, tmp_path):
    shutil.copytree(library / "assets" / "mug", tmp_path / "mug")
    told = json.loads(splatmill("validate", tmp_path / "mug", "--json").stdout)
    assert {each.rsplit("/", 1)[1] for each in told["files"]} >= {"asset.glb"} and told["signed_by"] == {}
    glb = tmp_path / "mug" / "asset.glb"
    glb.write_bytes(glb.read_bytes()[:-9])
    done = splatmill("validate", tmp_path / "mug")
    assert done.exit_code == 1 and "UNREADABLE" in done.output and "FILE_CHANGED" in done.output
    nowhere = splatmill("validate", tmp_path / "none")
    assert isinstance(nowhere.exception, RequestError | SystemExit) and nowhere.exit_code


def test_what_is_not_signed_is_an_error_where_it_shall_be(library):
    told = json.loads(splatmill("validate", library / "assets" / "mug", "--signed", "--json").stdout)
    assert "SIGNATURE_MISSING" in {each["code"] for each in told["findings"]}


def test_a_librarys_own_files_are_not_signed(library, monkeypatch):
    monkeypatch.setenv(signature.CERTIFICATE, "chain.pem")
    monkeypatch.setenv(signature.KEY, "key.pem")
    done = splatmill("sign", library / "assets" / "mug")
    assert done.exit_code == 2 and "belongs to a library" in done.output


def test_a_kit_is_written_once_and_told(library, tmp_path):
    words = ("kit", "chair", "mug", "--name", "The Tavern!", "--to")
    done = splatmill(*words, tmp_path, "--library", library)
    assert done.exit_code == 0, done.output
    assert "2 assets on one atlas of" in done.output and (tmp_path / "the-tavern.glb").is_file()
    again = splatmill(*words, tmp_path, "--library", library)
    assert again.exit_code == 2 and "--overwrite" in again.output
    told = json.loads(splatmill(*words, tmp_path, "--library", library, "--overwrite", "--json").stdout)
    assert told["kit"] == "the-tavern" and told["spread"] <= 1.1
    inside = splatmill(*words, library / "kits", "--library", library)
    assert inside.exit_code == 2 and "inside of the library" in inside.output
