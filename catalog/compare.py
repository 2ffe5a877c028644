"""Two nights, or two recipes, side by side.

compare(library, "night-0041", "night-0042")
compare(library, "recipe:draft", "recipe:factory")
compare(library, "last~1", "last")
compare(library, "tag:mesh.face_budget=2000", "tag:mesh.face_budget=5000")    # two sides of a sweep
"""

from __future__ import annotations

import os

import duckdb
import pyarrow as pa

from catalog import query
from catalog.store import Store
from catalog.views import GOOD, LOOKS, WORK
from pipeline_core.errors import RequestError
from pipeline_core.stages import DELIVERY

MOST_CHANGED = 20
DRAWS, MOST_DRAWN = 200, 10_000
"""Draws of a bootstrap, and of how many assets it is cheap."""
POISSON = (0.367879, 0.735759, 0.919699, 0.981012, 0.996340, 0.999406)
"""The shares of draws in which a Poisson variate of mean 1 is at most 0, 1, ... 5."""

SIDES_SQL = f"""
create temp view both_runs as
    select 'a' as side, {{pair}} as pair, * from stage_runs where {{a}} and {WORK}
    union all select 'b' as side, {{pair}} as pair, * from stage_runs where {{b}} and {WORK};
create temp view both_costs as
    select 'a' as side, * from costs where {{a}} union all select 'b' as side, * from costs where {{b}}
"""

TABLES = {
    "overview": f"""
        select side, count(distinct asset_id) as assets,
            count(distinct asset_id) filter (stage = '{DELIVERY}' and status in {GOOD}) as delivered,
            count(distinct asset_id) filter (status not in {GOOD}) as failed,
            count(*) as attempts, round(sum(duration_s) / 3600, 3) as machine_hours,
            round(sum(gpu_s) / 3600, 3) as gpu_hours, max(peak_vram_mb) as peak_vram_mb,
            string_agg(distinct recipe, ', ' order by recipe) as recipes, max(code_version) as code_version
        from both_runs group by side order by side
    """,
    "accepted": f"""
        with each as (
            select side, asset_id, sum(share_s) as share_s, sum(gpu_s) as gpu_s, sum(cost) as cost,
                count(*) filter (accepted) as accepted
            from both_costs group by side, asset_id
        ),
        drawn as (  -- each asset as often as a Poisson variate of mean 1 says, which its name and the draw's decide
            select side, draw, sum(share_s * times) / nullif(sum(accepted * times), 0) as s
            from (
                select side, share_s, accepted, draw, {" + ".join(f"(u > {bound})::int" for bound in POISSON)} as times
                from (
                    select *, hash(asset_id, draw) / 18446744073709551615.0 as u
                    from (from each qualify count(*) over (partition by side) <= {MOST_DRAWN}), range({DRAWS}) r(draw)
                )
            ) group by side, draw
        ),
        interval as (
            select side, quantile_cont(coalesce(s, 'infinity'::double), [0.025, 0.975]) as s from drawn group by side
        )
        select side, count(*) as assets, sum(accepted)::bigint as accepted,
            round(sum(accepted) / count(*), 3) as accepted_share,
            round(sum(share_s) / nullif(sum(accepted), 0), 1) as s_each,
            round(case when isfinite(any_value(interval.s[1])) then any_value(interval.s[1]) end, 1) as s_each_low,
            round(case when isfinite(any_value(interval.s[2])) then any_value(interval.s[2]) end, 1) as s_each_high,
            round(sum(gpu_s) / nullif(sum(accepted), 0), 1) as gpu_s_each,
            round(sum(cost) / nullif(sum(accepted), 0), 4) as cost_each
        from each left join interval using (side) group by side order by side
    """,
    "stages": f"""
        with each as (
            select side, stage, min(stage_idx) as stage_idx, count(*) filter (status in {GOOD}) as ok,
                count(*) filter (status not in {GOOD}) as failed,
                median(duration_s) filter (status = 'ok') as p50_s,
                quantile_cont(duration_s, 0.95) filter (status = 'ok') as p95_s, sum(gpu_s) as gpu_s
            from both_runs group by side, stage
        )
        select stage, a.ok as ok_a, b.ok as ok_b, a.failed as failed_a, b.failed as failed_b,
            round(a.p50_s, 3) as p50_s_a, round(b.p50_s, 3) as p50_s_b, round(b.p50_s / nullif(a.p50_s, 0), 3) as ratio,
            round(a.p95_s, 3) as p95_s_a, round(b.p95_s, 3) as p95_s_b,
            round(a.gpu_s, 1) as gpu_s_a, round(b.gpu_s, 1) as gpu_s_b
        from (from each where side = 'a') a full join (from each where side = 'b') b using (stage)
        order by coalesce(a.stage_idx, b.stage_idx), stage
    """,
    "metrics": """
        with each as (
            select side, stage, name, count(*) as n, avg(value) as mean, stddev_samp(value) as deviation
            from newest group by all
        )
        select stage, name, a.n as n_a, b.n as n_b, a.mean as mean_a, b.mean as mean_b, b.mean - a.mean as change,
            (b.mean - a.mean) / nullif(sqrt(a.deviation ** 2 / a.n + b.deviation ** 2 / b.n), 0) as in_errors
        from (from each where side = 'a') a full join (from each where side = 'b') b using (stage, name)
        order by stage, name
    """,
    "assets": f"""
        with outcome as (
            select side, pair, any_value(asset_id) as asset_id,
                case when count(*) filter (stage = '{DELIVERY}' and status in {GOOD}) > 0 then 'ok'
                else coalesce(arg_max(status, event_id) filter (status not in {GOOD}), 'unfinished') end as outcome
            from both_runs group by side, pair
        ),
        change as (
            select pair, name, a.value as a, b.value as b,
                (b.value - a.value) / nullif(stddev_samp(b.value - a.value) over (partition by name), 0) as size
            from (from newest where side = 'a') a join (from newest where side = 'b') b using (pair, stage, name)
        ),
        largest as (select pair, arg_max({{name: name, a: a, b: b, size: size}}, abs(size)) as most
            from change where size is not null and a <> b group by pair)
        select x.asset_id, x.outcome as outcome_a, y.outcome as outcome_b, most.name as metric, most.a as value_a,
            most.b as value_b, round(most.size, 2) as in_deviations
        from (from outcome where side = 'a') x join (from outcome where side = 'b') y using (pair)
            left join largest using (pair)
        where x.outcome <> y.outcome or most is not null
        order by x.outcome <> y.outcome desc, abs(most.size) desc nulls last, x.asset_id limit {MOST_CHANGED}
    """,
}
"""``overview``, ``accepted`` (what an accepted asset cost, all attempts, and 95 % of draws), ``stages``, ``metrics``
(``in_errors``: change over its standard error) and the ``assets`` that both sides made and that changed most
(``in_deviations``: change over the spread of changes). Of two sides of a sweep those are pairs: the same but for the
tags that the sides name, and called by the first."""

