"""``splatmill export --dataset``: assets as a dataset to train on, with a card, in splits that stay as they are.

    make_dataset(library, choose(library, [], everything=True), Path("props"), Asked(rejected=True))

Of what was chosen it takes what is accepted. A split is the hash of the prompt's words: seeds of one prompt share it,
and no asset that comes later moves one. A near-duplicate of what came before it is left out. The folder is made beside
its place, shard after shard, and appears whole; a run that was interrupted goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from catalog import attribution, query
from catalog.attribution import text
from catalog.store import Store, open_store
from flows.export import Asked, check_target, choose, folder_of
from flows.licences import SITE, site_is_commercial
from pipeline_core.deliverables import PROVENANCE
from pipeline_core.errors import DiskError, RequestError, SplatmillError
from pipeline_core.files import disk_errors, lock, rename, write_json, write_text
from pipeline_core.packing.finished import Finished
from pipeline_core.packing.shards import COLUMNS, FILES, facts_of, sample, schema, write_parquet, write_tar
from pipeline_core.priors.licences import COMMERCIAL
from pipeline_core.storage import sha256_file

FORMATS = ("webdataset", "parquet")
SPLITS = {"train": 0.8, "validation": 0.1, "test": 0.1}
TOLD, CARD, PLACES = "dataset.json", "README.md", ".places"
ROWS_SQL = """
select asset_id, prompt, seed, recipe, category, accepted, verdict, clauses, licence_class, first_seen_at
from assets left join (
    select asset_id, list({'name': name, 'bound': bound, 'figure': figure, 'held': held} order by name) as clauses
    from verdicts where is_latest group by asset_id
) using (asset_id)
where delivered_at is not null and asset_id in (select unnest(?::varchar[]))
order by coalesce(accepted, false) desc, first_seen_at, asset_id
"""
"""What is chosen: what is accepted first, then in the order in which it came."""
PAIRS_SQL = """
select asset_id, other_id from duplicates
where asset_id in (select unnest($1::varchar[])) and other_id in (select unnest($1::varchar[]))
"""


@dataclass
class Plan:
    """What a dataset holds: rows by shard (``train-00000``), and why the others are left out, by asset."""

    shards: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All rows."""
        return [row for rows in self.shards.values() for row in rows]


def show_dataset(library: str, target: Path, asked: Asked, *, as_json: bool) -> int:
    """Make the dataset and print what became of it; returns the exit code: 1 where an asset could not be read."""
    chosen = choose(library, asked.select, everything=asked.everything, tags=asked.tags, rejected=True)
    told = make_dataset(library, chosen, target, asked)
    if as_json:
        print(json.dumps({"to": str(target)} | told))
    else:
        reasons = Counter(why.partition(":")[0] for why in told["left_out"].values())
        splits = ", ".join(f"{count} {name}" for name, count in told["splits"].items())
        left = "".join(f"; {count} left out: {why}" for why, count in sorted(reasons.items()))
        print(f"{sum(told['splits'].values())} assets in {target} ({splits}){left}; {target / CARD} is its card")
        for asset_id, why in told["failed"].items():
            print(f"{asset_id}: not exported: {why}")
    return 1 if told["failed"] else 0


def make_dataset(library: str, asset_ids: Sequence[str], target: Path, asked: Asked) -> dict[str, Any]:
    """Write the dataset of ``asset_ids`` into ``target``; returns what ``dataset.json`` says.

    Raises :class:`RequestError`, before anything is written, where the licences forbid it, nothing is left, or
    something else is there.
    """
    store = open_store(library)
    check_target(store, target)
    wanted = tuple(asked.formats.split(",")) if asked.formats else FORMATS
    if unknown := sorted(set(wanted) - set(FORMATS)):
        raise RequestError(f"--format {','.join(unknown)}: a dataset is of {' and '.join(FORMATS)}")
    plan = plan_dataset(store, asset_ids, asked)
    if not plan.shards:
        why = "; ".join(f"{name}: {why}" for name, why in [*plan.left_out.items(), *plan.failed.items()][:3])
        raise RequestError(f"nothing to export: none of {len(asset_ids)} assets can be in it ({why})")
    if asked.commercial or site_is_commercial():
        check_licences(plan.rows)
    digest = hashlib.sha256(json.dumps([wanted, plan.shards], sort_keys=True, default=str).encode()).hexdigest()
    target.parent.mkdir(parents=True, exist_ok=True)
    with lock(target.parent / f".{target.name}.lock", wait=False) as mine:
        if not mine:
            raise RequestError(f"--to {target}: another export is writing there; wait for it")
        if target.exists() and any(target.iterdir()):
            return already(target, digest)
        part = target.with_name(f".{target.name}.{digest[:16]}.part")
        with disk_errors(part):
            for shard, rows in plan.shards.items():
                if not (part / PLACES / f"{shard}.json").is_file():
                    write_shard(store, part, shard, rows, wanted, plan)
            told = conclude(store, part, plan, digest)
            shutil.rmtree(part / PLACES)
            rename(part, target)
    return told


