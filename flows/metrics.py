"""A library at work for Prometheus: what ``flows.watch`` sees, in the text format 0.0.4.

    splatmill metrics --library /mnt/library          # http://127.0.0.1:9464/metrics

Every scrape is one look. What nobody knows has no sample: a library without a GPU has none of ``splatmill_gpu_*``.
"""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from catalog.door import explain
from flows.watch import Watch
from pipeline_core.secrets import redact

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
MIB = 2**20

Samples = Iterable[tuple[dict[str, Any], float | None]]
"""Labels and value of each sample; a value of None is left out."""


@dataclass(frozen=True)
class Metric:
    """One metric: its name without ``splatmill_``, its type and help, and how its samples follow from a look."""

    name: str
    kind: str
    help: str
    samples: Any


def _one(value: float | None) -> Samples:
    return [({}, value)]


def _of_workers(key: str) -> Any:
    return lambda seen: [(_labels(each), each[key]) for each in seen["workers"]]


def _of_gpus(key: str, scale: float) -> Any:
    def samples(seen: dict[str, Any]) -> Iterator[tuple[dict[str, Any], float | None]]:
        for each in seen["workers"]:
            if each["gpu"]:
                value = each["gpu"][key]
                yield _labels(each) | {"gpu": each["gpu"]["name"]}, None if value is None else value * scale

    return samples


def _labels(worker: dict[str, Any]) -> dict[str, Any]:
    return {name: worker[name] for name in ("worker", "host", "pid")}


def _by(rows: str, value: str, *labels: str) -> Any:
    return lambda seen: [({name: row[name] for name in labels}, row[value]) for row in seen[rows]]


def _of_runs(seen: dict[str, Any]) -> Samples:
    names = ("todo", "made", "rejected", "failed", "under_way", "queue")
    return [({"run": run["run_id"], "state": name}, run[name]) for run in seen["runs"] for name in names]


def _eta(seen: dict[str, Any]) -> Samples:
    parts = (("0.1", "low_s"), ("0.5", "seconds"), ("0.9", "high_s"))
    return [({"quantile": quantile}, (seen["eta"] or {}).get(name)) for quantile, name in parts]


def _disk(name: str) -> Any:
    return lambda seen: _one(seen["disk"] and seen["disk"][name])


METRICS = (
    Metric("assets", "gauge", "Assets of the library by status, as in the catalogue's view assets.",
           lambda seen: [({"status": status}, count) for status, count in seen["assets"].items()]),
    Metric("stage_assets", "gauge", "Assets by the stage that they came to or that stopped them, and status.",
           _by("stages", "assets", "stage", "status")),
    Metric("stage_attempts_total", "counter", "Finished attempts of stages, by status.",
           _by("attempts", "count", "stage", "status")),
    Metric("stage_seconds_total", "counter", "Seconds that finished attempts of stages took, by status.",
           _by("attempts", "seconds", "stage", "status")),
    Metric("run_assets", "gauge", "Assets of open runs: to make, made, rejected, failed, under way, queued.",
           _of_runs),
    Metric("queue_assets", "gauge", "Assets that were asked for and that nobody has begun.",
           lambda seen: _one(seen["queue"])),
    Metric("assets_per_hour", "gauge", "Rate of delivery of the open runs, by the last 200 deliveries.",
           lambda seen: _one(seen["assets_per_hour"])),
    Metric("eta_seconds", "gauge", "Seconds until the open runs are done, with first and ninth decile.", _eta),
    Metric("worker_last_beat_age_seconds", "gauge", "Seconds since a worker's last sign of life.",
           _of_workers("age_s")),
    Metric("worker_assets", "gauge", "Assets that a worker has under way.",
           lambda seen: [(_labels(each), len(each["assets"])) for each in seen["workers"]]),
    Metric("gpu_memory_used_bytes", "gauge", "Memory of a worker's GPU that is in use, by all processes.",
           _of_gpus("used_mb", MIB)),
    Metric("gpu_memory_size_bytes", "gauge", "Memory of a worker's GPU.", _of_gpus("size_mb", MIB)),
    Metric("gpu_utilization_ratio", "gauge", "Share of time in which a worker's GPU had work, 0 to 1.",
           _of_gpus("busy_percent", 0.01)),
    Metric("disk_free_bytes", "gauge", "Free bytes of the library's disk.", _disk("free_bytes")),
    Metric("disk_size_bytes", "gauge", "Size of the library's disk.", _disk("size_bytes")),
    Metric("look_seconds", "gauge", "Seconds that this look took.", lambda seen: _one(seen["look_s"])),
)  # fmt: skip


def exposition(seen: dict[str, Any]) -> str:
    """A look in Prometheus' text format; a metric without samples is not named."""
    lines = []
    for metric in METRICS:
        name = f"splatmill_{metric.name}"
        samples = [f"{name}{_in_braces(labels)} {_number(v)}" for labels, v in metric.samples(seen) if v is not None]
        if samples:
            lines += [f"# HELP {name} {metric.help}", f"# TYPE {name} {metric.kind}", *samples]
    return "\n".join(lines) + "\n"


def _in_braces(labels: dict[str, Any]) -> str:
    pairs = ",".join(f'{name}="{_escaped(str(value))}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _number(value: float) -> str:
    return repr(value) if isinstance(value, int) else f"{value:.12g}"


def server(library: str, host: str, port: int) -> ThreadingHTTPServer:
    """An HTTP server that answers ``GET /metrics``; port 0 takes any that is free. It has looked once already."""
    watch, alone = Watch(library), threading.Lock()
    watch.look()

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.split("?")[0] != "/metrics":
                self.answer(404, "see /metrics\n")
                return
            try:
                with alone:
                    told = exposition(watch.look())
            except Exception as error:
                self.answer(500, redact(explain(error)[0]) + "\n")
                return
            self.answer(200, told)

        def answer(self, status: int, words: str) -> None:
            data = words.encode()
            self.send_response(status)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            """A line for each scrape would tell nothing."""

    return ThreadingHTTPServer((host, port), Answer)


def serve(library: str, host: str, port: int) -> None:
    """Answer scrapes until interrupted."""
    with server(library, host, port) as answers:
        where = f"http://{answers.server_address[0]!s}:{answers.server_address[1]}/metrics"
        print(f"metrics of {library} at {where}", file=sys.stderr, flush=True)
        with contextlib.suppress(KeyboardInterrupt):
            answers.serve_forever()
