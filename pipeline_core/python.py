"""Python processes of our own: they find our rooms, whatever lies in the folder that they are started in.

    subprocess.run(command("pipeline_core.meshing.process"), env=environment())

``python -m`` looks in the working directory first, so that a user's folder named ``flows``, ``tasks`` or ``catalog``
would be taken for ours; ``-P`` leaves that out, and ``PYTHONSAFEPATH`` says the same to the processes that they start.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = str(Path(__file__).resolve().parents[1])
"""The folder that our rooms are in."""


def command(module: str, *arguments: str) -> list[str]:
    """The command line of ``python -m module arguments``."""
    return [sys.executable, "-P", "-m", module, *arguments]


def environment(given: Mapping[str, str] = os.environ) -> dict[str, str]:
    """``given`` for such a process: our rooms come first, and the working directory not at all."""
    path = os.pathsep.join(part for part in (ROOT, given.get("PYTHONPATH")) if part)
    return dict(given) | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1"}


LOOPBACK = ("127.0.0.1", "localhost", "::1")


def reach_loopback_directly() -> None:
    """Let no proxy stand between this process, or one that it starts, and a server on this machine."""
    if any(name.lower().endswith("_proxy") for name in os.environ):
        named = f"{os.environ.get('no_proxy', '')},{os.environ.get('NO_PROXY', '')}".split(",")
        hosts = ",".join(dict.fromkeys([*(host.strip() for host in named if host.strip()), *LOOPBACK]))
        os.environ |= {"no_proxy": hosts, "NO_PROXY": hosts}


def process_alive(pid: int) -> bool:
    """Whether a process of this machine has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


@functools.cache
def this_host() -> str:
    """Where this process's id means something: containers and machines may share a name."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return "/".join(parts)
