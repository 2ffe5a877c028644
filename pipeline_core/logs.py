"""What a run says on standard error: words for people, or with ``SPLATMILL_LOG=json`` one JSON document a line.

    {"time": "2026-11-26T03:04:05.678Z", "level": "info", "run": "night", "worker": "gpu-0", "asset": "mug",
     "stage": "extract_mesh", "event": "end", "seconds": 3.2, "message": "extract_mesh of mug: end"}

Stages tell when they begin, end, fail, and when their output is found; people see that on the panel instead.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import sys
from datetime import UTC, datetime
from typing import Any

from pipeline_core.errors import RequestError
from pipeline_core.secrets import redact

LOG = "SPLATMILL_LOG"
FIELDS = ("run", "asset", "stage", "event", "seconds", "error_class", "error_type")
"""What a line may have beside time, level, worker and message."""

stages = logging.getLogger("splatmill.stage")
stages.propagate = False
stages.addHandler(logging.NullHandler())
_about: dict[str, Any] = {}


def as_json() -> bool:
    """Whether lines are JSON. Raises :class:`RequestError` for a setting that is neither text nor json."""
    said = os.environ.get(LOG, "").strip() or "text"
    if said not in ("text", "json"):
        raise RequestError(f"{LOG}={said!r}: text or json")
    return said == "json"


def configure(**about: Any) -> None:
    """Have the process's loggers write as the setting says; ``about`` (``run``) is part of every line from now on."""
    _about.update(about)
    if not as_json():
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines())
    for name in ("splatmill", "pipeline_core"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO)
    stages.propagate = True


def event(name: str, *, level: int = logging.INFO, why: str | None = None, **fields: Any) -> None:
    """Tell of a stage: ``name`` is begin, end, found, or the status that it failed with; ``fields`` are of FIELDS."""
    if stages.propagate:
        words = f"{fields['stage']} of {fields['asset']}: {name}" + (f": {why}" if why else "")
        stages.log(level, "%s", words, extra=fields | {"event": name})


def say(words: str, *, level: str = "info") -> None:
    """Say something to whoever reads standard error."""
    print(line(level, words) if as_json() else words, file=sys.stderr, flush=True)


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        fields = {name: getattr(record, name) for name in FIELDS if hasattr(record, name)}
        trace = f"\n{self.formatException(record.exc_info)}" if record.exc_info else ""
        return line(record.levelname.lower(), record.getMessage() + trace, fields)


def line(level: str, message: str, fields: dict[str, Any] | None = None) -> str:
    """One line; secrets are taken out of the message."""
    worker = os.environ.get("PREFECT__WORKER_NAME") or f"{socket.gethostname()}-{os.getpid()}"
    head = {"time": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"), "level": level}
    return json.dumps(head | {"worker": worker} | _about | (fields or {}) | {"message": redact(message)}, default=str)
