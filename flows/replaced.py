"""Says, before anything is made, which delivered assets a manifest's rows would replace: the same id, another request.

The catalogue tells what was delivered; ``asset.json`` is read only for what the catalogue does not know.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import compress
from typing import Any

from catalog import query
from catalog.views import GOOD
from pipeline_core.config import Choice
from pipeline_core.deliverables import PROVENANCE
from pipeline_core.errors import RequestError
from pipeline_core.manifest import Manifest
from pipeline_core.spec import AssetSpec
from pipeline_core.stages import DELIVERY
from pipeline_core.storage import Library
from tasks.journey import Journey
from tasks.rules import candidate_seeds, seeds

SHOWN, NAMED, LONGEST = 10, 5, 80
FIELDS = ("prompt", "negative_prompt", "seed", "image", "image_elevation", "init_file", "parts", "height_m", "size_m")
"""What is compared beside the recipe; tags are no part of what an artist sees."""
DISTILLING = ("geometry", "appearance")
CHOSEN = {f"choice.{name}" for name in Choice.model_fields}

DELIVERED_SQL = f"""
select asset_id, arg_max(spec_json, event_id) as spec from stage_runs
where stage = '{DELIVERY}' and status in {GOOD} and asset_id in (select unnest(?)) group by asset_id
"""


@dataclass(frozen=True)
class Replaced:
    """A delivered asset that a row would replace. ``changed``: old and new value by field, or by dotted setting."""

    asset_id: str
    row: int
    changed: dict[str, tuple[Any, Any]]

    def __str__(self) -> str:
        told = ", ".join(f"{name} {_short(old)} by {_short(new)}" for name, (old, new) in self.changed.items())
        return f"row {self.row}, id, '{self.asset_id}': replaces a delivered asset: {told}"

    def to_json(self) -> dict[str, Any]:
        """For ``splatmill plan --json``."""
        return asdict(self)


def replaced(library: str, manifest: Manifest, missing: Sequence[Journey]) -> list[Replaced]:
    """The assets among ``missing`` that were delivered and are asked for otherwise now, in the manifest's order."""
    folder = Library(library)
    with ThreadPoolExecutor(folder.looks_at_once) as pool:
        told = pool.map(lambda each: (folder.asset_dir(each.asset_id) / PROVENANCE).exists(), missing)
        there = list(compress(missing, told))
    if not there:
        return []
    known, found = _delivered(library, [each.asset_id for each in there]), []
    for each in there:
        before = known.get(each.asset_id) or _told_by(folder, each.asset_id)
        if changed := _changed(before, each.spec):
            found.append(Replaced(each.asset_id, manifest.rows[each.asset_id], changed))
    return found


def warnings(manifest: Manifest, found: Sequence[Replaced]) -> list[str]:
    """What people are told: how many, and the first of them."""
    if not found:
        return []
    names = ", ".join(each.asset_id for each in found[:NAMED]) + (" ..." if len(found) > NAMED else "")
    told = f"{len(found)} delivered asset{'s' * (len(found) > 1)} would be replaced"
    head = f"{manifest.path}: {told}: {names}. Rows with ids of their own keep both"
    return [head, *(f"{manifest.path}, {each}" for each in found[:SHOWN])]


def _delivered(library: str, names: list[str]) -> dict[str, dict[str, Any]]:
    """The requests by which assets were delivered last, as far as the catalogue knows."""
    try:
        rows = query.rows(library, DELIVERED_SQL, [names])
    except RequestError:  # a damaged catalogue: the files know
        return {}
    return {row["asset_id"]: json.loads(row["spec"]) for row in rows if row["spec"]}


def _told_by(library: Library, asset_id: str) -> dict[str, Any]:
    """The request that ``asset.json`` tells of; empty where it cannot be read."""
    try:
        spec = json.loads((library.asset_dir(asset_id) / PROVENANCE).read_bytes())["spec"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return spec if isinstance(spec, dict) else {}


def _changed(before: dict[str, Any], spec: AssetSpec) -> dict[str, tuple[Any, Any]]:
    """Old and new value of what differs; a seed that the asset may come to be made from does not."""
    if not before:
        return {}
    now, changed = spec.to_json(), dict[str, tuple[Any, Any]]()
    possible = {each for seed in seeds(spec.seed) for each in candidate_seeds(seed, spec.recipe.choice.candidates)}
    for name in FIELDS:
        old, new = before.get(name), now.get(name)
        same = old in possible if name == "seed" else _content(old) == _content(new)
        if not same:
            changed[name] = _told(old), _told(new)
    recipe = before.get("recipe") or {}
    if spec.recipe.choice.start_margin is not None and not any(
        recipe.get(each, {}).get("steps") for each in DISTILLING
    ):
        recipe |= {each: recipe.get(each, {}) | {"steps": now["recipe"][each]["steps"]} for each in DISTILLING}
    return changed | _settings(recipe, now["recipe"])


def _settings(before: dict[str, Any], now: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """The recipe's name where that differs, else the settings that do; not by what it was chosen."""
    old, new = ({name: value for name, value in leaves(each) if name not in CHOSEN} for each in (before, now))
    if old.get("name") != new["name"]:
        return {"recipe": (old.get("name"), new["name"])}
    return {name: (old.get(name), new.get(name)) for name in {**old, **new} if old.get(name) != new.get(name)}


def _content(value: Any) -> Any:
    """What a value is compared by: a file by its content, whatever it is called."""
    return value["sha256"] if isinstance(value, dict) else value


def _told(value: Any) -> Any:
    return f"{value['name']} ({value['sha256'][:8]})" if isinstance(value, dict) else value


def _short(value: Any) -> str:
    text = "none" if value is None else repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def leaves(tree: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted names and values of a settings tree."""
    found = []
    for name, value in tree.items():
        found += leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else [(prefix + name, value)]
    return found
