"""The models and engines of this process: loaded at first use, once, and shared by all task threads.

A worker that takes shard after shard keeps them warm. There is one engine for each pair of priors; everything that
optimises goes through it, so views of different assets share the model calls.
"""

from __future__ import annotations

import importlib
import logging
import os
import threading
import time
from concurrent.futures import CancelledError
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_core.config import ModelRef, Named, Recipe
from pipeline_core.device import pick_device
from pipeline_core.errors import RequestError
from pipeline_core.files import lock, state_folder
from pipeline_core.priors.licences import Licence, licence_of, together
from pipeline_core.priors.resolve import Kind, resolve_model

if TYPE_CHECKING:
    from pipeline_core.engine.engine import DistillationEngine

DEVICE = "SPLATMILL_DEVICE"
"""Environment variable: auto (the default), cpu, cuda or cuda:<number>."""
MAX_ACTIVE = "SPLATMILL_MAX_ACTIVE"
"""Environment variable: assets that share a batch of the engine; unset: ``engine.default_active``."""

sampling = threading.Lock()
"""Held while the point prior samples: side by side, samplers would only share the same cores."""

SHARE_GPU = "SPLATMILL_SHARE_GPU"
"""Environment variable: 1 lets this process work on a GPU beside another one's engine; unset: it waits for its end."""

log = logging.getLogger("splatmill")
_lock, _importing = threading.RLock(), threading.Lock()
_closed = 0
"""How often the engines were closed."""
_gpus: dict[Path, ExitStack] = {}
"""The GPUs that this process holds, by their lock files, until it ends."""
_gpu_lock = threading.Lock()
_engines: dict[tuple[ModelRef, ModelRef], DistillationEngine] = {}


def import_scipy() -> None:
    """Import the packages of scipy that ours begin with, by one thread at a time.

    They import each other in circles: where a stage's thread and the one that loads models meet in one, Python raises
    ``_DeadlockError`` in either. Both call this first.
    """
    with _importing:
        for name in ("optimize", "spatial", "ndimage", "sparse.csgraph"):
            importlib.import_module(f"scipy.{name}")


def device() -> Any:
    """The ``torch.device`` of this process."""
    return pick_device(os.environ.get(DEVICE, "auto"))


@lru_cache(maxsize=4)
def _image_prior(ref: ModelRef) -> Any:
    from pipeline_core.priors.image import load_image_prior

    return load_image_prior(ref, device=device())


@lru_cache(maxsize=4)
def _point_prior(ref: ModelRef) -> Any:
    from pipeline_core.priors.points import load_point_prior

    return load_point_prior(ref, device=device())


def image_prior(ref: Named) -> Any:
    """The image prior ``ref``, loaded once."""
    with _lock:
        return _image_prior(ModelRef.of(ref))


def point_prior(ref: Named) -> Any:
    """The point prior ``ref``, loaded once."""
    with _lock:
        return _point_prior(ModelRef.of(ref))


@lru_cache(maxsize=1)
def prepare_device() -> None:
    """Before a GPU is used: compile the rasteriser, or wait for the process that does."""
    if device().type == "cuda":
        from pipeline_core.rendering import gsplat_build

        gsplat_build.build()


def engine(recipe: Recipe) -> DistillationEngine:
    """The engine for the recipe's priors.

    Raises ``CancelledError`` when engines are closed while this waits for another process's to leave the GPU.
    """
    from pipeline_core.engine.engine import DistillationEngine

    prepare_device()
    hold_gpu()
    refs = recipe.model_refs()
    pair = refs["image"], refs["points"]
    with _lock:
        found = _engines.get(pair)
        if found is None or found.closed:
            found = _engines[pair] = DistillationEngine(
                image_prior(pair[0]),
                lambda: point_prior(pair[1]),
                device=device(),
                max_active=_max_active(),
            )
        return found


def hold_gpu(every_s: float = 1.0) -> None:
    """Be the only process of splatmill with an engine on this GPU, for as long as this process lives.

    The kernel gives a GPU back when its holder dies, so an engine that outlives its killed worker is waited for.
    """
    if device().type != "cuda" or os.environ.get(SHARE_GPU) == "1":
        return
    path, seen = state_folder() / "gpus" / gpu_name(), _closed
    with _gpu_lock:
        while path not in _gpus:
            mine = ExitStack()
            if mine.enter_context(lock(path, wait=False)):
                _gpus[path] = mine
            elif _closed != seen:
                raise CancelledError("the engines were closed")
            else:
                _say_that_it_is_taken(path.name)
                time.sleep(every_s)


@lru_cache(maxsize=1)
def _say_that_it_is_taken(gpu: str) -> None:
    log.warning("another process has its engine on %s: this one waits for its end (%s=1: both at once)", gpu, SHARE_GPU)


def gpu_name() -> str:
    """A name that the GPU of this process has for every process of this machine."""
    import torch

    return str(torch.cuda.get_device_properties(device()).uuid)


def _max_active() -> int | None:
    text = os.environ.get(MAX_ACTIVE, "").strip()
    if text and (not text.isdecimal() or not 1 <= int(text) <= 1024):
        raise RequestError(f"{MAX_ACTIVE}={text!r} is not a number of assets; set it to 1 to 1024 or unset it")
    return int(text) if text else None


def close_engines() -> None:
    """Stop all engines: their jobs keep a checkpoint and are cancelled. Later calls of :func:`engine` make new ones."""
    global _closed
    _closed += 1
    with _lock:
        engines = list(_engines.values())
        _engines.clear()
    for each in engines:
        each.close()


@lru_cache(maxsize=64)
def licence(named: Named, kind: Kind) -> Licence:
    """The licence of a model with what is added to it; raises :class:`ModelNotFound` as resolving each of them does."""
    return together(part_licence(ref, each) for each, ref in ModelRef.of(named).parts(kind))


@lru_cache(maxsize=64)
def part_licence(ref: str, kind: Any) -> Licence:
    """The licence of one published thing, as :meth:`ModelRef.parts` names it."""
    return licence_of(ref, resolve_model(ref, kind))
