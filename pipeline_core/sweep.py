"""Sweeps: every row of a manifest with every combination of some settings, as one manifest that ``run`` takes as it is.

    sweep(Path("props.csv"), ["geometry.guidance_scale=5,10", "mesh.face_budget=2000,5000"], Path("props-sweep.yaml"))

A row keeps all that it has, and gets an id that says the combination, a tag for each setting, by which SQL groups and
``splatmill compare`` takes sides (``mesh.face_budget=2000``), and the tag ``sweep``: the id of the row it came from.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections import Counter
from pathlib import Path
from typing import Any

from pipeline_core.config import RECIPES
from pipeline_core.errors import ManifestError, RequestError
from pipeline_core.files import write_text
from pipeline_core.manifest import ALLOWED, TARGETS, load_manifest, parse_override, read_table
from pipeline_core.spec import MAX_SEED, MAX_TAG, AssetSpec

MOST_ROWS = 10_000
"""Assets of one sweep: a few settings of a few values each, over a long manifest, are soon more than anybody makes."""
MAX_ID = 96

Setting = tuple[str, str, Any]
"""Name of a field or column, its value as it was typed, and what that says."""


def sweep(
    manifest: Path, over: list[str], out: Path, *, allow_outside: bool = False
) -> tuple[int, list[list[Setting]]]:
    """Write the sweep of ``manifest`` to the YAML file ``out``; returns how many rows it has, and the axes.

    Raises :class:`ManifestError` for settings that ``--set`` would refuse, too many rows, or a manifest with bad rows,
    and :class:`RequestError` where ``out`` is no place for it.
    """
    axes = axes_of(over)
    if out.suffix not in (".yaml", ".yml"):
        raise RequestError(f"--out {out}: the name of a YAML file, which ends in .yaml or .yml")
    if out.exists():
        raise RequestError(f"--out {out}: is there already; remove it, or name another")
    specs = load_manifest(manifest, allow_outside=allow_outside).specs
    combinations = list(itertools.product(*axes)) if math.prod(map(len, axes)) * len(specs) <= MOST_ROWS else []
    if not combinations:
        counted = " x ".join([f"{len(specs)} rows", *(f"{len(axis)} of {axis[0][0]}" for axis in axes)])
        raise ManifestError(f"--over: {counted} are more than {MOST_ROWS} assets; leave out some values or rows")
    if any(spec.files for spec in specs) and out.absolute().parent != manifest.absolute().parent:
        raise RequestError(f"--out {out}: rows name files relative to {manifest}, so the sweep must lie beside it")
    table, _ = read_table(manifest)
    made = [(spec, row.cells, each) for row, spec in zip(table.rows, specs, strict=True) for each in combinations]
    rows = [_row(*part, name) for part, name in zip(made, _ids(made), strict=True)]
    accept = table.contracts.to_json()
    lines = ["accept: " + _json(accept)] * bool(accept) + ["assets:", *("- " + _json(row) for row in rows)]
    write_text(out, "\n".join(lines) + "\n")
    try:
        load_manifest(out, allow_outside=allow_outside)  # what rows and settings say together
    except ManifestError:
        out.unlink()
        raise
    return len(rows), axes


def axes_of(over: list[str]) -> list[list[Setting]]:
    """The values of each ``name=value,value``, in order. Raises :class:`ManifestError`."""
    axes = [_axis(text) for text in over]
    for name, times in Counter(axis[0][0] for axis in axes).items():
        if times > 1:
            raise ManifestError(f"--over {name}: is given {times} times; give all its values in one, with commas")
    return axes


def _axis(text: str) -> list[Setting]:
    name, equals, values = text.partition("=")
    name = TARGETS.get(name.strip(), name.strip())
    axis = [(name, value, _value(name, value)) for value in split_values(values)] if equals else []
    if not axis:
        raise ManifestError(f"--over {text}: name=value,value is needed, such as geometry.steps=60,120")
    for at, (_, typed, value) in enumerate(axis):
        if value in [other for _, _, other in axis[:at]]:
            raise ManifestError(f"--over {text}: {typed} is there twice")
    return axis


def _value(name: str, typed: str) -> Any:
    """What is written for a field of a recipe, or in the column ``recipe`` or ``seed``."""
    if name == "recipe":
        if typed not in RECIPES:
            raise ManifestError(f"--over recipe={typed}: {ALLOWED['recipe']}")
        return typed
    if name == "seed":
        if not (typed.isdecimal() and int(typed) <= MAX_SEED):
            raise ManifestError(f"--over seed={typed}: {ALLOWED['seed']}")
        return int(typed)
    return parse_override(f"{name}={typed}", "--over")[1]


def split_values(text: str) -> list[str]:
    """``text`` at its commas, but for those within brackets: ``[0.8,0.1],[0.9,0.1]`` are two."""
    parts, depth = [""], 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    return [part.strip() for part in parts if part.strip()]


def _row(spec: AssetSpec, cells: dict[str, Any], settings: tuple[Setting, ...], name: str) -> dict[str, Any]:
    """The row of one combination."""
    swept = {field for field, _, _ in settings}
    kept = {column: cell for column, cell in cells.items() if TARGETS.get(column, column) not in swept}
    kept = {column: cell for column, cell in kept.items() if cell not in (None, "") and cell == cell}  # no NaN
    tags = {field: _short(typed, MAX_TAG) for field, typed, _ in settings}
    tags = spec.tags | {"sweep": _short(spec.asset_id, MAX_TAG)} | tags
    return kept | {"id": name, "tags": tags} | {field: value for field, _, value in settings}


def _ids(made: list[tuple[AssetSpec, dict[str, Any], tuple[Setting, ...]]]) -> list[str]:
    """An id for each: that of its row, and what is different; with a digest where that is too long or not its own."""
    fields = {field for field, _, _ in made[0][2]}
    last = Counter(field.rsplit(".", 1)[-1] for field in fields)
    short = {field: field.rsplit(".", 1)[-1] if last[field.rsplit(".", 1)[-1]] == 1 else field for field in fields}
    said = [
        "-".join([spec.asset_id, *(_slug(f"{short[f]}-{typed}") for f, typed, _ in each)]) for spec, _, each in made
    ]
    times = Counter(said)
    whole = [json.dumps([spec.asset_id, [part[:2] for part in each]]) for spec, _, each in made]
    return [
        name if times[name] == 1 and len(name) <= MAX_ID else f"{name[: MAX_ID - 11]}-{_digest(text)}"
        for name, text in zip(said, whole, strict=True)
    ]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9_]+", "-", text.lower()).strip("-")


def _short(text: str, most: int) -> str:
    """``text``, its end a digest where it is longer than ``most`` characters."""
    return text if len(text) <= most else f"{text[: most - 11]}-{_digest(text)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:10]


def _json(value: Any) -> str:
    """On one line; JSON is YAML too."""
    return json.dumps(value, ensure_ascii=False, default=str)
