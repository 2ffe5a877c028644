"""The examples in the docstrings of modules call what these define as it is defined."""

import ast
import importlib
import inspect
import re
import textwrap

import pytest

from tests.docs.pages import ROOT

PACKAGES = ("flows", "tasks", "catalog", "pipeline_core")


def statements(doc):
    """Those of every paragraph, or where that is not Python as a whole of its lines that are."""
    for block in re.split(r"\n\s*\n", re.sub(r"^(>>>|\.\.\.) ", "", doc, flags=re.MULTILINE)):
        for text in (block, *block.splitlines()):
            try:
                yield from ast.parse(textwrap.dedent(text)).body
            except SyntaxError:
                continue
            if text is block:
                break


def examples():
    """Module, name and call wherever an example calls a function or a class of its own module; numba's intrinsics take
    one argument more than they are called with."""
    for path in sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")):
        tree = ast.parse(path.read_text())
        defined = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        own = {node.name for node in defined if "intrinsic" not in map(ast.unparse, node.decorator_list)}
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for call in (node for each in statements(ast.get_docstring(tree) or "") for node in ast.walk(each)):
            name = ast.unparse(call.func).removeprefix(f"{path.stem}.") if isinstance(call, ast.Call) else ""
            if name in own:
                yield pytest.param(module, name, call, id=f"{module}: {ast.unparse(call)}")


FOUND = list(examples())


@pytest.mark.parametrize(("module", "name", "call"), FOUND)
def test_an_example_can_be_called(module, name, call):
    """Where ``...``, ``*`` or ``**`` stand for more, with what else there is."""
    given = [each for each in call.args if ast.unparse(each) != "..." and not isinstance(each, ast.Starred)]
    named = {each.arg: each.value for each in call.keywords if each.arg}
    whole = len(given) + len(named) == len(call.args) + len(call.keywords)
    signature = inspect.signature(getattr(importlib.import_module(module), name))
    (signature.bind if whole else signature.bind_partial)(*given, **named)


def test_examples_are_found():
    assert len(FOUND) > 100
