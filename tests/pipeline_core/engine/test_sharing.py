"""Jobs that share launches: one rasterisation, one Adam, and each job's result is its own."""

import pytest
import torch

from pipeline_core.cameras import orbit
from pipeline_core.engine import engine as engine_module
from pipeline_core.engine.adam import step_each, step_together
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.engine.gaussian_job import GaussianJob, render_scene
from pipeline_core.engine.judging import Judges
from pipeline_core.engine.scenes import Launch, Scene, render_together
from pipeline_core.errors import DivergedError
from pipeline_core.gaussians.strategies import GradientStats
from pipeline_core.rendering.rasterize import Part

GREY = (0.5, 0.5, 0.5)


def scene(gaussians, turn, size=24, degree=0):
    params = {name: torch.nn.Parameter(value.clone()) for name, value in gaussians.tensors().items()}
    if degree:
        params["shN"] = torch.nn.Parameter(torch.full((len(gaussians), 3, 3), 0.1))
    cameras = orbit(torch.tensor([turn, turn + 90.0]), torch.tensor([10.0]), size=size)
    return Scene(params, cameras, torch.ones(2, 3))


def test_scenes_of_any_size_and_kind_look_as_they_do_alone(make_gaussians):
    """Different numbers, two render sizes, one with harmonics: images, gradients, what densification sees."""

    def scenes():
        return [
            scene(make_gaussians(1, (0.9, 0.1, 0.1)), 0.0), scene(make_gaussians(2, GREY, count=30), 50.0),
            scene(make_gaussians(3, GREY), 100.0, size=16), scene(make_gaussians(4, GREY), 20.0, degree=1),
        ]  # fmt: skip

    found = []
    for render in (lambda them: [render_scene(each) for each in them], render_together):
        them = scenes()
        answers = render(them)
        sum((image * torch.linspace(0, 1, image.shape[-1])).sum() for image, _ in answers).backward()
        stats = [GradientStats.zeros(len(each.params["means"])) for each in them]
        for each, (_, info) in zip(stats, answers, strict=True):
            each.accumulate(info)
        found.append((them, [image for image, _ in answers], stats))
    for alone, together in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(together, alone, rtol=1e-6, atol=1e-6)
    for alone, together in zip(found[0][2], found[1][2], strict=True):
        torch.testing.assert_close(together.total, alone.total, rtol=1e-5, atol=1e-9)
        assert torch.equal(together.visible, alone.visible) and alone.total.sum() > 0
    for alone, together in zip(found[0][0], found[1][0], strict=True):
        for name, leaf in alone.params.items():
            if leaf.numel():
                torch.testing.assert_close(together.params[name].grad, leaf.grad, rtol=1e-5, atol=1e-8)


def test_adams_stepped_together_have_the_bits_of_each_alone():
    """Rates that differ and change, leaves that join later, one without a gradient."""
    results = []
    for step in (step_each, step_together):
        draw = torch.Generator().manual_seed(0)
        leaves = [torch.randn(5 + i, 3, generator=draw).requires_grad_() for i in range(6)]
        adams = [torch.optim.Adam([leaf], lr=1e-2, eps=1e-15, fused=True) for leaf in leaves]
        for turn in range(4):
            for i, (leaf, each) in enumerate(zip(leaves, adams, strict=True)):
                each.param_groups[0]["lr"] = 1e-2 / (1 + turn * (i % 2))
                leaf.grad = torch.randn(leaf.shape, generator=draw) if i < 3 + turn else None
            step(adams)
            assert all(leaf.grad is None for leaf in leaves)
        results.append([leaf.detach() for leaf in leaves])
    for alone, together in zip(*results, strict=True):
        assert torch.equal(alone, together)


@pytest.fixture
def launches(monkeypatch):
    """Scenes of each shared rasterisation, optimisers of each shared step, jobs of each shared look: how many."""
    seen = {"scenes": [], "adams": [], "looks": []}
    calls = {"render_together": "scenes", "step_together": "adams", "values_of": "looks"}
    for name, key in calls.items():
        call = getattr(engine_module, name)

        def watch(them, key=key, call=call):
            seen[key].append(len(them))
            return call(them)

        monkeypatch.setattr(engine_module, name, watch)
    return seen


def test_an_engine_that_shares_launches_has_the_results_of_one_that_does_not(
    exact_prior, stage, make_gaussians, launches
):
    """With densification, so that jobs come to have different numbers of Gaussians, and one that leaves earlier."""
    densify = {"every": 4, "grad_threshold": 1e-6, "max_gaussians": 90}
    results = {}
    for share in (False, True):
        engine = DistillationEngine(exact_prior, max_active=3, share_launches=share)
        jobs = [
            GaussianJob(make_gaussians(9, GREY), name, stage(steps=steps, densify=densify), seed=steps)
            for name, steps in (("red", 6), ("blue", 9), ("green", 9))
        ]
        with engine._wake:
            futures = [engine.submit(job) for job in jobs]
        results[share] = [future.result(timeout=60) for future in futures]
        engine.close()
    for (alone, curves), (together, others) in zip(results[False], results[True], strict=True):
        assert curves["step"] == others["step"] and curves["gaussians"] == others["gaussians"]
        assert curves["events"] == others["events"] and curves["events"]["cloned"] + curves["events"]["split"] > 0
        for name, value in alone.tensors().items():
            torch.testing.assert_close(together.tensors()[name], value, rtol=1e-3, atol=1e-4)
    assert launches["scenes"][-9:] == [3] * 6 + [2] * 3
    assert launches["adams"][-9:] == [15] * 6 + [10] * 3
    assert launches["looks"][-9:] == [3] * 6 + [2] * 3


