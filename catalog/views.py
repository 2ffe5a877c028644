"""The relations that people query, and what each of their columns means.

The same names and columns exist on live files (views over Parquet) and in the snapshot (tables). Five relations come
straight from the events: ``stage_runs``, ``metrics``, ``artifacts``, ``findings`` and ``verdicts``; the rest is SQL
over these, written once and used by both. The column texts end up in docs/CATALOGUE.md and as comments in the snapshot,
where BI tools show them.
"""

from __future__ import annotations

from dataclasses import dataclass

from catalog import schema
from pipeline_core.deliverables import DELIVERABLES
from pipeline_core.priors.licences import CLASSES, LICENCES
from pipeline_core.stages import AUDITION, DELIVERY, sql_list

EVENT_TEXT = {column.name: column.description for column in schema.COLUMNS} | {
    "stage_idx": "place of the stage in the journey as it is today, 0 = request; NULL outside it"
}
IS_LATEST = "true for the latest attempt of this stage on this asset"

GOOD = "('ok', 'skipped')"
WORK = f"stage not in {sql_list(schema.STATEMENTS)}"

ORDER = ", ".join(f"'{name}'" for name in schema.order())
BY_NAME = {
    name: sql_list([key for key, each in LICENCES.items() if each.licence_class == name])
    for name in CLASSES
    if name != "unknown"
}
CASES = " ".join(f"when lower(spec_json->>'$.licence') in {names} then '{name}'" for name, names in BY_NAME.items())
CLASS = f"coalesce(spec_json->>'$.licence_class', case {CASES} else 'unknown' end)"
"""The class of a declared model's licence; older declarations hold only its name."""

PLACE = f"(list_position([{ORDER}], stage) - 1)::smallint as stage_idx"
"""The place of a stage follows from its name; no file holds it."""

STAGE_RUN_COLUMNS = tuple(
    name
    for column in schema.COLUMNS
    if column.name not in ("metrics", *schema.STRUCTS)
    for name in ((column.name, "stage_idx") if column.name == "stage" else (column.name,))
)

FILE_COLUMNS = {
    f"{row.role}_{column}": (f"max({column}) filter (role = '{row.role}')", text.format(row.text))
    for row in DELIVERABLES
    for column, text in (
        ("path", "{}, relative to the library"),
        ("sha256", "sha256 of {}"),
        ("bytes", "size of {} in bytes"),
    )
    if column == "path" or row.main
}
"""Columns of ``assets`` about the deliverables: their SQL over the artifacts of the last stage, and what they mean."""


@dataclass(frozen=True)
class View:
    """A relation: what a row is, its columns with descriptions, and its SQL over the base relations (None = base)."""

    row: str
    columns: dict[str, str]
    sql: str | None = None
    key: str | None = None  # column by which the snapshot renews only what changed
    asked: bool = False  # computed whenever it is asked for, in the snapshot too


OF_EVENT = ("event_id", "run_id", "asset_id", "stage")
LISTED = {
    "artifacts": ("file", "artifacts"),
    "findings": ("finding", "findings"),
    "verdicts": ("clause", "clauses"),
}
"""Base relations that are lists in the event: what an entry is called in the SQL, and the event's column."""


def event_columns(*names: str) -> dict[str, str]:
    """Columns that mean what the event's columns mean."""
    return {name: EVENT_TEXT[name] for name in names}


LICENSED_SQL = f"""
select asset_id, arg_max(licence_class, list_position({list(CLASSES)}, licence_class)) as licence_class
from (
    select asset_id, coalesce({CLASS}, 'unknown') as licence_class
    from (
        select distinct asset_id, unnest(model_ids) as model_id from {{stage_runs}}
        where is_latest and status in {GOOD} and {WORK}
    ) left join (
        select asset_id as model_id, spec_json from {{declared}} where stage = 'model' and is_latest
    ) using (model_id)
)
group by asset_id
"""
"""The strictest class of the licences of the models that an asset's current stages used."""

