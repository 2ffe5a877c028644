"""Runs one command as a container or a systemd unit would, by the kernel alone: own files, user, name, environment.

    python -m tests.deployments.box '{"net": 123, "root": "/tmp/x", "binds": [["/a", "/library", true]], ...}'

``net``: a process in whose network the command runs. ``root``: an empty folder, which becomes ``/``: everything of this
machine, read only, with each of ``binds`` (source, place, writable) in its place and nothing of ``hidden``. Only Linux,
only root. The command ends as the process itself: it is executed.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import sys
from pathlib import Path

NEWNS, NEWUTS, NEWNET = 0x00020000, 0x04000000, 0x40000000
RDONLY, REMOUNT, BIND, REC, PRIVATE = 1, 32, 4096, 16384, 1 << 18
NO_NEW_PRIVS = 38
SPECIAL = ("/proc", "/sys", "/dev")

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    """Raise the error of a call that failed."""
    if result:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")


def mount(source: str, target: str, kind: str | None, flags: int) -> None:
    """mount(2)."""
    check(libc.mount(source.encode(), target.encode(), kind and kind.encode(), flags, None), f"mount {target}")


def bind(source: str, target: Path, writable: bool) -> None:
    """Show ``source`` at ``target`` too."""
    if os.path.isdir(source):
        target.mkdir(parents=True, exist_ok=True)
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()
    mount(source, str(target), None, BIND | REC)
    if not writable:
        mount("none", str(target), None, BIND | REMOUNT | RDONLY)


def plant(new: Path, path: str, opened: set[str], left_out: set[str]) -> None:
    """Show what is in the folder ``path``. ``opened`` folders are made anew, so that their entries can be others."""
    (new / path[1:]).mkdir(parents=True, exist_ok=True)
    for name in os.listdir(path or "/"):
        here = f"{path.rstrip('/')}/{name}"
        target = new / here[1:]
        if here in left_out:
            continue
        if os.path.islink(here):
            target.symlink_to(os.readlink(here))
        elif here in opened:
            plant(new, here, opened, left_out)
        elif os.path.exists(here):
            bind(here, target, writable=here in SPECIAL)


def main(told: dict) -> None:
    """Become the command."""
    with open(f"/proc/{told['net']}/ns/net") as network:
        check(libc.setns(network.fileno(), NEWNET), "setns")
    check(libc.unshare(NEWNS | NEWUTS), "unshare")
    socket.sethostname(told["host"])
    mount("none", "/", None, REC | PRIVATE)
    new = Path(told["root"])
    mount("none", str(new), "tmpfs", 0)
    new.chmod(0o755)
    places = [place for _, place, _ in told["binds"]]
    needed = [*places, sys.base_prefix, sys.prefix]
    opened = {str(parent) for place in needed for parent in Path(place).parents}
    plant(new, "/", opened, {*places, *told["hidden"]})
    for source, place, writable in told["binds"]:
        bind(source, new / place[1:], writable)
    os.chroot(new)
    os.setgroups([])
    os.setgid(told["gid"])
    os.setuid(told["uid"])
    check(libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")
    os.chdir(told["cwd"])
    os.execvpe(told["command"][0], told["command"], told["env"])


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
