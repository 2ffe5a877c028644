"""What the pages say to type, found and taken apart: blocks of code, code in a sentence, comments of configuration."""

from __future__ import annotations

import importlib.util
import re
import shlex
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import typer

from flows.cli import app

ROOT = Path(__file__).resolve().parents[2]
ROOMS = ("flows", "tasks", "catalog", "pipeline_core")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", ROOT / "deployments" / "README.md", *(ROOT / "docs").glob("*.md")]
PAGES += [path for room in ROOMS for path in (ROOT / room).rglob("*.md")]
CONFIGURATION = [
    path for path in (ROOT / "deployments").rglob("*")
    if path.suffix in (".yaml", ".service", ".example") or path.name in ("Dockerfile", "env.example")
]  # fmt: skip
SOURCES = [path for room in ROOMS for path in sorted((ROOT / room).rglob("*.py"))]
SCRIPTS = [path for folder in ("bench", "chaos") for path in sorted((ROOT / "tests" / folder).glob("*.py"))]

OURS = ("splatmill", "make", "python", "python3", "prefect", "pip")
"""Programs whose arguments are checked here."""
OTHERS = {
    ".", "apt-get", "cd", "cp", "createdb", "createuser", "curl", "docker", "duckdb", "editor", "export", "git",
    "install", "journalctl", "kubectl", "openssl", "psql", "set", "systemctl", "tr", "useradd",
}  # fmt: skip
"""Programs of the system, whose arguments are theirs."""
WRAPPERS = ("sudo", "ssh", "sh")


