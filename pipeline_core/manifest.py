"""Manifests: CSV, JSONL, YAML and Parquet files that ask for assets, and every mistake in them at once.

    manifest = load_manifest("deployments/manifests/starter.csv")
    [spec.asset_id for spec in manifest.specs]

Columns: ``id``, ``prompt``, ``negative_prompt``, ``seed``, ``recipe``, ``tags``, ``face_budget``, ``texture_size``,
``height_m`` or ``size_m``, ``init_file`` (a path relative to the manifest, see ``pipeline_core.inputs``), ``parts``
(a list of mappings, see :class:`~pipeline_core.spec.Part`; in a CSV cell as JSON), ``accept`` (clauses, see
``pipeline_core.acceptance``; a YAML manifest has those of all its rows at its top level), and any recipe field by its
dotted name (``geometry.steps``). An empty cell means "not given". The whole file is read and every problem
is reported as *file, row, field, value, what is allowed*. Rows are counted the way the reader of the file counts them:
spreadsheet rows (the header is row 1) for CSV, lines for JSONL, entries for YAML and rows for Parquet, from 1.
"""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import math
import re
import reprlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline_core.acceptance import Contract, Contracts, read_clauses, read_contracts
from pipeline_core.config import RECIPES, Recipe, leaf_names
from pipeline_core.errors import DataError, ManifestError
from pipeline_core.inputs import Inputs
from pipeline_core.spec import (
    FILES,
    ID_RULE,
    MAX_PARTS,
    MAX_PROMPT,
    MAX_SEED,
    MAX_TAG,
    MAX_TAGS,
    AssetSpec,
    FileRef,
    Part,
)  # fmt: skip

FIELDS = (
    "id", "prompt", "negative_prompt", "seed", "recipe", "tags", "face_budget", "texture_size", "candidates",
    "height_m", "size_m", "image_elevation", "parts", "edited", "accept", *FILES,
)  # fmt: skip
TARGETS = {"face_budget": "mesh.face_budget", "texture_size": "mesh.texture_size", "candidates": "choice.candidates"}
"""Columns that are short names of recipe fields."""

PARTS_ALONE = {"geometry.part_views": 1.0, "appearance.part_views": 1.0}
"""What a row of parts has where it says nothing else and the starter guides: that knows things one by one, and what it
makes of several reddened the table under a red book (docs/LOG.md)."""

MAX_FILE_BYTES = 256 * 2**20
MAX_ROWS = 200_000
MAX_DEPTH = 32
SHOWN_ALIKE, SHOWN_KINDS = 10, 50
"""So many problems of one kind are told row by row, and so many kinds."""

ALLOWED = {
    "id": ID_RULE,
    "prompt": f"1 to {MAX_PROMPT} characters of text",
    "negative_prompt": f"at most {MAX_PROMPT} characters of text",
    "seed": f"an integer from 0 to {MAX_SEED}",
    "recipe": "one of " + ", ".join(RECIPES),
    "tags": f"at most {MAX_TAGS} words or name=value pairs of at most {MAX_TAG} characters, separated by ;",
    "height_m": "a number from 0.001 to 1000",
    "size_m": "width, height and depth in metres (x,y,z), three numbers from 0.001 to 1000, such as 0.6,0.4,0.5",
    "image": "a picture of one object",
    "accept": "a mapping of clauses to bounds, such as {fidelity: 0.05, attempts: 3}",
    "parts": f"a list of 2 to {MAX_PARTS} mappings such as {{prompt: a red book, position: [0, 0.7, 0], size: 0.3}}; "
    "in a CSV cell the same as JSON",
    "parts.prompt": f"1 to {MAX_PROMPT} characters of text",
    "parts.position": "three numbers from -1000 to 1000, [x, y, z]: where the middle of its bottom stands, y up",
    "parts.size": "a number from 0.001 to 1000, the longest side, or three, [width, height, depth]",
    "parts.rotation": "three numbers from -360 to 360: degrees about x, then y, then z",
    "edited": "where init_file comes from, as splatmill edit writes it: parents and edits",
    "init.sh_degree": "0, or dress.splat=optimised beside it: a splat that is drawn on the mesh (dress.splat=mesh) has "
    "the texture's colours, the same from all sides",
    "image_elevation": "a number from -80 to 80: degrees above the horizon that the image is seen from",
}


@dataclass(frozen=True)
class Problem:
    """One refusal. ``row`` is 0 when the file as a whole is meant; ``value`` is already shortened for display."""

    file: str
    row: int
    field: str
    value: str
    allowed: str

    def __str__(self) -> str:
        where = f"{self.file}, row {self.row}" if self.row else self.file
        return ", ".join(part for part in (where, self.field, self.value) if part) + f": {self.allowed}"


@dataclass(frozen=True)
class Row:
    """One request as read: its number in the file and the cells that were given."""

    number: int
    cells: dict[str, Any]


