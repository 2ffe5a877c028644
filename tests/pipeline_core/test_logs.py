"""Lines for machines: JSON, with what belongs to a line, without secrets; people's lines stay what they were."""

import json
import logging
import subprocess
import sys

import pytest

from pipeline_core import logs
from pipeline_core.errors import RequestError
from tests.flows.conftest import ROOT, environment

CHILD = """
import logging, os
from pipeline_core import logs
logs.configure(run="night")
logs.event("begin", asset="mug", stage="extract_mesh")
logs.event("failed", level=logging.ERROR, asset="mug", stage="extract_mesh", seconds=1.5, error_class="data",
           error_type="DataError", why="401 for https://ana:s3cret-word@farm/api " + os.environ["HF_TOKEN"])
logging.getLogger("splatmill").warning("the disk of %s is full", "library")
logging.getLogger("pipeline_core.engine").info("half a batch")
logging.getLogger("other").warning("not ours")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("splatmill").exception("oh")
logs.say("stopping")
"""


def said(**settings):
    done = subprocess.run([sys.executable, "-c", CHILD], cwd=ROOT, capture_output=True, text=True, check=True,
                          env=environment(HF_TOKEN="hf_verysecret", **settings))  # fmt: skip
    return done.stderr.splitlines()


def test_json_lines_have_run_asset_stage_and_worker_and_no_secrets():
    lines = said(SPLATMILL_LOG="json", PREFECT__WORKER_NAME="gpu-0")
    told = [json.loads(line) for line in lines if line != "not ours"]
    assert all(each["worker"] == "gpu-0" and each["run"] == "night" and each["time"].endswith("Z") for each in told)
    begin, failed, full, half, oh, stopping = told
    assert (begin["asset"], begin["stage"], begin["event"], begin["level"]) == ("mug", "extract_mesh", "begin", "info")
    assert (failed["seconds"], failed["error_class"], failed["level"]) == (1.5, "data", "error")
    assert failed["message"] == "extract_mesh of mug: failed: 401 for https://[hidden]@farm/api [hidden]"
    assert full["message"] == "the disk of library is full" and full["level"] == "warning" and "asset" not in full
    assert half["message"] == "half a batch" and stopping["message"] == "stopping"
    assert "ZeroDivisionError" in oh["message"]


def test_people_see_words_and_no_stages():
    lines = said()
    assert lines[0] == "the disk of library is full" and lines[-1] == "stopping"
    assert not any("extract_mesh" in line or line.startswith("{") for line in lines)


def test_another_setting_is_refused(monkeypatch):
    monkeypatch.setenv(logs.LOG, "xml")
    with pytest.raises(RequestError, match="SPLATMILL_LOG='xml': text or json"):
        logs.configure()
    assert logging.getLogger("splatmill").propagate
