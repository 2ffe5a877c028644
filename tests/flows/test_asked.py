"""What a run was asked for is kept, and asked again: the same manifest, recipe and settings, or plain words."""

import json

import pytest

from flows.asked import ask_again, keep
from flows.batch import BatchRequest, prepare
from flows.cli import app
from flows.farm.runs import SPECS, open_run, read_specs
from flows.local import run_here
from pipeline_core.errors import DamagedInput, RequestError
from pipeline_core.storage import Library
from tasks.stage import input_of


@pytest.fixture
def library(tmp_path):
    return str(tmp_path / "library")


@pytest.fixture
def asked(manifest, library):
    """A run that was begun."""
    request = BatchRequest(
        manifest=str(manifest), library=library, recipe="draft", overrides={"geometry.steps": 3}, only=("mug",),
        gpu_hours=1.0,
    )  # fmt: skip
    keep(request)
    return request


def test_the_last_run_is_asked_again_without_its_limits(asked, manifest, library):
    keep(asked.model_copy(update={"run_id": "later", "overrides": {"geometry.steps": 4}, "recipe": "factory"}))
    said = []
    again = ask_again(library, said.append, overrides={"mesh.grid": 32}, only=("mushroom",))
    assert (again.manifest, again.recipe, again.only) == (str(manifest), "factory", ("mushroom",))
    assert again.overrides == {"geometry.steps": 4, "mesh.grid": 32} and again.gpu_hours is None
    assert again.run_id not in (asked.run_id, "later") and said == []


def test_a_manifest_that_is_gone_or_changed_is_told_and_the_copy_used(asked, manifest, library):
    before = manifest.read_text()
    for change, words in (
        (lambda: manifest.write_text(before + "cup,a cup,3\n"), "has changed"),
        (manifest.unlink, "is gone"),
    ):
        change()
        said = []
        again = ask_again(library, said.append)
        assert f"{manifest} {words} since run {asked.run_id}" in said[0] and again.manifest in said[0]
        with open(again.manifest) as copy:
            assert copy.read() == before
    Library(library).run_dir(asked.run_id).joinpath("asked", manifest.name).unlink()
    with pytest.raises(RequestError, match=r"is gone since run .* splatmill retry FILE"):
        ask_again(library, said.append)


def test_a_library_whose_runs_kept_nothing_says_so(library):
    Library(library).create()
    with pytest.raises(RequestError, match="kept what it was asked for"):
        ask_again(library, print)


def test_a_farm_s_run_keeps_what_it_was_asked_for_too(manifest, library, tiny):
    opened = open_run(BatchRequest(manifest=str(manifest), library=library, overrides=tiny))
    assert ask_again(library, print).manifest == str(manifest)
    manifest.unlink()
    assert ask_again(library, lambda words: None).manifest == opened.manifest


def test_a_file_that_a_row_named_is_the_library_s_once_it_is_gone(tmp_path, library, tiny):
    start, path = tmp_path / "starts" / "mug.ply", tmp_path / "props.csv"
    start.parent.mkdir()
    start.write_bytes(b"ply of a mug")
    path.write_text("id,prompt,init_file\nmug,a blue mug,starts/mug.ply\n")
    opened = open_run(BatchRequest(manifest=str(path), library=library, overrides=tiny))
    said = []
    again = ask_again(library, said.append)
    assert said == [] and again.manifest == str(path)
    planned = prepare(again).todo.missing[0]
    assert read_specs(opened.folder / SPECS) == [planned.spec]  # what a farm's workers read
    start.unlink()
    path.unlink()
    again = ask_again(library, said.append)
    assert "is gone" in said[0] and "1 files" in said[1] and "starts/mug.ply" in said[1]
    [later] = prepare(again).todo.missing
    assert later.keys == planned.keys
    assert input_of(later, "init_file").read_bytes() == b"ply of a mug"
    keep(again, prepare(again))  # a retry of the retry
    assert ask_again(library, said.append).kept == {"starts/mug.ply": later.spec.init_file.sha256}
    input_of(later, "init_file").write_bytes(b"damaged")
    with pytest.raises(DamagedInput, match=r"starts/mug.ply: the library's copy, inputs/.*run the manifest again"):
        input_of(later, "init_file")


def test_retry_without_words_tells_when_nothing_failed(asked, library, tmp_path):
    from typer.testing import CliRunner

    (tmp_path / "library" / "catalog").mkdir(parents=True)
    done = CliRunner().invoke(app, ["retry", "--library", library])
    assert done.exit_code == 0 and "nothing to retry" in done.stderr
    done = CliRunner().invoke(app, ["retry", "--library", library, "--recipe", "fast", "--json"])
    assert done.exit_code == 2 and "--recipe fast" in json.loads(done.stdout)["message"]


def test_half_a_note_of_an_old_run_is_passed_over_and_named(asked, manifest, library):
    half = Library(library).root / "runs" / "old" / "asked.json"
    half.parent.mkdir(parents=True)
    half.write_text('{"request": {')
    said = []
    assert ask_again(library, said.append).manifest == str(manifest)
    assert len(said) == 1 and str(half) in said[0]


def test_a_manifest_that_asks_for_none_of_the_failed_is_an_error(asked, manifest, library):
    request = asked.model_copy(update={"only": ("gem",)})
    with pytest.raises(RequestError, match="asks for none of gem; name the manifest"):
        run_here(request, as_json=True)
