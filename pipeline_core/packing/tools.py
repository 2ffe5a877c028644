"""The table of what others made and some formats need: how each is found, and how somebody gets it who has it not.

require(["usd", "blender"])          # raises, before anything is written, with all that is missing
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib.util import find_spec

from pipeline_core.errors import RequestError

BLENDER = "SPLATMILL_BLENDER"
"""Environment variable: a Blender, or a Python that has its module ``bpy``."""


@dataclass(frozen=True)
class Tool:
    """One row: ``find`` returns the words that start it, none where it is missing; ``get`` says how to get it."""

    name: str
    find: Callable[[], list[str]]
    get: str


def _python_with(module: str) -> list[str]:
    return [sys.executable] if find_spec(module) else []


def _program(name: str) -> list[str]:
    found = shutil.which(name)
    return [found] if found else []


def _blender() -> list[str]:
    """The words after which a script of ours and its arguments follow."""
    chosen = os.environ.get(BLENDER, "")
    found = (shutil.which(chosen) or "") if chosen else shutil.which("blender") or ""
    if os.path.basename(found).startswith("python"):
        return [found]
    if found:
        return [found, "--background", "--factory-startup", "--python-exit-code", "1", "--python"]
    return [] if chosen else _python_with("bpy")


TOOLS: tuple[Tool, ...] = (
    Tool("usd", lambda: _python_with("pxr"), "pip install 'splatmill[usd]'"),
    Tool(
        "blender",
        _blender,
        f"put blender on the PATH, or point {BLENDER} at it or at a Python with its module (pip install bpy)",
    ),
    Tool("gltf-transform", lambda: _program("gltf-transform"), "npm install --global @gltf-transform/cli"),
    Tool("ktx", lambda: _program("ktx"), "install KTX-Software of the Khronos Group, which has the program ktx"),
)


def command(name: str) -> list[str]:
    """The words that start a tool; none where it is missing."""
    return next(tool.find() for tool in TOOLS if tool.name == name)


def require(names: Iterable[str]) -> None:
    """Raise :class:`RequestError` with how to get every tool of these that is missing."""
    wanted = set(names)
    missing = [f"{tool.name} ({tool.get})" for tool in TOOLS if tool.name in wanted and not tool.find()]
    if missing:
        raise RequestError(f"nothing was written, for this is missing: {'; '.join(missing)}")
