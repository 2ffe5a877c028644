"""docs/ARCHITECTURE.md is true: its rooms, its journeys' functions, and what its recipes say to touch."""

import ast
import re
from functools import cache

import pytest

from pipeline_core.deliverables import DELIVERABLES
from pipeline_core.priors.families import FAMILIES
from pipeline_core.stages import names
from tests.docs.pages import ROOMS, ROOT

PAGE = (ROOT / "docs" / "ARCHITECTURE.md").read_text()
PARTS = dict(part.split("\n", 1) for part in PAGE.split("\n## ")[1:])
PLACEHOLDERS = {
    "<stage>": names(),
    "<exporter>": sorted({row.exporter for row in DELIVERABLES if row.exporter}),
    "<family>": sorted({row.loader.partition(".")[0] for row in FAMILIES}),
}
RECIPES = {"Add a stage": 4, "Add a format": 2, "Add a family of priors": 3, "Add a threshold": 3}
"""How many files each change touches."""
WORDS = (
    "asset batch beat deliverable event family journey key library output prior quarantine recipe record reference row "
    "run shard spec stage tidy"
).split()  # fmt: skip


def pictured():
    """House and name of every file and folder in the picture of the rooms."""
    house = ""
    for line in PARTS["The rooms"].splitlines():
        found = re.match(r" {4}(\w+)/ ", line)
        house = found[1] if found else house
        for name in re.findall(r"(?<![\w/])[\w/]+(?:\.py|/)(?=[ ,;]|$)", line):
            if name != f"{house}/":
                yield house, name


@cache
def defined(path):
    """Names of the functions, methods and classes of a module."""
    tree = ast.parse((ROOT / path).read_text())
    return {node.name for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}


def named():
    """File and function wherever the page puts one after the other."""
    for path, functions in re.findall(r"`([\w/]+\.py)`(?: \|)? ((?:`\w+`(?:, )?)+)", PAGE):
        for function in re.findall(r"`(\w+)`", functions):
            yield path, function


def listed(change):
    """The files that a recipe lists."""
    text = PARTS["Recipes for a change"].split(f"**{change}")[1].split("\n\n**")[0]
    for item in re.findall(r"^\d\. (.*(?:\n {3}.*)*)", text, re.MULTILINE):
        yield re.search(r"`([^`]*)`", item)[1]


def test_what_the_picture_shows_is_there():
    found = list(pictured())
    assert len(found) > 40
    assert [f"{house}/{name}" for house, name in found if not (ROOT / house / name).exists()] == []


def test_the_picture_shows_every_room():
    rooms = {(path.parents[1].name, f"{path.parent.name}/") for h in ROOMS for path in (ROOT / h).glob("*/__init__.py")}
    assert rooms - set(pictured()) == set()


def test_functions_that_are_named_are_where_the_page_says():
    found = list(named())
    assert len(found) > 30
    assert [(path, function) for path, function in found if function not in defined(path)] == []


@pytest.mark.parametrize(("change", "count"), RECIPES.items())
def test_recipes_list_files_that_the_tree_has(change, count):
    files = list(listed(change))
    assert len(files) == count
    for file in files:
        hole = next((hole for hole in PLACEHOLDERS if hole in file), None)
        for each in [file.replace(hole, value) for value in PLACEHOLDERS[hole]] if hole else [file]:
            assert (ROOT / each).is_file(), each


def test_the_equations_that_the_journey_names_are_there():
    text = ast.get_docstring(ast.parse((ROOT / "flows" / "asset.py").read_text()))
    found = re.findall(r"(?<![\w/.])[a-z]+/[a-z_]+\.py", text.replace("pipeline_core/", ""))
    assert len(found) > 15 and "guidance/sds.py" in found
    assert [path for path in found if not any((ROOT / top / path).is_file() for top in ("", "pipeline_core"))] == []


def test_every_word_has_one_meaning():
    words = re.findall(r"^\| ([a-z ]+) \|", PARTS["Glossary"], re.MULTILINE)[1:]
    assert words == sorted(set(words)) and set(WORDS) <= set(words)


def test_it_is_one_page():
    assert len(PAGE.splitlines()) <= 160