ASSETS_SQL = f"""
with latest as (select * from {{stage_runs}} where is_latest and stage <> 'model'),
spec as (
    select asset_id, arg_max(spec_json, (stage = '{DELIVERY}', event_id)) as spec_json
    from latest where stage in ('request', '{DELIVERY}') and spec_json is not null group by asset_id
),
journey as (
    select
        asset_id,
        max(event_id) filter (stage = '{DELIVERY}' and status in {GOOD}) as delivered,
        max(event_id) filter (status not in {GOOD}) as broken,
        arg_max(stage, event_id) filter ({WORK}) as last_stage,
        arg_max(run_id, event_id) filter ({WORK}) as run_id,
        arg_max(recipe, event_id) filter (recipe is not null) as recipe,
        arg_max(code_version, event_id) filter (code_version is not null) as code_version,
        arg_max(seed, event_id) filter (seed is not null) as seed,
        arg_max(tags['category'], event_id) filter (tags['category'] is not null) as category,
        arg_max(stage, event_id) filter (status not in {GOOD}) as bad_stage,
        arg_max(status, event_id) filter (status not in {GOOD}) as bad_status,
        arg_max(error_type, event_id) filter (status not in {GOOD}) as error_type,
        arg_max(error_class, event_id) filter (status not in {GOOD}) as error_class,
        arg_max(error_message, event_id) filter (status not in {GOOD}) as error_message,
        max(finished_at) filter (stage = '{DELIVERY}' and status in {GOOD}) as delivered_at,
        arg_max(spec_json, event_id) filter (stage = 'review') as review_json,
        max(finished_at) filter (stage = 'review') as reviewed_at
    from latest group by asset_id
),
effort as (
    select
        asset_id,
        min(finished_at) as first_seen_at,
        max(finished_at) as last_seen_at,
        count(*) filter ({WORK}) as attempts,
        count(*) filter ({WORK} and status not in {GOOD}) as failed_attempts,
        sum(duration_s) filter ({WORK}) as machine_s,
        sum(gpu_s) as gpu_s
    from {{stage_runs}} where stage <> 'model' group by asset_id
),
measured as (
    select
        asset_id,
        arg_max(value, (stage = '{DELIVERY}', event_id)) filter (name = 'faces') as faces,
        arg_max(value, (stage = '{DELIVERY}', event_id)) filter (name = 'vertices') as vertices,
        arg_max(value, (stage = '{DELIVERY}', event_id)) filter (name = 'watertight') as watertight,
        arg_max(value, (stage = '{DELIVERY}', event_id)) filter (name = 'fidelity') as fidelity,
        arg_max(value, (stage = '{DELIVERY}', event_id)) filter (name = 'consistency') as consistency,
        arg_max(value, event_id) filter (name = 'finding_errors') as finding_errors,
        arg_max(value, event_id) filter (name = 'finding_warnings') as finding_warnings,
        arg_max(value, event_id) filter (name = 'materials_named') as materials_named,
        arg_max(value, event_id) filter (name = 'material_set') as material_set,
        arg_max(value, event_id) filter (name = 'material_points') as material_points
    from {{metrics}}
    where is_latest and name in (
        'faces', 'vertices', 'watertight', 'fidelity', 'consistency', 'finding_errors', 'finding_warnings',
        'materials_named', 'material_set', 'material_points'
    )
    group by asset_id
),
contracted as (
    select
        asset_id,
        case when bool_or(not held) then 'rejected' when bool_or(held is null) then 'unjudged' else 'ok' end
            as standing,
        not bool_or(name = 'judged') as early,
        list(name) filter (not held) as failed_clauses
    from {{verdicts}} where is_latest group by asset_id
),
files as (
    select
        asset_id,
        {", ".join(f"{sql} as {name}" for name, (sql, _) in FILE_COLUMNS.items())}
    from {{artifacts}} where is_latest and stage = '{DELIVERY}' group by asset_id
),
licensed as ({LICENSED_SQL})
select
    asset_id,
    case
        when early and last_stage = 'accept' then standing
        when delivered is not null and (broken is null or broken < delivered)
            then coalesce(standing, 'ok')
        when broken is not null then bad_status
        when last_stage is not null then 'running'
        else 'requested'
    end as status,
    spec_json->>'$.prompt' as prompt,
    spec_json->>'$.negative_prompt' as negative_prompt,
    nullif(spec_json->>'$.parts[*].prompt', []::varchar[]) as part_prompts,
    try_cast(spec_json->'$.prompt_reading.unknown_words' as varchar[]) as prompt_unknown_words,
    try_cast(spec_json->>'$.prompt_reading.tokens_dropped' as bigint) as prompt_tokens_dropped,
    try_cast(spec_json->'$.prompt_reading.warnings' as varchar[]) as prompt_warnings,
    coalesce(category, spec_json->>'$.tags.category') as category,
    coalesce(recipe, spec_json->>'$.recipe.name') as recipe,
    coalesce(seed, try_cast(spec_json->>'$.seed' as bigint)) as seed,
    last_stage,
    run_id,
    first_seen_at,
    last_seen_at,
    delivered_at,
    attempts,
    failed_attempts,
    machine_s,
    gpu_s,
    case when status = 'rejected' then failed_clauses end as failed_clauses,
    case when delivered is null or broken > delivered then bad_stage end as error_stage,
    case when delivered is null or broken > delivered then error_type end as error_type,
    case when delivered is null or broken > delivered then error_class end as error_class,
    case when delivered is null or broken > delivered then error_message end as error_message,
    case
        when delivered is null then null
        when try_cast(spec_json->>'$.recipe.geometry.steps' as bigint) = 0
            and try_cast(spec_json->>'$.recipe.appearance.steps' as bigint) = 0 then 'start'
        else 'distilled'
    end as delivered_from,
    try_cast(faces as bigint) as faces,
    try_cast(vertices as bigint) as vertices,
    watertight > 0.5 as watertight,
    fidelity,
    consistency,
    try_cast(finding_errors as bigint) as finding_errors,
    try_cast(finding_warnings as bigint) as finding_warnings,
    case
        when material_set > 0 then 'recipe'
        when materials_named > 0 then 'prompt'
        when material_points > 0 then 'points'
        when materials_named = 0 then 'constant'
    end as material_source,
    try_cast(coalesce(spec_json->>'$.recipe.mesh.face_budget', spec_json->>'$.face_budget') as bigint) as face_budget,
    try_cast(coalesce(spec_json->>'$.recipe.mesh.texture_size', spec_json->>'$.texture_size') as bigint)
        as texture_size,
    try_cast(spec_json->>'$.height_m' as double) as height_m,
    {", ".join(FILE_COLUMNS)},
    coalesce(
        review_json->>'$.verdict' = 'accepted',
        case status when 'ok' then true when 'rejected' then false end
    ) as accepted,
    spec_json->>'$.judge' as judge,
    review_json->>'$.verdict' as verdict,
    review_json->>'$.by' as reviewed_by,
    review_json->>'$.note' as review_note,
    review_json->>'$.reason' as review_reason,
    try_cast(review_json->>'$.stars' as tinyint) as stars,
    reviewed_at,
    licence_class,
    code_version,
    spec_json
from journey
left join spec using (asset_id)
left join effort using (asset_id)
left join measured using (asset_id)
left join contracted using (asset_id)
left join files using (asset_id)
left join licensed using (asset_id)
"""

