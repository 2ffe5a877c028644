"""What is accepted, what it costs, and whether the best of four seeds is better than one.

    python tests/bench/acceptance.py --library bench-library     # kept: what is there is not made again
    python tests/bench/acceptance.py --prompts 2 --set geometry.steps=2 --set init.sampler_steps=8

24 prompts that the priors were never trained on and 8 that nobody can make (words that no model reads, or things that
are not one thing), each with one candidate and with four, under one contract: a judge reads the prompt, ranks it first
among hard negatives (``fidelity`` at least 0), no word is unknown. Another judge, trained apart and never asked while
anything is made, then says what is true:

    accepted, rejected      by the contract, of all 32
    wrongly_accepted        accepted, and the other judge does not rank the prompt first
    impossible_accepted     of the 8, with one candidate or with four
    margin_1, margin_4      the other judge's mean caption margin over the 24; ``margin_gain`` their paired difference
    cpu_s_per_accepted_*    seconds of all work on all 32, that on dropped candidates included, over accepted ones

Both times share one library, and what both need is made once; its seconds count for both. Intervals are 95 % bootstrap
over the prompts. The last line of stdout is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from catalog import query
from catalog.render import aligned
from pipeline_core.io.gltf import load_glb
from pipeline_core.metrics import fidelity
from pipeline_core.metrics.judge import Judge, load_judge
from pipeline_core.props.captions import caption
from tests.bench.committed import OTHER_JUDGE
from tests.bench.shared import heldout_prompts, paired, run_factory, truth_row

IMPOSSIBLE = (
    "a photorealistic dragon breathing fire",
    "zxqv blorf",
    "an old sailor telling a story",
    "ein roter Stuhl mit blauen Beinen",
    "a red",
    "a wooden golden stone",
    "a mushroom chair lantern boat",
    "a blue mug on a red table beside a green house",
)
"""The first four have words that the starter does not know; the others are words that it knows and no one thing."""
CONTRACT = """\
judged: true
fidelity: 0
unreadable_words: 0
attempts: 1
"""
COST_SQL = """
with spent as (select stage_key, max(share_s) as seconds from stage_runs where status = 'ok' group by stage_key)
select sum(seconds) as seconds from spent
where stage_key in (select stage_key from stage_runs where starts_with(asset_id, ?))
"""


def make(library: Path, prompts: list[str], candidates: int, changes: list[str]) -> list[str]:
    """Run the factory on ``prompts``; returns the assets' ids."""
    ids = [f"best-of-{candidates}-{i:02d}" for i in range(len(prompts))]
    contract = library.resolve() / "contract.yaml"
    contract.write_text(CONTRACT)
    changes, options = [f"choice.candidates={candidates}", *changes], ("--skip-invalid", "--accept", str(contract))
    run_factory(library, f"best-of-{candidates}.csv", ids, prompts, 2000, changes, *options)
    return ids


def told(library: Path, name: str, prompt: str, judge: Judge) -> dict[str, Any]:
    """What the contract and the other judge say of an asset. One that was not made shows nothing."""
    found = query.rows(str(library), "select status from assets where asset_id = ?", [name])
    status = found[0]["status"] if found else "refused"
    glb = library / "assets" / name / "asset.glb"
    scores = fidelity.score_mesh(load_glb(glb), prompt, judge=judge) if glb.exists() else {"judged": 0.0}
    return {"status": status, "margin": scores.get("caption_margin"), "right": scores.get("r_precision", 0.0) > 0}


def summary(rows: list[dict[str, Any]], possible: int, seconds: float) -> dict[str, Any]:
    """One column of the table; the last rows are the impossible ones."""
    accepted = [row for row in rows if row["status"] == "ok"]
    margins = [row["margin"] for row in rows[:possible] if row["margin"] is not None]
    return {
        "accepted": len(accepted),
        "rejected": sum(row["status"] in ("rejected", "refused") for row in rows),
        "unjudged": sum(row["status"] == "unjudged" for row in rows),
        "failed": sum(row["status"] in ("failed", "timeout", "quarantined") for row in rows),
        "wrongly_accepted": sum(not row["right"] for row in accepted),
        "impossible_accepted": sum(row["status"] == "ok" for row in rows[possible:]),
        "right": sum(row["right"] for row in rows[:possible]),
        "margin": round(float(np.mean(margins)), 4) if margins else None,
        "cpu_s": round(seconds, 1),
        "cpu_s_per_accepted": round(seconds / len(accepted), 1) if accepted else None,
    }


def main(argv: list[str] | None = None) -> int:
    """Command line; see the module's docstring."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=24)
    parser.add_argument("--impossible", type=int, default=len(IMPOSSIBLE), help="of those that nobody can make")
    parser.add_argument("--candidates", type=int, default=4)
    parser.add_argument("--library", type=Path, help="kept between calls (default: a temporary folder)")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="recipe field: geometry.steps=200")
    parser.add_argument("--other-judge", default=str(OTHER_JUDGE), help="folder of a judge that selected nothing")
    args = parser.parse_args(argv)
    library = args.library or Path(tempfile.mkdtemp(prefix="splatmill-bench-"))
    library.mkdir(parents=True, exist_ok=True)
    judge, specs = load_judge(args.other_judge), heldout_prompts(args.prompts, seed=77)
    prompts = [caption(spec) for spec in specs] + list(IMPOSSIBLE[: args.impossible])
    columns, rows = {}, {}
    for candidates in (1, args.candidates):
        ids = make(library, prompts, candidates, args.changes)
        rows[candidates] = [told(library, name, prompt, judge) for name, prompt in zip(ids, prompts, strict=True)]
        seconds = query.rows(str(library), COST_SQL, [f"best-of-{candidates}-"])[0]["seconds"] or 0.0
        columns[candidates] = summary(rows[candidates], len(specs), seconds)
    for prompt, *each in zip(prompts, *rows.values(), strict=True):
        print(prompt, *(f"{row['status']} {row['margin']}" for row in each), sep=" | ")
    print(aligned(["", *map(str, columns)], [[name, *(c[name] for c in columns.values())] for name in columns[1]]))
    best = args.candidates
    pairs = [
        (many["margin"] or 0.0) - (one["margin"] or 0.0)
        for one, many in zip(rows[1][: len(specs)], rows[best][: len(specs)], strict=True)
    ]
    truths = [truth_row(spec, judge) for spec in specs]
    result = {"prompts": len(prompts), "candidates": best, "judge": judge.model_id}
    for name in columns[1]:
        if name != "impossible_accepted":
            result |= {f"{name}_{count}": column[name] for count, column in columns.items()}
    result |= {
        "wrongly_accepted": max(column["wrongly_accepted"] for column in columns.values()),
        "impossible_accepted": max(column["impossible_accepted"] for column in columns.values()),
        "margin_gain": paired(pairs),
        "right_truth": sum(row["r_precision"] > 0 for row in truths),
        "margin_truth": round(float(np.mean([row["caption_margin"] for row in truths])), 4),
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
