"""A sweep from its manifest to what ``compare`` tells of it, with real stages at tiny settings, and without Prefect."""

import pytest

from catalog import query
from catalog.compare import compare
from flows.asset import make_asset
from flows.batch import BatchRequest, run_batch
from pipeline_core import models
from pipeline_core.io.ply import load_splat
from pipeline_core.storage import Library
from pipeline_core.sweep import sweep

QUICK = {"geometry.steps": 2, "appearance.steps": 1, "texture.steps": 0, "evaluate.turntable_frames": 0}


@pytest.fixture(scope="module")
def library(tmp_path_factory, tiny):
    """A mug, whose colours depend on the view, with two budgets of faces."""
    folder = tmp_path_factory.mktemp("swept")
    (folder / "props.csv").write_text("id,prompt,seed,init.sh_degree,dress.splat\nmug,a blue mug,1,1,optimised\n")
    sweep(folder / "props.csv", ["mesh.face_budget=120,300"], folder / "swept.yaml")
    overrides = {name: value for name, value in (tiny | QUICK).items() if name != "mesh.face_budget"}
    request = BatchRequest(
        manifest=str(folder / "swept.yaml"), library=str(folder / "library"), recipe="draft", overrides=overrides
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tasks.policy.ask", lambda task, journey, *up, anew=False: task.fn(journey, *up))
        summary = run_batch(request, make_asset)
    models.close_engines()
    assert summary.ok and len(summary.made) == 2, summary
    return Library(request.library)


def test_compare_tells_the_field_that_was_swept(library):
    tables = compare(library.root, "tag:mesh.face_budget=120", "tag:mesh.face_budget=300")
    assert [(row["assets"], row["delivered"]) for row in tables["overview"].to_pylist()] == [(1, 1), (1, 1)]
    told = {(row["stage"], row["name"]): row for row in tables["metrics"].to_pylist()}
    faces = told["extract_mesh", "faces"]
    assert (faces["n_a"], faces["n_b"]) == (1, 1) and 0 < faces["mean_a"] <= 120 < faces["mean_b"] <= 300
    stages = {row["stage"]: (row["ok_a"], row["ok_b"]) for row in tables["stages"].to_pylist()}
    assert stages["extract_mesh"] == (1, 1)


def test_colours_that_depend_on_the_view_are_delivered(library):
    paths = [row["splat_path"] for row in query.rows(library.root, "select splat_path from assets")]
    for splat in (load_splat(library.root / path) for path in paths):
        assert splat.sh_degree == 1 and splat.shN.any(dim=(1, 2)).float().mean() > 0.5
    assert len(paths) == 2