@dataclass
class Table:
    """What a reader found: rows and problems. Readers add to it; nothing else does."""

    file: str
    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    unusable: bool = False
    contracts: Contracts = field(default_factory=Contracts)

    def refuse(self, row: int, field: str, value: Any, allowed: str) -> None:
        """Record a problem of one row."""
        self.problems.append(Problem(self.file, row, field, value if value == "" else shown(value), allowed))

    def refuse_file(self, row: int, field: str, value: Any, allowed: str) -> None:
        """Record a problem that concerns every row, so that no row can be trusted; ``row`` is where it was seen."""
        self.refuse(row, field, value, allowed)
        self.unusable = True


@dataclass(frozen=True)
class Manifest:
    """A manifest that was read: good rows as specs, bad rows as problems; ``sha256`` of the file's bytes.

    ``sources``: where the files that rows name lie on this machine. ``rows``: each asset's row, by asset id.
    """

    path: Path
    sha256: str
    specs: list[AssetSpec]
    problems: list[Problem]
    sources: dict[FileRef, Path] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)

    def refuse(self, asset_id: str, field: str, value: Any, allowed: str) -> None:
        """Add a problem of an asset's row that shows when its models are known."""
        self.problems.append(Problem(str(self.path), self.rows[asset_id], field, shown(value), allowed))
        self.problems.sort(key=lambda problem: problem.row)

    def told(self) -> str:
        """The problems as one message."""
        return _told(self.problems)


def load_manifest(
    path: str | Path,
    *,
    recipe: str = "factory",
    overrides: dict[str, Any] | None = None,
    skip_invalid: bool = False,
    allow_outside: bool = False,
    kept: Mapping[str, str] | None = None,
    accept: Contracts | None = None,
) -> Manifest:
    """Read and validate a manifest.

    ``recipe`` is used by rows that name none; ``overrides`` (dotted) have the last word over every row;
    ``allow_outside`` and ``kept`` are about files that rows name: see :class:`~pipeline_core.inputs.Inputs`; ``accept``
    takes the place of the contracts that the manifest has beside its rows. Raises
    :class:`ManifestError` listing every problem, unless ``skip_invalid`` and only single rows are bad, not all of them.
    """
    path = Path(path)
    table, data = read_table(path)
    table.contracts = accept or table.contracts
    with Inputs(path, outside=allow_outside, kept=kept) as inputs:
        specs, numbers = _specs(table, recipe, overrides or {}, inputs)
    if not specs and not table.problems:
        table.refuse_file(0, "", "", "holds no assets; at least one row with a prompt is needed")
    table.problems.sort(key=lambda problem: problem.row)
    if table.problems and (table.unusable or not skip_invalid or not specs):
        raise ManifestError(_told(table.problems), problems=table.problems)
    return Manifest(path, hashlib.sha256(data).hexdigest(), specs, table.problems, inputs.sources, numbers)


def read_table(path: Path) -> tuple[Table, bytes]:
    """The rows of a manifest as they were written, with what its reader refuses, and the file's bytes."""
    table = Table(str(path))
    data = _read_bytes(path, table)
    if not table.problems:
        READERS[path.suffix.lower()](data, table)
    return table, data


def _told(problems: list[Problem]) -> str:
    return f"{len(problems)} problem{'s' * (len(problems) > 1)}\n" + "\n".join(summarised(problems))


def summarised(problems: Sequence[Problem]) -> list[str]:
    """A line for each problem; of many of one kind the first few, and how many more there are in which rows."""
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.field, problem.allowed), []).append(problem)
    lines: list[tuple[int, str]] = []
    for (column, _), alike in list(kinds.items())[:SHOWN_KINDS]:
        lines += [(each.row, str(each)) for each in alike[:SHOWN_ALIKE]]
        if rest := alike[SHOWN_ALIKE:]:
            rows = f"rows {rest[0].row} to {rest[-1].row}" if len(rest) > 1 else f"row {rest[0].row}"
            where = ", ".join(part for part in (rest[0].file, rows, column) if part)
            lines.append((rest[0].row, f"{where}: {len(rest)} more like it"))
    others = sum(map(len, list(kinds.values())[SHOWN_KINDS:]))
    told = [text for _, text in sorted(lines, key=lambda line: line[0])]
    return [*told, f"{others} more problems, each of another kind"] if others else told


def load_contracts(path: str | Path) -> Contracts:
    """The contracts in a YAML file: what stands under ``accept`` in a manifest, or all of the file.

    Raises :class:`ManifestError` listing every problem.
    """
    table = Table(str(path))
    data = _read_bytes(Path(path), table)
    text = _decode(data, table) if data else ""
    document = _load_yaml(text, table) if text else {}
    told = document["accept"] if isinstance(document, dict) and set(document) == {"accept"} else document
    found = Contracts() if table.problems else read_contracts(told, partial(table.refuse_file, 0))
    if table.problems:
        raise ManifestError(_told(table.problems), problems=table.problems)
    return found


