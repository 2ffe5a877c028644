"""The contract by which an asset is good enough: clauses with bounds, and the verdict on what was measured.

    contract = Contract(bounds={"fidelity": 0.05, "faces": 5000}, attempts=3)
    judge(contract, {"judged": 1, "fidelity": 0.02, "faces": 4800}).verdict      # 'rejected'

A clause that does not hold rejects; one whose figure nobody measured leaves the asset unjudged. Without a contract an
asset is accepted where a judge has seen it, and unjudged where none has. Loads neither torch nor Prefect.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import lru_cache
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline_core.config import RECIPES, Section

ACCEPTED, REJECTED, UNJUDGED = "accepted", "rejected", "unjudged"


@dataclass(frozen=True)
class Clause:
    """One row: a bound of ``name`` is what ``metric`` must be ``at most`` or ``at least``, in ``unit``.

    ``early``: the figure is known before any work.
    """

    name: str
    metric: str
    direction: Literal["at most", "at least"]
    unit: str
    text: str
    early: bool = False


# fmt: off
CLAUSES: tuple[Clause, ...] = (
    Clause("unreadable_words", "unreadable_words", "at most", "words",
           "words of the prompt that a model does not know; decided before any work", early=True),
    Clause("dropped_tokens", "dropped_tokens", "at most", "tokens",
           "tokens beyond a model's window; decided before any work", early=True),
    Clause("judgeable", "judgeable", "at least", "yes or no",
           "there is a judge that knows the prompt's words; decided before any work, as for judged: yes", early=True),
    Clause("judged", "judged", "at least", "yes or no",
           "a judge knows the prompt's words; yes: unjudged assets are rejected, no: the other clauses decide alone"),
    Clause("fidelity", "fidelity", "at least", "margin",
           "caption margin of the mesh: how much nearer its own caption is than the nearest wrong one"),
    Clause("janus", "janus_score", "at most", "0 to 1", "signs of several fronts: 0 good, 1 bad"),
    Clause("start_gain", "start_gain", "at least", "margin",
           "caption margin of the splat minus that of its start; 0: not worse than its own start"),
    Clause("splat_agreement", "mesh_iou", "at least", "0 to 1", "overlap of the mesh's and the splat's silhouettes"),
    Clause("faces", "faces", "at most", "triangles", "triangles of the mesh"),
    Clause("kb", "kb", "at most", "kB", "size of asset.glb, in thousands of bytes"),
    Clause("texel_density", "texel_density", "at least", "texels/m", "texels a metre, over the whole surface"),
    Clause("watertight", "watertight", "at least", "yes or no", "the mesh is closed"),
    Clause("self_intersections", "self_intersections", "at most", "faces", "faces that pass through another one"),
    Clause("collision_excess", "collision_excess", "at most", "ratio",
           "volume of the collision bodies over that of the mesh"),
    Clause("finding_errors", "finding_errors", "at most", "findings", "errors that validation found in the files"),
    Clause("finding_warnings", "finding_warnings", "at most", "findings", "warnings that validation found"),
)
# fmt: on

BY_NAME = {clause.name: clause for clause in CLAUSES}
JUDGED = BY_NAME["judged"]
EARLY = tuple(clause.name for clause in CLAUSES if clause.early)


class Contract(Section):
    """What an asset must keep: ``bounds`` by the names of :data:`CLAUSES`. What is rejected is made again with the next
    seed, up to ``attempts`` in all. A mapping without ``bounds`` is read as bounds and attempts side by side."""

    bounds: dict[str, float] = {}
    attempts: int = Field(2, ge=1, le=16)

    @model_validator(mode="before")
    @classmethod
    def _flat(cls, told: Any) -> Any:
        if not isinstance(told, dict) or "bounds" in told:
            return told
        bounds = {name: value for name, value in told.items() if name != "attempts"}
        return {"bounds": bounds} | {name: told[name] for name in told if name == "attempts"}

    @field_validator("bounds")
    @classmethod
    def _known(cls, bounds: dict[str, float]) -> dict[str, float]:
        for name in bounds:
            if name not in BY_NAME:
                raise ValueError(unknown(name))
        return {clause.name: bounds[clause.name] for clause in CLAUSES if clause.name in bounds}


def unknown(name: str, others: tuple[str, ...] = ()) -> str:
    """What is said of a name that no clause has."""
    valid = [*BY_NAME, "attempts", *others]
    near = get_close_matches(str(name)[:99].lower(), valid, n=1, cutoff=0.5)
    return f"no clause; did you mean {near[0]}?" if near else f"no clause; one of {', '.join(valid)}"


@dataclass(frozen=True)
class Held:
    """What became of one clause; ``held`` and ``figure`` are None where nobody measured it."""

    name: str
    bound: float
    figure: float | None = None
    held: bool | None = None

    def __str__(self) -> str:
        """``fidelity 0.02 (at least 0.05)``."""
        figure = "not measured" if self.figure is None else f"{self.figure:.4g}"
        clause = BY_NAME.get(self.name)
        return f"{self.name} {figure} ({clause.direction if clause else 'bound'} {self.bound:.4g})"


@dataclass(frozen=True)
class Verdict:
    """The clauses of a contract and what became of each."""

    clauses: tuple[Held, ...]

    @property
    def verdict(self) -> str:
        """Rejected where a clause does not hold, unjudged where one was not measured, else accepted."""
        held = [each.held for each in self.clauses]
        return REJECTED if False in held else UNJUDGED if None in held else ACCEPTED

    @property
    def failed(self) -> tuple[Held, ...]:
        """The clauses that do not hold."""
        return tuple(each for each in self.clauses if each.held is False)

    def __str__(self) -> str:
        """Why it is no better than it is; empty where it is accepted."""
        return ", ".join(str(each) for each in self.failed or self.clauses if each.held is not True)

    def to_json(self) -> dict[str, Any]:
        """For ``verdict.json``."""
        return {"verdict": self.verdict, "clauses": [vars(each) for each in self.clauses]}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Verdict:
        """The verdict of :meth:`to_json`'s data."""
        return cls(tuple(Held(**each) for each in told["clauses"]))


