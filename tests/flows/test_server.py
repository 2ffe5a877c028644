"""The Prefect server that we start: it answers, schedules, keeps to loopback, asks for its password, and goes away."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import psutil
import pytest

from flows import server
from tests.flows.conftest import ROOT, environment, splatmill

pytestmark = pytest.mark.slow


def call(url, path, body=None, auth=None):
    """POST (or GET without a body) to the API; returns status and document. A busy SQLite (503) is asked again."""
    for _ in range(20):
        status, document = call_once(url, path, body, auth)
        if status != 503:
            break
        time.sleep(0.5)
    return status, document


def call_once(url, path, body, auth):
    """One request; see :func:`call`. Between a worker and its runs on two busy cores a server once took over 30 s."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url + path, data, {"Content-Type": "application/json"})
    if auth:
        import base64

        request.add_header("Authorization", "Basic " + base64.b64encode(auth.encode()).decode())
    try:
        with urllib.request.urlopen(request, timeout=150) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, None


def wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.1)
    return condition()


def test_a_cron_deployment_gets_scheduled_runs(prefect_url):
    """Some releases that Prefect admits start well and never schedule anything: the reason for the exact pins."""
    _, flow = call(prefect_url, "/flows/", {"name": "nightly-probe"})
    schedule = {"schedule": {"cron": "30 2 * * *", "timezone": "Europe/Berlin"}, "active": True}
    body = {"name": "probe", "flow_id": flow["id"], "schedules": [schedule], "parameters": {}, "job_variables": {}}
    status, _ = call(prefect_url, "/deployments/", body)
    assert status in (200, 201)

    def scheduled():
        return call(prefect_url, "/flow_runs/filter", {"flows": {"id": {"any_": [flow["id"]]}}, "limit": 5})[1]

    assert wait_for(scheduled)
    assert all(run["auto_scheduled"] and run["state_type"] == "SCHEDULED" for run in scheduled())


def test_it_listens_on_loopback_only_and_sends_nothing(prefect_url):
    port = int(prefect_url.rsplit(":", 1)[1].split("/")[0])
    listening = [
        c.laddr.ip for c in psutil.net_connections("tcp") if c.laddr and c.laddr.port == port and c.status == "LISTEN"
    ]
    assert set(listening) == {"127.0.0.1"}
    _, settings = call(prefect_url, "/admin/settings")
    assert settings["server"]["analytics_enabled"] is False
    assert settings["server"]["services"]["task_run_recorder"]["batch_size"] == 100
    assert prefect_url.removesuffix("/api") in settings["server"]["api"]["cors_allowed_origins"]


def test_it_goes_with_its_parent_however_that_ends(tmp_path):
    code = (
        "import sys, time, pathlib\nfrom flows.server import launch\nimport os\n"
        "child, url = launch(pathlib.Path(sys.argv[1]), parent=os.getpid())\n"
        "print(child.pid, flush=True)\ntime.sleep(600)"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True, env=environment(), cwd=ROOT
    )
    child = int(parent.stdout.readline())
    assert psutil.pid_exists(child)
    os.kill(parent.pid, signal.SIGKILL)
    parent.communicate()
    assert wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_a_warm_server_with_a_password(tmp_path):
    """Bound beyond loopback it makes itself a password, keeps it to the user, and lets nobody in without it."""
    env = environment(SPLATMILL_STATE=str(tmp_path))
    started = splatmill("server", "start", "--host", "0.0.0.0", "--port", 0, env=env)
    try:
        assert started.returncode == 0, started.stderr
        state = json.loads((tmp_path / "server.json").read_text())
        assert (tmp_path / "server.json").stat().st_mode & 0o077 == 0
        assert state["auth"] not in started.stdout + started.stderr and state["auth"].startswith("splatmill:")
        assert splatmill("server", "password", env=env).stdout.strip() == state["auth"]
        assert call(state["url"], "/flows/filter", {})[0] == 401
        assert call(state["url"], "/flows/filter", {}, auth=state["auth"])[0] == 200
        assert str(state["pid"]) in splatmill("server", "status", env=env).stdout
        assert str(state["pid"]) in splatmill("server", "start", env=env).stdout
        other = splatmill("server", "start", "--port", 4299, env=env)
        assert other.returncode == 2 and "splatmill server stop ends it" in other.stderr
    finally:
        stopped = splatmill("server", "stop", env=env)
    assert "stopped" in stopped.stdout
    assert wait_for(lambda: not psutil.pid_exists(state["pid"]))
    assert splatmill("server", "status", env=env).returncode == 1


def test_no_proxy_stands_between_a_run_and_its_server(tmp_path):
    """And the server's database lies outside of the library, whose full disk would silence it."""
    code = (
        "import asyncio, pathlib, sys\nfrom flows.server import healthy, prefect_server\n"
        "with prefect_server(pathlib.Path(sys.argv[1])) as url:\n"
        "    assert healthy(url)\n    from prefect import get_client\n"
        "    print(asyncio.run(get_client().hello()).status_code)"
    )
    nobody = dict.fromkeys(("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    env = environment(SPLATMILL_STATE=str(tmp_path / "state"), **nobody)
    env = {name: value for name, value in env.items() if name.lower() != "no_proxy"}
    library = tmp_path / "library"
    done = subprocess.run([sys.executable, "-c", code, str(library)], capture_output=True, text=True, env=env, cwd=ROOT)
    assert done.stdout.strip() == "200", done.stderr
    assert not library.exists() and list((tmp_path / "state" / "libraries").glob("*/prefect.db"))


def test_which_server_is_meant(tmp_path, monkeypatch):
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert server.pointed_at() is None
    (tmp_path / "profiles.toml").write_text(
        'active = "farm"\n[profiles.farm]\nPREFECT_API_URL = "http://farm:4200/api"\n'
    )
    assert server.pointed_at() == "http://farm:4200/api"
    monkeypatch.setenv("PREFECT_API_URL", "http://other/api")
    assert server.pointed_at() == "http://other/api"
    assert not server.healthy("http://127.0.0.1:9/api")
    assert server.is_loopback("127.0.0.1") and server.is_loopback("localhost") and not server.is_loopback("0.0.0.0")