def parse_override(text: str, option: str = "--set") -> tuple[str, Any]:
    """``geometry.steps=200`` as a dotted name and a value; raises :class:`ManifestError` for unknown names."""
    name, equals, value = text.partition("=")
    name = TARGETS.get(name.strip(), name.strip())
    if not equals or name not in leaf_names():
        raise ManifestError(f"{option} {text}: {_unknown_setting(name) if equals else 'name=value is needed'}")
    try:
        RECIPES["factory"].override({name: _plain(name, value.strip())})
    except ValidationError:
        raise ManifestError(f"{option} {text}: {allowed_values(name)}") from None
    return name, _plain(name, value.strip())


# --- from rows to specs ----------------------------------------------------------------------------------------------


def _specs(
    table: Table, recipe: str, overrides: dict[str, Any], inputs: Inputs
) -> tuple[list[AssetSpec], dict[str, int]]:
    """Specs of the good rows, and their rows by asset id; problems of the others are added to ``table``."""
    resolve = _recipe_resolver(overrides)
    bad = {problem.row for problem in table.problems if problem.row}
    specs: list[AssetSpec] = []
    first_row: dict[str, int] = {}
    for row in table.rows:
        before = len(table.problems)
        spec = _spec(row, table, recipe, resolve, inputs)
        if spec is None or len(table.problems) > before or row.number in bad:
            continue
        if spec.asset_id in first_row:
            same = f"an id of its own; row {first_row[spec.asset_id]} has the same"
            hint = "" if row.cells.get("id") else " (same prompt and seed: give another seed, or an id)"
            table.refuse(row.number, "id", spec.asset_id, same + hint)
            continue
        first_row[spec.asset_id] = row.number
        specs.append(spec)
    return specs, first_row


def _spec(
    row: Row, table: Table, recipe: str, resolve: Callable[[str, dict[str, Any]], Recipe], inputs: Inputs
) -> AssetSpec | None:
    """The row as a spec, or None with its problems in ``table``."""
    before = len(table.problems)
    cells = {name: value for name, value in row.cells.items() if not _empty(value)}
    preset = cells.get("recipe", recipe)
    if not isinstance(preset, str) or preset not in RECIPES:
        table.refuse(row.number, "recipe", preset, ALLOWED["recipe"] + _nearest(str(preset)[:99], list(RECIPES)))
        preset = recipe
    changes: dict[str, Any] = {}
    named_as: dict[str, str] = {}
    for name, value in cells.items():
        leaf = TARGETS.get(name, name)
        if leaf in _leaves():
            if leaf in changes:
                table.refuse(row.number, name, value, f"given once; {named_as[leaf]} sets the same recipe field")
            changes[leaf], named_as[leaf] = _hashable(_plain(leaf, value)), name
    if "init_file" in cells:
        changes.setdefault("init.start", "file")
    try:
        resolved = resolve(preset, changes)
        if "parts" in cells and resolved.image_prior == "starter":
            resolved = resolve(preset, PARTS_ALONE | changes)
    except ValidationError as error:
        resolved = RECIPES[preset]
        for leaf in dict.fromkeys(_leaf_of(problem["loc"]) for problem in error.errors()):
            name = named_as.get(leaf, leaf)
            table.refuse(row.number, name, cells.get(name, ""), _with_point(cells.get(name), allowed_values(leaf)))
    if resolved.init.sh_degree and resolved.dress.splat == "mesh":
        table.refuse(row.number, "init.sh_degree", resolved.init.sh_degree, ALLOWED["init.sh_degree"])
    values: dict[str, Any] = {"recipe": resolved} | _files(row.number, cells, table, inputs)
    for name in ("prompt", "negative_prompt", "seed", "height_m", "image_elevation"):
        if name in cells:
            values[name] = cells[name]
    for name in ("edited", "parts", "size_m"):
        if name in cells:
            values[name] = _plain(name, cells[name])
    if isinstance(values.get("parts"), (list, tuple)):  # a Parquet column of structs has what was not given as null
        values["parts"] = [_given(part) if isinstance(part, dict) else part for part in values["parts"]]
    if {"height_m", "size_m"} <= cells.keys():
        table.refuse(row.number, "size_m", cells["size_m"], "one of height_m and size_m; the row gives both")
        del values["height_m"]
    if "id" in cells:
        values["asset_id"] = str(cells["id"]) if type(cells["id"]) is int else cells["id"]
    if "tags" in cells:
        values["tags"] = _tags(cells["tags"])
    values["accept"] = _contract(row.number, cells.get("accept"), preset, values.get("tags"), table)
    for name in ("seed", "height_m", "image_elevation"):
        if isinstance(values.get(name), bool):
            values[name] = str(values[name])
    if "image" in cells and "prompt" not in cells and _reads_points(resolved):
        needed = "needed beside an image where init.start is prior, or a point_weight is set, which read it"
        table.refuse(row.number, "prompt", "", needed)
    if "image" in cells and "image" not in values:
        values.setdefault("prompt", "refused for its image")
    try:
        return AssetSpec(**values)
    except ValidationError as error:
        for at in dict.fromkeys(_place_of(problem["loc"]) for problem in error.errors() if problem["loc"]):
            table.refuse(row.number, *_refusal(at, cells, values.get("parts")))
        for problem in error.errors():
            if not problem["loc"] and len(table.problems) == before:
                table.refuse(row.number, "", "", problem["msg"].removeprefix("Value error, "))
        return None


