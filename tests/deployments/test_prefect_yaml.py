"""The farm's deployments, checked without a server: entry points load, parameters validate, schedules parse."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "deployments" / "prefect.yaml").read_text()
FILLED = {"$SPLATMILL_LIBRARY": "/mnt/library", "$SPLATMILL_MANIFEST": "props.csv", "$SPLATMILL_NIGHTLY": "true"}
FILLED |= {"$SPLATMILL_COMMERCIAL": "true", "$SPLATMILL_ALLOW_OUTSIDE": "true", "$SPLATMILL_ACCEPT": ""}
FILLED |= {"$SPLATMILL_RESULTS": "/mnt/library/results", "$SPLATMILL_MAX_SIZE": "500G", "$SPLATMILL_GC": "true"}
DEPLOYMENTS = yaml.safe_load(re.sub(r"\{\{ (\S+) \}\}", lambda name: FILLED[name[1]], TEXT))["deployments"]
COMPLETE = {"shard": {"request": {"manifest": "props.csv", "library": "/mnt/library"}}}


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda each: each["name"])
def test_deployments_are_sound(deployment):
    from prefect.client.schemas.schedules import CronSchedule
    from prefect.flows import load_flow_from_entrypoint

    assert ":" not in deployment["entrypoint"]  # a module of the installed package, not a file of a checkout
    flow = load_flow_from_entrypoint(deployment["entrypoint"])
    flow.validate_parameters(deployment.get("parameters") or COMPLETE[deployment["name"]])
    assert deployment["name"] == flow.name
    for schedule in deployment.get("schedules", []):
        CronSchedule(cron=schedule["cron"], timezone=schedule["timezone"])


REGISTERED_ONCE = {
    "flows.farm.shard": ("shard", ["request"]),
    "flows.farm.batch": ("batch", ["request"]),
    "flows.farm.tidy": ("reconcile", ["library"]),
    "flows.nightly.nightly": ("nightly", ["request", "until"]),
    "flows.nightly.compact": ("compact", ["library"]),
}
"""Entry points that registered deployments may have: they go on until somebody registers them again."""


@pytest.mark.parametrize("entrypoint", REGISTERED_ONCE)
def test_deployments_that_were_registered_before_still_load(entrypoint):
    from prefect.flows import load_flow_from_entrypoint

    flow = load_flow_from_entrypoint(entrypoint, use_placeholder_flow=False)
    assert (flow.name, list(flow.parameters.properties)) == REGISTERED_ONCE[entrypoint]


def test_nightly_may_be_for_commercial_use_and_take_files_from_elsewhere():
    from flows.batch import BatchRequest

    (nightly,) = [each for each in DEPLOYMENTS if each["name"] == "nightly"]
    request = BatchRequest.model_validate(nightly["parameters"]["request"])
    assert request.commercial and request.allow_outside


def test_a_library_is_held_to_its_size_on_a_schedule(tmp_path, monkeypatch):
    from contextlib import nullcontext

    from catalog.gc import Report
    from flows.farm import nightly

    (deployment,) = [each for each in DEPLOYMENTS if each["name"] == "gc"]
    assert deployment["parameters"] == {"library": "/mnt/library", "max_size": "500G"}
    asked, done = [], Report(deleted=True, outputs=[("evaluate", "k", 2**30)])
    monkeypatch.setattr(nightly, "at_work", lambda library: nullcontext())
    monkeypatch.setattr(nightly.collection, "gc", lambda library, **options: asked.append(options) or done)
    assert nightly.gc.fn("library", "500G").message == "1 outputs and 0 inputs removed, 1.00 GiB"
    assert asked == [{"delete": True, "max_bytes": 500 * 2**30}]
    done.over = 2**31
    state = nightly.gc.fn("library", "500G")
    assert state.type.value == "FAILED" and "still 2.00 GiB over 500G" in state.message


def test_what_is_scheduled_never_overlaps_itself():
    for deployment in DEPLOYMENTS:
        if deployment.get("schedules"):
            assert deployment["concurrency_limit"] == {"limit": 1, "collision_strategy": "CANCEL_NEW"}


def test_wrong_parameters_would_be_found():
    from prefect.exceptions import ParameterTypeError
    from prefect.flows import load_flow_from_entrypoint

    flow = load_flow_from_entrypoint("flows.farm.shard")
    with pytest.raises(ParameterTypeError):
        flow.validate_parameters({"request": {"manifest": "x.csv", "library": "l", "recip": "factory"}})
