"""Which device to use, and how many threads.

Import this module before anything that imports torch, and call :func:`configure` first thing in a process: OpenMP
reads its settings once. Waiting threads must sleep (``OMP_WAIT_POLICY=PASSIVE``): spinning pools cost three to five
times the time on a machine whose cores are busy, and ours are, with several priors, numba kernels and meshers.

One number of threads holds for everything: that of ``SPLATMILL_THREADS``, else of ``OMP_NUM_THREADS``, else the cores
this process may use (``limits.py``).
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline_core.errors import RequestError
from pipeline_core.limits import cores

if TYPE_CHECKING:
    import torch
    from torch import Tensor

THREADS = "SPLATMILL_THREADS"
"""Name of the environment variable that sets the number of threads."""
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")
"""Where the libraries read theirs. A user may set the first in place of ours."""
BESIDE = 2
"""Threads of a process that works beside a GPU (``aside.py``): much of the work is a single thread's."""
PRECISION = "SPLATMILL_PRECISION"
"""Name of the environment variable that sets the denoisers' precision: float32, bfloat16 or float16."""
LIBRARIES = (
    "torch", "numpy", "numba", "scipy", "PyMCubes", "xatlas", "pillow", "diffusers", "transformers", "tokenizers",
    "gsplat",
)  # fmt: skip
"""Distributions whose code makes numbers or files of an asset."""


def thread_count() -> int:
    """Threads to use: ``SPLATMILL_THREADS``, else ``OMP_NUM_THREADS``, else the cores this process may use."""
    for name in (THREADS, POOLS[0]):
        if text := os.environ.get(name, "").strip():
            first = text.partition(",")[0]  # of OpenMP's list, one number for each depth
            if not first.isdecimal() or not 1 <= int(first) <= 1024:
                raise RequestError(f"{name}={text!r} is not a number of threads; set it to 1 to 1024 or unset it")
            return int(first)
    return cores()


def configure(threads: int | None = None) -> int:
    """Set the thread pools of OpenMP, numba and torch for this process and its children; returns the number of threads.

    ``threads`` overrides ``SPLATMILL_THREADS``. How the pools wait is as the user has it in the environment.
    """
    if threads is not None:
        os.environ[THREADS] = str(threads)
    count = thread_count()
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GOMP_SPINCOUNT", "0")
    os.environ.update(dict.fromkeys(POOLS, str(count)))
    os.environ.setdefault("MKL_DYNAMIC", "FALSE")  # a sum in fewer parts, where cores are busy, rounds differently
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    torch = loaded_torch()
    if torch is not None:  # imported already: its pool can still be resized, only the wait policy is fixed
        torch.set_num_threads(count)
    return count