def judge(contract: Contract | None, figures: Mapping[str, float]) -> Verdict:
    """The verdict on what was measured. Without a clause ``judged`` what no judge has seen is unjudged."""
    bounds = contract.bounds if contract else {}
    held = [_held(BY_NAME[name], bound, figures) for name, bound in bounds.items()]
    if JUDGED.name not in bounds:
        seen = figures.get(JUDGED.metric) or 0.0
        held.insert(0, Held(JUDGED.name, 1.0, seen, True if seen else None))
    return Verdict(tuple(held))


def decided_early(contract: Contract | None, figures: Mapping[str, float]) -> Verdict | None:
    """The verdict on what the contract rejects before any work, by its early clauses alone; else None."""
    bounds = contract.bounds if contract else {}
    if bounds.get(JUDGED.name):
        bounds = {"judgeable": 1.0} | bounds
    found = Verdict(tuple(_held(BY_NAME[n], bound, figures) for n, bound in bounds.items() if n in EARLY))
    return found if found.failed else None


def _held(clause: Clause, bound: float, figures: Mapping[str, float]) -> Held:
    figure = figures.get(clause.metric)
    if figure is None or not math.isfinite(figure):
        return Held(clause.name, bound)
    return Held(clause.name, bound, figure, figure <= bound if clause.direction == "at most" else figure >= bound)


