"""A server that goes and comes back: two lines are said, no loop ends, and what is cancelled later is cancelled."""

import asyncio
import logging
import threading
import uuid
from types import SimpleNamespace

import anyio
import httpx
import pytest
from prefect._internal import observers
from prefect.workers import base

from flows.farm import drain, worker
from flows.farm.outage import Outage, is_outage
from flows.farm.worker import Worker
from pipeline_core.errors import DiskError

REFUSED = httpx.ConnectError("All connection attempts failed")
URL = "http://farm:secret@server:4200/api"


def answer(code):
    return httpx.HTTPStatusError("", request=httpx.Request("GET", URL), response=httpx.Response(code))


class Server:
    """Refuses its first ``away`` requests. Then one flow run is to be cancelled."""

    def __init__(self, away):
        self.away, self.run, self.asked = away, SimpleNamespace(id=uuid.uuid4()), 0

    async def read_flow_runs(self, **_):
        self.asked += 1
        if self.asked <= self.away:
            raise REFUSED
        return [self.run]


@pytest.fixture
def outage(monkeypatch):
    """An outage that this process outlasts."""
    for module in (base, observers):
        monkeypatch.setattr(module, "critical_service_loop", module.critical_service_loop)  # the name is there
    outage = Outage(URL, ask=lambda url: True)
    outage.outlast()
    assert base.critical_service_loop == observers.critical_service_loop == outage.patiently
    return outage


def test_cancelling_works_after_an_outage_however_long(outage, caplog):
    async def watch():
        server, cancelled = Server(away=20), asyncio.Event()
        observer = observers.FlowRunCancellingObserver(lambda _: cancelled.set(), polling_interval=0.001)
        observer._client = server
        lost = asyncio.create_task(asyncio.sleep(0))
        lost.exception = lambda: ConnectionResetError("the websocket closed")
        observer._start_polling_task(lost)
        await asyncio.wait_for(cancelled.wait(), 20)
        observer._polling_task.cancel()
        await asyncio.wait([observer._polling_task])
        return server.asked

    assert asyncio.run(watch()) > 20 and "Traceback" not in caplog.text


def test_a_loop_ends_for_what_is_no_outage(outage):
    async def wrong():
        raise answer(401)

    with pytest.raises(httpx.HTTPStatusError):
        asyncio.run(outage.patiently(wrong, 0.001))


def test_a_worker_outlives_a_server_that_goes_while_it_takes_a_flow(outage, monkeypatch):
    async def refuse(*_):
        raise REFUSED

    for name in ("_submit_run", "_cancel_run"):
        monkeypatch.setattr(base.BaseWorker, name, refuse)
    taker = Worker(outage=outage, post=SimpleNamespace(asked=lambda: False), work_pool_name="p", name="w", limit=1)

    async def take():
        taker._limiter, run = anyio.CapacityLimiter(1), SimpleNamespace(id=uuid.uuid4())
        taker._limiter.acquire_on_behalf_of_nowait(run.id)
        taker._submitting_flow_run_ids.add(run.id)
        await taker._submit_run(run)
        await taker._cancel_run(run.id)

    asyncio.run(take())
    assert taker.idle and not taker._submitting_flow_run_ids


@pytest.mark.parametrize(("error", "said"), [
    (answer(401), "refuses this worker (401): is PREFECT_API_AUTH_STRING its password?"),
    (DiskError("no room"), "no room"),
])  # fmt: skip
def test_what_ends_a_worker_is_told_in_a_line(error, said, outage, prefect_here, monkeypatch, tmp_path, capsys):
    async def live(*_):
        raise error

    monkeypatch.setattr(worker, "live", live)
    monkeypatch.setattr(worker, "setup_logging", lambda: None)
    monkeypatch.setattr("sys.argv", ["worker", "--pool", "p", "--name", "w", "--limit", "1"])
    monkeypatch.setenv("SPLATMILL_STATE", str(tmp_path))
    monkeypatch.setenv(drain.MARK, "")
    assert worker.main() == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ") and said in line and not list(tmp_path.glob("workers/*"))


def test_two_lines_are_said_of_an_outage_and_none_of_a_lost_connection(capsys, monkeypatch):
    monkeypatch.setattr("flows.farm.outage.ASK_S", 0.01)
    answers, over = [True, False, True, False, False, False, True], threading.Event()

    def ask(url):
        if not answers:
            over.set()
        return answers.pop(0) if answers else True

    outage = Outage(URL, ask)
    outage.watch()
    while not over.wait(0.01):
        outage.suspect()
    gone, back = capsys.readouterr().err.splitlines()
    assert gone.startswith("the server at http://") and "does not answer: what is at work goes on" in gone
    assert "answers again, after 0 s" in back and "secret" not in gone + back


def test_prefect_s_words_of_an_outage_are_left_out_and_no_others(outage, capsys):
    logger = logging.getLogger("prefect.tests.outage")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    logger.propagate = False
    outage.outlast()

    def say(error, *args, name=logger.name):
        try:
            raise error
        except type(error):
            logger.name = name
            logger.exception("it failed %s", *args or [""])

    for error in (REFUSED, answer(503), ConnectionRefusedError(111, "x"), ExceptionGroup("", [REFUSED])):
        assert is_outage(error)
        say(error)
    logger.warning("Unable to reach the API: %s", REFUSED)
    say(ValueError("x"), name="prefect.FlowRunCancellingObserver")
    assert capsys.readouterr().err == "" and outage._suspected.is_set()
    for error in (answer(404), OSError(28, "No space left on device"), KeyError("row")):
        say(error)
        assert "Traceback" in capsys.readouterr().err
    say(REFUSED, name="prefect.engine")
    [line] = capsys.readouterr().err.splitlines()
    assert "did not hear how this flow ended" in line and "secret" not in line
