"""What a device could do, and how busy it is: floating-point operations, peak rate, utilisation."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline_core.priors.image import DiffusersPrior


def model_flops(prior: DiffusersPrior, views: int, rows: int) -> float:
    """Operations of one step's models: ``views`` encoded, forward and backward, and ``rows`` of the U-Net.

    A multiplication and an addition are two. Counted by torch; on the ``meta`` device nothing is computed.
    """
    images = torch.rand(views, 3, prior.size, prior.size, device=prior.device, requires_grad=True)
    text = prior.encode_prompts(["a red mug"] * rows)
    with FlopCounterMode(display=False) as counter:
        latents = prior.encode(images)
        latents.sum().backward()
        x = latents.detach()[:1].expand(rows, -1, -1, -1)
        prior.predict(x, torch.full((rows,), 0.5, device=prior.device), text)
    return float(counter.get_total_flops())


def dense_peak(device: torch.device, size: int) -> float:
    """Operations a second of a ``size`` x ``size`` bfloat16 matrix product: best of five runs of ten."""
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    best = 0.0
    for _ in range(5):
        synchronize(device)
        began = time.perf_counter()
        for _ in range(10):
            a @ a
        synchronize(device)
        best = max(best, 10 * 2 * size**3 / (time.perf_counter() - began))
    return best


def synchronize(device: torch.device) -> None:
    """Wait for a GPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_gb(device: torch.device) -> float | None:
    """Most memory that torch has taken from the GPU since :func:`forget_peak`, caches and graphs included; GB = 1e9."""
    return torch.cuda.max_memory_reserved(device) / 1e9 if device.type == "cuda" else None


def forget_peak(device: torch.device) -> None:
    """Give cached memory back and count the peak anew."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


@contextlib.contextmanager
def utilisation(device: torch.device, every: float = 0.5) -> Iterator[list[float]]:
    """Inside, the list fills with the GPU's utilisation in percent, as ``nvidia-smi`` tells it; empty without one."""
    samples: list[float] = []
    if device.type != "cuda" or shutil.which("nvidia-smi") is None:
        yield samples
        return
    card = f"GPU-{torch.cuda.get_device_properties(device).uuid}"
    command = ["nvidia-smi", f"--id={card}", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(every):
            answer = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
            with contextlib.suppress(ValueError):
                samples.append(float(answer))

    thread = threading.Thread(target=watch, name="utilisation", daemon=True)
    thread.start()
    try:
        yield samples
    finally:
        stop.set()
        thread.join()
