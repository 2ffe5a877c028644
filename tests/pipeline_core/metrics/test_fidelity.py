"""Fidelity: every metric on a judge whose answers are known, and geometry in closed form."""

import math

import numpy as np
import pytest
import torch

from pipeline_core.config import Evaluate, Init
from pipeline_core.gaussians.initialise import from_points
from pipeline_core.metrics import fidelity
from pipeline_core.metrics.judges import caption_of, judge_of
from pipeline_core.metrics.negatives import candidates, full
from pipeline_core.props.captions import caption, parse_caption
from pipeline_core.props.props import FRONTED, PropSpec, build, sample_spec
from pipeline_core.props.raycast import sample_points
from pipeline_core.types import PointCloud, TexturedMesh


class WrittenJudge:
    """Each image says in its first two pixels which of the known captions it shows and which side it is."""

    model_id = "written"
    scale = 10.0

    def __init__(self, texts, any_text=False):
        self.texts, self.knows_any_text = texts, any_text

    def embed_images(self, images):
        shown = (images[:, 0, 0, 0] * 1000).round().long()
        return torch.nn.functional.one_hot(shown, len(self.texts)).float()

    def embed_texts(self, texts):
        rows = torch.zeros(len(texts), len(self.texts))
        for i, text in enumerate(texts):
            if text in self.texts:
                rows[i, self.texts.index(text)] = 1
        return rows

    def sides(self, images):
        if self.knows_any_text:  # as CLIP, by its words alone
            return None
        return torch.nn.functional.one_hot((images[:, 1, 0, 0] * 10).round().long(), 4).float()


def written(shown, sides=None):
    """Eight images that say so."""
    images = torch.zeros(8, 3, 4, 4)
    images[:, 0, 0, 0] = torch.tensor(shown) / 1000
    images[:, 1, 0, 0] = torch.tensor(sides or [0] * 8) / 10
    return images


CAMERAS = fidelity.evaluation_cameras()
ANGLES = (CAMERAS.azimuth, CAMERAS.elevation)
PROMPT = "a white house with blue roof"


def test_ranking_counts_views_and_the_mean():
    texts, _ = candidates(parse_caption(PROMPT))
    judge = WrittenJudge(texts)
    right = fidelity.score(written([0] * 8), *ANGLES, PROMPT, judge=judge)
    assert (right["judged"], right["r_precision"], right["r_precision_views"]) == (1, 1, 1)
    assert (right["caption_rank"], right["caption_margin"], right["view_consistency"]) == (1, 1, 1)
    mostly = fidelity.score(written([0] * 5 + [3] * 3), *ANGLES, PROMPT, judge=judge)
    assert mostly["r_precision"] == 1 and mostly["r_precision_views"] == pytest.approx(5 / 8)
    assert mostly["caption_margin"] == pytest.approx(2 / 8)
    assert right["view_agreement"] > 0.99 and mostly["view_agreement"] == pytest.approx(5 / 8, abs=0.01)
    wrong = fidelity.score(written([3] * 5 + [0] * 3), *ANGLES, PROMPT, judge=judge)
    assert wrong["r_precision"] == 0 and wrong["caption_rank"] == 2


def test_a_judge_that_sees_nothing_is_not_a_success():
    """Equal similarities everywhere: no rank, category or colour is won by a draw."""
    judge = WrittenJudge(["something else"])
    scores = fidelity.score(written([0] * 8), *ANGLES, "a teal mug", judge=judge)
    assert scores["r_precision"] == 0 and scores["caption_rank"] == 32


def test_category_and_colour_are_asked_apart():
    texts = ["a white house", "a white tower", PROMPT, "a red house with blue roof"]
    judge = WrittenJudge(texts)
    mixed = torch.cat([written([0] * 8)[:4], written([3] * 8)[:4]])  # a house, but red
    scores = fidelity.score(mixed, *ANGLES, PROMPT, judge=judge)
    assert (scores["category_correct"], scores["colour_correct"]) == (1, 0)
    mixed = torch.cat([written([1] * 8)[:4], written([2] * 8)[:4]])  # a tower, but white
    scores = fidelity.score(mixed, *ANGLES, PROMPT, judge=judge)
    assert (scores["category_correct"], scores["colour_correct"]) == (0, 1)