def pick_device(name: str = "auto") -> torch.device:
    """``auto`` = the CUDA device where torch sees one, else the CPU; or any name torch knows, checked to be there."""
    import torch

    if name == "auto":
        return indexed(torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RequestError(f"device {name!r} is not a device name; use auto, cpu, cuda or cuda:<number>") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RequestError(
            f"device {name!r} is not here: torch {torch.__version__} sees {torch.cuda.device_count()} CUDA device(s)"
            + ("" if torch.version.cuda else " and is a build without CUDA")
            + "; use auto or cpu, or check nvidia-smi and CUDA_VISIBLE_DEVICES"
        )
    return indexed(device)


def indexed(device: torch.device) -> torch.device:
    """``device`` with its number: a CUDA device without one is the thread's current one, and cannot be made current."""
    import torch

    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", torch.cuda.current_device())
    return device


def default_dtype(device: torch.device | str) -> torch.dtype:
    """Working precision of the denoisers: float16 on CUDA; on the CPU bfloat16 where it has instructions for it.

    Without them half precision is slower than float32, which is then taken. ``SPLATMILL_PRECISION`` decides otherwise,
    for example to have the same numbers on machines of different kinds.
    """
    import torch

    known = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    name = os.environ.get(PRECISION, "").strip()
    if name:
        if name not in known:
            raise RequestError(f"{PRECISION}={name!r} is not a precision; set it to {', '.join(known)}, or unset it")
        return known[name]
    if torch.device(device).type == "cuda":
        return torch.float16
    return torch.bfloat16 if _cpu_has_bfloat16() else torch.float32


def _cpu_has_bfloat16() -> bool:
    """Whether this CPU multiplies bfloat16 matrices in hardware (AVX512-BF16, which every AMX machine has too)."""
    import torch

    asked = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return bool(asked and asked())


def upload(value: Tensor, device: torch.device) -> Tensor:
    """``value`` on ``device``; the host does not wait for a GPU that is still busy.

    A plain ``.to("cuda")`` of ordinary memory waits until everything queued before it is done.
    """
    if device.type == "cuda" and value.device.type == "cpu":
        value = value.contiguous().pin_memory()  # rows of an expanded tensor share their memory, pinned ones cannot
    return value.to(device, non_blocking=True)


def describe(device: torch.device | str) -> dict[str, Any]:
    """What ``splatmill doctor`` shows: type, name, memory in GB (None on the CPU), threads, precision,
    torch and CUDA versions."""
    import torch

    device = torch.device(device)
    on_cuda = device.type == "cuda"
    properties = torch.cuda.get_device_properties(device) if on_cuda else None
    return {
        "device": str(device),
        "name": properties.name if properties else "CPU",
        "memory_gb": round(properties.total_memory / 2**30, 1) if properties else None,
        "threads": torch.get_num_threads(),
        "precision": str(default_dtype(device)).removeprefix("torch."),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
    }


def loaded_torch() -> Any | None:
    """torch where this process has loaded it; None while another thread is still loading it, too: it is half there."""
    torch = sys.modules.get("torch")
    return None if getattr(getattr(torch, "__spec__", None), "_initializing", False) else torch


def made_with() -> dict[str, str]:
    """Versions, threads, processor and precision of this process: with code, models, settings and inputs, all that a
    stage's bytes depend on. What is not installed or not loaded is left out."""
    told = {"python": platform.python_version(), **_libraries(), "cpu": _processor()}
    told["threads"] = str(thread_count())
    if torch := loaded_torch():
        told["threads"] = str(torch.get_num_threads())
        if torch.cuda.is_initialized():  # all but the engine's work is done by processes of their own
            told["threads_beside"] = str(min(BESIDE, thread_count()))
        device = "cuda" if torch.cuda.is_available() else "cpu"
        told["precision"] = str(default_dtype(device)).removeprefix("torch.")
    return told


@lru_cache(maxsize=1)
def _libraries() -> dict[str, str]:
    found = {}
    for name in LIBRARIES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


@lru_cache(maxsize=1)
def _processor() -> str:
    """The kind of processor, by which libraries choose their kernels: name, family and model where Linux tells them."""
    try:
        lines = Path("/proc/cpuinfo").read_text().split("\n\n")[0].splitlines()
    except OSError:
        lines = []
    told = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    known = [told[name] for name in ("model name", "cpu family", "model") if name in told]
    return " ".join([platform.machine(), *(known or [platform.processor()])])


def gpu_load() -> dict[str, Any] | None:
    """Name, memory (MiB) and utilisation (percent) of this process's GPU, by ``nvidia-smi``.

    What the driver does not tell is None; so is all of it before torch has begun to use a GPU, and without the command.
    """
    torch = loaded_torch()
    if torch is None or not torch.cuda.is_initialized():
        return None
    index = os.environ.get("SPLATMILL_DEVICE", "").partition(":")[2]
    uuid = getattr(torch.cuda.get_device_properties(int(index) if index.isdecimal() else 0), "uuid", None)
    command = ["nvidia-smi", f"--id=GPU-{uuid}", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(
            [*command, "--query-gpu=name,memory.used,memory.total,utilization.gpu"],
            capture_output=True, text=True, timeout=10, check=True,
        ).stdout  # fmt: skip
        name, used, size, busy = (text.strip() for text in told.strip().rsplit(",", 3))
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return {"name": name, "used_mb": _number(used), "size_mb": _number(size), "busy_percent": _number(busy)}


def _number(text: str) -> float | None:
    """A number of ``nvidia-smi``; None for its ``[N/A]``."""
    try:
        return float(text)
    except ValueError:
        return None