def _given(mapping: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in mapping.items() if value is not None}


def _place_of(location: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """The cell that a validation error's location lies in: a column, or of ``parts`` a part's number and field."""
    column = "id" if location[0] == "asset_id" else location[0]
    return (column, *location[1:3]) if column == "parts" else (column,)


def _refusal(at: tuple[int | str, ...], cells: Mapping[str, Any], parts: Any) -> tuple[str, Any, str]:
    """Field, value and what is allowed, of a place that :func:`_place_of` found; ``parts`` as they were read."""
    column = str(at[0])
    if len(at) == 1:
        return column, cells.get(column, ""), _with_point(cells.get(column), ALLOWED[column])
    field, part, known = f"parts[{at[1]}]", parts[at[1]], list(Part.model_fields)
    if len(at) == 2:
        return field, part, "a mapping with a prompt, such as {prompt: a red book, size: 0.3}"
    name = str(at[2])
    if name not in known:
        allowed = f"unknown; a part has {', '.join(known)}{_nearest(name[:99], known)}"
        return f"{field}.{name[:60]}", part.get(name, ""), allowed
    return f"{field}.{name}", part.get(name, ""), _with_point(part.get(name), ALLOWED[f"parts.{name}"])


def _contract(number: int, cell: Any, recipe: str, tags: Any, table: Table) -> Contract | None:
    """The contract of a row: what all, its recipe, its tags and the row itself ask for."""
    said = {} if cell is None else read_clauses(_plain("accept", cell), "accept", partial(table.refuse, number))
    return table.contracts.of(recipe, tags if isinstance(tags, dict) else {}, said)


def _reads_points(recipe: Recipe) -> bool:
    """Whether a point prior reads the prompt."""
    stages = (recipe.geometry, recipe.appearance)
    return recipe.init.start == "prior" or any(stage.steps and stage.uses("points") for stage in stages)


def _files(number: int, cells: dict[str, Any], table: Table, inputs: Inputs) -> dict[str, FileRef]:
    """The files that a row names, by column."""
    found: dict[str, FileRef] = {}
    for column in FILES:
        if column in cells:
            try:
                found[column] = ref = inputs.look_up(column, str(cells[column]).strip())
                if column == "image" and ref in inputs.sources and (problem := _picture_problem(ref, inputs)):
                    raise ValueError(problem)
            except ValueError as error:
                table.refuse(number, column, cells[column], str(error))
    return found


def _picture_problem(ref: FileRef, inputs: Inputs) -> str:
    """Why a file is no picture of an object, "" where it is one; asked once of what it holds."""
    from pipeline_core.picture import VERSION, read_picture

    def ask() -> str:
        path = inputs.sources[ref]
        try:
            read_picture(path)
        except DataError as error:
            return str(error).removeprefix(f"{path}: ")
        return ""

    return inputs.once(f"picture {VERSION} {ref.sha256}", ask)


def _recipe_resolver(overrides: dict[str, Any]) -> Callable[[str, dict[str, Any]], Recipe]:
    """Resolve (preset, changes) to a recipe; equal rows share one object, so a long manifest stays small."""

    @lru_cache(maxsize=4096)
    def resolved(preset: str, changes: tuple[tuple[str, Any], ...]) -> Recipe:
        return RECIPES[preset].override({**dict(changes), **overrides})

    def resolve(preset: str, changes: dict[str, Any]) -> Recipe:
        return resolved(preset, tuple(sorted(changes.items())))

    return resolve


def _hashable(value: Any) -> Any:
    """Lists as tuples and mappings as entries, all the way down; what cannot be hashed even so becomes text, which no
    number field takes."""
    if isinstance(value, list):
        return tuple(map(_hashable, value))
    if isinstance(value, dict):
        return _Entry((str(name), _hashable(each)) for name, each in value.items())
    return value if value.__hash__ else shown(value)


class _Entry(dict[str, Any]):
    """A mapping that may be part of a cache's key; nothing changes it."""

    def __hash__(self) -> int:  # type: ignore[override]
        return hash(frozenset(self.items()))


def _plain(leaf: str, value: Any) -> Any:
    """A text cell as the JSON value it spells where the recipe field is no text; booleans never pass for numbers."""
    if isinstance(value, str) and leaf not in _text_leaves():
        try:
            value = json.loads(value, parse_constant=_no_constant)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, bool) and leaf not in _boolean_leaves():
        return str(value)
    return value