@pytest.mark.parametrize(
    ("sides", "found", "repeated", "janus"),
    [
        ([0, 0, 1, 2, 2, 2, 3, 0], 1, 0, 0),  # diagonals may be taken for either side
        ([0, 0, 1, 2, 0, 2, 3, 3], 1, 1, 1),  # two faces
        ([2, 1, 1, 2, 2, 2, 3, 3], 0, 0, 1),  # none
    ],
)
def test_the_front_must_be_where_it_belongs_and_nowhere_else(sides, found, repeated, janus):
    scores = fidelity.score(written([0] * 8, sides), *ANGLES, PROMPT, judge=WrittenJudge(["x"]))
    assert (scores["front_found"], scores["front_repeated"], scores["janus"]) == (found, repeated, janus)


def test_things_without_a_front_have_no_janus():
    assert "janus" not in fidelity.score(written([0] * 8), *ANGLES, "a red mug", judge=WrittenJudge(["x"]))
    only_front = written([0] * 8)[:1]
    scores = fidelity.score(only_front, ANGLES[0][:1], ANGLES[1][:1], PROMPT, judge=WrittenJudge(["x"]))
    assert "janus" not in scores and scores["view_consistency"] == 1


def test_prompts_outside_the_vocabulary():
    assert fidelity.score(written([0] * 8), *ANGLES, "an iridescent wyvern", judge=WrittenJudge(["x"])) == {"judged": 0}
    able = WrittenJudge(["an iridescent wyvern"], any_text=True)
    scores = fidelity.score(written([0] * 8), *ANGLES, "an iridescent wyvern", judge=able)
    assert scores["r_precision"] == 1 and "category_correct" not in scores and "f_score" not in scores


@pytest.mark.parametrize(
    ("prompt", "inside"),
    [
        ("an old wooden chest with golden bands game asset", True),
        ("A (red:1.4) toadstool!", True),
        ("a mushroom house, in red", True),
        ("a crimson red mug", False),  # nobody knows whether it is crimson
        ("a green dragon on a golden chest", False),
        ("a red mug on a blue crate", False),  # it would be judged as a mug
        ("a mug", False),
        ("ein roter mug, red", False),
    ],
)
def test_the_starter_judges_what_it_knows_all_of(prompt, inside):
    assert (caption_of(prompt) is not None) is inside
    assert judge_of(prompt, Evaluate(judge="clip")) == ("starter" if inside else "clip")
    assert judge_of(prompt, Evaluate()) == ("starter" if inside else None)


def test_a_judge_without_a_head_tells_fronts_by_words():
    """Views are captioned as DreamFusion has it; one that is taken for the front from behind is a second face."""
    said = [f"a wyvern, {side} view" for side in ("front", "side", "back")]
    judge = WrittenJudge(said, any_text=True)
    for shown, bad in (([0, 0, 1, 2, 2, 2, 1, 0], False), ([0, 0, 1, 0, 0, 0, 1, 0], True), ([1] * 8, False)):
        score = fidelity.score(written(shown), *ANGLES, "a wyvern", judge=judge)["janus_score"]
        assert score > 0.99 if bad else score < 0.01, shown


def test_a_doubled_front_is_told_from_the_truth():
    """Things with a front, and the same with what is seen from before also behind: the shipped judge ranks them."""
    seen = []
    for category in sorted(FRONTED):
        spec = full(sample_spec(np.random.default_rng(9), split="all", category=category, composed=0.0))
        images = fidelity.truth_images(spec)
        twin = images[[0, 1, 2, 7, 0, 1, 6, 7]]
        seen.append([fidelity.score(each, *ANGLES, caption(spec))["janus_score"] for each in (images, twin)])
    truth, janus = np.array(seen).T
    assert truth.max() < 0.5 and np.mean(janus > 0.5) >= 0.9
    mug = parse_caption("a red mug")
    assert fidelity.score(fidelity.truth_images(mug), *ANGLES, "a red mug")["janus_score"] == 0  # it has no front


