"""A network that is compiled once a size of batch has come often enough for that to pay."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from pipeline_core.errors import RequestError
from pipeline_core.files import cache_folder

COMPILE = "SPLATMILL_COMPILE"
"""Environment variable: 1 = compile at once, 0 = nothing more; unset: a size that comes :data:`PATIENCE` times."""
PATIENCE = 500
"""Calls of one size before it is compiled: about as long as compiling takes, so it never costs more than half."""

log = logging.getLogger(__name__)


def patience() -> float:
    """Calls of one size before it is compiled, as ``SPLATMILL_COMPILE`` has it."""
    said = os.environ.get(COMPILE, "").strip()
    if said not in ("", "0", "1"):
        raise RequestError(f"{COMPILE}={said!r} is not a choice; set it to 1 (at once) or 0 (no more), or unset it")
    return {"": PATIENCE, "0": float("inf"), "1": 0}[said]


def compile_when_it_pays(network: nn.Module, least_rows: int, *, differentiated: bool) -> nn.Module:
    """Compile ``network`` for each number of rows from ``least_rows`` on that has come often enough (:func:`patience`).
    Of inputs with different numbers of rows the largest is meant, and each combination is one of its own.

    Smaller batches run as they are, and so do inputs that want a gradient where ``differentiated`` is False, and the
    other way round. What is compiled is kept in the cache folder for the next process. A network that
    cannot be compiled here runs on as it is, with a warning.
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / "inductor"))
    plain, seen, ready = network.forward, Counter[tuple[int, ...]](), set[tuple[int, ...]]()
    compiled: Callable[..., Any] | None = torch.compile(plain, dynamic=False)

    def forward(x: Tensor, *rest: Any, **named: Any) -> Any:
        nonlocal compiled
        rows = tuple(len(each) for each in (x, *rest) if isinstance(each, Tensor))
        if max(rows) < least_rows or x.requires_grad != differentiated:
            return plain(x, *rest, **named)
        seen[rows] += 1
        if compiled is None or (rows not in ready and seen[rows] <= patience()):
            return plain(x, *rest, **named)
        try:
            answer = compiled(x, *rest, **named)
            ready.add(rows)
            return answer
        except torch._dynamo.exc.TorchDynamoException as error:
            log.warning("%s runs as it is, it cannot be compiled: %s", type(network).__name__, error)
            compiled = None
            return plain(x, *rest, **named)

    network.forward = forward
    return network
