"""The command with one stage and one format more: a row each, and what the rows name.

python -m tests.flows.toy run props.csv ...
"""

from __future__ import annotations

import sys
import time
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import ModuleType

from pipeline_core import deliverables, stages


def weigh(journey, folder, mesh):
    """The toy stage: how many bytes the mesh has."""
    from tasks.stage import path_of

    size = path_of(journey, mesh, "mesh.glb").stat().st_size
    (folder / "weight.txt").write_text(f"{size}\n")
    time.sleep(0.6)  # progress is looked at four times a second
    return {"toy_weight": float(size)}


def export(source: Path, target: Path, *, spec, provenance) -> None:
    """The toy format: the number and the prompt."""
    target.write_text(f"{spec.prompt} weighs {source.read_text().strip()} bytes, by {provenance['code_version']}\n")


def install() -> None:
    """Put the rows into the tables, and the task and the exporter where the tables look for them."""
    row = stages.Stage("weigh", 1, "mesh", ("extract_mesh",), weight=0.05, outputs=("weight.txt",))
    table = list(stages.STAGES)
    table.insert([each.name for each in table].index("extract_mesh") + 1, row)
    last = table[-1]
    table[-1] = replace(last, upstream=(*last.upstream, "weigh"), keyed_by=(*last.key_upstream, "weigh"))
    stages.STAGES = tuple(table)
    note = deliverables.Deliverable("note", "the toy's note", "note.txt", "text/plain", "weight.txt", "toy", "note")
    deliverables.DELIVERABLES += (note,)
    add_module("tasks.weigh", __getattr__=task)
    add_module("pipeline_core.io.toy", export=export)


@cache
def task(name: str):
    """The toy's task, made when it is asked for: the command settles Prefect's settings before Prefect is loaded."""
    if name != "weigh":
        raise AttributeError(name)
    from tasks.policy import stage_task

    return stage_task(weigh)


def add_module(name: str, **members) -> None:
    """A module as if it lay in the tree."""
    sys.modules[name] = module = ModuleType(name)
    vars(module).update(members)


if __name__ == "__main__":
    install()
    from flows.cli import main

    main()
