"""Checkpoints of jobs: one safetensors file, whose header holds the JSON part, replaced atomically."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline_core.files import write_bytes

FORMAT = 1
"""Raised when the meaning of a checkpoint changes; others are not read."""

State = tuple[dict[str, Tensor], dict[str, Any]]

log = logging.getLogger(__name__)


def save_checkpoint(path: Path, fingerprint: str, state: State) -> None:
    """Write ``state`` beside ``path``, flush it to the disk, rename: a reader sees the old file or the new one."""
    tensors, values = state
    header = {"format": str(FORMAT), "fingerprint": fingerprint, "values": json.dumps(values)}
    write_bytes(path, save(tensors, metadata=header), durable=True)


def load_checkpoint(path: Path, fingerprint: str) -> State | None:
    """The state saved for ``fingerprint``; None where there is none, it is damaged, or it belongs to another job."""
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if header.get("format") != str(FORMAT) or header.get("fingerprint") != fingerprint:
                log.info("checkpoint %s is of another job or format: starting anew", path)
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(header["values"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        log.warning("checkpoint %s cannot be read (%s): starting anew", path, error)
        return None
