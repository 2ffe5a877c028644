"""Gaussians shaded by their own normals: against the ray caster's renders, and in a distillation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline_core.cameras import orbit
from pipeline_core.config import Init
from pipeline_core.engine import gaussian_job
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.engine.gaussian_job import GaussianJob
from pipeline_core.engine.scenes import Scene, render, render_together
from pipeline_core.engine.shading import Shading, facing_normals, side_lights
from pipeline_core.errors import DataError, RequestError
from pipeline_core.gaussians.initialise import from_points, lying_on
from pipeline_core.priors.checks import KINDS
from pipeline_core.props import raycast
from pipeline_core.props.primitives import ball, pack, plain
from pipeline_core.types import PointCloud, rotation_matrices, sh0_to_rgb

SIZE = 48
AZIMUTH, ELEVATION = (20.0, 200.0), (15.0, 50.0)


@pytest.fixture(scope="module")
def red_ball():
    """The prop, and discs on its surface."""
    prop = pack([ball((0.0, 0.0, 0.0), 0.45, plain((0.8, 0.3, 0.2)))])
    xyz, rgb = raycast.sample_points(prop, 3000, np.random.default_rng(0), lighting=raycast.UNLIT)
    cloud = PointCloud(torch.from_numpy(xyz), torch.from_numpy(rgb))
    settings = Init(num_points=3000, thickness=0.2, opacity=0.95)
    return prop, from_points(cloud, settings, torch.Generator().manual_seed(0))


def cameras():
    return orbit(torch.tensor(AZIMUTH), torch.tensor(ELEVATION), size=SIZE)


@pytest.mark.parametrize("kind", [1, 2])
def test_discs_on_a_ball_are_shaded_as_the_ray_caster_shades_the_ball(red_ball, kind):
    prop, gaussians = red_ball
    lights = side_lights(2, torch.Generator().manual_seed(1))
    truth = raycast.render(
        [prop], np.array([AZIMUTH]), np.array([ELEVATION]), size=SIZE, kind=np.full((1, 2), kind),
        light=lights.numpy()[None],
    )[0]  # fmt: skip
    with torch.no_grad():
        image, _, _ = render(gaussians.tensors(), cameras(), torch.zeros(2, 3), Shading(KINDS[kind], lights))
    away = np.linalg.norm(np.mgrid[:SIZE, :SIZE] - (SIZE - 1) / 2, axis=0)
    inside = away < 0.7 * away[truth[0, ..., 3] == 255].max()
    difference = np.abs(image.numpy() - truth[..., :3] / 255)[:, inside]
    assert difference.mean() < 0.03 and difference.max() < 0.15
    assert np.ptp(truth[:, inside], axis=1).max() > 60  # there is something to agree on


def test_normals_are_the_shortest_axis_towards_the_camera():
    """Looked at along z from the front, normals of any sign come out with z towards the camera, y up, x right."""
    normals = torch.nn.functional.normalize(torch.tensor([[0.0, 0.0, 1.0], [0, 0.6, 0.8], [0.6, 0, -0.8]]), dim=1)
    quats = lying_on(normals)
    back = rotation_matrices(quats)[:, :, 2]
    torch.testing.assert_close(back * (back * normals).sum(1, keepdim=True).sign(), normals)
    view = orbit(torch.zeros(1), torch.zeros(1), size=8).viewmats
    scales = torch.tensor([[1.0, 1.0, 0.1]]).expand(3, 3)
    found = facing_normals(quats, scales, torch.zeros(3, 3), view)[0]
    expected = torch.tensor([[0.0, 0.0, 1.0], [0, 0.6, 0.8], [-0.6, 0, 0.8]])
    torch.testing.assert_close(found, expected)


def test_shading_has_gradients_for_what_turns_a_gaussian_and_for_its_colour(red_ball):
    params = {name: value.clone().requires_grad_() for name, value in red_ball[1].tensors().items()}
    image, _, _ = render(params, cameras(), torch.zeros(2, 3), Shading("lit", side_lights(2, torch.Generator())))
    (image[..., 0] * torch.linspace(0, 1, SIZE)).sum().backward()
    assert params["quats"].grad.abs().max() > 0 and params["sh0"].grad.abs().max() > 0


def test_scenes_of_one_launch_are_shaded_as_they_are_alone(red_ball):
    generator = torch.Generator().manual_seed(2)
    whole = red_ball[1].tensors()
    half = {name: value[:1200] for name, value in whole.items()}
    lit = [Shading("lit", side_lights(2, generator)) for _ in range(2)]
    ways = [(whole, lit[0]), (half, lit[1]), (half, None), (whole, Shading("normals", lit[0].lights))]
    scenes = [Scene(params, cameras(), torch.ones(2, 3), shading) for params, shading in ways]
    for (params, shading), (image, _) in zip(ways, render_together(scenes), strict=True):
        alone, _, _ = render(params, cameras(), torch.ones(2, 3), shading)
        torch.testing.assert_close(image, alone.permute(0, 3, 1, 2), atol=1e-5, rtol=1e-4)


@pytest.fixture
def kind_prior(exact_prior):
    """The exact prior, which tells kinds of render apart and notes which it was told."""
    told = []

    class Told(type(exact_prior)):
        kinds = KINDS

        def predict(self, x_t, t, embeddings, cameras=None, kinds=None):
            told.append(kinds.tolist())
            return super().predict(x_t, t, embeddings, cameras)

    exact_prior.__class__, exact_prior.told = Told, told
    return exact_prior


def test_jobs_tell_the_prior_what_they_show(kind_prior, stage, make_gaussians):
    """Each its own rows, unconditional ones too, in one call."""
    engine = DistillationEngine(kind_prior, max_active=3)
    start = make_gaussians(9, (0.5, 0.5, 0.5))
    jobs = [GaussianJob(start, "red", stage(steps=2, shown=shown, guidance_scale=2.0)) for shown in KINDS]
    with engine._wake:
        futures = [engine.submit(job) for job in jobs]
    results = [future.result(timeout=60)[0] for future in futures]
    engine.close()
    assert kind_prior.told == [[0] * 4 + [1] * 4 + [2] * 4] * 2
    assert not torch.equal(results[0].means, results[1].means)


@pytest.mark.parametrize(("shown", "most"), [("unlit", None), ("lit", 0.05)])
def test_light_that_is_shown_is_not_in_the_base_colour(exact_prior, stage, red_ball, monkeypatch, shown, most):
    """The prior knows a ball of one colour, lit from above. What is shown in that light is exported without it."""
    monkeypatch.setattr(gaussian_job, "side_lights", lambda count, *_: torch.tensor([[0.0, 1.0, 0.0]]).repeat(count, 1))
    truth, rows = red_ball[1], torch.arange(0, 3000, 6)
    truth = truth.chosen(rows)
    truth.scales[:, :2] += 0.8  # a sixth of the discs, six times as large

    def picture(name, azimuth, elevation):
        views = orbit(azimuth.reshape(1), elevation.reshape(1), size=exact_prior.size)
        light = Shading("lit", gaussian_job.side_lights(1), lambert=True)
        return render(truth.tensors(), views, torch.ones(1, 3), light)[0][0].permute(2, 0, 1)

    monkeypatch.setattr(exact_prior, "picture", picture)
    engine = DistillationEngine(exact_prior, max_active=1)
    start = replace(truth, sh0=truth.sh0 - 0.3)
    found = engine.submit(GaussianJob(start, "red", stage(steps=25, shown=shown))).result(timeout=60)[0]
    engine.close()
    luma = sh0_to_rgb(found.sh0) @ torch.tensor([0.299, 0.587, 0.114])
    up = torch.nn.functional.normalize(found.means, dim=1)[:, 1]
    above, below = luma[up > 0.5].mean(), luma[up.abs() < 0.3].mean()
    gap = abs(float((above - below) / (above + below) * 2))
    assert gap < most if most else gap > 0.15


def test_a_lit_job_resumes_to_the_same_bits(kind_prior, stage, make_gaussians, tmp_path):
    start, settings = make_gaussians(9, (0.5, 0.5, 0.5)), stage(steps=6, shown="lit")
    engine = DistillationEngine(kind_prior, max_active=1)
    whole, _ = engine.submit(GaussianJob(start, "red", settings, seed=4)).result(timeout=60)
    place = tmp_path / "checkpoint"
    engine.submit(GaussianJob(start, "red", settings, seed=4, until=3, checkpoint_path=place)).result(timeout=60)
    again, _ = engine.submit(GaussianJob(start, "red", settings, seed=4, checkpoint_path=place)).result(timeout=60)
    engine.close()
    assert all(torch.equal(a, b) for a, b in zip(whole.tensors().values(), again.tensors().values(), strict=True))


def test_what_a_prior_does_not_draw_is_refused_and_light_is_not(exact_prior, stage, make_gaussians):
    engine = DistillationEngine(exact_prior, max_active=1)
    start = make_gaussians(9, (0.5, 0.5, 0.5))
    with pytest.raises(RequestError, match="shown='normals': exact can judge renders that are unlit or lit"):
        engine.submit(GaussianJob(start, "red", stage(steps=1, shown="normals"))).result(timeout=60)
    engine.submit(GaussianJob(start, "red", stage(steps=1, shown="lit"))).result(timeout=60)
    harmonics = replace(start, shN=torch.zeros(len(start.means), 3, 3))
    with pytest.raises(DataError, match=r"set init\.sh_degree to 0"):
        engine.submit(GaussianJob(harmonics, "red", stage(steps=1, shown="lit"))).result(timeout=60)
    engine.close()


def test_thickness_lays_gaussians_on_the_surface(red_ball):
    gaussians = red_ball[1]
    axis = rotation_matrices(gaussians.quats)[:, :, 2]
    outward = torch.nn.functional.normalize(gaussians.means, dim=1)
    assert (axis * outward).sum(1).abs().quantile(0.05) > 0.95
    width = gaussians.scales.exp()
    torch.testing.assert_close(width[:, 2], 0.2 * width[:, 0])
    assert torch.equal(width[:, 0], width[:, 1])
