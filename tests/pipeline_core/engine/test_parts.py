"""Several parts, each with a prompt of its own, in one job: against priors whose answers are known."""

import pytest
import torch

from pipeline_core.composition import Composed, compose
from pipeline_core.engine.distill import distill
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.engine.gaussian_job import GaussianJob, render_scene
from pipeline_core.engine.scenes import render_together
from pipeline_core.errors import DivergedError
from pipeline_core.spec import Part
from pipeline_core.types import Gaussians, sh0_to_rgb

GREY = (0.5, 0.5, 0.5)
PARTS = [Part(prompt="red"), Part(prompt="blue", position=(0.1, 0.5, 0.0), size=0.5, rotation=(0, 40, 0))]


@pytest.fixture
def start(make_gaussians):
    """Grey, where red and blue shall be."""
    return compose(PARTS, [make_gaussians(9, GREY), make_gaussians(8, GREY)])


@pytest.fixture
def prior(exact_prior, start):
    """Knows red and blue alone, and takes the whole for a grey thing in their places."""
    exact_prior.targets["both"] = Gaussians(**start.tensors())
    exact_prior.names.append("both")
    return exact_prior


@pytest.fixture
def engine(prior):
    engine = DistillationEngine(prior, max_active=4)
    yield engine
    engine.close()


def colours(whole):
    return [sh0_to_rgb(whole.sh0)[whole.part == part].mean(0) for part in range(2)]


def test_each_part_becomes_what_its_own_prompt_says(engine, prior, start, stage):
    settings = stage(steps=60, views=4, part_views=0.75)
    whole, _ = distill(start, "both", "", settings, engine, seed=0)
    red, blue = colours(whole)
    assert isinstance(whole, Composed) and whole.layout is start.layout
    assert red[0] - red[2] > 0.25 and blue[2] - blue[0] > 0.25
    alone, _ = distill(start, "both", "", stage(steps=60, views=4, part_views=0.0), engine, seed=0)
    assert all(float((colour - 0.5).abs().max()) < 0.1 for colour in colours(alone))  # as the whole's prompt says


def test_all_views_of_a_step_are_one_call_with_a_prompt_and_a_camera_of_their_own(prior, start, stage):
    asked = []
    answer = prior.predict
    prior.predict = lambda x, t, embeddings, cameras: (
        asked.append([prior.names[int(e)] for e in embeddings[:, 0, 0]]), answer(x, t, embeddings, cameras)
    )[1]  # fmt: skip
    engine = DistillationEngine(prior, max_active=1)
    distill(start, "both", "", stage(steps=2, views=4, part_views=0.5, guidance_scale=2.0), engine, seed=0)
    engine.close()
    assert asked == [["both", "red", "both", "blue", *[""] * 4]] * 2


def test_a_part_alone_is_drawn_alone_and_both_ways_of_drawing_agree(prior, start, stage):
    job = GaussianJob(start, "both", stage(views=4, part_views=0.5, steps=9))
    job.start(prior, None, torch.device("cpu"))
    scene = job.scene()
    assert [views for _, views in scene.groups] == [[0, 2], [1], [3]]
    (one, info), [(two, other)] = render_scene(scene), render_together([scene])
    torch.testing.assert_close(one, two)
    (one + two).sum().backward()
    for each in (info, other):
        gradient = each["means2d"].grad
        assert gradient.shape == (4, len(start), 2) and each["radii"].shape == (4, len(start), 2)
        assert not gradient[1][start.part == 1].any() and gradient[1][start.part == 0].any()
        assert not each["radii"][3][start.part == 0].any()