REVIEWS_SQL = """
select
    event_id, asset_id, finished_at as reviewed_at, spec_json->>'$.by' as reviewed_by,
    spec_json->>'$.verdict' as verdict, try_cast(spec_json->>'$.stars' as tinyint) as stars,
    spec_json->>'$.reason' as reason, spec_json->>'$.note' as note, is_latest
from {stage_runs} where stage = 'review'
"""

CANDIDATES_SQL = f"""
with delivered as (
    select asset_id, arg_max(seed, event_id) as taken_seed from {{stage_runs}}
    where stage = '{DELIVERY}' and status in {GOOD} and is_latest group by asset_id
), measured as (
    select
        event_id,
        max(value) filter (name = 'candidate_margin') as margin,
        max(value) filter (name = 'candidate_janus') as janus
    from {{metrics}} where stage = '{AUDITION.name}' group by event_id
), auditions as (
    select asset_id, seed, max(event_id) as event_id from {{stage_runs}} where stage = '{AUDITION.name}' group by all
)
select
    asset_id, seed, run_id, finished_at, status, margin, janus, error_message, seed = taken_seed as taken
from auditions
join (select event_id, run_id, finished_at, status, error_message from {{stage_runs}}) using (event_id)
left join measured using (event_id)
left join delivered using (asset_id)
"""