def _tags(value: Any) -> Any:
    """``a;set=forest`` or a list of such words as {"a": "", "set": "forest"}; other shapes are left to be refused."""
    if isinstance(value, str):
        value = [word.strip() for word in re.split("[;,]", value) if word.strip()]
    if isinstance(value, (list, tuple)) and all(isinstance(word, str) for word in value):
        return {name.strip(): text.strip() for name, _, text in (word.partition("=") for word in value)}
    return value


def _empty(value: Any) -> bool:
    return (
        value is None
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


# --- what is allowed, in words ---------------------------------------------------------------------------------------


def shown(value: Any) -> str:
    """``value`` in at most 60 printable characters, however large it is."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = 56
    short.maxlist = short.maxdict = 3
    short.maxlevel = 2
    return short.repr(value)[:60]


@lru_cache(maxsize=1)
def _leaves() -> frozenset[str]:
    return frozenset(leaf_names())


@lru_cache(maxsize=1)
def _schema() -> dict[str, Any]:
    return Recipe.model_json_schema()


def _leaf_schema(leaf: str) -> dict[str, Any]:
    node = _schema()
    for part in leaf.split("."):
        node = node["properties"][part]
        if "$ref" in node:
            node = _schema()["$defs"][node["$ref"].rsplit("/", 1)[1]]
    return node


@lru_cache(maxsize=1)
def _text_leaves() -> frozenset[str]:
    return frozenset(leaf for leaf in _leaves() if _leaf_schema(leaf).get("type") == "string")


@lru_cache(maxsize=1)
def _boolean_leaves() -> frozenset[str]:
    return frozenset(leaf for leaf in _leaves() if _leaf_schema(leaf).get("type") == "boolean")


def _leaf_of(location: Iterable[Any]) -> str:
    """The recipe field that a validation error's location lies in."""
    parts: list[str] = []
    for part in location:
        parts.append(str(part))
        if ".".join(parts) in _leaves():
            break
    return ".".join(parts)


def allowed_values(leaf: str) -> str:
    """What a recipe field takes, in words: ``an integer from 0 to 1000000``."""
    return _words(_leaf_schema(leaf))


def _words(schema: dict[str, Any]) -> str:
    if "anyOf" in schema:
        return " or ".join(map(_words, schema["anyOf"]))
    if "$ref" in schema:
        schema = _schema()["$defs"][schema["$ref"].rsplit("/", 1)[1]]
    if "enum" in schema:
        return "one of " + ", ".join(map(str, schema["enum"]))
    kind = schema.get("type", "value")
    if kind in ("integer", "number"):
        return " ".join(["an integer" if kind == "integer" else "a number", *_range_words(schema)])
    if kind == "array":
        items = schema.get("prefixItems") or [schema.get("items", {})]
        example = schema.get("examples", [schema.get("default")])[0]
        return f"a list of {_words(items[0])}, such as {json.dumps(example)}"
    if kind == "object":
        return "entries with " + " and ".join(f"{name} ({_words(each)})" for name, each in schema["properties"].items())
    return {"boolean": "true or false", "string": "text", "null": "null"}.get(kind, kind)


def _range_words(schema: dict[str, Any]) -> list[str]:
    low, high = schema.get("minimum"), schema.get("maximum")
    if low is not None and high is not None:
        return [f"from {low:g} to {high:g}" if abs(high) < 1e5 else f"from {low} to {high}"]
    words = [f"of at least {low}"] if low is not None else []
    words += [f"of at most {high}"] if high is not None else []
    words += [f"above {schema['exclusiveMinimum']:g}"] if "exclusiveMinimum" in schema else []
    words += [f"below {schema['exclusiveMaximum']:g}"] if "exclusiveMaximum" in schema else []
    return [" and ".join(words)] if words else []


def _unknown_setting(name: str) -> str:
    """What to say of a name that ``--set`` does not know."""
    if name in FIELDS:
        where = "the command's --recipe, or the column recipe" if name == "recipe" else f"the column {name}"
        return f"{name} is no field of a recipe; {where} of the manifest sets it"
    found = _nearest_names(name, leaf_names())
    hint = f"; did you mean {' or '.join(found)}?" if found else "; splatmill plan lists a recipe's fields"
    return f"a recipe has no field {name[:99]!r}{hint}"


def _unknown(name: str) -> str:
    """What to say of an unknown column: the nearest valid names."""
    nearest = _nearest_names(name, [*FIELDS, *leaf_names()])
    if nearest:
        return f"unknown column; did you mean {' or '.join(nearest)}?"
    return "unknown column; any recipe field by its dotted name, or one of " + ", ".join(FIELDS)


def _nearest_names(name: str, valid: list[str]) -> list[str]:
    by_last_part = [leaf for leaf in valid if leaf.rsplit(".", 1)[-1] == name.strip().lower()]
    within = [leaf for leaf in valid if leaf.startswith(f"{name}.")][:2]
    return by_last_part or within or get_close_matches(name[:99].strip().lower(), valid, n=2, cutoff=0.5)


def _with_point(value: Any, allowed: str) -> str:
    """``allowed``, and how to write ``value`` where it is a number with a decimal comma."""
    comma = isinstance(value, str) and re.fullmatch(r"[+-]?\d+,\d+", value.strip())
    hint = f"; the comma in it is a decimal comma: write {value.strip().replace(',', '.')}" if comma else ""
    return allowed + (hint if allowed.startswith(("a number", "an integer")) else "")


def _nearest(name: str, valid: list[str]) -> str:
    near = get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else ""


def _check_columns(names: Iterable[Any], row: int, refuse: Callable[..., None]) -> None:
    for name in names:
        if name not in FIELDS and name not in _leaves():
            refuse(row, "column", name, _unknown(str(name)[:99]))


# --- readers: bytes to rows ------------------------------------------------------------------------------------------


def _read_bytes(path: Path, table: Table) -> bytes:
    """The file's bytes; refuses what is missing, too large or of an unknown kind."""
    if path.suffix.lower() not in READERS:
        table.refuse_file(0, "", "", f"the name must end in {', '.join(READERS)}, not {shown(path.suffix)}")
        return b""
    try:
        size = path.stat().st_size
        if not path.is_file():
            table.refuse_file(0, "", "", "is not a regular file")
        elif size > MAX_FILE_BYTES:
            table.refuse_file(0, "", "", f"has {size} bytes; a manifest of at most {MAX_FILE_BYTES} bytes is allowed")
        else:
            return path.read_bytes()
    except OSError as error:
        table.refuse_file(0, "", "", f"cannot be read: {error.strerror or error}")
    return b""


def _decode(data: bytes, table: Table) -> str:
    """UTF-8 text; refuses other encodings and binary files by name where they can be told."""
    known = {
        b"\xff\xfe": "UTF-16 text",
        b"\xfe\xff": "UTF-16 text",
        b"PK\x03\x04": "a zip archive or an Excel workbook",
        b"PAR1": "a Parquet file",
        b"\x1f\x8b": "a gzip file",
        b"%PDF": "a PDF",
    }
    for magic, what in known.items():
        if data.startswith(magic):
            table.refuse_file(0, "", "", f"is {what}; UTF-8 text is needed (a workbook: export it as CSV UTF-8)")
            return ""
    if b"\0" in data:
        line = data.count(b"\n", 0, data.index(b"\0")) + 1
        table.refuse_file(line, "", "", "is a binary file (it holds a zero byte); UTF-8 text is needed")
        return ""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = "is not UTF-8; save the file as UTF-8 (Excel: CSV UTF-8)"
        table.refuse_file(line, "", data[error.start : error.start + 12], what)
        return ""


_FIELD_LIMIT = threading.Lock()


def _csv_rows(text: str, delimiter: str, table: Table) -> list[list[str]]:
    """Rows of a CSV text. The csv module's cell limit is global, so it is raised under a lock and put back."""
    rows: list[list[str]] = []
    with _FIELD_LIMIT:
        limit = csv.field_size_limit(max(len(text), 131_072))
        try:
            for cells in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True):
                rows.append(cells)
        except csv.Error as error:
            table.refuse_file(len(rows) + 1, "", "", f"cannot be read on as CSV ({error}); check its quotes")
        finally:
            csv.field_size_limit(limit)
    return rows


