"""What is said of prompts before anything is made of them: rows that nothing can be made of, and warnings of others."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline_core import logs
from pipeline_core.errors import ManifestError
from pipeline_core.manifest import Manifest
from tasks.journey import Journey

SHOWN_ROWS, SHOWN_LINES = 10, 20


def refuse_unreadable(manifest: Manifest, journeys: Sequence[Journey], *, skip_invalid: bool) -> list[Journey]:
    """The journeys whose prompts can be read, or that a contract rejects; the others' rows become problems of
    ``manifest``.

    Raises :class:`ManifestError` where there are such rows, unless ``skip_invalid`` and not all of them are.
    """
    refused = [each for each in journeys if each.reading.refusal and not each.turned_down]
    for each in refused:
        part = each.reading.refused_part
        field, prompt = ("prompt", each.spec.prompt) if part is None else (
            f"parts[{part}].prompt", each.spec.parts[part].prompt
        )  # fmt: skip
        manifest.refuse(each.asset_id, field, prompt, each.reading.refusal)
    if refused and (not skip_invalid or len(refused) == len(journeys)):
        raise ManifestError(manifest.told(), problems=manifest.problems)
    return [each for each in journeys if each.turned_down or not each.reading.refusal]


def words_of_rejected(manifest: Manifest, journeys: Sequence[Journey]) -> list[str]:
    """One line for each row that its contract rejects before any work."""
    return [
        f"{manifest.path}, {_places([manifest.rows[each.asset_id]])}, prompt: rejected before any work: "
        + ", ".join([str(each.turned_down), *map(repr, each.reading.unknown_words)])
        for each in journeys
    ]


def warnings(manifest: Manifest, journeys: Sequence[Journey]) -> list[str]:
    """One line for each thing that is to be said, with the rows that it is said of."""
    rows: dict[str, list[int]] = {}
    for each in journeys:
        for words in each.reading.warnings:
            rows.setdefault(words, []).append(manifest.rows[each.asset_id])
    return [f"{manifest.path}, {_places(numbers)}, prompt: {words}" for words, numbers in rows.items()]


def _places(numbers: list[int]) -> str:
    shown = ", ".join(map(str, sorted(numbers)[:SHOWN_ROWS]))
    more = f" and {len(numbers) - SHOWN_ROWS} more" if len(numbers) > SHOWN_ROWS else ""
    return f"row{'s' * (len(numbers) > 1)} {shown}{more}"


def shorten(lines: Sequence[str], full: str) -> list[str]:
    """The lines as people are told them: each a warning, the first few of many, and where ``full`` is all of it."""
    more = len(lines) - SHOWN_LINES
    shown = [f"warning: {line}" for line in lines[:SHOWN_LINES]]
    return [*shown, f"warning: {more} more; {full} has all"] if more > 0 else shown


def tell(lines: Sequence[str], full: str) -> None:
    """Tell people of warnings while nothing is begun; standard output is left to results."""
    for line in shorten(lines, full):
        logs.say(line, level="warning")
