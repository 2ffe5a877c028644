"""What a night leaves in the UI, and how it ends; a whole night through real workers is in test_farm.py."""

import json
from contextlib import nullcontext

import pytest

from flows.batch import BatchRequest
from flows.summary import Summary
from tests.flows.test_server import call

HOSTILE = "`rm -rf` | <b>no</b>\n| x |"
FAILED = {"asset_id": "mug", "stage": "extract_mesh", "error_class": "data", "error_type": "DataError"}


@pytest.mark.slow
def test_failures_are_a_table_and_the_report_one_text(prefect_here):
    from prefect import flow
    from prefect.runtime import flow_run

    from flows.farm.nightly import report

    @flow(name="probe", persist_result=False)
    def probe():
        report(Summary("night-1", "library", "m.csv", asked=2, made=["vase"], failures=[FAILED | {"message": HOSTILE}]))
        return flow_run.id

    body = {"artifacts": {"flow_run_id": {"any_": [str(probe())]}}}
    found = {each["key"]: each for each in call(prefect_here, "/artifacts/filter", body)[1]}
    assert set(found) == {"nightly-report", "nightly-failures"}
    assert json.loads(found["nightly-failures"]["data"]) == [FAILED | {"message": HOSTILE}]
    assert all(each["description"] == "Night of run night-1" for each in found.values())
    last = found["nightly-report"]["data"].splitlines()[-1]
    assert last == "| mug | extract_mesh | data | `'rm -rf' / <b>no</b> / x /` |"


def test_a_night_that_nobody_works_on_fails_and_says_so(monkeypatch, tmp_path):
    from flows.farm import nightly

    asked = []
    monkeypatch.setattr(nightly, "at_work", lambda library: nullcontext())
    monkeypatch.setattr(nightly, "PrefectFarm", object)
    monkeypatch.setattr(nightly, "open_run", lambda request: asked.append(request) or request)
    monkeypatch.setattr(nightly, "watch", lambda *_: None)
    state = nightly.nightly.fn(BatchRequest(manifest="m.csv", library=str(tmp_path)), until="06:00")
    assert state.type == "FAILED" and "is a worker online?" in state.message
    assert (asked[0].deadline.hour, asked[0].deadline.minute) == (6, 0)


def test_the_catalogue_is_left_to_whoever_is_at_it(monkeypatch):
    from catalog.store import LeaseHeld
    from flows.farm import nightly

    def busy(library):
        raise LeaseHeld("host 7")

    monkeypatch.setattr(nightly.compaction, "compact", busy)
    assert nightly.refresh_catalogue("library") == "left to another process: host 7"