def test_jobs_look_at_their_numbers_behind_the_next_pictures(exact_prior, stage, make_gaussians, launches, monkeypatch):
    """Once a GPU has work again; at the end and before a checkpoint at once, so that nothing is lost with it."""
    seen = []
    look = GaussianJob.look

    def watched(job, numbers):
        seen.append((len(launches["scenes"]), job.step))
        look(job, numbers)

    monkeypatch.setattr(GaussianJob, "look", watched)
    curves = []
    for seconds in (1e9, 0.0):
        engine = DistillationEngine(exact_prior, max_active=1, share_launches=True, checkpoint_seconds=seconds)
        curves.append(engine.submit(GaussianJob(make_gaussians(9, GREY), "red", stage(steps=4))).result(timeout=60)[1])
        engine.close()
    assert curves[0] == curves[1] and curves[0]["step"] == [1, 2, 3, 4]
    assert seen[:4] == [(2, 1), (3, 2), (4, 3), (4, 4)]  # renders so far, and the step that the numbers are of
    assert seen[4:] == [(5, 1), (6, 2), (7, 3), (8, 4)]


def test_a_job_that_diverges_leaves_alone_and_at_its_step(exact_prior, stage, make_gaussians):
    broken = make_gaussians(9, GREY)
    broken.means[0, 0] = float("nan")
    engine = DistillationEngine(exact_prior, max_active=2, share_launches=True)
    with engine._wake:
        jobs = [GaussianJob(each, "red", stage(steps=4)) for each in (broken, make_gaussians(9, GREY))]
        futures = [engine.submit(job) for job in jobs]
    with pytest.raises(DivergedError, match="at step 1 of 4"):
        futures[0].result(timeout=60)
    assert futures[1].result(timeout=60)[1]["step"] == [1, 2, 3, 4]
    engine.close()


def test_gradients_of_one_launch_add_up_for_each_scene_as_alone():
    """Three scenes of one rasterisation, of different lengths: densification sees what it sees of each by itself."""
    draw = torch.Generator().manual_seed(0)
    means2d = torch.zeros(3, 2, 9, 2, requires_grad=True)
    means2d.grad = torch.randn(means2d.shape, generator=draw)
    radii = torch.randint(0, 3, means2d.shape, generator=draw)
    launch = Launch({"means2d": means2d, "radii": radii, "width": 16, "height": 24})
    for scene, count in enumerate((9, 4, 1)):
        alone, together = GradientStats.zeros(count), GradientStats.zeros(count)
        own = {"means2d": Part(means2d, (scene, slice(None), slice(count))), "radii": radii[scene, :, :count]}
        shown = launch.shown(scene, count)
        assert "radii" not in shown and torch.equal(shown["radii"], own["radii"]) and shown["width"] == 16
        assert torch.equal(shown["means2d"].grad, own["means2d"].grad)
        own |= {"width": 16, "height": 24}
        alone.accumulate(own)
        together.accumulate(shown)
        assert torch.equal(together.total, alone.total) and alone.total.sum() > 0
        assert torch.equal(together.visible, alone.visible)


@pytest.mark.parametrize("share", [False, True])
def test_views_that_ask_alike_are_judged_as_one(exact_prior, stage, make_gaussians, share, monkeypatch):
    """Two jobs alike and one of another scale: two guidances where they share, else three."""
    seen = []

    class Watched(Judges):
        def groups(self, views):
            groups = super().groups(views)
            seen.append([len(owners) for owners in groups])
            return groups

    monkeypatch.setattr(engine_module, "Judges", Watched)
    engine = DistillationEngine(exact_prior, max_active=3, share_launches=share)
    with engine._wake:
        futures = [
            engine.submit(GaussianJob(make_gaussians(9, GREY), name, stage(steps=2, guidance_scale=scale)))
            for name, scale in (("red", 7.5), ("blue", 7.5), ("green", 1.0))
        ]
    assert all(len(future.result(timeout=60)[0]) for future in futures)
    engine.close()
    assert seen[:2] == ([[2, 1], [2, 1]] if share else [[1, 1, 1], [1, 1, 1]])


def test_values_of_many_tensors_come_in_their_own_lengths():
    assert engine_module.values_of([torch.tensor([1.0, 2.0]), torch.tensor([3.0])])() == [[1.0, 2.0], [3.0]]
    assert engine_module.values_of([])() == []


def test_broken_numbers_end_their_own_job_only(exact_prior, stage, make_gaussians):
    exact_prior.poison = "red"
    engine = DistillationEngine(exact_prior, max_active=2, share_launches=True)
    with engine._wake:
        red, blue = (
            engine.submit(GaussianJob(make_gaussians(9, GREY), name, stage(steps=3))) for name in ("red", "blue")
        )
    with pytest.raises(DivergedError, match="red: at step 1 of 3 the prior predicts no finite noise"):
        red.result(timeout=60)
    assert len(blue.result(timeout=60)[0])
    engine.close()
