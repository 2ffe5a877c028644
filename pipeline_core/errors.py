"""What can go wrong, and what the factory does about it.

    SplatmillError
    |-- RequestError          the request was wrong (exit code 2); nothing was run
    |   |-- ManifestError     one or many bad manifest rows
    |   `-- ModelNotFound     a model reference that cannot be resolved, or a folder with files missing
    `-- StageError            one asset's stage failed; the rest go on
        |-- DataError         this input cannot work however often it is tried (error_class "data")
        |-- DivergedError     NaN or an empty result; a new seed may help ("permanent" until reseeded)
        |-- TransientError    trying again may help: a full disk, a busy server ("transient")
        |   |-- DamagedInput  an earlier stage's file is not what it was; that stage is made again
        |   `-- DiskError     a disk is full or may not be written
        `-- OutOfMemory       the device is too small for the batch ("oom")

Every message says what, the value, and what to do next.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class SplatmillError(Exception):
    """Root of every error that splatmill raises on purpose."""

    error_class = "permanent"


class RequestError(SplatmillError):
    """The request itself is wrong; nothing was run. ``problems``: of a manifest, one by one, where it is that."""

    def __init__(self, *words: object, problems: Sequence[Any] = ()) -> None:
        super().__init__(*words)
        self.problems = tuple(problems)


class ManifestError(RequestError):
    """A manifest cannot be used; the message lists every bad row."""


class ModelNotFound(RequestError):
    """A model reference cannot be resolved, or its folder lacks files; the message names them."""


class StageError(SplatmillError):
    """One asset's stage failed; other assets are not concerned."""


class DataError(StageError):
    """This input cannot work however often it is tried."""

    error_class = "data"


class DivergedError(StageError):
    """An optimisation produced NaN, or nothing at all; another seed may work."""


class TransientError(StageError):
    """Trying the same again may work."""

    error_class = "transient"


class DamagedInput(TransientError):
    """A file that an earlier stage made is gone or no longer what it was; making the earlier stage again mends it."""


class DiskError(TransientError, OSError):
    """A disk is full or may not be written; for callers that can do without the file it is an ``OSError`` as any."""


class OutOfMemory(StageError):
    """The device has too little memory for the batch."""

    error_class = "oom"


def is_out_of_memory(error: BaseException) -> bool:
    """True for torch's CUDA and CPU allocation failures and Python's own (by name: this module never imports torch)."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and ("can't allocate memory" in str(error) or "out of memory" in str(error))


def error_class(error: BaseException) -> str:
    """Class of ``error`` for the retry policy and the catalogue: transient, oom, data or permanent."""
    if isinstance(error, SplatmillError):
        return error.error_class
    if is_out_of_memory(error):
        return "oom"
    if isinstance(error, (OSError, TimeoutError, ConnectionError)):
        return "transient"
    return "permanent"
