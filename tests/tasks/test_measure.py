"""Who judges: the starter's judge in its words, the recipe's CLIP outside them, or nobody; and what is kept of it."""

import numpy as np
import pytest
import torch

from pipeline_core.config import RECIPES, Init
from pipeline_core.gaussians.initialise import from_points
from pipeline_core.metrics.judges import starter_id
from pipeline_core.spec import AssetSpec
from pipeline_core.stages import names
from pipeline_core.types import PointCloud, TexturedMesh
from tasks.journey import plan_journey
from tasks.measure import measure
from tests.pipeline_core.priors.checkpoints import write_clip, write_predictor

QUICK = {"evaluate.views": 1, "evaluate.resolution": 32}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return str(write_clip(tmp_path_factory.mktemp("clip")))


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predictor")
    write_predictor(folder, bias=5.0)
    return str(folder)


def spec(prompt, **changes):
    return AssetSpec(asset_id="a", prompt=prompt, recipe=RECIPES["draft"].override(QUICK | changes))


def made(colour=(0.8, 0.1, 0.1)):
    """A small splat, and a card of one colour."""
    xyz = torch.rand(100, 3, generator=torch.Generator().manual_seed(0)) - 0.5
    splat = from_points(PointCloud(xyz, torch.tensor(colour).expand(100, 3)), Init(num_points=100), torch.Generator())
    corners = np.array([[-0.5, 0.5, 0], [0.5, 0.5, 0], [0.5, -0.5, 0], [-0.5, -0.5, 0]], np.float32)
    normals, uvs = np.tile(np.float32([0, 0, 1]), (4, 1)), corners[:, :2] + 0.5
    card = TexturedMesh(
        corners, np.array([[0, 2, 1], [0, 3, 2]], np.int32), normals, uvs, np.full((8, 8, 3), colour, np.float32)
    )
    return splat, splat, card


def test_the_starter_judges_its_own_words_whatever_else_the_recipe_names(clip):
    scores = measure(spec("a red book", **{"evaluate.judge": clip}), *made())
    assert (scores["judged"], scores["judged_by_starter"]) == (1, 1)
    assert scores["fidelity"] == scores["caption_margin"] and "f_score" in scores
    assert scores["start_gain"] == 0  # the splat is its start
    assert {"view_agreement", "janus_score", "control_r_precision", "mesh_iou", "mesh_psnr"} <= scores.keys()


def test_clip_judges_what_is_outside_them_and_a_predictor_rates_anything(clip, predictor):
    scores = measure(spec("a brass kraken", **{"evaluate.judge": clip, "evaluate.aesthetic": predictor}), *made())
    assert (scores["judged"], scores["judged_by_starter"]) == (1, 0)
    assert {"fidelity", "view_agreement", "janus_score", "start_gain", "control_r_precision"} <= scores.keys()
    assert "f_score" not in scores and scores["fidelity"] != 0
    assert 0 < scores["aesthetic"] < 10


def test_without_a_judge_nothing_is_said():
    scores = measure(spec("a brass kraken"), *made())
    assert scores["judged"] == 0 and not {"fidelity", "judged_by_starter", "aesthetic"} & scores.keys()


def test_the_plan_says_who_will_judge_and_its_id_is_in_the_key(clip, predictor):
    kraken, mug = "a brass kraken", "a (red:1.3) mug"
    plans = {
        (prompt, judge): plan_journey("library", "r", spec(prompt, **({"evaluate.judge": judge} if judge else {})))
        for prompt in (kraken, mug)
        for judge in (None, clip)
    }
    assert plans[mug, None].told()["judge"] == plans[mug, clip].judge == starter_id()
    assert plans[kraken, clip].judge.startswith("clip0@") and "judge" not in plans[kraken, None].told()
    before, after = plans[kraken, None].keys, plans[kraken, clip].keys
    assert [stage for stage in before if before[stage] != after[stage]] == [*names()[names().index("evaluate") :]]
    rated = spec(kraken, **{"evaluate.aesthetic": predictor})
    one, other = (
        plan_journey("library", "r", rated, lambda ref, kind, n=n: f"{kind}@{n}").keys["evaluate"] for n in (1, 2)
    )
    assert one != other  # another model under the same name
