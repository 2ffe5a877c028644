"""Run a numpy function in a process of its own, so that libraries which hold the GIL do not stall the engine.

    vertices, faces = run_in_process("pipeline_core.meshing.surface:surface", density, iso=1.0)

xatlas holds the GIL for its whole run (seconds) and PyMCubes nearly so: in a thread they would freeze every other
asset of the batch. The child is a plain ``python -m pipeline_core.meshing.process`` that reads one ``.npz`` from its
standard input and writes one to its standard output: nothing is pickled, the caller's ``__main__`` is not imported
again, no pool or semaphore outlives a kill, and any thread may call it. Functions named here must live in modules that
do not import torch, or the child takes seconds to start (numba: 0.2 s). Beside a GPU whole stages of the CPU's work are
done in other processes (aside.py), and these are children of those: as nice, and no more at once.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import subprocess
import sys
from typing import Any

import numpy as np

from pipeline_core import errors, python

TIMEOUT_S = 600.0


def run_in_process(
    target: str, *arrays: np.ndarray, timeout: float = TIMEOUT_S, **options: Any
) -> tuple[np.ndarray, ...]:
    """Call ``target`` ("module:function") with ``arrays`` and JSON-able ``options`` in a child process.

    The function returns an array or a tuple of arrays. A :class:`~pipeline_core.errors.SplatmillError` it raises is
    raised here again; a child that dies or exceeds ``timeout`` seconds is a ``TransientError``.
    """
    request = io.BytesIO()
    header = json.dumps({"target": target, "options": options})
    named: dict[str, Any] = {f"a{i}": a for i, a in enumerate(arrays)}
    np.savez(request, header=np.array(header), **named)
    command = python.command("pipeline_core.meshing.process")
    environment = python.environment() | {"OMP_NUM_THREADS": "1"}
    try:
        child = subprocess.run(command, input=request.getvalue(), capture_output=True, timeout=timeout, env=environment)
    except subprocess.TimeoutExpired:
        raise errors.TransientError(f"{target} took longer than {timeout:g} s and was stopped") from None
    if child.returncode != 0:
        tail = child.stderr.decode(errors="replace").strip().splitlines()[-3:]
        raise errors.TransientError(
            f"the process for {target} ended with status {child.returncode}: {' | '.join(tail)}"
        )
    with np.load(io.BytesIO(child.stdout), allow_pickle=False) as answer:
        if "error" in answer:
            kind, message = json.loads(str(answer["error"]))
            raise getattr(errors, kind)(message)
        return tuple(answer[f"a{i}"] for i in range(len(answer.files)))


def _serve() -> None:
    """Answer the one request on standard input."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a package prints goes to standard error, not into the answer
    with np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False) as request:
        header = json.loads(str(request["header"]))
        arrays = [request[f"a{i}"] for i in range(len(request.files) - 1)]
    module, _, name = header["target"].partition(":")
    reply: dict[str, Any] = {}
    try:
        result = getattr(importlib.import_module(module), name)(*arrays, **header["options"])
        result = result if isinstance(result, tuple) else (result,)
        reply = {f"a{i}": np.asarray(value) for i, value in enumerate(result)}
    except errors.SplatmillError as error:
        reply["error"] = np.array(json.dumps([type(error).__name__, str(error)]))
    np.savez(answers, **reply)
    answers.flush()


if __name__ == "__main__":
    _serve()