NEWEST_SQL = f"""
create temp view newest as
    select side, pair, asset_id, stage, name, arg_max(value, event_id) as value
    from metrics join both_runs using (event_id, asset_id, stage) where name not in {LOOKS}
    group by side, pair, asset_id, stage, name
    qualify stage <> '{DELIVERY}' or bool_and(stage = '{DELIVERY}') over (partition by side, asset_id, name)
"""  # record says again what evaluate measured; a look is a name, no amount


def compare(root: str | os.PathLike[str] | Store, a: str, b: str, *, live: bool = True) -> dict[str, pa.Table]:
    """The tables of :data:`TABLES`. Raises ``RequestError`` for a run or recipe that the catalogue does not know."""
    with query.connect(root, live=live) as con:
        con.execute(SIDES_SQL.format(a=_condition(con, a), b=_condition(con, b), pair=_pair(a, b)))
        con.execute(NEWEST_SQL)
        return {name: con.sql(sql).to_arrow_table() for name, sql in TABLES.items()}


def _pair(a: str, b: str) -> str:
    """SQL of what an asset has in common with its pair on the other side: its id; of a sweep all its other tags."""
    names = [query.quote(_tag(text)[0]) for text in (a, b) if text.startswith("tag:")]
    if not names:
        return "asset_id"
    rest = f"list_sort(list_filter(map_entries(tags), lambda tag: tag.key not in ({', '.join(names)})))"
    return f"case when tags['sweep'] is null then asset_id else {rest}::varchar end"


def _tag(text: str) -> tuple[str, str]:
    """Name and value of ``tag:name=value``; the value of a tag that is a word is empty."""
    name, _, value = text.removeprefix("tag:").partition("=")
    return name, value


def _tagged(con: duckdb.DuckDBPyConnection, text: str) -> str:
    """SQL that selects the stage runs of assets with a tag. Raises ``RequestError`` where there are none."""
    name, value = _tag(text)
    told = f"tags[{query.quote(name)}]"
    rows = con.execute(f"select distinct {told} from stage_runs where {told} is not null order by all").fetchall()
    known = [row[0] for row in rows]
    if value not in known:
        said = ", ".join(f"tag:{name}={each}" for each in known[:20]) or "no asset with a tag of that name"
        raise RequestError(f"no asset has the tag {name}={value!r}; the catalogue has: {said}")
    return f"{told} = {query.quote(value)}"


def _condition(con: duckdb.DuckDBPyConnection, text: str) -> str:
    """SQL that selects the stage runs that ``text`` names."""
    if text.startswith("recipe:"):
        name = text.removeprefix("recipe:")
        rows = con.execute("select distinct recipe from stage_runs where recipe is not null order by all").fetchall()
        known = [row[0] for row in rows]
        if name not in known:
            raise RequestError(f"no asset was made with the recipe {name!r}; the catalogue has: {', '.join(known)}")
        return f"recipe = {query.quote(name)}"
    if text.startswith("tag:"):
        return _tagged(con, text)
    runs = [row[0] for row in con.execute("select run_id from runs order by finished_at desc, run_id").fetchall()]
    if text == "last" or text.startswith("last~"):
        back = text.removeprefix("last").removeprefix("~") or "0"
        if not back.isdigit() or int(back) >= len(runs):
            raise RequestError(f"{text!r}: the catalogue has {len(runs)} runs; last~0 to last~{len(runs) - 1} exist")
        return f"run_id = {query.quote(runs[int(back)])}"
    found = [run for run in runs if run == text] or [run for run in runs if run.startswith(text)]
    if len(found) != 1:
        what = "more than one run starts with" if found else "no run is called"
        shown = ", ".join((found or runs)[:10]) or "none yet"
        raise RequestError(f"{what} {text!r}; runs, newest first: {shown}. Or recipe:<name>, last, last~1")
    return f"run_id = {query.quote(found[0])}"