def already(target: Path, digest: str) -> dict[str, Any]:
    """What the dataset says that is there, where it is of this very plan."""
    try:
        told: dict[str, Any] = json.loads((target / TOLD).read_bytes())
    except (OSError, ValueError):
        told = {}
    if told.get("plan") != digest:
        raise RequestError(f"--to {target}: something else is there, and no dataset is overwritten; give a new folder")
    return told


# --- what is in it ---------------------------------------------------------------------------------------------------


def plan_dataset(store: Store, asset_ids: Sequence[str], asked: Asked) -> Plan:
    """Which of ``asset_ids`` are in it, and in which shard; samples lie in the order of their names' hashes."""
    plan, rows = Plan(), []
    for row in kept(store, asset_ids, asked, plan):
        try:
            with store.open(f"assets/{row['asset_id']}/{PROVENANCE}") as file:
                told = json.load(file)
            files = {file: told["files"][file] for file in FILES.values() if file in told["files"]}
            of, size = {file: each["sha256"] for file, each in files.items()}, sum(e["bytes"] for e in files.values())
            rows.append(facts_of(told) | row | {"of": of, "size": size})
        except (OSError, ValueError, KeyError, TypeError) as error:
            plan.failed[row["asset_id"]] = f"its {PROVENANCE} cannot be read ({error!r}): make the asset again"
    for split in SPLITS:
        size, number = 0, -1
        of_split = [row for row in rows if row["split"] == split]
        for row in sorted(of_split, key=lambda row: hashlib.sha256(row["asset_id"].encode()).digest()):
            more = row.pop("size")
            if number < 0 or size + more > asked.shard_mb * 1e6:
                number, size = number + 1, 0
            size += more
            plan.shards.setdefault(f"{split}-{number:05d}", []).append(row)
    return plan


def kept(store: Store, asset_ids: Sequence[str], asked: Asked, plan: Plan) -> Iterator[dict[str, Any]]:
    """The rows of what is accepted (``--with-rejects``: rejected too), and no near-duplicate of an earlier one.

    With ``--with-duplicates`` only those are left out that would be in another split than what they look like.
    """
    found = query.rows(store, ROWS_SQL, [list(asset_ids)])
    near: dict[str, set[str]] = {}
    for pair in query.rows(store, PAIRS_SQL, [list(asset_ids)]):
        near.setdefault(pair["asset_id"], set()).add(pair["other_id"])
        near.setdefault(pair["other_id"], set()).add(pair["asset_id"])
    plan.left_out |= dict.fromkeys(set(asset_ids) - {row["asset_id"] for row in found}, "not delivered")
    splits: dict[str, str] = {}
    for row in found:
        asset_id = row["asset_id"]
        group, split = split_of(row["prompt"] or "")
        like = sorted(near.get(asset_id, set()) & splits.keys())
        apart = [each for each in like if splits[each] != split]
        if not (row["accepted"] or (asked.rejected and row["accepted"] is False)):
            plan.left_out[asset_id] = "rejected" if row["accepted"] is False else "nobody and nothing judged it"
        elif apart or (like and not asked.with_duplicates):
            plan.left_out[asset_id] = f"near-duplicate: it looks like {(apart or like)[0]}"
        else:
            splits[asset_id] = split
            del row["first_seen_at"]
            yield row | {"group": group, "split": split}


def split_of(prompt: str) -> tuple[str, str]:
    """Group and split of a prompt: both are of its words alone, whatever else there is."""
    words = " ".join(re.findall(r"\w+", prompt.casefold())) or prompt
    group = hashlib.sha256(words.encode()).hexdigest()[:16]
    at, below = int(group, 16) / 2**64, 0.0
    for name, share in SPLITS.items():
        below += share
        if at < below:
            return group, name
    return group, name


