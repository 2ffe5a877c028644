"""What ``plan``, ``status`` and ``retry`` look up: files and catalogue, no models, no server."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from catalog import query
from catalog.render import aligned
from flows import replaced
from flows.account import open_accounts
from flows.batch import BatchRequest, plan_batch
from flows.licences import planned
from flows.prompts import shorten, warnings, words_of_rejected
from flows.replaced import leaves
from pipeline_core import models
from pipeline_core.acceptance import Held
from pipeline_core.config import Evaluate
from pipeline_core.errors import RequestError
from pipeline_core.metrics.judges import judge_of
from pipeline_core.storage import Library
from tasks.journey import finished, stages_done

SHOWN_PARTS = 10
"""Assets whose parts ``plan`` prints."""


def show_plan(request: BatchRequest, *, as_json: bool) -> None:
    """Print, for every asset, which stages are there and which would run, and the resolved recipes."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")  # to look is not to download
    manifest, journeys = plan_batch(request)
    rows: list[dict[str, Any]] = []
    for each in journeys:
        done = list(each.keys) if each.turned_down or finished(each) else stages_done(each)
        would_run = [stage for stage in each.keys if stage not in done]
        rows.append(
            {
                "asset_id": each.asset_id,
                "prompt": each.spec.prompt,
                "recipe": each.spec.recipe.name,
                "cached": done,
                "would_run": would_run,
                "prompt_reading": each.reading.to_json(),
            }
            | ({"rejected": str(each.turned_down)} if each.turned_down else {})
        )
    recipes = {each.spec.recipe.fingerprint(): each.spec.recipe for each in journeys}
    models = {kind: sorted({each.models[kind] for each in journeys}) for kind in ("image", "points")}
    licences = planned(recipes.values())
    refused = [str(problem) for problem in manifest.problems]
    makes = {each["asset_id"] for each in rows if each["would_run"]}
    taken = replaced.replaced(request.library, manifest, [each for each in journeys if each.asset_id in makes])
    rejected = [each for each in journeys if each.turned_down]
    warned = replaced.warnings(manifest, taken) + words_of_rejected(manifest, rejected)
    warned += warnings(manifest, [each for each in journeys if not each.turned_down])
    if as_json:
        resolved = {name: recipe.model_dump(mode="json") for name, recipe in recipes.items()}
        specs = [each.spec.to_json() for each in journeys]
        told = {"assets": rows, "specs": specs, "recipes": resolved, "models": models, "licences": licences}
        taken_json = [each.to_json() for each in taken]
        print(json.dumps(told | {"refused": refused, "warnings": warned, "replaced": taken_json}))
        return
    composed = [each.spec for each in journeys if each.spec.parts]
    shown = [[r["asset_id"], r["recipe"], len(r["cached"]), ", ".join(r["would_run"]) or "nothing"] for r in rows]
    print(aligned(["asset", "recipe", "stages there", "would run"], shown))
    for spec in composed[:SHOWN_PARTS]:
        print(f"\n{spec.asset_id}, put together from:")
        print("\n".join(f"  parts[{number}] {part.told}" for number, part in enumerate(spec.parts)))
    if len(composed) > SHOWN_PARTS:
        print(f"\n{len(composed) - SHOWN_PARTS} more are put together from parts; --json has all")
    for fingerprint, recipe in recipes.items():
        print(f"\nrecipe {recipe.name} ({fingerprint}), as resolved:")
        print("\n".join(f"  {name} = {json.dumps(value)}" for name, value in leaves(recipe.model_dump(mode="json"))))
    for kind, names in models.items():
        print(f"\n{kind} model: {', '.join(names)}", end="")
    for row in licences:
        said = f"{row['licence']} ({row['licence_class']}). {row['conditions']}".rstrip()
        print(f"\nlicence of {row['kind']} model {row['reference']}: {said}", end="")
    todo = sum(bool(r["would_run"]) for r in rows)
    turned_down = f", {len(rejected)} rejected before any work" if rejected else ""
    print(f"\n\n{len(rows)} assets: {len(rows) - todo - len(rejected)} finished, {todo} to make{turned_down}")
    for line in refused:
        print(f"refused: {line}")
    print("\n".join(shorten(warned, "--json")), end="\n" if warned else "")


STATUS_SQL = "select status, count(*) as assets from assets group by all order by status"
RUNS_SQL = """
select run_id, strftime(started_at, '%Y-%m-%d %H:%M') as started, round(wall_s) as seconds, delivered, failed,
    rejected
from runs order by started_at desc limit 5
"""
REJECTED_SQL = """
select asset_id, name, bound, figure, held from verdicts
where is_latest and not held and asset_id in (select asset_id from assets where status = 'rejected') order by asset_id
"""
UNREAD_SQL = "select count(*) as assets from assets where prompt_warnings is not null"
FINDINGS_SQL = """
select code, severity, count(distinct asset_id) as assets, any_value(asset_id) as sample
from findings where is_latest and severity <> 'info' group by all order by severity, assets desc, code
"""
FAILED_SQL = """
select asset_id, error_stage, error_class, error_type, error_message
from assets where error_type is not null order by error_stage, asset_id
"""