def test_surface_points_are_uniform_by_area():
    """A unit square of two triangles beside one of area 1.5: shares, centroids and planes as they must be."""
    vertices = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [0, 0, 5], [3, 0, 5], [0, 1, 5]], np.float32)
    faces = np.array([[0, 1, 2], [0, 2, 3], [4, 5, 6]])
    points = fidelity.surface_points(vertices, faces, 40_000, np.random.default_rng(0))
    low, high = points[points[:, 2] == 0], points[points[:, 2] == 5]
    assert len(low) + len(high) == 40_000 and len(low) / 40_000 == pytest.approx(1 / 2.5, abs=0.01)
    np.testing.assert_allclose(low.mean(0), [0.5, 0.5, 0], atol=0.01)
    np.testing.assert_allclose(high.mean(0), [1, 1 / 3, 5], atol=0.02)
    assert len(fidelity.surface_points(vertices, faces[:0], 10, np.random.default_rng(0))) == 0


def test_f_score_in_closed_form():
    from scipy.spatial import cKDTree

    reference = np.stack([np.arange(10.0), np.zeros(10), np.zeros(10)], 1)
    half = cKDTree(reference[:5])
    value, distance = fidelity.f_score(half, cKDTree(reference), 0.1)
    assert value == pytest.approx(2 * 1 * 0.5 / 1.5)  # precision 1, recall 1/2
    assert distance == pytest.approx(np.arange(1, 6).sum() / 10 / 2)
    assert fidelity.f_score(half, cKDTree(reference + [0, 0.2, 0]), 0.1)[0] == 0


def test_truth_is_near_its_instances_and_other_things_are_not():
    spec = PropSpec("mushroom", "red", "white", "spots", seed=999)
    truth, _ = sample_points(build(spec), fidelity.POINTS, np.random.default_rng(5))
    good = fidelity.geometry(truth, spec, instances=8)
    assert good["f_score"] > 0.9 and good["chamfer"] < 0.05
    sword, _ = sample_points(build(PropSpec("sword", "red")), fidelity.POINTS, np.random.default_rng(5))
    assert fidelity.geometry(sword, spec, instances=8)["f_score"] < 0.5
    assert fidelity.geometry(np.full((5, 3), math.nan, np.float32), spec)["f_score"] == 0


def test_the_starter_judge_knows_a_thing_from_its_negatives():
    """Shipped weights, end to end: the thing is told from its negatives, and not taken for another."""
    for text in ("a red house", "a blue mug", "a yellow chest with purple bands"):
        spec = parse_caption(text)
        xyz, _ = sample_points(build(spec), 2000, np.random.default_rng(0))
        scores = fidelity.score(fidelity.truth_images(spec), *ANGLES, caption(spec), points=xyz)
        assert scores["r_precision"] == scores["category_correct"] == scores["colour_correct"] == 1, text
        assert scores["f_score"] > 0.9
        wrong = fidelity.score(fidelity.truth_images(spec), *ANGLES, "a black sword")
        assert wrong["r_precision"] == 0 and wrong["caption_margin"] < scores["caption_margin"], text


def test_meshes_and_splats_are_rendered_and_scored():
    """A textured quad facing the front and a handful of Gaussians: both go through, with points and pictures."""
    vertices = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]], np.float32)
    normals = np.tile(np.array([0, 0, 1], np.float32), (4, 1))
    uvs = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
    texture = np.full((8, 8, 3), (0.8, 0.1, 0.1), np.float32)
    quad = TexturedMesh(vertices, np.array([[0, 1, 2], [0, 2, 3]], np.int32), normals, uvs, texture)
    xyz, rgb = sample_points(build(PropSpec("gem", "green")), 200, np.random.default_rng(0))
    cloud = PointCloud(torch.from_numpy(xyz), torch.from_numpy(rgb))
    splat = from_points(cloud, Init(num_points=200), torch.Generator())
    for scores in (fidelity.score_mesh(quad, "a red book"), fidelity.score_gaussians(splat, "a green gem")):
        assert scores["judged"] == 1 and 0 <= scores["f_score"] <= 1 and -1 <= scores["view_consistency"] <= 1
    assert fidelity.score_mesh(quad, "something nice") == {"judged": 0}