def check_licences(rows: Sequence[Mapping[str, Any]]) -> None:
    """Raise :class:`RequestError` where a model of an asset may not be used commercially, or does not say so."""
    refused = [row for row in rows if row["licence_class"] not in COMMERCIAL]
    if refused:
        named = ", ".join(f"{row['asset_id']} ({row['licence_class']})" for row in refused[:5])
        raise RequestError(
            f"nothing was written: the dataset is for commercial use (--commercial, {SITE}), and the licences of the "
            f"models of {len(refused)} assets do not allow it: {named}. Choose others: "
            "\"select asset_id from assets where licence_class in ('open', 'conditions')\""
        )


# --- writing it ------------------------------------------------------------------------------------------------------


def write_shard(
    store: Store, part: Path, shard: str, rows: Sequence[dict[str, Any]], wanted: Sequence[str], plan: Plan
) -> None:
    """Write one shard in the wanted formats, and then the sign that it is whole."""
    tar = f"webdataset/{shard}.tar" if "webdataset" in wanted else None
    failed: dict[str, str] = {}
    lines: list[dict[str, Any]] = []

    def samples() -> Iterator[tuple[str, dict[str, bytes]]]:
        for row in rows:
            try:
                with folder_of(store, row["asset_id"]) as folder:
                    files = sample(Finished(folder), {name: row[name] for name in row if name != "of"})
            except DiskError:
                raise
            except (SplatmillError, OSError, ValueError) as error:
                failed[row["asset_id"]] = str(error)
                continue
            whole = {} if tar else {name: files.get(name) for name in ("glb", "ply")}
            preview = {"bytes": files.get("preview.png"), "path": f"{row['asset_id']}.preview.png"}
            lines.append({name: row[name] for name in COLUMNS if name in row} | {"preview": preview} | whole)
            lines[-1] |= {"shard": tar, "members": [f"{row['asset_id']}.{name}" for name in files]}
            yield row["asset_id"], files

    files = [f"webdataset/{shard}.tar"] if tar else []
    if tar:
        write_tar(part / tar, samples())
    else:
        for _ in samples():
            pass
    if "parquet" in wanted:
        files.append(f"parquet/{shard}.parquet")
        names = {name for row in plan.rows for name in row["metrics"] or {}}
        write_parquet(part / files[-1], lines, schema(names))
    places = [
        {"file": each, "bytes": (part / each).stat().st_size, "sha256": sha256_file(part / each)} for each in files
    ]
    whole = [line["asset_id"] for line in lines]
    write_json(part / PLACES / f"{shard}.json", {"files": places, "assets": whole, "failed": failed})


def conclude(store: Store, part: Path, plan: Plan, digest: str) -> dict[str, Any]:
    """Write the attribution, the card and ``dataset.json``; returns what the last says."""
    told = {shard: json.loads((part / PLACES / f"{shard}.json").read_bytes()) for shard in plan.shards}
    for each in told.values():
        plan.failed |= each["failed"]
    there = {name for each in told.values() for name in each["assets"]}
    rows = [row for row in plan.rows if row["asset_id"] in there]
    if not rows:
        raise RequestError(f"nothing to export: {'; '.join(f'{name}: {why}' for name, why in plan.failed.items())}")
    made_by = attribution.attribution(store, sorted(there))
    write_json(part / attribution.DATA, made_by)
    write_text(part / attribution.PAGE, attribution.page(made_by))
    counts = Counter(row["split"] for row in rows)
    document = {
        "plan": digest,
        "splits": {split: counts[split] for split in SPLITS if counts[split]},
        "files": [file for each in told.values() for file in each["files"]],
        "left_out": dict(sorted(plan.left_out.items())),
        "failed": dict(sorted(plan.failed.items())),
    }
    write_text(part / CARD, card(document, rows, made_by))
    write_json(part / TOLD, document)
    return document


# --- its card --------------------------------------------------------------------------------------------------------


