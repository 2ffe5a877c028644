"""Which code made an asset: the package's version and a hash of its sources, which tells a changed checkout too."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib import metadata
from pathlib import Path

PACKAGES = ("catalog", "flows", "pipeline_core", "tasks")


@lru_cache(maxsize=1)
def code_version() -> str:
    """For example ``0.1.0+src.3f9c0d1e2a4b``."""
    try:
        version = metadata.version("splatmill")
    except metadata.PackageNotFoundError:  # run from a checkout that is not installed
        version = "0.0.0"
    root = Path(__file__).resolve().parent.parent
    total = hashlib.sha256()
    for package in PACKAGES:
        for path in sorted((root / package).rglob("*.py")):
            total.update(f"{path.relative_to(root).as_posix()}\0".encode() + path.read_bytes())
    return f"{version}+src.{total.hexdigest()[:12]}"