RUNS_SQL = f"""
with ended as (  -- how each stage of an asset ended in a run, whatever became of it in later ones
    select run_id, asset_id, arg_max(status, event_id) as status
    from {{stage_runs}} where {WORK} group by run_id, asset_id, stage
), unmade as (
    select run_id, count(distinct asset_id) filter (status not in {GOOD}) as failed from ended group by run_id
), verdict as (  -- of one attempt
    select run_id, asset_id, event_id, bool_or(not held) as rejected, bool_or(held is null) as unjudged
    from {{verdicts}} group by all
), judged as (  -- by the last verdict on each asset in a run
    select
        run_id, count(*) filter (rejected) as rejected,
        count(*) filter (unjudged and rejected is distinct from true) as unjudged
    from verdict
    semi join (select run_id, max(event_id) as event_id from verdict group by run_id, asset_id) using (run_id, event_id)
    group by run_id
)
select
    run_id,
    min(coalesce(queued_at, started_at, finished_at)) as started_at,
    max(finished_at) as finished_at,
    max(date) as date,
    date_diff('millisecond', min(coalesce(queued_at, started_at, finished_at)), max(finished_at)) / 1000.0 as wall_s,
    count(distinct asset_id) as assets,
    count(distinct asset_id) filter (stage = '{DELIVERY}' and status in {GOOD}) as delivered,
    any_value(failed) as failed,
    coalesce(any_value(rejected), 0) as rejected,
    coalesce(any_value(unjudged), 0) as unjudged,
    count(*) as attempts,
    count(*) filter (status not in {GOOD}) as failed_attempts,
    sum(duration_s) as machine_s,
    sum(gpu_s) as gpu_s,
    median(duration_s) filter (status = 'ok') as stage_p50_s,
    quantile_cont(duration_s, 0.95) filter (status = 'ok') as stage_p95_s,
    max(peak_rss_mb) as peak_rss_mb,
    max(peak_vram_mb) as peak_vram_mb,
    count(distinct host) as hosts,
    max(code_version) as code_version
from {{stage_runs}} join unmade using (run_id) left join judged using (run_id) where {WORK} group by run_id
"""

COSTS_SQL = f"""
with asked as (
    select run_id, asset_id, arg_max(asked_by, event_id) as asked_by
    from {{stage_runs}} where stage = 'request' group by run_id, asset_id
), work as (
    select
        run_id,
        asset_id,
        arg_max(recipe, event_id) filter (recipe is not null) as recipe,
        arg_max(tags, event_id) filter (tags is not null) as tags,
        max(finished_at) as finished_at,
        bool_or(stage = '{DELIVERY}' and status in {GOOD}) as delivered,
        list_sort(list_distinct(flatten(list(model_ids)))) as models,
        sum(share_s) as share_s,
        sum(gpu_s) as gpu_s,
        sum(share_s * price_per_hour) / 3600 as cost
    from {{stage_runs}} where {WORK} group by run_id, asset_id
), standing as (  -- the run whose files lie there now: a later one that only found them made nothing
    select asset_id, arg_max(run_id, (status = 'ok', event_id)) as run_id
    from {{stage_runs}} where stage = '{DELIVERY}' and status in {GOOD} group by asset_id
)
select
    run_id, asset_id, asked_by, recipe, tags, models, finished_at, delivered,
    case when standing.asset_id is null then false else accepted end as accepted, share_s, gpu_s, cost
from work
left join asked using (run_id, asset_id)
left join standing using (run_id, asset_id)
left join (select asset_id, accepted from assets) using (asset_id)
"""

FAILURES_SQL = f"""
select
    run_id,
    date,
    stage,
    status,
    error_class,
    error_type,
    count(*) as attempts,
    count(distinct asset_id) as assets,
    count(distinct asset_id) filter (is_latest) as unresolved_assets,
    max(finished_at) as last_at,
    arg_max(asset_id, event_id) as sample_asset_id,
    arg_max(error_message, event_id) as sample_message
from {{stage_runs}} where status not in {GOOD} group by all
"""

LINEAGE_SQL = f"""
select
    asset_id, stage_idx, stage, event_id, run_id, finished_at, stage_key, upstream_keys, unnest(
        case when len(model_ids) > 0 then model_ids else [null] end
    ) as model_id, recipe, config_hash, code_version, seed, input_sha256
from {{stage_runs}} where is_latest and status in {GOOD} and {WORK}
"""

EDITS_SQL = f"""
select
    asset_id, run_id, finished_at, place, edits,
    parent->>'$.asset_id' as parent_id, parent->>'$.sha256' as parent_sha256
from (
    select
        asset_id, run_id, finished_at, unnest(parents) as parent, unnest(range(len(parents))) as place, edits
    from (
        select
            asset_id, run_id, finished_at, try_cast(spec_json->'$.edited.parents' as json[]) as parents,
            try_cast(spec_json->'$.edited.edits' as varchar[]) as edits
        from {{stage_runs}}
        where is_latest and stage = '{DELIVERY}' and status in {GOOD} and spec_json->>'$.edited' is not null
    )
)
"""

