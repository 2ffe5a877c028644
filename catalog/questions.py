"""The ten questions that a studio asks, as SQL that runs unchanged on live files and on the snapshot.

``splatmill sql --examples`` prints them; ``splatmill sql --example 3`` runs one.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Question:
    """A question in words, and the SQL that answers it."""

    title: str
    sql: str


QUESTIONS = (
    Question(
        "What failed last night, and why?",
        """
select stage, error_class, error_type, sum(assets) as assets, sum(unresolved_assets) as still_failed,
       arg_max(sample_message, last_at) as last_message, arg_max(sample_asset_id, last_at) as for_example
from failures
where run_id = (select arg_max(run_id, finished_at) from runs)
group by all
order by still_failed desc, assets desc
""",
    ),
    Question(
        "What does an accepted asset cost, by recipe? (all attempts count; NULL where none is accepted)",
        """
select recipe, count(distinct asset_id) as assets,
       count_if(accepted) as accepted,
       round(sum(share_s) / nullif(count_if(accepted), 0), 1) as s_each,
       round(sum(gpu_s) / nullif(count_if(accepted), 0), 1) as gpu_s_each,
       round(sum(cost) / nullif(count_if(accepted), 0), 4) as cost_each
from costs
group by recipe
order by cost_each nulls last, s_each
""",
    ),
    Question(
        "Which recipe wins, by category?",
        """
select category, recipe, count(*) as assets,
       round(avg(coalesce(accepted, false)::int), 3) as accepted_share,
       round(avg(fidelity), 4) as fidelity, round(avg(consistency), 4) as consistency,
       round(avg(machine_s), 1) as machine_s
from assets
group by category, recipe
having count(*) filter (fidelity is not null) > 0
qualify row_number() over (partition by category order by avg(fidelity) desc) = 1
order by category
""",
    ),
    Question(
        "Which assets used a given model? (put its reference; the newest first)",
        """
select asset_id, stage, model_id, run_id, finished_at
from lineage
where model_id like 'starter%'
order by finished_at desc
limit 100
""",
    ),
    Question(
        "Which stage takes the most GPU time?",
        """
select stage, count(*) as attempts, round(sum(gpu_s) / 3600, 2) as gpu_hours,
       quantile_cont(coalesce(gpu_s, duration_s), [0.5, 0.95]) as p50_p95_s,
       round(sum(duration_s) / 3600, 2) as machine_hours
from stage_runs
where status = 'ok' and stage not in ('request', 'review', 'model') and finished_at > now() - interval 7 days
group by stage
order by gpu_hours desc nulls last, machine_hours desc
""",
    ),
    Question(
        "Which assets are over their budget?",
        """
select asset_id, category, faces, face_budget, round(faces / face_budget, 2) as times_over, glb_bytes, glb_path
from assets
where delivered_at is not null and (faces > face_budget or glb_bytes > 20 * 1024 * 1024)
order by times_over desc
limit 100
""",
    ),
    Question(
        "What is not accepted, and where did it stop?",
        """
select status, coalesce(error_stage, last_stage) as stopped_at, error_class, error_type, count(*) as assets,
       min(last_seen_at) as oldest, any_value(asset_id) as for_example
from assets
where status <> 'ok'
group by all
order by assets desc
""",
    ),
    Question(
        "How did the nights compare?",
        """
select run_id, date, assets, delivered, failed, round(wall_s / 3600, 2) as wall_hours,
       round(delivered / nullif(wall_s / 3600, 0), 1) as delivered_per_hour, round(gpu_s / 3600, 2) as gpu_hours,
       round(machine_s / nullif(wall_s, 0), 1) as workers_busy, stage_p95_s, peak_vram_mb
from runs
order by finished_at desc
limit 30
""",
    ),
    Question(
        "Where do retries burn time?",
        """
select recipe, category, count(*) as assets, sum(failed_attempts) as failed_attempts,
       count(*) filter (failed_attempts > 0) as assets_retried,
       round(sum(machine_s) filter (failed_attempts > 0) / 3600, 2) as their_machine_hours
from assets
group by recipe, category
having sum(failed_attempts) > 0
order by failed_attempts desc
limit 50
""",
    ),
    Question(
        "Which delivered assets may not be shipped, or used a model whose licence nobody declared?",
        """
select models.model_id, licence, commercial_use, count(distinct lineage.asset_id) as assets,
       min(lineage.asset_id) as for_example
from models join lineage using (model_id)
where commercial_use is not true and models.assets > 0
group by all
order by assets desc
""",
    ),
)


def markdown() -> str:
    """The questions with their SQL as Markdown."""
    return "\n".join(
        f"**{number}. {question.title}**\n\n```sql\n{question.sql.strip()}\n```\n"
        for number, question in enumerate(QUESTIONS, 1)
    )
