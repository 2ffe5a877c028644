"""``splatmill doctor`` tells what is here, what is missing, and how to get it."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from catalog.render import aligned
from flows.server import pointed_at, warm_server
from pipeline_core.config import RECIPES, ModelRef
from pipeline_core.device import describe, pick_device, thread_count
from pipeline_core.errors import SplatmillError
from pipeline_core.models import licence
from pipeline_core.packing.tools import TOOLS
from pipeline_core.priors.resolve import model_id
from pipeline_core.secrets import redact
from pipeline_core.storage import Library
from pipeline_core.version import code_version

NEEDED = ("torch", "diffusers", "transformers", "safetensors", "numba", "prefect", "fastapi", "sqlalchemy", "duckdb",
          "pyarrow", "xatlas", "PyMCubes", "pillow")  # fmt: skip
PINNED = {"prefect": "3.8.8", "fastapi": "0.150.0", "starlette": "1.10.0", "sqlalchemy": "2.0.58"}
"""Releases near these import well and then lose schedules or answer 422.

See deployments/README.md, When something is wrong.
"""
OPTIONAL = {
    "nvdiffrast": "CUDA mesh rasteriser, not for commercial use: pip install git+https://github.com/NVlabs/nvdiffrast, "
    "then SPLATMILL_NVDIFFRAST=1",
    "s3fs": "libraries on S3: pip install 'splatmill[s3]'",
    "asyncpg": "a Prefect server on PostgreSQL: pip install 'splatmill[postgres]'",
}
LEAST_FREE_GB = 2.0


@dataclass(frozen=True)
class Finding:
    """One line of the report. ``state``: ok, missing (must be mended) or note (may be left)."""

    state: str
    what: str
    found: str
    way_out: str = ""


def examine(library: str, recipe: str, *, warmup: bool, as_json: bool) -> int:
    """Print all findings; returns 0 when nothing that is needed is missing, else 1."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # to look is not to download
    findings = [*_machine(), _gsplat(), *_libraries(), *_export_tools(), *_models(recipe), _library(library), _server()]
    if warmup:
        findings.append(_warm_kernels())
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings]))
    else:
        print(aligned(["", "what", "found", "to mend it"], [[f.state, f.what, f.found, f.way_out] for f in findings]))
    return int(any(finding.state == "missing" for finding in findings))


def _machine() -> list[Finding]:
    device = describe(pick_device())
    memory = f", {device['memory_gb']} GB" if device["memory_gb"] else ""
    found = (
        f"{device['device']} ({device['name']}{memory}), {thread_count()} threads, "
        f"denoisers in {device['precision']}, torch {device['torch']}"
    )
    python = f"Python {platform.python_version()} at {sys.prefix}, splatmill {code_version()}"
    return [Finding("ok", "python", python), Finding("ok", "device", found, _without_cuda(device))]


def _without_cuda(device: dict[str, Any]) -> str:
    """Say why no NVIDIA GPU is used, and how to have one used; the text is empty when one is used."""
    if device["memory_gb"] is not None:
        return ""
    if device["cuda"] is None:
        return "for an NVIDIA GPU: a CUDA build of torch, pip install torch --index-url https://download.pytorch.org/whl/cu130"
    return f"torch is built for CUDA {device['cuda']} and sees no GPU: check nvidia-smi and CUDA_VISIBLE_DEVICES"


def _gsplat() -> Finding:
    """Look for the CUDA rasteriser, which a GPU needs and the CPU does not use."""
    from pipeline_core.rendering import gsplat_build

    on_gpu, problem = pick_device().type == "cuda", gsplat_build.missing()
    if problem and on_gpu:
        return Finding("missing", "gsplat", *problem)
    if problem:
        return Finding("note", "gsplat", f"{problem[0]}; only a GPU needs it", problem[1])
    return Finding("ok", "gsplat", f"{_version('gsplat')}, for a GPU; its kernels compile once", gsplat_build.advice())


def _export_tools() -> list[Finding]:
    """Look for what some formats of splatmill export need."""
    found = {tool: " ".join(tool.find()) for tool in TOOLS}
    return [
        Finding("ok", tool.name, words) if words
        else Finding("note", tool.name, "not found; some formats of splatmill export need it", tool.get)
        for tool, words in found.items()
    ]  # fmt: skip


def _libraries() -> list[Finding]:
    findings = []
    for name in NEEDED:
        version = _version(name)
        wanted = PINNED.get(name)
        if version is None:
            findings.append(Finding("missing", name, "not installed", "pip install -r requirements.lock"))
        elif wanted and version != wanted:
            findings.append(Finding("missing", name, version, f"pip install {name}=={wanted}"))
        else:
            findings.append(Finding("ok", name, version))
    for name, use in OPTIONAL.items():
        version = _version(name)
        findings.append(Finding("ok", name, version) if version else Finding("note", name, "not installed", use))
    return findings


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _models(recipe: str) -> list[Finding]:
    findings = []
    named: dict[Any, ModelRef] = RECIPES[recipe].model_refs()
    for kind, ref in named.items():
        what = f"{kind} model of {recipe}"
        try:
            found = licence(ref, kind)
            findings.append(Finding("ok", what, f"{model_id(ref, kind)} ({found.name}, {found.licence_class})"))
        except SplatmillError as error:
            findings.append(Finding("missing", what, str(ref), str(error).replace("\n", " ")))
    return findings


def _library(library: str) -> Finding:
    """Look whether a bucket can be used, and whether the disk that work is done on has room."""
    try:
        at = Library(library)
        if "://" in library:
            at.create()
    except SplatmillError as error:
        return Finding("missing", "library", str(error), "see deployments/README.md, A library in a bucket")
    place = at.local
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free / 2**30
    if not os.access(place, os.W_OK):
        return Finding("missing", "library", f"{place} is not writable", "give another --library")
    enough = free >= LEAST_FREE_GB
    way_out = "" if enough else f"at least {LEAST_FREE_GB:g} GB: splatmill gc --delete, or another --library"
    return Finding("ok" if enough else "missing", "library", f"{library}: {free:.1f} GB free", way_out)


def _server() -> Finding:
    warm, elsewhere = warm_server(), pointed_at()
    if elsewhere:
        return Finding("ok", "server", f"runs use {redact(elsewhere)}")
    if warm:
        return Finding("ok", "server", f"kept warm at {warm['url']}")
    return Finding("note", "server", "none; each run starts its own", "splatmill server start keeps one warm")


def _warm_kernels() -> Finding:
    from pipeline_core.meshing import warmup as meshing
    from pipeline_core.rendering import gsplat_build, warmup

    began = time.monotonic()
    compile_all: Callable[[], object] = warmup.warmup
    compile_all()
    meshing.warmup()
    if pick_device().type == "cuda":
        gsplat_build.build()
    return Finding(
        "ok", "kernels", f"compiled in {time.monotonic() - began:.0f} s; later runs read them from the cache"
    )