LOOKS = ("look_0", "look_1", "look_2", "look_3")
NEIGHBOURS = 32
"""With so many others of a band each look is compared, the next ones in order: 100,000 alike cost no more."""

DUPLICATES_SQL = f"""
with looks as (
    select asset_id, {", ".join(f"max(value) filter (name = '{name}')::ubigint as {name}" for name in LOOKS)}
    from {{metrics}} where is_latest and stage = '{DELIVERY}' and name in {LOOKS}
    group by asset_id having count(*) = {len(LOOKS)}
), bands as (
    select *, unnest([{", ".join(f"({name} >> {at}) & 65535" for name in LOOKS for at in (0, 16, 32))}]) as part,
        unnest(range(12)) as band
    from looks
), placed as (
    select *, row_number() over (partition by band, part order by {", ".join(LOOKS)}, asset_id) as place from bands
), pairs as (
    select one.asset_id as one, other.asset_id as other,
        {" + ".join(f"bit_count(xor(one.{name}, other.{name}))::integer" for name in LOOKS)} as distance
    from (select *, place + unnest(range(1, {NEIGHBOURS} + 1)) as next from placed) as one
    join placed as other on one.band = other.band and one.part = other.part and one.next = other.place
)
select distinct least(one, other) as asset_id, greatest(one, other) as other_id, distance from pairs
where distance < 12
"""
"""Looks that differ in fewer than 12 of 192 bits agree in one of 12 bands (``pipeline_core/metrics/look.py``)."""

MODELS_SQL = f"""
with used as (
    select model_id, count(distinct asset_id) as assets, count(*) as stages,
        min(finished_at) as first_used_at, max(finished_at) as last_used_at
    from lineage where model_id is not null group by model_id
),
declared as (
    select asset_id as model_id, spec_json from {{stage_runs}} where stage = 'model' and is_latest
)
select
    model_id,
    split_part(model_id, '@', 1) as reference,
    nullif(split_part(model_id, '@', 2), '') as revision,
    spec_json->>'$.kind' as kind,
    spec_json->>'$.licence' as licence,
    {CLASS} as licence_class,
    nullif(spec_json->>'$.conditions', '') as conditions,
    nullif(spec_json->>'$.link', '') as licence_link,
    try_cast(spec_json->>'$.commercial_use' as boolean) as commercial_use,
    spec_json->>'$.source' as source,
    try_cast(spec_json->>'$.bytes' as bigint) as bytes,
    coalesce(assets, 0) as assets,
    coalesce(stages, 0) as stages,
    first_used_at,
    last_used_at
from used full join declared using (model_id)
"""

