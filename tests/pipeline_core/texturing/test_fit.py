"""DreamGaussian's second stage as published, against an exact prior: noise levels, convergence, resuming."""

import threading
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline_core.cameras import orbit
from pipeline_core.config import Texture
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.errors import DivergedError
from pipeline_core.rendering.mesh import render_mesh
from pipeline_core.texturing import refine as R
from pipeline_core.texturing.fit import FINENESS, MARGIN, RATE, FitJob, looked_up
from pipeline_core.texturing.refine import refine_texture
from tests.pipeline_core.texturing.test_refine import TINT, ExactPrior

SETTINGS = Texture(
    method="fit", steps=20, views=4, resolution=32, guidance_scale=1.0, strength=(0.4, 0.2), denoise_steps=5
)


@pytest.fixture(scope="module")
def target(textured):
    return replace(textured, texture=textured.texture * TINT)


def run(textured, prior, **options):
    engine = DistillationEngine(prior)
    try:
        return refine_texture(textured, "a ball", SETTINGS, engine, **options)
    finally:
        engine.close()


@pytest.fixture(scope="module")
def fitted(textured, target):
    return run(textured, ExactPrior(target))


def test_noise_levels_are_the_published_ones(textured):
    """main2.py and sd_utils.py: of 50 steps of DDIM the last 10 from t = 181 at first, the last 3 from t = 41."""
    rounds = FitJob(textured, "a ball", Texture(method="fit", steps=50)).rounds
    assert len(rounds) == 50 and len(rounds[0]) == 10 and len(rounds[-1]) == 3
    assert rounds[0] == pytest.approx([t / 1000 for t in range(181, 0, -20)])
    assert rounds[-1] == pytest.approx([0.041, 0.021, 0.001])
    for index, levels in enumerate(rounds):
        assert len(levels) == 50 - int(50 * (0.8 + 0.15 * (index + 1) / 50) + 1e-9)


def test_rate_and_fineness_are_the_published_ones(textured):
    """configs/text.yaml: texture_lr; main2.py: ssaa = min(2, max(0.125, 2 U)); mesh_renderer.py: multiples of 8."""
    assert RATE == 0.2 and FINENESS == (0.125, 2.0) and MARGIN == 1e-6
    job = FitJob(textured, "a ball", Texture(method="fit"))
    job.start(ExactPrior(textured), lambda: None, torch.device("cpu"))
    sides = [job._samples(job._draw_round(job.generator)[1]) for _ in range(200)]
    assert min(sides) == 64 and 1000 < max(sides) <= 1024 and not any(side % 8 for side in sides)
    assert np.mean(sides) == pytest.approx(512, abs=50)


def test_the_texture_becomes_what_the_prior_believes(textured, target, fitted):
    cameras = orbit(torch.tensor([0.0, 120.0, 240.0]), torch.tensor([10.0]), size=32)
    before, after, wanted = (render_mesh(each, cameras)[0] for each in (textured, fitted, target))
    assert (after - wanted).abs().mean() < 0.4 * (before - wanted).abs().mean()
    assert np.array_equal(fitted.uvs, textured.uvs) and 0 <= fitted.texture.min() and fitted.texture.max() <= 1


def test_views_rasterised_ahead_change_nothing(textured, target, fitted, monkeypatch):
    """Every one is, a resumed job's too; and each round is seen as finely as it would have been."""
    threads = []
    look = R.visibility

    def watched(*args, **options):
        threads.append(threading.current_thread().name.rpartition("_")[0])
        return look(*args, **options)

    monkeypatch.setattr(R, "visibility", watched)
    monkeypatch.setattr(R, "looks_ahead", lambda device: True)
    assert run(textured, ExactPrior(target)).texture.tobytes() == fitted.texture.tobytes()
    assert threads[1:] == ["splatmill-soon"] * SETTINGS.steps  # the first only loads what that takes
    test_a_resumed_job_ends_with_the_same_bits(textured, target, fitted)


def test_a_resumed_job_ends_with_the_same_bits(textured, target, fitted):
    prior = ExactPrior(target)

    def begun():
        job = FitJob(textured, "a ball", SETTINGS)
        job.start(prior, lambda: None, torch.device("cpu"))
        return job

    job, other = begun(), begun()
    steps(job, prior, 3)
    assert job.phase
    other.restore(*job.state())
    steps(job, prior, job.steps - 3)
    steps(other, prior, other.steps - 3)
    assert other.done and other.result().texture.tobytes() == job.result().texture.tobytes() == fitted.texture.tobytes()


def steps(job, prior, count):
    """The engine's step, without the engine."""
    for _ in range(count):
        images = job.draw()
        query = job.ask(None if images is None else prior.encode(images)).image
        eps = prior.predict(query.latents, query.t, query.embeddings, (query.azimuth, query.elevation))
        wanted = job.receive(eps, None)
        loss = job.loss(None if wanted is None else prior.decode(wanted))
        if loss is not None:
            loss.backward()
        job.update()


def test_a_prior_that_breaks_is_told(textured, target):
    with pytest.raises(DivergedError, match="round 1 are not finite"):
        run(textured, ExactPrior(target, broken=True))


def test_a_gradient_is_the_same_every_time():
    """Many places share a row, and two threads sum them."""
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randint(0, 3000, (128, 128), generator=generator)
    weight = torch.randn(128, 128, 3, generator=generator)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        gradients = []
        for _ in range(50):
            values = torch.zeros(3000, 3, requires_grad=True)
            (looked_up(values, numbers) * weight).sum().backward()
            gradients.append(values.grad)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(each, gradients[0]) for each in gradients)
    wanted = torch.zeros(3000, 3).index_add_(0, numbers.ravel(), weight.reshape(-1, 3))
    torch.testing.assert_close(gradients[0], wanted, atol=1e-5, rtol=1e-5)