def _read_csv(data: bytes, table: Table) -> None:
    """Comma, semicolon or tab separated: as Excel's first line ``sep=;`` says, else whichever makes more columns of
    the header known. Columns that have no name and are empty throughout are passed over."""
    text = _decode(data, table)
    if not text:
        return
    said = re.match(r'(?i)sep=([^\w\s"]|\t)\r?\n', text)
    text = text[said.end() :] if said else text
    head = text.split("\n", 1)[0][:100_000]
    known = {d: sum(cell.strip().strip('"') in FIELDS for cell in head.split(d)) for d in ",;\t"}
    rows = _csv_rows(text, said[1] if said else max(known, key=lambda d: known[d]), table)
    if not rows:
        return
    _check_count(len(rows) - 1, table)
    header = [name.strip() for name in rows[0]]
    if header and _numbers_rows(header[0], [cells[0] for cells in rows[1:] if any(cell.strip() for cell in cells)]):
        header, rows = header[1:], [cells[1:] for cells in rows]
    named = [name for name in header if name]
    for at in (at for at, name in enumerate(header) if not name):
        if number := next((n for n, cells in enumerate(rows, start=1) if at < len(cells) and cells[at].strip()), 0):
            table.refuse_file(number, f"column {at + 1}", rows[number - 1][at], "a name in the header, or empty cells")
    _check_columns(named, 1, table.refuse_file)
    for name in sorted({name for name in named if named.count(name) > 1}):
        table.refuse_file(1, "column", name, "given once; it is in the header more than once")
    if not {"prompt", "image"} & set(header):
        table.refuse_file(1, "column", "prompt", "required, but not in the header")
        return
    for number, cells in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(header):
            table.refuse(number, "", cells, f"{len(header)} cells as in the header, not {len(cells)}; quote commas")
        else:
            table.rows.append(Row(number, {name: cell for name, cell in zip(header, cells) if name}))


