"""The front door of the command: what went wrong is told in one place, whichever room it comes from.

    app = typer.Typer(cls=Door)

One line of words on standard error without secrets; with ``--json`` (or ``--format json``) also one JSON document on
standard output; and an exit code. Only what nobody foresaw shows its traceback.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from pipeline_core import logs
from pipeline_core.errors import RequestError, SplatmillError
from pipeline_core.secrets import redact

FAILED, WRONG_REQUEST, INTERRUPTED = 1, 2, 130


class Door(TyperGroup):
    """The group of all commands, which lets no error out untold."""

    def main(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """Run the command that ``args`` name (default: the process's own) and exit."""
        arguments = list(sys.argv[1:] if args is None else args)
        try:
            code = super().main(arguments, *more, **options | {"standalone_mode": False})
            sys.stdout.flush()
        except SystemExit as end:  # the parser's own end, where its output was a pipe that is closed
            code = 0 if _nobody_reads() else end.code
        except BrokenPipeError:
            code = 0 if _nobody_reads() else FAILED
        except (Exception, KeyboardInterrupt) as error:
            code = tell(error, as_json=asks_for_json(arguments))
        sys.exit(code or 0)


def _nobody_reads() -> bool:
    """Whether standard output is a pipe that its reader closed (``| head``), who has what he wanted.

    Then what is left to say goes nowhere, or the interpreter would complain of it when it ends.
    """
    try:
        os.write(1, b"")
        sys.stdout.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        return True
    return type(sys.stdout).__name__ == "PacifyFlushWrapper"


def tell(error: BaseException, *, as_json: bool) -> int:
    """Tell people, and machines where ``as_json``, what went wrong; returns the exit code."""
    if isinstance(error, KeyboardInterrupt | typer.Abort):
        return INTERRUPTED
    words, code = explain(error)
    if as_json:
        print(json.dumps({"error": type(error).__name__, "message": redact(str(error) or type(error).__name__)}))
    print(logs.line("error", words) if os.environ.get(logs.LOG) == "json" else redact(words), file=sys.stderr)
    return code


def explain(error: BaseException) -> tuple[str, int]:
    """Words for people, and the exit code."""
    if hasattr(error, "show"):  # what the parser says about a command line, with its usage
        words = io.StringIO()
        error.show(file=words)
        return words.getvalue().rstrip("\n"), WRONG_REQUEST
    if isinstance(error, SplatmillError):
        return f"error: {error}", WRONG_REQUEST if isinstance(error, RequestError) else FAILED
    if isinstance(error, OSError):
        return f"error: {type(error).__name__}: {error}", FAILED
    return "".join(traceback.format_exception(error)).rstrip("\n"), FAILED


def asks_for_json(arguments: Sequence[str]) -> bool:
    """Whether a command line asks for a JSON document."""
    pairs = {("--format", "json"), ("-f", "json")} & set(itertools.pairwise(arguments))
    return bool(pairs) or not {"--json", "--format=json", "-fjson"}.isdisjoint(arguments)
