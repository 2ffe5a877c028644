"""The gate of ``--commercial``, and what ``splatmill models`` shows of licences. Loads no model."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from catalog import query
from catalog.render import aligned
from pipeline_core import models
from pipeline_core.config import Recipe
from pipeline_core.errors import RequestError
from pipeline_core.priors.licences import COMMERCIAL, NOTHING, Licence, published
from pipeline_core.priors.resolve import model_id, resolve_model
from pipeline_core.spec import AssetSpec

SITE = "SPLATMILL_COMMERCIAL"
"""Environment variable: 1 = every request is for commercial use, whether it says so or not."""
NAMED = 5
YES, NO = ("1", "true", "yes"), ("", "0", "false", "no")


def site_is_commercial() -> bool:
    """Whether :data:`SITE` is set. Raises :class:`RequestError` for a value that is neither yes nor no."""
    text = os.environ.get(SITE, "").strip().lower()
    if text not in (*YES, *NO):
        raise RequestError(f"{SITE}={text!r} is neither 1 nor 0")
    return text in YES


def check_commercial(specs: Iterable[AssetSpec]) -> None:
    """Raise :class:`RequestError` if a model of ``specs`` may not be used commercially, or does not say that it may.

    A published model whose licence forbids it is refused before it is fetched.
    """
    users: dict[tuple[str, str], list[AssetSpec]] = {}
    for spec in specs:
        for kind, named in spec.recipe.model_refs().items():
            for part in named.parts(kind):
                users.setdefault(part, []).append(spec)
    refused = []
    for (kind, ref), who in users.items():
        known = published(ref)
        forbidden = known is not None and known.licence_class not in COMMERCIAL
        found = known if known and forbidden else models.part_licence(ref, kind)
        if found.licence_class not in COMMERCIAL:
            refused.append(f"{kind} model {ref}: {_what(found)}. {_used_by(who)}. {_way_out(found, ref)}")
    if refused:
        listed = "\n  - ".join(refused)
        raise RequestError(f"nothing was begun: the request is for commercial use (--commercial, {SITE})\n  - {listed}")


def _what(found: Licence) -> str:
    if found.licence_class == "unknown":
        return f"its licence is unknown, which counts as no ({found.why})"
    said = f"its licence is {found.name} ({found.licence_class}), says {found.stated_by}"
    return f"{said}: {found.conditions.rstrip('.')}" if found.conditions else said


def _used_by(specs: list[AssetSpec]) -> str:
    recipes = ", ".join(sorted({spec.recipe.name for spec in specs}))
    named = ", ".join(spec.asset_id for spec in specs[:NAMED]) + (" ..." if len(specs) > NAMED else "")
    return f"Used by recipe {recipes} in {len(specs)} {'asset' if len(specs) == 1 else 'assets'}: {named}"


def _way_out(found: Licence, ref: str) -> str:
    if found.licence_class == "unknown" and not Path(ref).expanduser().exists():
        return f"Fetch its model card (hf download {ref.partition('@')[0]} README.md), or choose another model"
    if found.licence_class == "unknown":
        return (
            "Choose another model, or, if you know its licence, state it in the front matter of a README.md in its "
            "folder (license: apache-2.0)"
        )
    return (
        "Choose another model, or, if its owner gave you another licence, state it in the front matter of a README.md "
        "in a folder of your own (license_name: its name, licence_class: conditions)"
    )


def show_models(recipes: Iterable[Recipe], *, as_json: bool) -> None:
    """Print the models that recipes name: where they are, ids, licences, and what is missing."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # to look is not to download
    rows = [_row(kind, ref, names) for (kind, ref), names in sorted(_users(recipes).items())]
    if as_json:
        print(json.dumps(rows))
        return
    columns = ["kind", "reference", "id", "licence", "licence_class", "recipes"]
    shown = [row | {"id": row["id"] or "not here", "recipes": ", ".join(row["recipes"])} for row in rows]
    print(aligned(columns, [[row[name] for name in columns] for row in shown]))
    print(_conditions(rows))
    for row in rows:
        if row["missing"]:
            print(f"\n{row['missing']}")


def planned(recipes: Iterable[Recipe]) -> list[dict[str, Any]]:
    """The licence of everything that recipes name, all of which is here."""
    return [
        {"kind": kind, "reference": ref, **models.part_licence(ref, kind).to_json()}
        for kind, ref in sorted(_users(recipes))
    ]


def _users(recipes: Iterable[Recipe]) -> dict[tuple[str, str], list[str]]:
    """Kind and reference of everything that recipes name, with their names."""
    users: dict[tuple[str, str], dict[str, None]] = {}
    for recipe in {id(recipe): recipe for recipe in recipes}.values():
        for kind, named in recipe.model_refs().items():
            for part in named.parts(kind):
                users.setdefault(part, {})[recipe.name] = None
    return {part: list(names) for part, names in users.items()}


def _row(kind: Any, ref: str, recipes: list[str]) -> dict[str, Any]:
    row = {"kind": kind, "reference": ref, "recipes": recipes, "id": "", "folder": "", "missing": ""}
    found = published(ref) or NOTHING
    try:
        row |= {"id": model_id(ref, kind), "folder": str(resolve_model(ref, kind))}
        found = models.part_licence(ref, kind)
    except RequestError as error:
        row["missing"] = str(error)
    return row | found.to_json() | {"stated_by": found.stated_by, "why": found.why}


def show_used_models(library: str, *, as_json: bool) -> None:
    """Print the models that a library's assets used, by the catalogue."""
    rows = query.rows(library, "select * from models order by kind, model_id")
    if as_json:
        print(json.dumps(rows, default=str))
        return
    columns = ["kind", "model_id", "licence", "licence_class", "assets"]
    print(aligned(columns, [["" if row[name] is None else row[name] for name in columns] for row in rows]))
    print(_conditions(rows))


def _conditions(rows: list[dict[str, Any]]) -> str:
    """A line for each licence that asks for something."""
    told = {row["licence"]: row["conditions"] for row in rows if row["conditions"]}
    return "".join(f"\n{name}: {text}" for name, text in told.items())
