"""Whatever goes wrong, in either command: the same words, the same document, the same exit code, and no secret."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from typer.testing import CliRunner

from catalog import bounded
from catalog import cli as catalogue
from flows import cli as factory
from pipeline_core import python
from pipeline_core.errors import DataError, ManifestError, RequestError, TransientError

SECRET = "hf_squeamish_ossifrage"
APPS = {"catalogue": catalogue.app, "factory": factory.app}


@pytest.fixture(params=APPS)
def fails_with(request, monkeypatch):
    """Run a query that fails with a given error; returns exit code, standard output and standard error."""
    monkeypatch.setenv("HF_TOKEN", SECRET)

    def run(error: BaseException, *options: str) -> tuple[int, str, str]:
        def ask(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(bounded, "answer", ask)
        done = CliRunner().invoke(APPS[request.param], ["sql", "select 1", "--live", *options])
        return done.exit_code, done.stdout, done.stderr

    return run


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (RequestError("no such thing"), 2),
        (ManifestError("row 2, seed: -1"), 2),
        (TransientError("the disk is full"), 1),
        (DataError("nothing is inside"), 1),
        (PermissionError(13, "Permission denied", "/answer.csv"), 1),
    ],
)
def test_an_error_is_one_line_and_its_class_decides_the_exit_code(fails_with, error, code):
    exit_code, out, err = fails_with(error)
    assert (exit_code, out) == (code, "")
    assert err.startswith("error: ") and err.count("\n") == 1 and str(error) in err
    exit_code, out, err = fails_with(error, "--format", "json")
    assert (exit_code, json.loads(out)) == (code, {"error": type(error).__name__, "message": str(error)})
    assert err.startswith("error: ")


def test_secrets_are_hidden_in_words_documents_and_tracebacks(fails_with):
    for error in (RequestError, TransientError, OSError, ZeroDivisionError):
        for options in ((), ("--format=json",)):
            _, out, err = fails_with(error(f"401 for https://ana:s3cretword@hub with {SECRET}"), *options)
            assert "[hidden]" in err and "s3cretword" not in out + err and SECRET not in out + err


def test_what_nobody_foresaw_shows_where_it_came_from(fails_with):
    exit_code, _, err = fails_with(ZeroDivisionError("of the map"))
    assert exit_code == 1 and "Traceback" in err and "in ask" in err


def test_an_interrupt_ends_with_130_and_says_nothing(fails_with):
    assert fails_with(KeyboardInterrupt(), "--format", "json") == (130, "", "")


@pytest.mark.parametrize("name", APPS)
def test_a_command_line_that_cannot_be_read_is_told_as_json_too(name):
    done = CliRunner().invoke(
        APPS[name], ["gc", "--min-age", "young", "--json"] if name == "catalogue" else ["run", "--json"]
    )
    assert done.exit_code == 2 and "Usage: " in done.stderr
    assert json.loads(done.stdout)["message"] and set(json.loads(done.stdout)) == {"error", "message"}


def test_json_is_asked_for_in_many_ways():
    from catalog.door import asks_for_json

    for arguments in (["gc", "--json"], ["sql", "q", "-f", "json"], ["sql", "q", "--format=json"]):
        assert asks_for_json(arguments)
    for arguments in (["gc"], ["sql", "select 1 -- --json"], ["sql", "json", "-f", "csv"]):
        assert not asks_for_json(arguments)


def test_a_reader_who_has_seen_enough_is_no_failure(one_asset):
    for words in (["compare", "last", "last"], ["sql", "from range(100000)", "-f", "csv"], ["sql", "--help"]):
        options = [] if "--help" in words else ["--library", str(one_asset)]
        line = python.command("catalog.cli", *words, *options)
        reading, writing = os.pipe()
        os.close(reading)
        done = subprocess.run(line, stdout=writing, stderr=subprocess.PIPE, env=python.environment(), text=True)
        os.close(writing)
        assert (done.returncode, done.stderr) == (0, ""), words
