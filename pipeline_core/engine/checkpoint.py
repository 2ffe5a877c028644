"""Checkpoints of jobs: a file is used by the job that wrote it, and by nothing else."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline_core.errors import DataError
from pipeline_core.io.checkpoint import State, read_checkpoint, write_checkpoint

FORMAT = 1
"""Raised when the meaning of a checkpoint changes; others are not read."""

log = logging.getLogger(__name__)


def save_checkpoint(path: Path, fingerprint: str, state: State) -> None:
    """Write the ``state`` of the job that has this fingerprint."""
    write_checkpoint(path, state, format=str(FORMAT), fingerprint=fingerprint)


def load_checkpoint(path: Path, fingerprint: str) -> State | None:
    """The state saved for ``fingerprint``; None where there is none, it is damaged, or it belongs to another job."""
    if not path.is_file():
        return None
    try:
        state = read_checkpoint(path, format=str(FORMAT), fingerprint=fingerprint)
    except DataError as error:
        log.warning("%s: starting anew", error)
        return None
    if state is None:
        log.info("checkpoint %s is of another job or format: starting anew", path)
    return state