def _numbers_rows(name: str, cells: list[str]) -> bool:
    """Whether a first column is the row numbers that pandas writes when it is not told to leave them out."""
    unnamed = not name or re.fullmatch(r"Unnamed: \d+|index", name)
    return bool(unnamed and cells) and cells == [str(number) for number in range(len(cells))]


def _read_jsonl(data: bytes, table: Table) -> None:
    """One JSON object a line."""
    lines = _decode(data, table).split("\n")
    _check_count(sum(bool(line.strip()) for line in lines), table)
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=_unique_pairs, parse_constant=_no_constant)
        except (ValueError, RecursionError) as error:
            table.refuse(number, "", line, f"one JSON object on one line ({type(error).__name__}: {str(error)[:80]})")
            continue
        _add_mapping(number, row, table)


def _add_mapping(number: int, row: Any, table: Table) -> None:
    """A row of a format that has no header: its keys are checked here."""
    if not isinstance(row, dict):
        table.refuse(number, "", row, "a mapping of columns to values, such as {prompt: a red mug}")
        return
    _check_columns(row, number, table.refuse)
    if not any(problem.row == number for problem in table.problems[-len(row) :]):
        table.rows.append(Row(number, row))


def _unique_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    twice = {key for key in keys if keys.count(key) > 1} if len(set(keys)) < len(keys) else ()
    if twice:
        raise ValueError(f"{shown(sorted(twice)[0])} is given more than once")
    return dict(pairs)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a number")


def _read_yaml(data: bytes, table: Table) -> None:
    """A list of assets, or ``{defaults: {...}, accept: {...}, assets: [...]}``; any asset may have a ``matrix``."""
    text = _decode(data, table)
    document = _load_yaml(text, table) if text else None
    defaults: dict[str, Any] = {}
    if isinstance(document, dict):
        for key in sorted(set(document) - {"defaults", "assets", "accept"}, key=str):
            table.refuse_file(0, str(key)[:60], document[key], "defaults, accept or assets at the top level")
        if "accept" in document:
            table.contracts = read_contracts(document["accept"], partial(table.refuse_file, 0))
        defaults, document = document.get("defaults") or {}, document.get("assets")
        if not isinstance(defaults, dict):
            table.refuse_file(0, "defaults", defaults, "a mapping of columns to values")
            return
        _check_columns(defaults, 0, table.refuse_file)
    if document is None and (table.problems or not text.strip()):
        return
    if not isinstance(document, list):
        table.refuse_file(0, "assets", document, "a list of assets, each with a prompt")
        return
    for number, entry in enumerate(document, start=1):
        if not isinstance(entry, dict):
            _add_mapping(number, entry, table)
            continue
        own = {_said(name) for name, value in _cells(entry) if not _empty(value)}
        others = {name: value for name, value in defaults.items() if _said(name) not in own}
        for row in _expand(number, {**others, **entry}, table):
            _check_count(len(table.rows) + 1, table)
            _add_mapping(number, row, table)


def _cells(entry: dict[str, Any]) -> list[tuple[str, Any]]:
    """What an entry gives by columns, its matrix's too."""
    matrix = entry.get("matrix")
    return [*entry.items(), *(matrix.items() if isinstance(matrix, dict) else ())]


def _said(column: str) -> str:
    """One name for columns that say the same: an entry's own takes the place of such a default."""
    return "height_m" if column == "size_m" else TARGETS.get(column, column)