# --- contracts as people write them ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Contracts:
    """A contract for all assets, and what recipes and tags have otherwise; plain mappings of :data:`CLAUSES`' names.

    ``of`` merges all < recipe < tag < row; a clause that is set to null is taken back.
    """

    all: dict[str, Any] = field(default_factory=dict)
    recipes: dict[str, dict[str, Any]] = field(default_factory=dict)
    tags: dict[str, dict[str, Any]] = field(default_factory=dict)

    def of(self, recipe: str, tags: Mapping[str, str], row: Mapping[str, Any] | None = None) -> Contract | None:
        """The contract of one asset; None where nobody asked for one."""
        parts = [self.all, self.recipes.get(recipe, {})]
        parts += [told for tag, told in self.tags.items() if _has(tags, tag)]
        merged: dict[str, Any] = {}
        for part in [*parts, row or {}]:
            merged |= part
        return _contract(tuple((n, v) for n, v in merged.items() if v is not None)) if merged else None

    def to_json(self) -> dict[str, Any]:
        """As it is written in YAML; empty where nothing is."""
        tables = {"recipes": self.recipes, "tags": self.tags}
        return self.all | {name: table for name, table in tables.items() if table}


@lru_cache(maxsize=4096)
def _contract(told: tuple[tuple[str, Any], ...]) -> Contract:
    return Contract.model_validate(dict(told))


def _has(tags: Mapping[str, str], tag: str) -> bool:
    """Whether an asset has ``hero`` among its tags, or ``set=forest``."""
    name, equals, value = tag.partition("=")
    return name in tags and (not equals or tags[name] == value)


TABLES = ("recipes", "tags")


def read_contracts(told: Any, refuse: Callable[[str, Any, str], Any]) -> Contracts:
    """Contracts as they were written; ``refuse(field, value, allowed)`` is told of everything that is wrong in them."""
    if not isinstance(told, Mapping):
        refuse("accept", told, "a mapping of clauses to bounds, such as {fidelity: 0.05, attempts: 3}")
        return Contracts()
    tables: dict[str, dict[str, dict[str, Any]]] = {}
    for name in TABLES:
        table = told.get(name) or {}
        if not isinstance(table, Mapping):
            refuse(f"accept.{name}", table, f"a mapping of {name} to clauses, such as {{draft: {{fidelity: 0.02}}}}")
            table = {}
        for each in table if name == "recipes" else ():
            if each not in RECIPES:
                near = get_close_matches(str(each)[:99], list(RECIPES), n=1, cutoff=0.5)
                hint = f"; did you mean {near[0]}?" if near else ""
                refuse("accept.recipes", each, "one of " + ", ".join(RECIPES) + hint)
        tables[name] = {
            str(key): read_clauses(part, f"accept.{name}.{key}"[:99], refuse) for key, part in table.items()
        }
    flat = {name: value for name, value in told.items() if name not in TABLES}
    return Contracts(read_clauses(flat, "accept", refuse, TABLES), **tables)


def read_clauses(
    told: Any, where: str, refuse: Callable[[str, Any, str], Any], others: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Bounds by clause, and attempts, as they were written at ``where``; what is wrong is left out, and refused."""
    if not isinstance(told, Mapping):
        refuse(where, told, "a mapping of clauses to bounds, such as {fidelity: 0.05, attempts: 3}")
        return {}
    good = {}
    for name, value in told.items():
        field = f"{where}.{name}"[:99]
        if name != "attempts" and name not in BY_NAME:
            refuse(field, value, unknown(name, others))
        elif name == "attempts" and value is not None and not (type(value) is int and 1 <= value <= 16):
            refuse(field, value, "an integer from 1 to 16")
        elif name != "attempts" and not _is_bound(value, BY_NAME[name]):
            yes = BY_NAME[name].unit == "yes or no"
            refuse(field, value, "true or false" if yes else f"a number: {BY_NAME[name].direction} so many")
        else:
            good[str(name)] = float(value) if isinstance(value, bool) else value
    return good


def _is_bound(value: Any, clause: Clause) -> bool:
    if value is None or clause.unit == "yes or no":
        return value in (None, True, False)
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
