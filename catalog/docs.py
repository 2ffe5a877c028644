"""docs/CATALOGUE.md: the prose below, and the columns and questions from the code.

    python -m catalog.docs docs/CATALOGUE.md
"""

from __future__ import annotations

import sys
from pathlib import Path

from catalog import questions, views

PAGE = """# The catalogue

Everything that splatmill ever did is one SQL query away.

    splatmill sql "select asset_id, status, faces from assets order by faces desc limit 10"
    splatmill sql --examples                        # the ten questions below
    splatmill sql --example 1 --format md           # table, csv, json, parquet or md
    splatmill compare last~1 last                   # two nights; or recipe:draft recipe:factory, tag:set=a tag:set=b
    duckdb -readonly <library>/catalog/catalog.duckdb    # any DuckDB from 1.2 on, or a BI tool
    splatmill catalog fsck --repair                 # check every file, mend what can be mended

From Python: `duckdb.connect("<library>/catalog/catalog.duckdb", read_only=True)`, or
`catalog.query.connect("<library>")` for the files as they are this moment. pandas: `con.sql("from assets").df()`;
polars: `con.sql("from assets").pl()`.

## How it is kept

    live/<batch>.<version>.parquet   one transaction: events of finished attempts    writers only add
    sealed/<cid>.<version>.parquet   the events of many transactions                 the compactor only adds
    index/<number>.parquet           the commit of a compaction                      the compactor only adds
    catalog.duckdb                   the snapshot: real tables for people and tools  replaced as a whole
    trash/ quarantine/ tmp/          replaced files for a week; damaged files; work in progress

One row is one finished attempt of one stage on one asset, with its metrics and artifacts inside; a file is
published whole or not at all, so an attempt is never visible without its artifacts. Requests, reviews and the
licences of models are rows of the same kind (`stage` = `request`, `review`, `model`). Nothing is ever updated: the
latest attempt of a stage is the one with the greatest `event_id`, and ids grow with real order even where clocks
jump.

`splatmill catalog compact` gathers small files, as the end of a run and each look at a farm's runs do where there are
many; `splatmill catalog snapshot` brings `catalog.duckdb` up to date at the cost
of what is new. Both may run at any time, beside writers and readers, and be killed at any time. A library
on an object store (`s3://bucket/library`) is kept the same way: a commit is one conditional PUT. Its snapshot lies
in the user's cache folder (`SPLATMILL_CACHE`). Runs and farms take such an address for their library, and `sql`,
`compare`, `gallery`, `gc`, `catalog fsck` and `catalog rebuild` work on it directly; `splatmill catalog push
s3://bucket/library` copies a local folder's outputs, assets and events into it.

`splatmill sql` runs strangers' SQL: the snapshot is opened read-only, with no access to files or network, a locked
configuration and limits on time (`--timeout`), memory (`--memory`) and rows (`--limit`). `--live` reads the files
as they are this moment, for operators; only plain queries pass. Make `live/`, `sealed/` and `index/` unwritable for
users who only read.

A catalogue that is lost comes back from the records beside the outputs and, for what has no output (requests, models,
failures, reviews), from `records/`: `splatmill catalog rebuild`. What does not come back: that a run found an output
and used it again (`skipped`), and outputs that `gc` has removed.

The schema grows by addition: a new column is NULL in older rows, and no column is renamed, retyped or removed.

## How good they are

`evaluate` asks a judge that never guided the asset: a small one of splatmill's own for prompts in the starter's words,
and outside them a CLIP of transformers, if the recipe names one in `evaluate.judge` (a folder or a hub id).
`assets.judge` has its id, `judged_by_starter` says it as a number, and where there is none `judged` is 0 and there are
no scores: nobody knows. `evaluate.aesthetic` may name an aesthetic predictor of LAION's kind, a head over CLIP
embeddings, all in one folder, safetensors only. Both are models as priors are: `plan` finds them missing, their ids are
in keys, their licences count for `--commercial`.

| metric | says | good |
| --- | --- | --- |
| `fidelity` | cosine of prompt and eight views, minus that of the best of 31 captions that are nearly right | above 0 |
| `view_agreement` | how surely a view by itself puts the prompt before those captions, the mean of all | 1 |
| `janus_score` | how surely the front is seen where it belongs, and once more from beside or behind | 0 |
| `start_gain` | what distillation added to that margin: of the final splat, minus that of its start | above 0 |
| `consistency` | cosine between what one view shows and what the others do | 1 |
| `mesh_iou`, `mesh_psnr` | whether the mesh looks like the delivered splat: outlines, colours | 1; above 22 dB |
| `optimised_iou` | where that one is drawn on the mesh: the outlines against the optimised Gaussians | above 0.8 |
| `aesthetic` | rating of views in light, where there is a predictor (LAION's: 1 to 10) | high |

Nearly right are, in the starter's words, captions of its grammar; of any other prompt its own words with one changed:
another colour, two colours exchanged, another material or quality, another thing. A margin is the judge's own: it ranks
assets of one judge, not those of two. What has no front, says the starter's grammar, has a `janus_score` of 0.

    splatmill sql "select asset_id, fidelity from assets where judge like 'judge-starter%' order by fidelity desc"

## What assets cost

With `SPLATMILL_PRICE_PER_HOUR` in a worker's environment (any one currency; each machine may have its own), every
attempt keeps the price of its hour, so that history stays what it was when prices change. Requests keep who asked:
`SPLATMILL_USER`, else the user's name on the machine, and nothing more of the person. The view `costs` has both, for
each asset in each run:

    splatmill sql "select asked_by, run_id, round(sum(cost), 2) as cost, sum(gpu_s) as gpu_s from costs group by all"
    splatmill sql "select tags['category'] as category, sum(cost) as cost, count(*) as assets from costs group by all"

What an **accepted** asset costs is the time of all attempts, rejected ones and candidates that were dropped included,
over the assets that are accepted: by a person's verdict where there is one, else by their contract. `accepted` is true
in one run of an asset only, so the sums may be grouped by anything; where nothing was accepted they give NULL. By
recipe: the second of the questions below. By night, tag and model:

    splatmill sql "select run_id, sum(cost) / nullif(count_if(accepted), 0) as each from costs group by run_id"
    splatmill sql "select tags['set'] as tag, sum(gpu_s) / nullif(count_if(accepted), 0) as s from costs group by 1"
    splatmill sql "select m, sum(cost) / nullif(count_if(accepted), 0) as s from costs, unnest(models) t(m) group by 1"

`splatmill compare` has the same for two nights, recipes or tags, with the interval that holds 95 % of 200 draws of
their assets.

Charged is the time in which a process has a stage at work, divided equally among the assets that it works at; what it
takes to start, to load models and to wait is not in it.

## What is wrong with files

The stage `validate` looks at an asset's files before they are published: structure and bounds of the GLB, holes,
debris, faces without area, atlas, texture sizes, height and pivot, whether splat and mesh stand in one place, the mark
of generated media; and Khronos' `gltf-validator` where Node and that package are (`npm install -g gltf-validator`, or
`SPLATMILL_GLTF_VALIDATOR` names its folder). Where it is not, a finding of severity `info` says so. An asset with
errors is delivered all the same: `status`, a run's report and the gallery show it, and gates read the view `findings`:

    splatmill sql "select code, severity, file, message, count from findings where asset_id = 'chair-07' and is_latest"
    splatmill sql "select asset_id from assets where accepted and finding_errors = 0"

`splatmill validate PATH...` looks at files anywhere, with the same eyes, and at signatures and sha256 too.

## What it costs

`tests/bench/catalog.py` on two cores of a shared machine with nothing else running, 2026-11-22; synthetic assets with
eight events, two artifacts and eight metrics each.

| | |
|---|---|
| one append, one process, median | 4.3 ms (Delta 29 ms) |
| 8 processes x 200 appends, three rounds | 4800 of 4800 stored, 173 per second; Delta: 586 of 600, 11.6 per second |
| slowest of the ten questions on the snapshot | 10k rows 7 ms, 1M 18 ms, 5M 33 ms |
| the same on the live files, after compaction | 10k rows 43 ms, 1M 2.0 s, 5M 16 s (before: 48 ms, 1.3 s, 7.6 s) |
| a night of 3000 assets (24k events) more in the snapshot | on 1M rows 2.0 s, on 5M 2.2 to 2.5 s |
| snapshot from nothing | 1M rows 9.7 s, 212 MB; 5M 37 s, 1.06 GB |

So ask the snapshot; `--live` is for what happened since, and for a catalogue of up to a few 100k rows. Wall times of
the live questions at 1M and 5M swing by a factor of two between runs at the same CPU time.

## Relations

Times are UTC. `_s` is seconds, `_mb` MiB, `bytes` bytes; counts say so.

@VIEWS@
## Ten questions

@QUESTIONS@"""


def markdown() -> str:
    """The whole page."""
    return PAGE.replace("@VIEWS@", views.markdown()).replace("@QUESTIONS@", questions.markdown())


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(markdown(), encoding="utf-8")
