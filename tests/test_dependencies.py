"""What the product imports is what pyproject.toml asks for, and the locks hold all of it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from importlib.metadata import distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = {"flows", "tasks", "catalog", "pipeline_core"}
COME_ALONG = {
    "httpx": "prefect", "uvicorn": "prefect", "websockets": "prefect", "llvmlite": "numba", "pydantic-core": "pydantic",
}  # fmt: skip
"""Imported, and always there with what we ask for: their releases have to fit that, not us."""
NOT_IMPORTED = {"sqlalchemy", "pytz"}
"""Asked for without an import: exact pins for Prefect, and what DuckDB needs to return a time with its zone."""
BY_HAND = {"nvdiffrast", "triton", "bpy"}
"""Imported on a GPU alone: where a user has built it (see ``splatmill doctor``), and what torch's CUDA builds bring;
and by what Blender runs."""


def name_of(text: str) -> str:
    return re.sub(r"[-_.]+", "-", text).lower()


def imported() -> set[str]:
    """Top-level packages of other people that the product imports."""
    names: set[str] = set()
    for path in (path for room in OURS for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add((node.module or "").partition(".")[0])
    return names - OURS - set(sys.stdlib_module_names)


def closure(requirements: list[str]) -> set[str]:
    """All that ``requirements`` bring along in this environment, without what a CUDA build of torch adds."""
    todo, done = [Requirement(text) for text in requirements], set()
    while todo:
        requirement = todo.pop()
        name = name_of(requirement.name)
        for extra in {"", *requirement.extras} - {extra for known, extra in done if known == name}:
            done.add((name, extra))
            below = [Requirement(text) for text in distribution(name).requires or []]
            todo += [each for each in below if each.marker is None or each.marker.evaluate({"extra": extra})]
    return {name for name, _ in done if not name.startswith(("nvidia-", "cuda-", "triton"))}


def locked(name: str) -> set[str]:
    """Packages that a lock names, and those of the lock that it builds on."""
    lines = (ROOT / name).read_text().splitlines()
    below = [locked(line.removeprefix("-r ")) for line in lines if line.startswith("-r ")]
    return {name_of(line.partition("==")[0]) for line in lines if "==" in line}.union(*below)


def test_every_import_is_asked_for_and_everything_asked_for_is_imported():
    asked = {name_of(Requirement(text).name) for text in PROJECT["dependencies"]}
    extras = [text for extra in ("cuda", "usd", "c2pa") for text in PROJECT["optional-dependencies"][extra]]
    optional = {name_of(Requirement(text).name) for text in extras}
    names = packages_distributions()
    used = {name_of(names[name][0]) if name in names else name for name in imported()}
    assert used - asked - optional - BY_HAND == set(COME_ALONG)
    assert asked - used == NOT_IMPORTED
    assert all(name in closure([parent]) for name, parent in COME_ALONG.items())


@pytest.mark.parametrize(
    ("lock", "extras"), [("requirements.lock", ["postgres"]), ("requirements-test.lock", ["postgres", "test"])]
)
def test_a_lock_holds_what_is_needed_and_no_more(lock, extras):
    asked = PROJECT["dependencies"] + [text for extra in extras for text in PROJECT["optional-dependencies"][extra]]
    assert locked(lock) == closure([*asked, "setuptools", "wheel"])
