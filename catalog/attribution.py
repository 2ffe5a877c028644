"""Which models made some assets, and what their licences ask for: ``ATTRIBUTION.md`` and ``attribution.json``.

    write_attribution("library", "out", ["mug", "chair"])

It names each model with the hash of its weights, its licence, class, conditions and address, and the assets whose
current stages used it; and the files of the users' own that assets were made from. Everything is of the catalogue;
nothing is dated, so the same assets give the same files.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from catalog import guard, query
from catalog.gallery import tags_of
from catalog.store import Store, open_store
from pipeline_core.errors import RequestError
from pipeline_core.files import write_json, write_text
from pipeline_core.priors.licences import KEPT, named, read_back, strictest
from pipeline_core.spec import FILES
from pipeline_core.version import code_version

PAGE, DATA = "ATTRIBUTION.md", "attribution.json"
LISTED = 50
STARTER = (
    "The starter's weights were trained by splatmill on its own procedural props, which are drawn by its code; nothing "
    "in them derives from third-party images or models."
)
DELIVERED = "delivered_at is not null"
STARTED = ", ".join(f"'{column}': spec_json->>'$.{column}.name'" for column in FILES)
ASSETS_SQL = f"""
select asset_id, prompt, licence_class, code_version, {{{STARTED}}} as files from assets
where {DELIVERED} and asset_id in (select unnest(?::varchar[])) order by asset_id
"""
MODELS_SQL = """
select lineage.asset_id, model_id, kind, licence, models.licence_class, conditions, licence_link as link, parts
from lineage join models using (model_id) left join (
    select asset_id as model_id, spec_json->>'$.parts' as parts from stage_runs where stage = 'model' and is_latest
) using (model_id)
where lineage.asset_id in (select unnest(?::varchar[]))
group by all order by all
"""


def select(
    library: str | os.PathLike[str] | Store, sql: str = "", tags: Mapping[str, str] | None = None, *, live: bool = False
) -> list[str]:
    """Ids of delivered assets: all, or those that a guarded query answers as ``asset_id``; and of these, with ``tags``.

    Raises :class:`RequestError` for an answer without that column, and what :func:`catalog.guard.ask` raises.
    """
    rows = query.rows(library, f"select asset_id, category, spec_json from assets where {DELIVERED} order by asset_id")
    wanted = None
    if sql:
        answer = guard.ask(library, sql, live=live, limits=guard.Limits(rows=10_000_000)).table
        if "asset_id" not in answer.column_names:
            raise RequestError(f"--sql must answer with a column asset_id; it has {', '.join(answer.column_names)}")
        wanted = set(answer.column("asset_id").to_pylist())
    asked = (tags or {}).items()
    return [
        row["asset_id"]
        for row in rows
        if (wanted is None or row["asset_id"] in wanted)
        and asked <= tags_of(row).items()
    ]


def attribution(library: str | os.PathLike[str] | Store, asset_ids: Iterable[str]) -> dict[str, Any]:
    """The attribution of some delivered assets, as plain data. Raises :class:`RequestError` for ids that are none."""
    ids = sorted(set(asset_ids))
    store = open_store(library)
    told, used = query.rows(store, ASSETS_SQL, [ids]), query.rows(store, MODELS_SQL, [ids])
    for each in told:
        each["files"] = {column: name for column, name in each["files"].items() if name}
    unknown = sorted(set(ids) - {each["asset_id"] for each in told})
    if unknown:
        raise RequestError(f"{', '.join(unknown[:5])}: no delivered asset of {store.library}; splatmill status tells")
    models: dict[str, dict[str, Any]] = {}
    for row in used:
        asset_id, model_id = row.pop("asset_id"), row["model_id"]
        models.setdefault(model_id, _model(row))["assets"].append(asset_id)
    own = named("Apache-2.0")
    versions = sorted({each["code_version"] for each in told if each["code_version"]})
    made_by = {"name": "splatmill", "versions": versions or [code_version()], "licence": own.name, "link": own.link}
    return {
        "licence_class": strictest(each["licence_class"] for each in models.values()),
        "splatmill": made_by,
        "models": [models[model_id] for model_id in sorted(models)],
        "assets": told,
    }


def _model(row: dict[str, Any]) -> dict[str, Any]:
    """A model's entry; what an older declaration did not keep follows from the licence's name."""
    name, _, digest = row["model_id"].rpartition("@")
    by_name = read_back(row["licence"]).to_json()
    kept = {key: row[key] or by_name[key] for key in KEPT}
    entry = {"model_id": row["model_id"], "name": name or row["model_id"], "sha256_begins": digest if name else ""}
    trained_on = {"trained_on": STARTER} if name == "starter" else {}
    made_of = {"parts": json.loads(row["parts"])} if row["parts"] else {}
    licensed = {"kind": row["kind"], "licence": row["licence"] or "unknown", **kept}
    return entry | licensed | made_of | trained_on | {"assets": []}


def write_attribution(library: str | os.PathLike[str] | Store, folder: Path, asset_ids: Iterable[str]) -> Path:
    """Write both files into ``folder``; returns the page's path."""
    told = attribution(library, asset_ids)
    write_json(folder / DATA, told)
    write_text(folder / PAGE, page(told))
    return folder / PAGE


