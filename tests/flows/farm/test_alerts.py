"""What is wrong with a farm's run is posted while there is time: each kind once, signed, until it has arrived."""

import hashlib
import hmac
import http.server
import json
import os
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from catalog import query
from flows.farm import alerts, reconcile, standing
from flows.farm.runs import open_run, read_run
from flows.farm.shards import Timing
from pipeline_core.errors import DataError
from tests.flows.farm.test_reconcile import MemoryFarm, again, failing, holding
from tests.flows.test_batch import finish, write

SECRET = "open sesame"


@pytest.fixture
def hook(monkeypatch):
    """A receiver; ``posts`` has headers and bodies, ``answers`` the status codes to give before 200."""

    class Receiver(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers["content-length"]))
            server.posts.append((dict(self.headers), body))
            self.send_response(server.answers.pop(0) if server.answers else 200)
            self.end_headers()

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.posts, server.answers = [], []
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    monkeypatch.setenv("SPLATMILL_WEBHOOK", f"http://127.0.0.1:{server.server_port}/hook")
    monkeypatch.setattr(alerts, "PAUSE_S", 0.0)
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def farm(monkeypatch):
    timing = Timing(9, 60.0, 60.0)
    for module in (reconcile, alerts):
        monkeypatch.setattr(module, "measured", lambda library, recipe: timing)
    return MemoryFarm()


def told(hook):
    return [json.loads(body) for _, body in hook.posts]


def test_no_worker_is_told_once_when_it_has_lasted(tmp_path, tiny, farm, hook, monkeypatch):
    request = open_run(write(tmp_path, 3, tiny))
    farm.online = 0
    again(request, farm)
    assert hook.posts == []
    monkeypatch.setattr(alerts, "NO_WORKER_S", 0.0)
    for _ in range(3):
        again(request, farm)
    (post,) = told(hook)
    assert post["kind"] == "no-worker" and "3 assets wait" in post["text"] and post["run_id"] == request.run_id


def test_it_is_signed_and_repeated_under_one_key_until_it_has_arrived(tmp_path, tiny, farm, hook, monkeypatch):
    monkeypatch.setenv("SPLATMILL_WEBHOOK_SECRET", SECRET)
    monkeypatch.setattr(alerts, "NO_WORKER_S", 0.0)
    request = open_run(write(tmp_path, 3, tiny))
    farm.online, hook.answers = 0, [500] * (alerts.TRIES + 1)
    again(request, farm)
    assert len(hook.posts) == alerts.TRIES, "the run goes on"
    again(request, farm)
    again(request, farm)
    assert len(hook.posts) == alerts.TRIES + 2
    assert {headers["Idempotency-Key"] for headers, _ in hook.posts} == {f"{request.run_id}-no-worker"}
    headers, body = hook.posts[-1]
    assert headers["X-Splatmill-Signature"] == "sha256=" + hmac.new(SECRET.encode(), body, hashlib.sha256).hexdigest()


def test_many_failures_and_a_disk_that_is_nearly_full_are_told(tmp_path, tiny, farm, hook, monkeypatch):
    request = open_run(write(tmp_path, 12, tiny))
    again(request, farm)
    farm.work(failing({f"mug-{i:04d}": DataError("bad") for i in range(6)}))
    monkeypatch.setattr(alerts, "NEARLY_FULL", 1e9)
    assert again(request, farm).ended
    posts = {each["kind"]: each["text"] for each in told(hook)}
    assert set(posts) == {"failures", "disk"}
    assert "6 of 12 assets failed" in posts["failures"] and "with: bad" in posts["failures"]
    assert "is nearly full" in posts["disk"]


def test_many_rejections_are_told_with_their_commonest_clause_and_the_catalogue_is_asked_once(
    tmp_path, tiny, farm, hook, monkeypatch
):
    contract = {"accept": {"faces": 300, "kb": 50}}
    request = open_run(write(tmp_path, 12, tiny).model_copy(update=contract))
    again(request, farm)
    bad, worse, good = {"faces": 4800.0, "kb": 9.0}, {"faces": 4800.0, "kb": 90.0}, {"faces": 299.0, "kb": 9.0}
    figures = [bad] * 3 + [worse] * 3 + [good] * 6
    farm.work(holding({f"mug-{i:04d}": each for i, each in enumerate(figures)}))
    asked, rows = [], query.rows
    monkeypatch.setattr(standing.query, "rows", lambda *about: asked.append(about) or rows(*about))
    found = standing.assess(read_run(request.folder), farm.shards(request.run_id))
    alerts.look(read_run(request.folder), found, farm, 0.0, time.time())
    assert len(asked) == 1
    (post,) = told(hook)
    assert post["kind"] == "rejected" and "6 of 12 assets are rejected, 6 of them for faces" in post["text"]
    assert again(request, farm).ended and len(hook.posts) == 1


def test_a_deadline_at_risk_is_told(tmp_path, tiny, farm, hook):
    deadline = datetime.now(UTC) + timedelta(seconds=200)
    request = open_run(write(tmp_path, 12, tiny).model_copy(update={"deadline": deadline}))
    again(request, farm)
    (post,) = told(hook)
    assert post["kind"] == "deadline" and "12 assets take 2 workers about 0.1 h" in post["text"]


def test_workers_tell_that_nobody_reconciles(tmp_path, tiny, farm, hook):
    request = open_run(write(tmp_path, 2, tiny))
    alerts.tell_silence(request.folder)
    again(request, farm)
    alerts.tell_silence(request.folder)
    assert hook.posts == []
    old = time.time() - 2 * alerts.SILENT_S
    os.utime(request.folder / alerts.LOOKED, (old, old))
    alerts.tell_silence(request.folder)
    alerts.tell_silence(request.folder)
    (post,) = told(hook)
    assert post["kind"] == "silent" and "nobody has reconciled it for 30 min" in post["text"]


def test_a_good_run_and_a_site_without_an_address_tell_nothing(tmp_path, tiny, farm, hook, monkeypatch):
    request = open_run(write(tmp_path, 2, tiny))
    again(request, farm)
    farm.work(finish)
    assert again(request, farm).ended and hook.posts == []
    monkeypatch.delenv("SPLATMILL_WEBHOOK")
    alerts.raise_(request.folder, "disk", "full")
    assert alerts.deliver(request.folder) == 0