VIEWS: dict[str, View] = {
    "stage_runs": View(
        "one finished attempt of a stage on an asset, all attempts of all time",
        event_columns(*STAGE_RUN_COLUMNS) | {"is_latest": IS_LATEST},
    ),
    "metrics": View(
        "one number that one attempt measured",
        event_columns("event_id", "run_id", "asset_id", "stage", "recipe")
        | {
            "name": "what was measured; a unit is part of the name where there is one (_s, _mb, _deg)",
            "value": "the number, in the unit of its name; true and false are 1 and 0",
            "is_latest": IS_LATEST,
        },
    ),
    "artifacts": View(
        "one file that one attempt made",
        event_columns("event_id", "run_id", "asset_id", "stage")
        | {
            "role": "what the file is for: glb, splat, preview, turntable, points, mesh, ...",
            "path": "where it lies, relative to the library",
            "sha256": "of its content, in hex",
            "bytes": "its size in bytes",
            "media_type": "its IANA media type",
            "is_latest": IS_LATEST,
        },
    ),
    "findings": View(
        "one kind of fault that validation found in one file of an asset",
        event_columns("event_id", "run_id", "asset_id", "stage")
        | {
            "code": "what is wrong, in capitals: the Khronos validator's code where it has the rule",
            "severity": "error (an engine stumbles over it), warning (an artist would mend it) or info",
            "file": "the file's name in assets/<asset_id>/",
            "message": "what is wrong, as a sentence",
            "count": "how many places of the file have it",
            "is_latest": IS_LATEST,
        },
    ),
    "verdicts": View(
        "one clause of the contract that one attempt was held to (stage accept)",
        event_columns("event_id", "run_id", "asset_id", "stage")
        | {
            "name": "the clause, as contracts write it; judged = whether a judge has seen the asset",
            "bound": "what the contract asks for, in the unit of the clause; true and false are 1 and 0",
            "figure": "what was measured; NULL where nobody measured it",
            "held": "whether the clause holds; NULL where nobody measured it",
            "is_latest": IS_LATEST,
        },
    ),
    "stage_latest": View(
        "the latest attempt of a stage on an asset",
        event_columns(*STAGE_RUN_COLUMNS) | {"is_latest": "always true here"},
        "select * from {stage_runs} where is_latest",
        asked=True,
    ),
    "assets": View(
        "one asset; exactly one row each",
        {
            "asset_id": EVENT_TEXT["asset_id"],
            "status": (
                "ok (delivered, accepted, and nothing failed since), rejected (by its contract), unjudged (delivered, "
                "and a clause was not measured or no judge knows its words; what older versions delivered is ok until "
                "it is run again, which adds its verdict), the status of what failed last (failed, "
                "timeout, cancelled, quarantined), running, or requested"
            ),
            "prompt": "text it was made from",
            "negative_prompt": "text it was steered away from",
            "part_prompts": "prompts of the parts that it was put together from, in order; NULL where it has none",
            "prompt_unknown_words": "words of these that a model does not know; NULL when all was read",
            "prompt_tokens_dropped": "tokens of these beyond a model's window (count); NULL when all was read",
            "prompt_warnings": "what was said of these before the work began, as sentences; NULL when all was read",
            "category": "the tag 'category'",
            "recipe": EVENT_TEXT["recipe"],
            "seed": EVENT_TEXT["seed"],
            "last_stage": "pipeline stage of the newest attempt",
            "run_id": "run of the newest attempt",
            "first_seen_at": "time of its first event",
            "last_seen_at": "time of its last event",
            "delivered_at": "when its files were last published; NULL when they never were",
            "attempts": "stage attempts ever made for it (count)",
            "failed_attempts": "those that did not succeed (count)",
            "machine_s": "seconds of work over all attempts",
            "gpu_s": "seconds of GPU time over all attempts; NULL without a GPU",
            "failed_clauses": "clauses of its contract that do not hold; NULL where it is not rejected",
            "error_stage": "stage that stopped it; NULL when ok",
            "error_type": "exception that stopped it; NULL when ok",
            "error_class": "transient, permanent, oom or data; NULL when ok",
            "error_message": "what went wrong; NULL when ok",
            "delivered_from": (
                "distilled, or start where that was not distilled: it was asked for so, or showed the prompt better"
            ),
            "faces": "triangles of the GLB (count)",
            "vertices": "vertices of the GLB (count)",
            "watertight": "whether the mesh is closed",
            "fidelity": (
                "how much better its views fit the prompt than the best of 31 captions that are nearly right, by the "
                "judge (difference of cosines): it ranks assets of one judge, and above 0 the prompt is first"
            ),
            "consistency": "agreement of each view with the others (mean cosine); higher is better",
            "finding_errors": "rows of findings that are errors (count); NULL where it was not validated",
            "finding_warnings": "rows of findings that are warnings (count); NULL where it was not validated",
            "material_source": "who says its metallic and roughness: recipe, prompt, points, or constant if none",
            "face_budget": "triangles it was allowed (count)",
            "texture_size": "side of the texture it was allowed, texels",
            "height_m": "height in metres it was asked for",
            **{name: text for name, (_, text) in FILE_COLUMNS.items()},
            "accepted": "a person's verdict where there is one, else the contract's, else whether a judge saw it; "
            "NULL if none",
            "judge": "model that said whether it shows its prompt; NULL where none could",
            "verdict": "accepted or rejected by a person; NULL when nobody looked, or it was taken back",
            "reviewed_by": "who gave the verdict",
            "review_note": "what they wrote",
            "review_reason": "why, in a few words that others use too (the gallery offers some)",
            "stars": "what they gave it, 1 to 5; NULL when nobody did",
            "reviewed_at": "when, UTC",
            "licence_class": (
                "strictest class of its models' licences: open, conditions, unknown or non-commercial; what is open or "
                "has conditions may be sold; NULL while nothing is made"
            ),
            "code_version": EVENT_TEXT["code_version"],
            "spec_json": "the whole specification as JSON",
        },
        ASSETS_SQL,
        "asset_id",
    ),
    "runs": View(
        "one run: a batch, a night",
        {
            "run_id": "the run",
            "started_at": "when its first attempt was queued, UTC",
            "finished_at": "when its last attempt ended, UTC",
            "date": "UTC day it ended",
            "wall_s": "seconds from started_at to finished_at",
            "assets": "assets it worked on (count)",
            "delivered": "assets whose files it published (count)",
            "failed": "assets of which some stage's last attempt in this run failed, whatever became of them (count)",
            "rejected": "assets that its last verdict of this run rejected, by their contracts (count)",
            "unjudged": "assets that this could not judge: a figure or a judge was lacking (count)",
            "attempts": "stage attempts (count)",
            "failed_attempts": "those that did not succeed (count)",
            "machine_s": "seconds of work over all attempts",
            "gpu_s": "seconds of GPU time; NULL without a GPU",
            "stage_p50_s": "median seconds of a successful attempt",
            "stage_p95_s": "95th percentile of the seconds of a successful attempt",
            "peak_rss_mb": "largest resident memory of any worker, MiB",
            "peak_vram_mb": "largest device memory of any worker, MiB",
            "hosts": "hosts that took part (count)",
            "code_version": "newest version of splatmill that took part",
        },
        RUNS_SQL,
        "run_id",
    ),
    "costs": View(
        "what one asset cost in one run",
        {
            "run_id": "the run",
            "asset_id": EVENT_TEXT["asset_id"],
            "asked_by": "the user who asked for it in this run; NULL where it was not kept",
            "recipe": EVENT_TEXT["recipe"],
            "tags": EVENT_TEXT["tags"],
            "models": "models that its stages used in this run, as 'reference@revision'",
            "finished_at": "when its last attempt ended, UTC",
            "delivered": "whether its files were published in this run",
            "accepted": (
                "whether what this run delivered lies there now and is accepted (assets.accepted), so that an asset "
                "counts once; NULL while nobody has judged it"
            ),
            "share_s": "seconds charged to it: the time of a process is divided among the assets that it works at",
            "gpu_s": "those of processes with a GPU; NULL without one",
            "cost": "share_s at the price that each process had (SPLATMILL_PRICE_PER_HOUR); NULL where none was set",
        },
        COSTS_SQL,
        "asset_id",
    ),
    "failures": View(
        "one kind of failure in one run, day and stage",
        {
            "run_id": "the run",
            "date": "UTC day",
            "stage": "stage that failed",
            "status": "failed, timeout, cancelled or quarantined",
            "error_class": EVENT_TEXT["error_class"],
            "error_type": EVENT_TEXT["error_type"],
            "attempts": "attempts that failed so (count)",
            "assets": "assets concerned (count)",
            "unresolved_assets": "assets for which this is still the latest attempt (count)",
            "last_at": "when it last happened, UTC",
            "sample_asset_id": "the asset it last happened to",
            "sample_message": "what it last said",
        },
        FAILURES_SQL,
        "run_id",
    ),
    "lineage": View(
        "one model used by one stage of an asset as it is now (model_id NULL: the stage used none)",
        event_columns("asset_id", "stage_idx", "stage", "event_id", "run_id", "finished_at")
        | event_columns("stage_key", "upstream_keys")
        | {"model_id": "a model the stage used, as 'reference@revision'"}
        | event_columns("recipe", "config_hash", "code_version", "seed", "input_sha256"),
        LINEAGE_SQL,
        "asset_id",
    ),
    "candidates": View(
        "one seed that an asset was begun from, as it was judged after a part of the work",
        {
            "asset_id": EVENT_TEXT["asset_id"],
            "seed": "the candidate's seed; the first candidate has the asset's own",
            "run_id": "run in which it was last looked at",
            "finished_at": "when that ended, UTC",
            "status": "ok, skipped (judged earlier), or how it failed, for which it was dropped",
            "margin": "caption margin by which it was compared; higher is better; NULL where nothing can judge",
            "janus": "signs of several fronts, 0 to 1; lower is better; NULL where nothing can judge",
            "error_message": "why it was dropped; NULL where it did not fail",
            "taken": "whether the asset as it is now came of it; NULL while nothing is delivered",
        },
        CANDIDATES_SQL,
        "asset_id",
    ),
    "edits": View(
        "one asset that an edited asset was made from, as it is now (splatmill edit)",
        {
            "asset_id": EVENT_TEXT["asset_id"],
            "run_id": "run that delivered it",
            "finished_at": "when it was delivered, UTC",
            "place": "0 = the asset that was edited; from 1 those that were merged in, in order",
            "edits": "what was done, in order, as lines of splatmill edit --do",
            "parent_id": "the asset it was made from",
            "parent_sha256": "sha256 of the splat that this had then",
        },
        EDITS_SQL,
        "asset_id",
    ),
    "reviews": View(
        "one verdict of a person on an asset, all of all time (docs/REVIEW.md)",
        {
            "event_id": "id of the decision; greater ids are later",
            "asset_id": EVENT_TEXT["asset_id"],
            "reviewed_at": "when it was made, UTC, by the clock of whoever decided",
            "reviewed_by": "who decided",
            "verdict": "accepted or rejected; NULL: an earlier one is taken back, or only stars are given",
            "stars": "1 to 5; NULL when none were given",
            "reason": "why, in a few words that others use too",
            "note": "what they wrote",
            "is_latest": "true for the one that counts",
        },
        REVIEWS_SQL,
        "asset_id",
    ),
    "duplicates": View(
        "two delivered assets that look alike, each two once",
        {
            "asset_id": "one of them, the first by name",
            "other_id": "the other",
            "distance": "bits of 192 in which their looks differ: 0 the same, 11 (about 10 degrees) the most",
        },
        DUPLICATES_SQL,
        asked=True,
    ),
    "models": View(
        "one model that was used or declared",
        {
            "model_id": "reference@revision",
            "reference": "hub id or folder name",
            "revision": "hash of the weights or hub revision",
            "kind": "image, point or judge",
            "licence": "SPDX id or name of the licence; NULL when nobody declared it",
            "licence_class": "open, conditions (commercial use with conditions), unknown or non-commercial",
            "conditions": "what the licence asks for, in plain sentences; NULL when nothing or not kept",
            "licence_link": "where the licence can be read; NULL when not kept",
            "commercial_use": "whether the licence allows shipping what it made; NULL when not declared",
            "source": "where it came from",
            "bytes": "size of the weights in bytes",
            "assets": "assets whose current stages used it (count)",
            "stages": "current stages that used it (count)",
            "first_used_at": "oldest current use, UTC",
            "last_used_at": "newest current use, UTC",
        },
        MODELS_SQL,
    ),
}