def card(told: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], made_by: Mapping[str, Any]) -> str:
    """The dataset's card: front matter as the Hugging Face hub reads it, then what is in it and how it was made."""
    files = [each["file"] for each in told["files"]]
    head = licence(made_by) | {
        "pretty_name": "Generated 3D assets",
        "size_categories": [size_category(len(rows))],
        "task_categories": ["text-to-3d", "image-to-3d"],
        "tags": ["3d", "gaussian-splatting", "mesh", "synthetic", "splatmill"],
        "configs": [{"config_name": "default", "data_files": _places(files, list(told["splits"]))}],
    }
    rejects = sum(not row["accepted"] for row in rows)
    reasons = Counter(why.partition(":")[0] for why in told["left_out"].values())
    left = "; ".join(f"{count} {why}" for why, count in sorted(reasons.items())) or "none"
    splits = "\n".join(f"| {name} | {count} |" for name, count in told["splits"].items())
    columns = "\n".join(f"| `{name}` | {words} |" for name, (_, words) in COLUMNS.items())
    models = "\n".join(
        f"- {text(each['name'])} ({text(each['kind'] or 'model')}): {text(each['licence'])}, "
        f"{each['licence_class']}{'. ' + text(each['conditions']) if each['conditions'] else ''}"
        for each in made_by["models"]
    )
    versions = ", ".join(map(text, made_by["splatmill"]["versions"]))
    started = " or files of their users' own" if any(each["files"] for each in made_by["assets"]) else ""
    ways = {
        ".parquet": """    datasets.load_dataset("FOLDER")  # a row an asset""",
        ".tar": """    datasets.load_dataset("webdataset", data_files={"train": "FOLDER/webdataset/train-*.tar"})""",
    }
    reading = "\n".join(way for suffix, way in ways.items() if any(each.endswith(suffix) for each in files))
    return f"""---
{yaml.safe_dump(head, sort_keys=False, allow_unicode=True)}---

# Generated 3D assets

{len(rows)} assets, each a textured mesh (GLB, metres, +Y up, front +Z) and a Gaussian splat (PLY) with pictures, its
prompt as caption, and what was measured of it. {sum(each["bytes"] for each in told["files"]) / 1e6:.0f} MB.

**All of it is generated**, by models, from text{started}. Every picture and GLB says so itself (XMP, IPTC digital
source type `trainedAlgorithmicMedia`), and so does the column `digital_source_type`.

{reading}

## Splits

| split | assets |
|---|---|
{splits}

A split follows from the hash of the prompt's words (80, 10 and 10 % of prompts): seeds of one prompt are in one split,
and an asset that comes later moves no other. No near-duplicate of an asset is in another split.

## What is in it, and what is not

{len(rows) - rejects} assets are accepted, by a person or else by the contract they were made under; {rejects} are
rejected ones, with their clauses, as negatives (`accepted` is false). Left out: {left}. `dataset.json` names each.

A WebDataset sample has `preview.png`, `turntable.webp`, `view0.png` ... (azimuths in its JSON), `glb`, `ply`, `txt`
(the prompt) and `json`. A Parquet row has:

| column | meaning |
|---|---|
{columns}

## How it was made, and licences

Made with splatmill ({versions}): a point prior gives a start, score distillation of an image prior a splat, of which
a mesh is taken and textured. The models:

{models}

Their strictest licence is of class **{made_by["licence_class"]}**. [{attribution.PAGE}]({attribution.PAGE}) and
[{attribution.DATA}]({attribution.DATA}) tell each model, its conditions, and the assets made with it. These sentences
are summaries: the licences themselves hold.
"""


def licence(made_by: Mapping[str, Any]) -> dict[str, Any]:
    """The front matter's licence: that of all models, where it is one and may be used by all; else ``other``."""
    names = {each["licence"] for each in made_by["models"]}
    own = any(each["files"] for each in made_by["assets"])
    if len(names) == 1 and made_by["licence_class"] in COMMERCIAL and not own:
        return {"license": names.pop().lower()}
    kind = "unknown" if own else made_by["licence_class"]
    return {"license": "other", "license_name": f"models-{kind}", "license_link": attribution.PAGE}


def size_category(count: int) -> str:
    """The hub's word for a dataset's size."""
    for below, word in ((10**3, "n<1K"), (10**4, "1K<n<10K"), (10**5, "10K<n<100K"), (10**6, "100K<n<1M")):
        if count < below:
            return word
    return "1M<n<10M"


def _places(files: Sequence[str], splits: Sequence[str]) -> list[dict[str, str]]:
    """Where the hub's library finds each split: the Parquet files, where there are some; it reads one kind alone."""
    kind = "parquet/{}-*.parquet" if any(each.endswith(".parquet") for each in files) else "webdataset/{}-*.tar"
    return [{"split": split, "path": kind.format(split)} for split in splits]
