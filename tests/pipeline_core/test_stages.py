"""The table of stages: what its rows must be to one another."""

import pytest

from pipeline_core import stages
from pipeline_core.config import RECIPES
from pipeline_core.deliverables import DELIVERABLES
from pipeline_core.stages import DELIVERY, STAGES, named, names, share_before, share_of


def test_a_stage_stands_below_all_that_it_reads():
    for at, stage in enumerate(STAGES):
        assert set(stage.upstream) <= set(names()[:at]), stage.name
        assert set(stage.key_upstream) <= set(stage.upstream), stage.name
    assert len(set(names())) == len(STAGES) and names()[-1] == DELIVERY


def test_keys_that_are_left_out_are_in_the_keys_of_the_others():
    """What a stage reads decides its key, by itself or through what enters it."""

    def behind(name):
        above = named(name).key_upstream
        return set(above).union(*(behind(each) for each in above)) if above else set()

    for stage in STAGES:
        assert set(stage.upstream) <= behind(stage.name), stage.name


def test_what_is_delivered_is_written_once_by_what_the_last_stage_reads():
    written = [file for name in named(DELIVERY).upstream for file in named(name).outputs]
    for row in DELIVERABLES:
        assert written.count(row.source) <= 1, row  # a stage may write more than it promises


def test_shares_of_the_work_add_up():
    assert share_before(names()[0]) == 0
    assert share_before(DELIVERY) + share_of(DELIVERY) == pytest.approx(1)


def test_a_stage_reads_one_section_and_leaves_out_the_models_that_it_does_not_use():
    recipe = RECIPES["draft"].override({"geometry.point_weight": 0.0, "appearance.point_weight": 1.0})
    assert named("optimize_gaussians").models_used(recipe) == ("image",)
    assert named("densify_prune").models_used(recipe) == ("image", "points")
    assert named("extract_mesh").settings(recipe) is recipe.mesh and named(DELIVERY).settings(recipe) is recipe


def test_a_name_that_is_not_in_the_table_is_told():
    with pytest.raises(KeyError, match="init_points"):
        named("meshing")
    assert stages.sql_list(["a", "b"]) == "('a', 'b')"
