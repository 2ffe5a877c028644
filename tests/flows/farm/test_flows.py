"""A whole farm with a password, as deployments/README.md sets it up: one of every deployment runs through its worker.

Secrets are drawn for the test, and looked for afterwards in everything that was written.
"""

import base64
import contextlib
import http.server
import json
import os
import signal
import threading
import time
import urllib.request

import pytest
from prefect.settings import PREFECT_API_AUTH_STRING, PREFECT_API_URL, temporary_settings

from catalog import query
from catalog.fsck import fsck
from flows.account import account
from flows.batch import BatchRequest
from flows.farm import beats
from flows.farm.commands import submit_batch
from flows.farm.prefect import PrefectFarm
from flows.farm.reconcile import reconcile
from flows.farm.runs import open_runs
from pipeline_core.storage import Library
from tests.flows.conftest import ROOT, environment, splatmill
from tests.flows.test_server import call, wait_for

pytestmark = pytest.mark.slow

AUTH = "farmer:correct-horse-battery"
HOOK_SECRET = "T0P-hook-staple"


class Receiver(http.server.BaseHTTPRequestHandler):
    """Keeps what is posted."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        self.server.posts.append((self.path, self.headers["content-type"], json.loads(body)))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def receiving():
    """A webhook of our own on the loopback interface."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    server.posts = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()


def start_run(url, name, parameters):
    """Queue a run of a deployment; its id."""
    status, deployment = call(url, f"/deployments/name/{name}", auth=AUTH)
    assert status == 200, name
    status, run = call(url, f"/deployments/{deployment['id']}/create_flow_run", {"parameters": parameters}, auth=AUTH)
    assert status == 201
    return run["id"]


def finished(url, *runs):
    """Their states, once all are final."""

    def states():
        return [call(url, f"/flow_runs/{run}", auth=AUTH)[1]["state"] for run in runs]

    final = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")
    assert wait_for(lambda: all(state["type"] in final for state in states()), 240), states()
    return states()


def alone(url, name):
    """The state in which a run of a deployment ends that the clock may start, too, and of which one runs at a time."""
    for _ in range(3):
        [state] = finished(url, start_run(url, name, {}))
        if state["type"] != "CANCELLED":
            break
    return state


class Farm:
    """What the tests look at."""


@pytest.fixture(scope="module")
def farm(tmp_path_factory, tiny, bucket):
    """A server with a password, a worker for shards, one for the rest; batch, reconcile, compact and nightly ran."""
    farm = Farm()
    farm.folder = tmp_path_factory.mktemp("farm")
    farm.library = farm.folder / "library"
    manifest = farm.folder / "props.csv"
    manifest.write_text("id,prompt,seed\nmug,a blue mug,1\n")
    env = environment(
        SPLATMILL_STATE=str(farm.folder / "state"),
        PREFECT_HOME=str(farm.folder / "home"),
        PREFECT_SERVER_API_AUTH_STRING=AUTH,
        PREFECT_WORKER_QUERY_SECONDS="1",
        HF_TOKEN="hf_" + HOOK_SECRET,
    )
    request = {"manifest": str(manifest), "library": str(farm.library), "overrides": tiny}
    workers, out = [], open(farm.folder / "workers.log", "wb")
    started = splatmill("server", "start", "--port", 0, env=env)
    assert started.returncode == 0, started.stderr
    farm.url = json.loads((farm.folder / "state" / "server.json").read_text())["url"]
    try:
        with receiving() as hook:
            farm.posts = hook.posts
            env["SPLATMILL_WEBHOOK"] = f"http://127.0.0.1:{hook.server_port}/{HOOK_SECRET}"
            command = ["deploy", "--library", farm.library, "--gpus", 1, "--manifest", manifest]
            for _ in range(2):  # registering again changes nothing
                farm.deployed = splatmill(*command, env=env, cwd=ROOT)
                assert farm.deployed.returncode == 0, farm.deployed.stderr
            del env["SPLATMILL_WEBHOOK"]
            for options in ([], ["--control"]):
                workers.append(splatmill("worker", *options, env=env, start=True, stdout=out, stderr=out))
            batch = start_run(farm.url, "batch/batch", {"request": request})
            farm.states = {name: alone(farm.url, f"{name}/{name}") for name in ("reconcile", "compact")}
            [farm.states["batch"]] = finished(farm.url, batch)
            night = start_run(farm.url, "nightly/nightly", {"request": request})
            [farm.states["nightly"]] = finished(farm.url, night)
            farm.night = night
            wait_for(lambda: farm.posts, 60)
            yield farm
    finally:
        for worker in workers:
            os.killpg(worker.pid, signal.SIGTERM)
            worker.wait(30)
        splatmill("server", "stop", env=env)


def test_one_of_each_deployment_runs_through_a_worker(farm):
    assert {name: state["type"] for name, state in farm.states.items()} == dict.fromkeys(farm.states, "COMPLETED")
    assert farm.states["batch"]["message"] == "1 made, 0 there already, 0 failed"
    assert farm.states["nightly"]["message"] == "0 made, 1 there already, 0 failed"
    assert (farm.library / "assets" / "mug" / "asset.glb").is_file() and (farm.library / "gallery").is_dir()
    assert [row["status"] for row in query.assets(farm.library)] == ["ok"]