def page(told: Mapping[str, Any]) -> str:
    """:data:`PAGE`. What users wrote is shown as text."""
    assets, models = told["assets"], told["models"]
    own = told["splatmill"]
    lines = [
        "# Attribution",
        "",
        f"{len(assets)} assets, made with {len(models)} models. The strictest licence is of class "
        f"**{told['licence_class']}**. The sentences about licences are summaries: the licences themselves hold.",
        "",
        f"Made with splatmill ({', '.join(map(text, own['versions']))}), {own['licence']}, {own['link']}. That is the "
        "licence of its code, and does not reach what it makes.",
    ]
    for each in models:
        lines += ["", f"## {text(each['name'])} ({text(each['kind'] or 'model')})", ""]
        facts = {
            "id": each["model_id"],
            "licence": f"{each['licence']} ({each['licence_class']})",
            "to be done": each["conditions"],
            "trained on": each.get("trained_on"),
            f"used by {len(each['assets'])} assets": _listed(each["assets"]),
        }
        lines += [f"- {name}: {text(value)}" for name, value in facts.items() if value]
        lines += [f"- read it at {_address(link)}" for link in each["link"].split(", ") if link]
        for part in each.get("parts", ()):
            words = f"{part['kind']} {part['name']}: {part['licence']} ({part['licence_class']})"
            lines.append(f"- part of it: {text(words)}")
    lines += ["", "## Assets", ""]
    lines += [f"- {text(each['asset_id'])}: {text(each['prompt'] or '')}{_files(each)}" for each in assets[:LISTED]]
    if len(assets) > LISTED:
        lines.append(f"- and {len(assets) - LISTED} more, all of them in {DATA}")
    return "\n".join(lines) + "\n"


def _files(asset: Mapping[str, Any]) -> str:
    told = ", ".join(f"{column} {name}" for column, name in asset["files"].items())
    return f" (made from {text(told)}, whose licence splatmill does not know)" if told else ""


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more, all of them in {DATA}" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _address(link: str) -> str:
    return f"<{link}>" if re.fullmatch(r"https?://[^\s<>]+", link) else text(link)


def text(value: Any) -> str:
    """Text that Markdown shows as it is, in one line: no markup, no HTML."""
    plain = " ".join(str(value).split())
    plain = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in plain)
    plain = plain.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    plain = re.sub(r"([\\`*_\[\]#|~])", r"\\\1", plain)
    return re.sub(r"^(\d*)([-+.)])", r"\1\\\2", plain)  # what would begin a list