# --- what a page has -------------------------------------------------------------------------------------------------


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and text of every block of code: fenced, or indented after an empty line (language: empty)."""
    fenced = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
    for found in fenced.finditer(text):
        yield found[1], found[2]
    rest = fenced.sub("", text)
    for found in re.finditer(r"(?:\n\n|\A)((?: {4}.*\n?|\n(?= {4}))+)", rest):
        yield "", re.sub(r"^ {4}", "", found[1], flags=re.MULTILINE)


def spans(text: str) -> Iterator[str]:
    """Code in a sentence."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for found in re.finditer(r"(`+)(?!`)((?:[^`\n]|\n(?!\n))+?)\1(?!`)", text):
        yield " ".join(found[2].split())


def lines(block: str) -> list[str]:
    """Logical lines, without comments that have a line of their own."""
    return [line for line in re.sub(r"\\\n\s*", "", block).splitlines() if line.strip() and line.strip()[0] != "#"]


def in_markdown(text: str) -> Iterator[str]:
    """Every command line of a page: of its shell blocks all lines, of its sentences what begins with one of ours."""
    for language, block in blocks(text):
        found = lines(block)
        if language in ("sh", "bash") or (not language and found and program(found[0]) in (*OURS, *OTHERS, *WRAPPERS)):
            yield from found
    yield from (span for span in spans(text) if program(span) in OURS and span not in OURS)


def in_comments(text: str) -> Iterator[str]:
    """Every command line in the comments of a configuration file: on a line of its own, after a colon, or in quotes."""
    comments = re.findall(r"(?:^|\s)#+ ?(.*)", text)
    for line in lines("\n".join(comments)):
        line = re.sub(r"\s#.*", "", line)
        whole = line.strip() if program(line) in (*OURS, *OTHERS) and line[:1] == " " else ""
        found = (
            [whole]
            if whole
            else re.findall(r"`([^`]+)`", line) + re.findall(r": ((?:[A-Z][A-Z0-9_]*=\S* )*[a-z]+ [^`]*)$", line)
        )
        yield from (each for each in found if program(each) in (*OURS, *OTHERS))


def in_source(text: str) -> Iterator[str]:
    """Every command that a module shows on a line of its own, or names in quotes, in brackets or as an example."""
    yield from re.findall(r"^ {4}((?:splatmill|python|make) [a-z./-].*)$", text, re.MULTILINE)
    found = re.findall(r"[`(](splatmill [^`()\n]*)[`)]", text) + re.findall(r"Example: (splatmill .*)", text)
    yield from (each.rstrip(". ") for each in found if "{" not in each)


def program(line: str) -> str:
    """The first word of a command line, without its folder."""
    words = line.split()
    while words and re.match(r"[A-Z][A-Z0-9_]*=", words[0]):
        words = words[1:]
    return words[0].rpartition("/")[2] if words else ""


# --- what a command is -----------------------------------------------------------------------------------------------


def simple(line: str) -> Iterator[list[str]]:
    """The simple commands of a shell line, as words: of pipes, lists, substitutions, and of what others start."""
    lexer = shlex.shlex(re.sub(r"<([a-z_]+)>", r"\1", line), posix=True, punctuation_chars=True)
    lexer.whitespace_split, words, redirected = True, [], False
    for word in [*lexer, ";"]:
        if set(word) <= set("<>"):
            redirected = True
        elif set(word) <= set("();&|"):
            yield from unwrapped(words)
            words = []
        elif redirected:
            redirected = False
        else:
            words.append(word)


def unwrapped(words: list[str]) -> Iterator[list[str]]:
    """A simple command without what stands before it: assignments, sudo, ssh, a shell, a container."""
    while words and re.match(r"[A-Z][A-Z0-9_]*=", words[0]):
        words = words[1:]
    if not words:
        return
    name = words[0].rpartition("/")[2]
    if name == "sudo":
        rest = words[1:]
        while rest[0].startswith("-"):
            rest = rest[2:]
        yield from unwrapped(rest)
    elif name == "ssh":
        yield from unwrapped(words[2:])
    elif words[:2] == ["sh", "-c"]:
        yield from simple(words[2])
    elif name == "docker" and "exec" in words:
        yield from unwrapped(words[words.index("exec") + 2 :])
    else:
        yield [name, *words[1:]]


def check(line: str, *, only_named: bool = False) -> None:
    """Raise for a command line that could not be typed: unknown command, option, target, module, or wrong arguments.

    ``only_named``: a sentence speaks of the command, which may want more arguments than it is given here.
    """
    for name, *arguments in simple(line):
        if name == "splatmill":
            parse(arguments, only_named=only_named)
        elif name == "make":
            missing = {word for word in arguments if "=" not in word} - targets()
            assert not missing, f"{line}: no target {missing}"
        elif name in ("python", "python3"):
            _check_python(arguments)
        elif name == "prefect":
            _check_prefect(arguments)
        elif name == "pip":
            extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
            asked = {extra for word in arguments for extra in re.findall(r"^(?:\.|splatmill)\[(\w+)\]", word)}
            assert asked <= set(extras), f"{line}: no extra {asked - set(extras)}"
        else:
            assert name in OTHERS, f"{line}: {name} is neither ours nor among the system's programs that we name"


def parse(arguments: list[str], *, only_named: bool = False) -> typer.Context | None:
    """Let the real command parse a command line, without running it; raises for what it does not know."""
    command, context = typer.main.get_command(app), None
    arguments = [part.replace("%i", "0") for part in arguments]
    while True:
        try:
            context = command.make_context(command.name or "splatmill", list(arguments), parent=context)
        except Exception as error:
            if only_named and type(error).__name__ in ("MissingParameter", "NoArgsIsHelpError"):
                return None
            raise
        rest = [*context._protected_args, *context.args]
        if not hasattr(command, "commands") or not rest:
            if rest or not only_named:
                _check_passed_on(context.command_path, rest)
            return context
        name, command, arguments = command.resolve_command(context, rest)


def _check_passed_on(command: str, arguments: list[str]) -> None:
    """Commands that pass their options on to a parser of their own."""
    if command.endswith("train-starter"):
        from pipeline_core.training.train import PARTS, parse_settings
        from pipeline_core.training.train import arguments as trainer

        told = trainer().parse_args(arguments)
        parse_settings(PARTS if told.part == "all" else (told.part,), told.settings)
    elif command.endswith("bench gpu"):
        from pipeline_core.benchmark.gpu import arguments as bench

        bench(arguments)


@cache
def targets() -> set[str]:
    """Targets of the Makefile."""
    return set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))


def _check_python(arguments: list[str]) -> None:
    if arguments[0] == "-P":
        arguments = arguments[1:] or ["-c"]
    if arguments[0] == "-m":
        found = importlib.util.find_spec(arguments[1])
        assert found and "__main__" in Path(found.origin).read_text(), f"python -m {arguments[1]}: nothing runs there"
    elif arguments[0] != "-c":
        assert (ROOT / arguments[0]).is_file(), arguments[0]


def _check_prefect(arguments: list[str]) -> None:
    from prefect.cli import _app

    words = [word for word in arguments if word not in ("--prompt", "--no-prompt")]
    _app._app.parse_args(words, print_error=False, exit_on_error=False)
