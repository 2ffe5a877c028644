"""What a night's report and the gallery show, as plain data: the SQL behind them, and no presentation."""

from __future__ import annotations

import json
import os
from typing import Any

import duckdb

from catalog import query
from catalog.store import Store

REPORT = {
    "run": "select * from runs where run_id = $run",
    "stages": """
        select stage, count(*) as attempts, count(*) filter (status not in ('ok', 'skipped')) as failed,
            median(duration_s) filter (status = 'ok') as p50_s,
            quantile_cont(duration_s, 0.95) filter (status = 'ok') as p95_s, sum(duration_s) as machine_s,
            sum(gpu_s) as gpu_s
        from stage_runs where run_id = $run and stage not in ('request', 'review', 'model')
        group by stage order by min(stage_idx), stage
    """,
    "failures": "select * from failures where run_id = $run order by unresolved_assets desc, attempts desc, stage",
    "metrics": """
        select stage, name, count(*) as n, avg(value) as mean, min(value) as least, max(value) as greatest
        from metrics where run_id = $run and is_latest group by stage, name order by stage, name
    """,
    "models": "select * from models where assets > 0 order by model_id",
}


def run_report(
    root: str | os.PathLike[str] | Store, run_id: str, *, live: bool = True
) -> dict[str, list[dict[str, Any]]]:
    """One run in tables: run (one row), stages, failures, metrics, models."""
    with query.connect(root, live=live) as con:
        return {name: _rows(con, sql, run_id) for name, sql in REPORT.items()}


def gallery_assets(root: str | os.PathLike[str] | Store, *, live: bool = True) -> list[dict[str, Any]]:
    """Every asset, newest first: a row of ``assets``, and ``tags`` and current ``metrics`` as {name: value}."""
    with query.connect(root, live=live) as con:
        assets = con.sql("select * from assets order by last_seen_at desc, asset_id").to_arrow_table().to_pylist()
        numbers = con.execute("""
            select asset_id, name, arg_max(value, (stage = 'record', event_id)) from metrics
            where is_latest and stage in ('extract_mesh', 'refine_texture', 'evaluate', 'record') group by all
        """).fetchall()
    by_asset: dict[str, dict[str, float]] = {}
    for asset_id, name, value in numbers:
        by_asset.setdefault(asset_id, {})[name] = value
    return [asset | {"metrics": by_asset.get(asset["asset_id"], {}), "tags": _tags(asset)} for asset in assets]


def _tags(asset: dict[str, Any]) -> dict[str, str]:
    """Tags in the asset's specification; none where a foreign row holds something else."""
    try:
        return {str(name): str(value) for name, value in json.loads(asset["spec_json"] or "{}")["tags"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {"category": asset["category"]} if asset["category"] else {}


def _rows(con: duckdb.DuckDBPyConnection, sql: str, run_id: str) -> list[dict[str, Any]]:
    parameters = {"run": run_id} if "$run" in sql else {}
    return con.sql(sql, params=parameters).to_arrow_table().to_pylist()
