"""Synthetic catalogues of any size, written by DuckDB straight into sealed files: what a farm's years look like.

Every asset has eight events (request, seven stages; some stages failed once before), four metrics and two artifacts on
its evaluate and record events, one of five recipes, one of twenty categories, and belongs to a night of 3000 assets.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from catalog import compact, ids
from catalog.schema import SCHEMA_VERSION
from catalog.store import open_store

EVENTS_PER_ASSET = 8
NIGHT = 3000

EVENTS_SQL = """
with steps as (
    select * from (values
        ('request', 0), ('init_points', 1), ('optimize_gaussians', 2), ('densify_prune', 3),
        ('extract_mesh', 4), ('refine_texture', 5), ('evaluate', 6), ('record', 7)
    ) as steps(stage, stage_idx)
),
pairs as (
    select a.range as n, stage, stage_idx, a.range * 8 + stage_idx as e, hash(a.range, stage) as h,
        hash(a.range) % 97 = 0 as broken
    from range({first}, {last}) a, steps
),
timed as (
    select *, timestamptz '{now}' - to_seconds(({total} - n) * {seconds_per_asset}) + to_seconds(stage_idx) as done,
        case when stage_idx = 0 then 0.0 else 2.0 + (h % 1000) / 100.0 end as took
    from pairs
    where not (broken and stage_idx > 4)
)
select
    printf('%08x-%04x-7%03x-8%03x-%012x', (epoch_ms(done) >> 16)::bigint, (epoch_ms(done) & 65535)::bigint,
        (e >> 12) & 4095, e & 4095, e) as event_id,
    '{batch}' as batch_id, {version}::smallint as schema_version,
    printf('night-%05d', n // {night}) as run_id, printf('prop-%016x', hash(n)) as asset_id,
    stage, 1::integer as attempt,
    case when broken and stage_idx = 4 then 'failed' else 'ok' end as status,
    done - to_seconds(took + 1) as queued_at, done - to_seconds(took) as started_at, done as finished_at,
    done::date as date, took as duration_s, 1.0::double as queue_s, 900.0 + h % 200 as peak_rss_mb,
    8000.0 + h % 4000 as peak_vram_mb, took * 0.6 as gpu_s, 'node-' || (n % 16) as host,
    (1000 + n % 16)::integer as worker_pid, 'cuda:0' as device, 'L40S' as gpu_name,
    null::varchar as prefect_flow_run_id, null::varchar as prefect_task_run_id,
    case when stage_idx > 0 then printf('%016x%016x', h, hash(e)) end as stage_key,
    case when stage_idx > 1 then [printf('%016x', hash(n, stage_idx - 1))] else []::varchar[] end as upstream_keys,
    ['factory', 'draft', 'dreamgaussian', 'gsgen', 'hero'][1 + n % 5] as recipe,
    printf('%016x', hash(n % 5, stage)) as config_hash, '0.1.' || (n // 100000) as code_version, n % 1000 as seed,
    case when stage_idx in (2, 3, 5) then ['starter@1f2e3d'] when stage_idx = 1 then ['points@0a9b8c']
        else []::varchar[] end as model_ids,
    []::varchar[] as input_sha256,
    case when broken and stage_idx = 4 then ['DataError', 'TimeoutError', 'OutOfMemory'][1 + n % 3] end as error_type,
    case when broken and stage_idx = 4 then ['data', 'transient', 'oom'][1 + n % 3] end as error_class,
    case when broken and stage_idx = 4 then 'the density field is empty at iso=1.0' end as error_message,
    case when stage_idx >= 6 then map(['faces', 'fidelity', 'consistency', 'watertight'],
        [8000.0 + h % 3000, 0.2 + (h % 1000) / 5000.0, 0.8 + (h % 100) / 1000.0, (h % 2)::double])
        else map([]::varchar[], []::double[]) end as metrics,
    map(['category'], ['category-' || n % 20]) as tags,
    case when stage_idx = 7 then [
        {{'role': 'glb', 'path': printf('assets/prop-%016x/asset.glb', hash(n)), 'sha256': sha256(n::varchar),
          'bytes': (1000000 + h % 1000000)::bigint, 'media_type': 'model/gltf-binary'}},
        {{'role': 'preview', 'path': printf('assets/prop-%016x/preview.png', hash(n)), 'sha256': sha256('p' || n),
          'bytes': (50000 + h % 10000)::bigint, 'media_type': 'image/png'}}]
        else []::struct("role" varchar, path varchar, sha256 varchar, bytes bigint, media_type varchar)[]
    end as artifacts,
    case when stage_idx in (0, 7) then '{spec}'.replace('NUMBER', n::varchar) end as spec_json
from timed
"""

SPEC = {
    "prompt": "prop number NUMBER, game asset",
    "negative_prompt": "",
    "seed": 0,
    "height_m": 1.0,
    "recipe": {"name": "factory", "mesh": {"face_budget": 10000, "texture_size": 1024}},
}


def events_sql(first: int, last: int, *, total: int, now: datetime, batch: str) -> str:
    """SQL of the events of assets ``first`` to ``last``; asset ``total`` is made at ``now``."""
    return EVENTS_SQL.format(
        first=first,
        last=last,
        total=total,
        now=now.isoformat(),
        batch=batch,
        version=SCHEMA_VERSION,
        night=NIGHT,
        seconds_per_asset=12 * 3600 / NIGHT * 2,
        spec=json.dumps(SPEC),
    )


def fill(library: Path, events: int, *, first: int = 0, files: int | None = None, chunk: int = 240_000) -> int:
    """Write about ``events`` events as committed sealed files; returns the number of the next asset."""
    store, now = open_store(library), datetime.now(UTC)
    store.make_folders()
    last = first + events // EVENTS_PER_ASSET
    chunk = chunk // EVENTS_PER_ASSET if files is None else -(-(last - first) // files)
    with duckdb.connect() as con:
        con.execute("set timezone = 'UTC'; set enable_progress_bar = false")
        for at in range(first, last, chunk):
            sql = events_sql(at, min(at + chunk, last), total=last, now=now, batch=ids.new_id())
            table = compact._with_cid(con.sql(sql).to_arrow_table())
            assert compact.commit(store, compact.Policy(), "seal", table)
    return last
