"""``splatmill run`` in this process: planned once; a server, the flow and models only where something is to be made."""

import json
import subprocess
import sys

import pytest

from flows import batch, local
from flows.batch import plan_batch, run_batch
from pipeline_core.errors import DataError
from tasks.stage import run_stage
from tests.flows.conftest import environment
from tests.flows.test_batch import finish, write
from tests.flows.test_server import call
from tests.flows.tiny import settings


@pytest.fixture
def planned(monkeypatch):
    """Manifests that were read."""
    read, original = [], batch.load_manifest
    monkeypatch.setattr(batch, "load_manifest", lambda path, **options: read.append(path) or original(path, **options))
    return read


@pytest.fixture
def no_flow(monkeypatch):
    monkeypatch.setattr(local, "prefect_server", lambda library: pytest.fail("a server was asked for"))


def test_a_finished_manifest_is_planned_once_and_starts_nothing(tmp_path, tiny, planned, no_flow):
    request = write(tmp_path, 3, tiny)
    for journey in plan_batch(request)[1]:
        finish(journey)
    planned.clear()
    assert local.run_here(request, as_json=True) == local.MADE
    assert len(planned) == 1


def test_where_all_that_is_missing_waits_in_quarantine_nothing_starts(tmp_path, tiny, no_flow, capsys):
    def fail(journey):
        def work(folder):
            raise DataError("bad")

        run_stage(journey, "extract_mesh", work)

    request = write(tmp_path, 1, tiny)
    assert run_batch(request, fail).failures
    assert local.run_here(request.model_copy(update={"run_id": "second"}), as_json=False) == local.SOME_FAILED
    assert "1 passed over" in capsys.readouterr().out


COUNTED = """
import sys
from flows import batch, cli, run
from tests.flows.test_batch import finish

def counting(name):
    original = getattr(batch, name)
    def call(*arguments, **options):
        print(name, file=sys.stderr)
        return original(*arguments, **options)
    setattr(batch, name, call)

counting("load_manifest"), counting("plan_batch")
run.make_asset = finish
cli.main()
"""


@pytest.mark.slow
def test_a_run_is_planned_once_and_is_a_flow_of_that_name(tmp_path, tiny, prefect_url):
    request = write(tmp_path, 3, tiny)
    arguments = ["run", request.manifest, "--library", request.library, "--json", *settings(tiny)]
    command = [sys.executable, "-c", COUNTED, *arguments]
    done = subprocess.run(command, env=environment(prefect_url), capture_output=True, text=True)
    told = json.loads(done.stdout)
    assert len(told["made"]) == 3 and told["ok"], done.stderr
    calls = [line for line in done.stderr.splitlines() if line in ("load_manifest", "plan_batch")]
    assert sorted(calls) == ["load_manifest", "plan_batch"]
    runs = call(prefect_url, "/flow_runs/filter", {"flows": {"name": {"any_": ["run"]}}})[1]
    assert told["run_id"] in [each["parameters"]["request"]["run_id"] for each in runs]
