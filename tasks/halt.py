"""The process's emergency brake: once it is pulled, no stage begins any more and the engines let go of their jobs.

Jobs keep a checkpoint; a stage that holds no engine still comes to its end. The next batch calls :func:`release`.
"""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

from pipeline_core.models import close_engines

_pulled = threading.Event()


def pull() -> None:
    """Stop the batch that this process is making."""
    _pulled.set()
    close_engines()


def release() -> None:
    """Let stages begin again."""
    _pulled.clear()


def pulled() -> bool:
    """Whether the batch is being stopped."""
    return _pulled.is_set()


def check() -> None:
    """Raise :class:`CancelledError` once the brake is pulled; every stage asks before it begins."""
    if _pulled.is_set():
        raise CancelledError("the run was stopped")
