"""``kernel``: compile a function with numba, without the GIL, and keep the machine code where it can be kept.

Numba looks for its cache beside the source and in the home directory, and refuses to import a cached function when
neither can be written. Here the first writable of these is used, or none:

    $NUMBA_CACHE_DIR, the package's own __pycache__, splatmill's cache (a private temporary folder in a pinch)

The folder's name holds a hash of every source of this package, since numba only looks at the file of the outermost
function when it decides whether machine code is stale.
"""

from __future__ import annotations

import functools
import hashlib
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from numba.core import config

from pipeline_core import files

FAST = {"contract", "nsz", "arcp"}
"""Floating-point freedoms: fused multiply-add, no signed zero, reciprocals. Never nnan or ninf: NaN is guarded."""


def _writable(folder: Path) -> bool:
    """Whether files can be made in ``folder`` (created if needed)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:
        return False


@functools.cache
def cache_folder() -> Path | None:
    """Where compiled kernels are kept, or None when nothing can be written."""
    here = Path(__file__).resolve().parent
    digest = hashlib.sha256(numba.__version__.encode())
    for source in sorted(here.glob("*.py")):
        digest.update(source.read_bytes())
    name = f"splatmill-kernels-{digest.hexdigest()[:16]}"
    chosen = os.environ.get("NUMBA_CACHE_DIR")
    if chosen:
        return Path(chosen) / name if _writable(Path(chosen) / name) else None
    beside = here / "__pycache__" / name
    if _writable(beside):
        return beside
    cached = files.cache_folder() / name
    return cached if _writable(cached) else None


def kernel(function: Callable[..., Any]) -> Any:
    """Decorator: ``function`` compiled on first use, cached on disk where possible, running without the GIL."""
    before = config.CACHE_DIR
    folder = cache_folder()
    try:
        config.CACHE_DIR = str(folder) if folder else ""
        return numba.njit(nogil=True, fastmath=FAST, error_model="numpy", cache=folder is not None)(function)
    finally:
        config.CACHE_DIR = before


def inlined(function: Callable[..., Any]) -> Any:
    """Decorator: a helper of kernels, compiled into each of them."""
    return numba.njit(nogil=True, fastmath=FAST, error_model="numpy", inline="never", no_cpython_wrapper=True)(function)
