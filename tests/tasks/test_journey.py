"""Stage keys: they follow exactly what a stage depends on, and sharing goes as far as the inputs agree."""

import subprocess
import sys
from dataclasses import replace

import pytest

from pipeline_core import stages
from pipeline_core.config import RECIPES
from pipeline_core.priors.reading import Reading
from pipeline_core.spec import AssetSpec
from pipeline_core.stages import names
from tasks.journey import plan_journey
from tests.tables import renewed_with


def keys(changes=None, models=None, run="r", **spec):
    """Keys of a journey with some things changed."""
    recipe = RECIPES["draft"].override(changes or {})
    spec = {"prompt": "a blue mug", "seed": 1, "asset_id": "mug", "recipe": recipe} | spec
    return plan_journey("library", run, AssetSpec(**spec), lambda ref, kind: (models or {}).get(kind, f"{ref}@0")).keys


def changed(**options):
    """Stages whose key changes, in order."""
    before, after = keys(), keys(**options)
    return [stage for stage in names() if before[stage] != after[stage]]


def read(stage):
    """``stage`` and what reads the same section of the recipe and no less of the request: a change renews them all."""
    row = stages.named(stage)
    return [each.name for each in stages.STAGES if each is row or (row.section and each.section == row.section)]


@pytest.mark.parametrize("options, first", [
    ({"prompt": "a red mug"}, "init_points"),
    ({"seed": 2}, "init_points"),
    ({"changes": {"init.sampler_steps": 5}}, "init_points"),
    ({"models": {"points": "other@1"}}, "init_points"),
    ({"negative_prompt": "blurry"}, "optimize_gaussians"),
    ({"models": {"image": "other@1"}}, "optimize_gaussians"),
    ({"changes": {"geometry.steps": 5}}, "optimize_gaussians"),
    ({"changes": {"appearance.steps": 5}}, "densify_prune"),
    ({"changes": {"mesh.face_budget": 500}}, "extract_mesh"),
    ({"changes": {"texture.steps": 5}}, "refine_texture"),
    ({"changes": {"dress.occlusion_sides": 8}}, "dress"),
    ({"changes": {"evaluate.resolution": 64}}, "evaluate"),
    ({"height_m": 2}, "evaluate"),
    ({"height_m": 1}, None),
    ({"size_m": (1, 2, 3)}, "dress"),
    ({"size_m": (1, 2, 3), "changes": {"mesh.texels_per_metre": 99}}, "extract_mesh"),
    ({"tags": {"set": "x"}}, "validate"),
    ({"asset_id": "other"}, "validate"),
    ({"changes": {"mesh.texels_per_metre": 99}}, "extract_mesh"),
    ({"changes": {"mesh.lightmap_size": 64}}, "extract_mesh"),
    ({"run": "another"}, None),
])  # fmt: skip
def test_a_change_renews_its_stage_and_all_after_it_and_no_other(options, first):
    assert changed(**options) == (renewed_with(read(first)) if first else [])


def test_a_file_that_a_row_names_counts_by_its_content_and_kind_alone():
    def started(name="starts/mug.ply", digit="0", **changes):
        spec = {"prompt": "a blue mug", "seed": 1, "asset_id": "mug"}
        recipe = RECIPES["draft"].override({"init.start": "file"} | changes)
        spec |= {"recipe": recipe, "init_file": {"name": name, "sha256": digit * 64}}
        return plan_journey("library", "r", AssetSpec(**spec), lambda ref, kind: f"{ref}@0").keys

    first = started()
    assert [stage for stage in names() if started(digit="1")[stage] != first[stage]] == list(names())
    assert [stage for stage in names() if started(name="starts/mug.glb")[stage] != first[stage]] == list(names())
    renamed = started(name="other.PLY")
    assert [stage for stage in names() if renamed[stage] != first[stage]] == ["validate", "accept", "record"]
    assert started(**{"init.point_prior": "point-e"})["init_points"] != keys()["init_points"]


def test_an_image_counts_by_its_content_and_elevation_from_the_stages_on_that_look_at_it():
    def pictured(name="mug.png", digit="0", **spec):
        image = {"name": name, "sha256": digit * 64}
        return keys(image=image, **spec)

    first = pictured()
    looked_at = renewed_with(["optimize_gaussians", "densify_prune", "refine_texture"])
    for other in (keys(), pictured(digit="1"), pictured(image_elevation=10)):
        assert [stage for stage in names() if other[stage] != first[stage]] == looked_at
    renamed = pictured(name="pictures/cup.PNG")
    assert [stage for stage in names() if renamed[stage] != first[stage]] == ["validate", "accept", "record"]


def test_parts_count_from_the_first_stage_on_and_rows_without_them_have_the_keys_that_they_had():
    parts = [{"prompt": "a table"}, {"prompt": "a book", "size": 0.4}]
    first = keys(parts=parts)
    assert [stage for stage in names() if keys()[stage] != first[stage]] == list(names())
    moved = keys(parts=[parts[0], parts[1] | {"position": (0, 1, 0)}])
    assert [stage for stage in names() if moved[stage] != first[stage]] == list(names())
    shares = {"changes": {"geometry.part_views": 0.25}}
    assert changed(**shares) == renewed_with(["optimize_gaussians"])
    assert stages.named("optimize_gaussians").settings(RECIPES["draft"]).model_dump().get("part_views") is None


@pytest.mark.parametrize("stage", names())
def test_raising_a_stage_version_renews_it_and_all_after_it(stage, monkeypatch):
    before = keys()
    raised = tuple(replace(row, version=99) if row.name == stage else row for row in stages.STAGES)
    monkeypatch.setattr(stages, "STAGES", raised)
    after = keys()
    assert [name for name in names() if before[name] != after[name]] == renewed_with([stage])


def test_planning_loads_neither_torch_nor_prefect():
    code = "import sys, flows.batch, flows.show; sys.exit(bool({'torch', 'prefect', 'numba'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_only_prompts_that_come_to_be_encoded_in_another_way_get_other_keys(monkeypatch):
    prompts = ["a red mug", "a red mug with a dragon", "a mug " * 40, "a (red) mug", "(a red mug:1.3)"]
    now = [keys(prompt=prompt) for prompt in prompts]
    monkeypatch.setattr("tasks.journey.read", lambda spec: Reading())
    before = [keys(prompt=prompt) for prompt in prompts]
    assert now[:4] == before[:4]
    assert all(now[4][stage] != before[4][stage] for stage in before[4])