def test_pools_and_schedules_are_as_deployed(farm):
    pools = {pool["name"]: pool for pool in call(farm.url, "/work_pools/filter", {}, auth=AUTH)[1]}
    assert pools["splatmill"]["concurrency_limit"] == 1 and pools["splatmill-control"]["concurrency_limit"] is None
    assert {pool["type"] for pool in pools.values()} == {"process"}
    found = {each["name"]: each for each in call(farm.url, "/deployments/filter", {}, auth=AUTH)[1]}
    assert set(found) == {"shard", "batch", "nightly", "reconcile", "compact", "gc"}
    assert found["shard"]["work_pool_name"] == "splatmill"
    [schedule] = found["nightly"]["schedules"]
    assert schedule["active"] and schedule["schedule"]["timezone"] == "Europe/Berlin"
    assert all(each["active"] for name in ("reconcile", "compact") for each in found[name]["schedules"])
    assert all(not each["pull_steps"] for each in found.values())  # workers need no checkout


def test_a_night_leaves_one_report_and_one_table(farm):
    body = {"artifacts": {"flow_run_id": {"any_": [farm.night]}}}
    made = call(farm.url, "/artifacts/filter", body, auth=AUTH)[1]
    assert sorted((each["key"], each["type"]) for each in made) == [
        ("nightly-failures", "table"),
        ("nightly-report", "markdown"),
    ]
    [text] = [each["data"] for each in made if each["type"] == "markdown"]
    assert "| 1 | 0 | 1 | 0 |" in text


def test_the_end_of_the_night_is_posted_once(farm):
    [(path, kind, told)] = farm.posts
    assert path == f"/{HOOK_SECRET}" and kind == "application/json"
    assert told["text"].startswith("Night ") and "0 made, 1 there already, 0 failed" in told["text"]
    assert told["state"] == "Completed" and told["flow_run_id"] == farm.night


def test_no_secret_is_in_anything_that_was_written(farm):
    """Logs, database, library, artifacts, reports, results; and nothing that the API answers tells them."""
    secret = AUTH.partition(":")[2]
    told = {farm.folder / "state" / "server.json"}  # the user's own, mode 0600
    for path in farm.folder.rglob("*"):
        if path.is_file() and path not in told:
            content = path.read_bytes()
            for needle in (secret, HOOK_SECRET, base64.b64encode(AUTH.encode()).decode()):
                assert needle.encode() not in content, f"{needle} is in {path}"
    for path in ("/admin/settings", "/block_documents/filter", "/automations/filter", "/flow_runs/filter"):
        _, answer = call(farm.url, path, None if path.startswith("/admin") else {}, auth=AUTH)
        assert HOOK_SECRET not in json.dumps(answer) and secret not in json.dumps(answer)


def test_results_are_plain_json_and_nothing_is_pickled(farm):
    results = [path for path in (farm.library / ".prefect" / "results").rglob("*") if path.is_file()]
    assert len(results) >= 7
    for path in results:
        record = json.loads(path.read_text())
        assert record["metadata"]["serializer"]["type"] == "json"
        assert not record["metadata"]["serializer"].get("object_decoder")
        assert set(json.loads(record["result"])) == {"stage", "key", "dir", "outputs"}
    pickles = [path for path in farm.folder.rglob("*") if path.is_file() and path.read_bytes()[:2] in PICKLES]
    assert pickles == []


PICKLES = tuple(b"\x80" + bytes([protocol]) for protocol in (2, 3, 4, 5))


def test_nobody_gets_in_without_the_password(farm):
    for path, body in (("/flows/filter", {}), ("/logs/filter", {}), ("/admin/settings", None), ("/version", None)):
        assert call(farm.url, path, body)[0] == 401
        assert call(farm.url, path, body, auth="farmer:wrong")[0] == 401
    request = urllib.request.Request(f"{farm.url}/health")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def test_a_library_in_a_bucket_is_worked_on_by_the_same_worker(farm, bucket, tiny, monkeypatch):
    """Submitted, made by the worker's process, reconciled to its end; the bucket has it all."""
    monkeypatch.setenv("PREFECT_API_URL", farm.url)
    library = f"{bucket}/worked"
    request = BatchRequest(manifest=str(farm.folder / "props.csv"), library=library, overrides=tiny)
    with temporary_settings({PREFECT_API_URL: farm.url, PREFECT_API_AUTH_STRING: AUTH}):
        assert "submitted 1 assets in shards of [1]" in submit_batch(request)
        assert wait_for(lambda: reconcile(library, PrefectFarm()) is not None and not list(open_runs(library)), 240)
    [row] = query.rows(library, "select * from stage_runs where stage = 'record' and status = 'ok'")
    [(name, beat)] = beats.read(Library(library).run_dir(request.run_id)).items()
    assert row["prefect_flow_run_id"] == name and beat.state == "done" and beat.worker
    assert account(library, request.run_id).made == 1 and fsck(library) == []


def test_the_workers_say_no_more_than_that_they_started(farm):
    time.sleep(0.1)
    lines = (farm.folder / "workers.log").read_text().splitlines()
    assert sum("started" in line for line in lines) == 2
    assert not any(word in line for line in lines for word in ("Traceback", "Timeout of", "ERROR"))
