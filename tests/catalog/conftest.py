"""Small catalogues for the tests of this room."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from catalog import query
from catalog.schema import Artifact, StageRun, request
from catalog.writer import append

WORK = ("init_points", "optimize_gaussians", "extract_mesh", "evaluate", "record")


@pytest.fixture
def make_run() -> Callable[..., StageRun]:
    """A stage run with every kind of column filled."""

    def make(asset: str = "chair-07", stage: str = "extract_mesh", status: str = "ok", **columns: Any) -> StageRun:
        broken = status not in ("ok", "skipped")
        given = {
            "run_id": "night-1",
            "recipe": "draft",
            "duration_s": 2.5,
            "gpu_s": 1.5,
            "model_ids": ("starter@abc",),
            "tags": {"category": "furniture"},
            "metrics": {} if broken else {"faces": 9800.0, "fidelity": 0.3},
            "artifacts": () if broken else (Artifact("glb", f"assets/{asset}/asset.glb", "ab" * 32, 123),),
            "error_type": "DataError" if broken else None,
            "error_class": "data" if broken else None,
            "error_message": "the density field is empty" if broken else None,
        }
        return StageRun(asset_id=asset, stage=stage, status=status, **(given | columns))

    return make


@pytest.fixture
def random_runs(make_run: Callable[..., StageRun]) -> Callable[[random.Random, int], list[StageRun]]:
    """Events of few assets and stages, so that attempts follow each other."""

    def make(rng: random.Random, count: int) -> list[StageRun]:
        return [
            make_run(
                f"chair-{rng.randrange(9)}",
                rng.choice(WORK),
                rng.choice(("ok", "ok", "failed", "skipped", "timeout")),
                run_id=f"night-{rng.randrange(4)}",
                duration_s=rng.randrange(80) / 8,
                metrics={"faces": float(rng.randrange(9000)), "loss": rng.random()},
            )
            for _ in range(count)
        ]

    return make


@pytest.fixture
def one_asset(tmp_path: Path, make_run: Callable[..., StageRun]) -> Path:
    """A library with one delivered asset and one that failed."""
    spec = {"prompt": "an oak chair", "seed": 7, "recipe": {"name": "draft", "mesh": {"face_budget": 5000}}}
    append(tmp_path, [request("night-1", "chair-07", spec), request("night-1", "vase-01", spec)])
    append(tmp_path, [make_run(stage="extract_mesh"), make_run(stage="record")])
    append(tmp_path, [make_run("vase-01", "extract_mesh", "failed")])
    return tmp_path


def event_ids(library: Any) -> list[str]:
    """Ids of all events a reader sees, in order, as often as it sees them."""
    return [row["event_id"] for row in query.rows(library, "select event_id from events order by event_id")]


@pytest.fixture
def seen_ids() -> Callable[[Any], list[str]]:
    """:func:`event_ids`."""
    return event_ids
