"""Retries by class of error, keys by stage; on Prefect's own engine, through a server."""

from types import SimpleNamespace

import pytest
from prefect import flow, task
from prefect.states import Failed

from pipeline_core.errors import DataError, DivergedError, OutOfMemory, TransientError
from tasks.policy import REFERENCES, policy, worth_retrying


@pytest.mark.parametrize("error, retries", [
    (TransientError("x"), 3), (OSError("x"), 3), (TimeoutError("x"), 3), (OutOfMemory("x"), 2), (MemoryError(), 2),
    (DataError("x"), 0), (DivergedError("x"), 0), (ValueError("x"), 0),
])  # fmt: skip
def test_errors_are_tried_again_as_often_as_their_class_is_given(error, retries):
    attempts = [SimpleNamespace(run_count=count) for count in range(1, 5)]
    again = [worth_retrying(None, attempt, Failed(data=error)) for attempt in attempts]
    assert again == [count <= retries for count in range(1, 5)]


def test_references_are_read_as_plain_json():
    text = b'{"__class__": "subprocess.Popen", "data": ["true"]}'
    assert REFERENCES.loads(text) == {"__class__": "subprocess.Popen", "data": ["true"]}


def test_every_stage_is_a_task_with_its_own_retries_key_and_timeout():
    from pipeline_core.stages import names

    for stage in names():
        module = __import__(f"tasks.{stage}", fromlist=[stage])
        each = getattr(module, stage)
        assert each.name == stage and each.retries == 3 and each.timeout_seconds >= 3600
        assert each.cache_policy is not None and each.persist_result


def test_prefect_retries_what_may_pass_and_not_what_will_not(prefect_here):
    calls = []

    @task(**policy("trial", hours=1) | {"retry_delay_seconds": 0, "cache_policy": None, "persist_result": False})
    def trial(error):
        calls.append(error)
        if calls.count(error) <= 2:
            raise error
        return {"stage": "trial"}

    @flow
    def both():
        passing, lasting = TransientError("busy"), DataError("bad")
        return trial(passing), trial(lasting, return_state=True).is_failed()

    result, failed = both()
    assert result == {"stage": "trial"} and failed
    assert [type(error) for error in calls] == [TransientError] * 3 + [DataError]