def show_status(library: str, *, as_json: bool) -> None:
    """Print the library's assets by status, its open and its last runs, and the failures that stand."""
    must_exist(library)
    open_runs = open_accounts(library)
    by_status = query.rows(library, STATUS_SQL)
    runs = query.rows(library, RUNS_SQL)
    failed = query.rows(library, FAILED_SQL)
    unread = query.rows(library, UNREAD_SQL)[0]["assets"]
    findings = query.rows(library, FINDINGS_SQL)
    clauses = query.rows(library, REJECTED_SQL)
    rejected = [{"asset_id": row.pop("asset_id"), "why": str(Held(**row))} for row in clauses]
    if as_json:
        told = {"assets": by_status, "runs": runs, "failed": failed, "unread": unread, "findings": findings}
        told |= {"rejected": rejected, "open": [asdict(each) for each in open_runs]}
        print(json.dumps(told, default=str))
        return
    print(aligned(["status", "assets"], [[r["status"], r["assets"]] for r in by_status]))
    columns = ["run_id", "started", "seconds", "delivered", "failed", "rejected"]
    print("\n" + aligned(columns, [[r[c] for c in columns] for r in runs]))
    if open_runs:
        columns = ["run_id", "state", "user", "asked", "made", "failed", "left", "next"]
        shown = [["-" if (value := getattr(each, name)) is None else value for name in columns] for each in open_runs]
        print("\n" + aligned(["open run", *columns[1:]], shown))
    if unread:
        print(f"\n{unread} assets whose prompt was not read whole: prompt_warnings in splatmill sql 'from assets'")
    if findings:
        shown = [[r["code"], r["severity"], r["assets"], r["sample"]] for r in findings]
        print("\n" + aligned(["finding", "severity", "assets", "for example"], shown))
    if rejected:
        print("\n" + aligned(["rejected asset", "clause"], [list(each.values()) for each in rejected]))
    if failed:
        shown = [[r["asset_id"], r["error_stage"], r["error_class"], (r["error_message"] or "")[:90]] for r in failed]
        print("\n" + aligned(["failed asset", "stage", "class", "message"], shown))


RETRIED_SQL = "select asset_id from assets where status = 'rejected' or error_type is not null"


def named_assets(library: str, names: list[str]) -> list[str]:
    """``names``, which are assets that failed or were rejected. Raises :class:`RequestError` for others."""
    must_exist(library)
    there = {row["asset_id"] for row in query.rows(library, RETRIED_SQL)}
    if others := [name for name in names if name not in there]:
        raise RequestError(f"--asset {others[0]}: it neither failed nor was rejected; splatmill status tells which did")
    return names


def failed_assets(library: str, *, stage: str = "", error_type: str = "", error_class: str = "") -> list[str]:
    """Ids of the assets whose last attempt failed; arguments that are given must equal the asset's column."""
    must_exist(library)
    wanted = {"error_stage": stage, "error_type": error_type, "error_class": error_class}
    return [
        row["asset_id"]
        for row in query.rows(library, FAILED_SQL)
        if row["error_stage"] != "request" and all(not text or row[name] == text for name, text in wanted.items())
    ]


def must_exist(library: str) -> None:
    """Raise :class:`RequestError` where there is no library; one in which nothing was made yet is a library."""
    if "://" not in library and not any((Path(library) / name).is_dir() for name in ("catalog", "assets")):
        raise RequestError(f"--library {library}: no library here; splatmill run makes one")


HEADLINES = (
    "r_precision",
    "caption_rank",
    "caption_margin",
    "view_agreement",
    "category_correct",
    "colour_correct",
    "view_consistency",
    "janus_score",
    "f_score",
)


def _own_judge(asset: Mapping[str, Any]) -> str | None:
    """The judge that scored an asset when it was made."""
    recipe = json.loads(asset["spec_json"])["recipe"]
    return judge_of(asset["prompt"], Evaluate(judge=recipe.get("evaluate", {}).get("judge")))


def show_scores(library: str, wanted: list[str], judge: str | None, *, as_json: bool) -> None:
    """Print how ``judge``, or else each asset's own, rates delivered assets: rank and margin among 32 captions,
    category, colour, fronts, shape."""
    must_exist(library)
    made = {row["asset_id"]: row for row in query.assets(library) if row["glb_path"]}
    unknown = [asset_id for asset_id in wanted if asset_id not in made]
    if unknown:
        raise RequestError(f"{', '.join(unknown)}: no such asset in {library}; splatmill status lists what there is")
    from pipeline_core.io.gltf import load_glb
    from pipeline_core.metrics.fidelity import score_mesh
    from pipeline_core.metrics.judge import load_judge

    scores: dict[str, dict[str, float]] = {}
    for asset_id in wanted or made:
        ref = judge or _own_judge(made[asset_id])
        if ref is None:
            scores[asset_id] = {"judged": 0.0}
            continue
        textured = load_glb(Library(library).file(made[asset_id]["glb_path"]))
        scores[asset_id] = score_mesh(textured, made[asset_id]["prompt"], judge=load_judge(ref, models.device()))
    if as_json:
        print(json.dumps(scores))
        return
    rows = [[a, *(f"{each[name]:.2f}" if name in each else "-" for name in HEADLINES)] for a, each in scores.items()]
    means = []
    for name in HEADLINES:
        values = [each[name] for each in scores.values() if name in each]
        means.append(f"{sum(values) / len(values):.2f}" if values else "-")
    print(aligned(["asset", *HEADLINES], [*rows, [f"mean of {len(scores)}", *means]]))
