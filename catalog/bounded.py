"""A stranger's query, from its text to its rendered answer, in a process that ends when it has used what it may.

    data, truncated = answer(library, "select * from assets", "csv", limits=Limits(timeout_s=5))

DuckDB counts the memory of its buffers, not what a function builds, and cannot be interrupted inside of one; and what
comes after it, Arrow and Python, knows no limit at all. So the child has an alarm and a limit on its memory.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
from dataclasses import asdict
from typing import Any

import duckdb
import pyarrow as pa

from catalog import guard, render
from catalog.guard import Limits, SqlFailed
from pipeline_core import python
from pipeline_core.errors import SplatmillError

GRACE_S = 1.0
"""How long after its time a query that cannot be interrupted goes on."""
OWN_BYTES = 2**30
"""What a process that answers takes by itself, most of it the stacks of threads."""
UNITS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "ki": 2**10, "mi": 2**20, "gi": 2**30, "ti": 2**40}


def answer(
    library: str | os.PathLike[str], sql: str, form: str, *, live: bool = False, limits: Limits | None = None
) -> tuple[bytes, bool]:
    """The answer as ``render.FORMATS[form]`` writes it, and whether it was cut at ``limits.rows``.

    Raises what :func:`catalog.guard.ask` raises.
    """
    limits = limits or Limits()
    request = {"library": os.fspath(library), "sql": sql, "form": form, "live": live, "limits": asdict(limits)}
    child = subprocess.run(
        python.command("catalog.bounded"), input=json.dumps(request).encode(), capture_output=True,
        env=python.environment(),
    )  # fmt: skip
    if child.returncode == -signal.SIGALRM:
        raise guard.too_slow(limits)
    head, _, data = child.stdout.partition(b"\n")
    if child.returncode or not head:
        raise guard.too_large(limits)
    reply = json.loads(head)
    if "error" in reply:
        module, name, message = reply["error"]
        raise getattr(importlib.import_module(module), name)(message)
    return data, reply["truncated"]


def _serve() -> None:
    """Answer the one request on standard input."""
    request = json.loads(sys.stdin.buffer.read())
    limits = Limits(**request["limits"])
    _bound(limits)
    data, reply = b"", {}
    try:
        found = guard.ask(request["library"], request["sql"], live=request["live"], limits=limits)
        data, reply = render.render(found.table, request["form"]), {"truncated": found.truncated}
    except SplatmillError as error:
        reply = _told(error)
    except (MemoryError, OSError, pa.ArrowException, duckdb.Error) as error:
        too_large = isinstance(error, MemoryError) or re.search("memory|buffer size|bad_alloc", str(error))
        reply = _told(guard.too_large(limits) if too_large else SqlFailed(str(error)))
    signal.setitimer(signal.ITIMER_REAL, 0)
    sys.stdout.buffer.write(json.dumps(reply).encode() + b"\n" + data)
    sys.stdout.buffer.flush()


def _bound(limits: Limits) -> None:
    """An alarm that ends this process, and a limit on its memory."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, limits.timeout_s + GRACE_S)
    size = re.fullmatch(r"\s*([\d.]+)\s*([kmgt]?i?)b?\s*", limits.memory.lower())
    if size and size[2] in UNITS:
        with contextlib.suppress(ValueError, OSError):  # where a lower limit is set already, that one holds
            most = int(float(size[1]) * UNITS[size[2]]) + OWN_BYTES
            resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def _told(error: SplatmillError) -> dict[str, Any]:
    return {"error": [type(error).__module__, type(error).__name__, str(error)]}


if __name__ == "__main__":
    _serve()