def _load_yaml(text: str, table: Table) -> Any:
    """Plain YAML data; refuses duplicate keys, deep nesting, tags that would build objects, and broken syntax."""
    import yaml

    quickest: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

    class Loader(quickest):
        pass

    def mapping(loader: Any, node: Any) -> dict[Any, Any]:
        loader.flatten_mapping(node)
        pairs = [(loader.construct_object(k, deep=True), loader.construct_object(v, deep=True)) for k, v in node.value]
        try:
            return _unique_pairs(pairs)
        except (TypeError, ValueError) as error:
            raise yaml.constructor.ConstructorError(None, None, str(error), node.start_mark) from None

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    try:
        depth = 0
        for event in yaml.parse(text, Loader=Loader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            if depth > MAX_DEPTH:
                table.refuse_file(event.start_mark.line + 1, "", "", f"is nested more than {MAX_DEPTH} deep")
                return None
        return yaml.load(text, Loader=Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        what = f"is not readable YAML: {getattr(error, 'problem', None) or error}"
        table.refuse_file(0, f"line {mark.line + 1}" if mark else "", "", what[:300])
    except (ValueError, OverflowError) as error:  # an impossible date, a number with a million digits
        table.refuse_file(0, "", "", f"is not readable YAML: {str(error)[:200]}")
    return None


def _expand(number: int, entry: dict[str, Any], table: Table) -> list[dict[str, Any]]:
    """An entry's ``matrix`` multiplied out. Axes named like a column set it; the others fill ``{axis}`` in texts."""
    if "matrix" not in entry:
        return [entry]
    entry = dict(entry)
    matrix = entry.pop("matrix")
    if not isinstance(matrix, dict) or not all(isinstance(v, list) and v for v in matrix.values()) or not matrix:
        table.refuse(number, "matrix", matrix, "a mapping of names to lists, such as {colour: [red, blue]}")
        return []
    size = math.prod(map(len, matrix.values()))
    if size > MAX_ROWS:
        table.refuse(number, "matrix", f"{size} assets", f"at most {MAX_ROWS} assets")
        return []
    columns = [name for name in matrix if name in FIELDS or name in _leaves()]
    worded = ("id", "prompt", "negative_prompt", "tags", "parts", *FILES)
    texts = " ".join(str(v)[:10_000] for k, v in entry.items() if k in worded)
    texts += " ".join(str(v) for name in columns for v in matrix[name] if isinstance(v, str))
    for axis in matrix:
        if axis not in columns and "{" + str(axis) + "}" not in texts:
            table.refuse(number, "matrix", axis, f"a column, or a name that the prompt uses as {{{axis}}}"[:200])
            return []
    for axis, values in matrix.items():
        for value in values:
            if axis not in columns and isinstance(value, (dict, list)):
                table.refuse(number, f"matrix.{axis}"[:60], value, "text or a number")
                return []
    rows = []
    for choice in itertools.product(*matrix.values()):
        chosen = dict(zip(matrix, choice))
        row = {**entry, **{name: chosen[name] for name in columns}}
        rows.append({name: _fill(value, chosen) for name, value in row.items()})
    return rows


def _fill(value: Any, chosen: dict[str, Any]) -> Any:
    """Texts with ``{axis}`` replaced; nothing else of a format string is understood, so nothing can be reached."""
    if isinstance(value, str) and "{" in value:
        for axis, text in chosen.items():
            value = value.replace("{" + str(axis) + "}", str(text))
        return value
    if isinstance(value, list) and len(value) <= MAX_TAGS:
        return [_filled(item, chosen) if isinstance(item, dict) else _fill(item, chosen) for item in value]
    return value


def _filled(part: dict[str, Any], chosen: dict[str, Any]) -> dict[str, Any]:
    return {name: _fill(value, chosen) for name, value in part.items()}


def _read_parquet(data: bytes, table: Table) -> None:
    """Columns by name. Read in small batches, so that a cell of megabytes repeated by a dictionary stays harmless."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        names = file.schema_arrow.names
        _check_columns(names, 0, table.refuse_file)
        for name in sorted({name for name in names if names.count(name) > 1}):
            table.refuse_file(0, "column", name, "given once; the file has it more than once")
        if not {"prompt", "image"} & set(names):
            table.refuse_file(0, "column", "prompt", "required, but not in the file")
        if table.problems:
            return
        _check_count(file.metadata.num_rows, table)
        number = 0
        for batch in file.iter_batches(batch_size=64):
            for cells in batch.to_pylist(maps_as_pydicts="lossy"):
                number += 1
                table.rows.append(Row(number, cells))
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        table.refuse_file(0, "", "", f"is not a readable Parquet file: {str(error).splitlines()[0][:200]}")


def _check_count(count: int, table: Table) -> None:
    """Refuse a manifest of too many rows at once: nothing else is worth a look then."""
    if count > MAX_ROWS:
        allowed = f"at most {MAX_ROWS} assets; split the manifest"
        problem = Problem(table.file, 0, "", f"{count} rows", allowed)
        raise ManifestError(str(problem), problems=[problem])


READERS: dict[str, Callable[[bytes, Table], None]] = {
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".yaml": _read_yaml,
    ".yml": _read_yaml,
    ".parquet": _read_parquet,
}