def test_parts_of_one_launch_are_added_up_each_for_itself(prior, start, stage, monkeypatch):
    """As a GPU draws them: densification sees what it sees of scenes drawn one by one."""
    from pipeline_core.engine import scenes
    from pipeline_core.gaussians.strategies import GradientStats

    def one_launch(*arguments, **options):
        images, infos = draw(*arguments, **options)
        whole = {name: torch.stack([info[name] for info in infos]) for name in ("means2d", "radii", "conics")}
        whole["means2d"] = Stacked([info["means2d"] for info in infos])
        return images, infos[0] | whole

    class Stacked:
        def __init__(self, pieces):
            self.pieces = pieces

        @property
        def grad(self):
            return torch.stack([piece.grad for piece in self.pieces])

    draw, found = scenes.rasterize_batch, []
    for rasterise in (draw, one_launch):
        monkeypatch.setattr(scenes, "rasterize_batch", rasterise)
        job = GaussianJob(start, "both", stage(views=4, part_views=0.5, steps=9))
        job.start(prior, None, torch.device("cpu"))
        [(images, info)] = render_together([job.scene()])
        images.square().sum().backward()
        found.append(GradientStats.zeros(len(start)))
        found[-1].accumulate(info)
    assert torch.equal(found[0].total, found[1].total) and found[0].total.any()
    assert torch.equal(found[0].visible, found[1].visible)


def test_whose_a_gaussian_is_outlives_growth_pruning_and_a_checkpoint(prior, start, stage, tmp_path):
    growing = {"every": 4, "grad_threshold": 1e-6, "grow_share": 0.3, "compactness": True, "prune_opacity": 0.79}
    settings = stage(steps=12, views=4, latents="sample", densify=growing)
    engine = DistillationEngine(prior, max_active=1)

    def run(**options):
        return distill(start, "both", "", settings, engine, seed=5, **options)

    whole, curves = run()
    assert curves["events"]["cloned"] + curves["events"]["split"] > 0 and curves["events"]["pruned"] > 0
    assert len(whole.part) == len(whole) != len(start) and set(whole.part.tolist()) == {0, 1}
    own = [whole.layout.own(k, whole.means[whole.part == k]).norm(dim=1).max() for k in range(2)]
    assert all(float(reach) < 1.5 for reach in own)  # each still lies where its part does
    again, _ = run()
    path = tmp_path / "job.safetensors"
    run(until=7, checkpoint_path=path)
    assert path.exists()
    resumed, _ = run(checkpoint_path=path)
    engine.close()
    for other in (again, resumed):
        assert torch.equal(other.part, whole.part)
        assert all(torch.equal(value, whole.tensors()[name]) for name, value in other.tensors().items())


def test_another_place_of_a_part_is_another_job(prior, start, stage, make_gaussians):
    marks = set()
    for part in (PARTS[1], PARTS[1].model_copy(update={"prompt": "green"})):
        moved = compose([PARTS[0], part], [make_gaussians(9, GREY), make_gaussians(8, GREY)])
        job = GaussianJob(moved, "both", stage())
        job.start(prior, None, torch.device("cpu"))
        marks.add(job.fingerprint)
    assert len(marks) == 2


def test_a_part_that_is_lost_is_an_error_that_names_it(engine, start, stage):
    start.opacities[start.part == 1] = -9.0
    settings = stage(steps=6, views=2, densify={"every": 2, "prune_opacity": 0.1})
    with pytest.raises(DivergedError, match=r"none of the Gaussians of parts\[1\] is left"):
        distill(start, "both", "", settings, engine, seed=0)


def test_in_three_dimensions_too_parts_are_judged_in_their_own_frames(engine, prior, start, stage, exact_points):
    """The point prior is shown each part as large as an asset alone."""
    seen = []

    class Points(exact_points):
        def encode_object(self, prompt, xyz, rgb):
            seen.append((prompt, float(xyz.norm(dim=1).max())))
            return super().encode_object(prompt, xyz, rgb)

    points = Points(torch.zeros(6, 8))
    both = DistillationEngine(prior, points, max_active=1)
    settings = stage(steps=4, point_weight=1.0, image_weight=0.0, point_draws=2)
    whole, _ = distill(start, "both", "", settings, both, seed=0)
    both.close()
    assert [prompt for prompt, _ in seen] == ["both", "red", "blue"] and all(reach > 0.45 for _, reach in seen)
    assert not torch.equal(whole.means, start.means)