BASE = tuple(name for name, view in VIEWS.items() if not view.sql)
DERIVED = {name: view for name, view in VIEWS.items() if view.sql}


def select_sql(name: str, **sources: str) -> str:
    """SQL of a derived relation; ``sources`` may name tables to read in place of those of :data:`BASE`.

    ``declared`` among them has the models' declarations where ``stage_runs`` has the rows of some assets only.
    """
    names = {name: name for name in BASE} | {"declared": "stage_runs"} | sources
    sql = VIEWS[name].sql
    assert sql is not None, f"{name} is not derived"
    return sql.format(**names)


def base_sql(name: str, events: str, latest: str) -> str:
    """SQL of a base relation over nested rows in ``events``, with ``latest`` holding the latest event ids."""
    is_latest = f"event_id in (from {latest}) as is_latest"
    if name == "stage_runs":
        columns = ", ".join(PLACE if name == "stage_idx" else name for name in STAGE_RUN_COLUMNS)
        return f"select {columns}, {is_latest} from {events}"
    if name == "metrics":
        return f"""
            select event_id, run_id, asset_id, stage, recipe, entry.key as name, entry.value as value, {is_latest}
            from (select event_id, run_id, asset_id, stage, recipe, unnest(map_entries(metrics)) as entry from {events})
        """
    struct, column = LISTED[name]
    fields = ", ".join(f"{struct}.{each}" for each in VIEWS[name].columns if each not in (*OF_EVENT, "is_latest"))
    return f"""
        select {", ".join(OF_EVENT)}, {fields}, {is_latest}
        from (select {", ".join(OF_EVENT)}, unnest({column}) as {struct} from {events})
    """


def markdown() -> str:
    """The relations and their columns as Markdown: the generated part of docs/CATALOGUE.md."""
    parts = []
    for name, view in VIEWS.items():
        lines = [f"### `{name}`", "", f"A row is {view.row}.", "", "| column | meaning |", "|---|---|"]
        lines += [f"| `{column}` | {text} |" for column, text in view.columns.items()]
        parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"
