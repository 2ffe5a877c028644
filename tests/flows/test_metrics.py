"""Prometheus gets what a look sees, in its own format, and the dashboard shows nothing else."""

import json
import re
import threading
import urllib.error
import urllib.request

import pytest

from flows.metrics import CONTENT_TYPE, METRICS, exposition, server
from flows.show import must_exist
from pipeline_core.errors import RequestError
from pipeline_core.storage import Library
from tests.catalog.synthetic import fill
from tests.flows.conftest import ROOT


def test_a_library_in_which_nothing_was_made_yet_is_looked_at(tmp_path):
    must_exist(str(Library(tmp_path / "library").create().root))
    with server(str(tmp_path / "library"), "127.0.0.1", 0) as answers:
        threading.Thread(target=answers.serve_forever, daemon=True).start()
        with urllib.request.urlopen(f"http://127.0.0.1:{answers.server_port}/metrics", timeout=60) as answer:
            assert "splatmill_queue_assets 0" in answer.read().decode()
        answers.shutdown()
    with pytest.raises(RequestError, match="no library here"):
        must_exist(str(tmp_path))


SEEN = {
    "assets": {"ok": 3, "failed": 1},
    "stages": [{"stage": "record", "status": "ok", "assets": 3}],
    "attempts": [{"stage": "record", "status": "ok", "count": 4, "seconds": 2.5}],
    "runs": [{"run_id": "night", "todo": None, "made": 3, "rejected": 0, "failed": 1, "under_way": 2, "queue": 5}],
    "queue": 5,
    "assets_per_hour": 90.0,
    "eta": {"left": 7, "low_s": 10.0, "seconds": 20.0, "high_s": 30.0},
    "workers": [
        {"worker": 'gpu"0\n', "host": "a", "pid": 7, "age_s": 1.5, "assets": [1, 2], "gpu":
            {"name": "L40S", "used_mb": 2.0, "size_mb": 4.0, "busy_percent": 50.0}},
        {"worker": "cpu", "host": "b", "pid": 8, "age_s": 0.5, "assets": [], "gpu": None},
    ],
    "disk": {"free_bytes": 123456789012345, "size_bytes": 223456789012345},
    "look_s": 0.1,
}  # fmt: skip
SAMPLE = re.compile(r'(splatmill_[a-z_]+)(\{([a-z]+="(\\.|[^"\\\n])*",?)+\})? -?[0-9][0-9.e+-]*')


def parsed(text):
    """Names of the samples, by a reading of the format of our own."""
    names, typed = [], None
    for line in text.splitlines():
        if line.startswith("# "):
            typed = line.split()[2]
            continue
        found = SAMPLE.fullmatch(line)
        assert found and found[1] == typed, line
        names.append(found[1])
    assert text.endswith("\n")
    return names


def test_every_metric_has_help_type_and_samples_that_can_be_read():
    told = exposition(SEEN)
    assert set(parsed(told)) == {f"splatmill_{metric.name}" for metric in METRICS}
    assert told.count("# HELP ") == told.count("# TYPE ") == len(METRICS)
    assert all((metric.kind == "counter") == metric.name.endswith("_total") for metric in METRICS)
    assert 'splatmill_eta_seconds{quantile="0.9"} 30\n' in told
    assert 'splatmill_worker_assets{worker="gpu\\"0\\n",host="a",pid="7"} 2\n' in told
    assert "splatmill_disk_free_bytes 123456789012345\n" in told
    assert 'splatmill_gpu_utilization_ratio{worker="gpu\\"0\\n",host="a",pid="7",gpu="L40S"} 0.5\n' in told


def test_what_nobody_knows_has_no_sample():
    told = exposition(SEEN | {"workers": SEEN["workers"][1:], "eta": None, "assets_per_hour": None, "disk": None})
    for name in ("gpu_", "eta_seconds", "assets_per_hour", "disk_", 'state="todo"'):
        assert name not in told
    gpu = SEEN["workers"][0]["gpu"] | {"busy_percent": None}
    told = exposition(SEEN | {"workers": [SEEN["workers"][0] | {"gpu": gpu}]})
    assert "gpu_utilization" not in told and "gpu_memory_used_bytes" in told


def test_a_library_is_scraped_over_http(tmp_path):
    fill(tmp_path / "library", 800)
    with server(str(tmp_path / "library"), "127.0.0.1", 0) as answers:
        threading.Thread(target=answers.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{answers.server_address[1]}"
        with urllib.request.urlopen(f"{url}/metrics", timeout=60) as answer:
            told = answer.read().decode()
            assert answer.headers["Content-Type"] == CONTENT_TYPE
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"{url}/", timeout=60)
        (tmp_path / "library" / "catalog" / "live" / "019ab000-0000-7abc-8000-0123456789ab.2.parquet").write_text("no")
        with pytest.raises(urllib.error.HTTPError, match="500") as refused:
            urllib.request.urlopen(f"{url}/metrics", timeout=60)
        assert "cannot be read" in refused.value.read().decode()
        answers.shutdown()
    assert "splatmill_assets" in parsed(told) and "splatmill_disk_free_bytes" in parsed(told)
    assert 'splatmill_stage_attempts_total{stage="record",status="ok"} ' in told


def test_the_dashboard_shows_what_is_exported_and_all_of_it():
    board = json.loads((ROOT / "deployments" / "grafana" / "splatmill.json").read_text())
    exprs = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    used = {name for expr in exprs for name in re.findall(r"splatmill_\w+", expr)}
    assert used == {f"splatmill_{metric.name}" for metric in METRICS}
    assert all(panel["datasource"]["uid"] == "${datasource}" and panel["title"] for panel in board["panels"])
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    readme = (ROOT / "deployments" / "README.md").read_text()
    assert set(re.findall(r"splatmill_[a-z_]+", readme)) <= used
