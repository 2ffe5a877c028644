"""A checkpoint: one safetensors file of tensors whose header holds JSON, written whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from pipeline_core.errors import DataError
from pipeline_core.files import write_bytes

State = tuple[dict[str, Tensor], dict[str, Any]]
"""Tensors by name, and what JSON can say."""


def write_checkpoint(path: Path, state: State, **marks: str) -> None:
    """Replace ``path``: a reader sees the old file or the new one, also after a power cut.

    ``marks`` are words of the header by which :func:`read_checkpoint` knows the file as the one it wants.
    """
    tensors, values = state
    packed = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    write_bytes(path, save(packed, metadata={**marks, "values": json.dumps(values)}), durable=True)


def read_checkpoint(path: Path, **marks: str) -> State | None:
    """The state in ``path``, on the CPU; None where its marks are others. Raises DataError if it is damaged."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if any(header.get(name) != mark for name, mark in marks.items()):
                return None
            return {name: file.get_tensor(name) for name in file.keys()}, json.loads(header["values"])
    except (SafetensorError, OSError, KeyError, json.JSONDecodeError) as error:
        raise DataError(f"checkpoint {path} cannot be read: {error}") from error
