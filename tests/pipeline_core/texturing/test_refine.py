"""Texture refinement against an exact prior: it believes in one target, so the texture must move towards it, and only
by what the prior says; interrupted runs continue bit for bit."""

import threading
from concurrent.futures import CancelledError
from dataclasses import replace

import numpy as np
import pytest
import torch

from pipeline_core import aside
from pipeline_core.cameras import orbit
from pipeline_core.children import Children
from pipeline_core.config import Densify, Distill, Texture
from pipeline_core.device import thread_count
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.engine.gaussian_job import GaussianJob
from pipeline_core.errors import DataError, DivergedError
from pipeline_core.priors.process import Diffusion, OwnsNoise
from pipeline_core.rendering.mesh import render_mesh
from pipeline_core.texturing import bake
from pipeline_core.texturing import refine as R
from pipeline_core.texturing.bake import chart_texels
from pipeline_core.texturing.fit import FitJob
from pipeline_core.types import Gaussians

TINT = np.float32([0.7, 1.0, 0.8])


class ExactPrior(OwnsNoise):
    """Pixel-space prior of 32 px whose only picture of a camera is the render of ``target``."""

    size = latent_size = 32
    latent_channels, dtype = 3, torch.float32
    background, camera, model_id = (1.0, 1.0, 1.0), "angles", "exact"

    def __init__(self, target, *, broken=False):
        t = (torch.arange(100) + 0.5) / 100
        super().__init__(Diffusion(((t + 0.008) / 1.008 * torch.pi / 2).cos().square().clamp(1e-4, 0.9999)))
        self.target, self.broken, self.calls = target, broken, 0

    def encode_prompts(self, prompts):
        return torch.zeros(len(prompts), 1, 1)

    def encode(self, images, generator=None):
        return images * 2 - 1

    def decode(self, latents):
        return (latents / 2 + 0.5).clamp(0, 1)

    def predict(self, x_t, t, embeddings, cameras=None):
        self.calls += 1
        images, _ = render_mesh(self.target, orbit(cameras[0], cameras[1], size=32), supersample=4)
        eps = self.noise_of(x_t, images.permute(0, 3, 1, 2) * 2 - 1, t)
        return eps * torch.nan if self.broken else eps


SETTINGS = Texture(
    steps=4,
    views=4,
    resolution=64,
    rate=1.0,
    guidance_scale=1.0,
    strength=(0.4, 0.2),
    denoise_steps=10,
    elevation=(-20, 50),
)


@pytest.fixture(scope="module")
def target(textured):
    return replace(textured, texture=textured.texture * TINT)


def run(textured, prior, settings=SETTINGS, **options):
    engine = DistillationEngine(prior)
    try:
        return R.refine_texture(textured, "a ball", settings, engine, **options)
    finally:
        engine.close()


@pytest.fixture(scope="module")
def refined(textured, target):
    return run(textured, ExactPrior(target))


def test_texture_becomes_what_the_prior_believes(textured, target, refined):
    before = np.abs(textured.texture - target.texture).mean()
    after = np.abs(refined.texture - target.texture).mean()
    assert after < 0.2 * before  # the bottom, which no view saw, included
    for name in ("vertices", "faces", "normals", "uvs"):
        assert np.array_equal(getattr(refined, name), getattr(textured, name))


def test_detail_finer_than_the_prior_survives(textured):
    """Noise texel by texel that a 32-px prior cannot see: the prior agrees with the mean, so the noise must stay."""
    noise = 0.1 * np.random.default_rng(0).choice([-1.0, 1.0], textured.texture.shape).astype(np.float32)
    flat = replace(textured, texture=np.full_like(textured.texture, 0.5))
    noisy = replace(textured, texture=flat.texture + noise)
    texels = chart_texels(textured.vertices, textured.faces, textured.uvs, textured.normals, 128)
    inside = tuple(texels.index.T)
    after = run(noisy, ExactPrior(flat)).texture[inside] - 0.5
    assert np.corrcoef(after.ravel(), noise[inside].ravel())[0, 1] > 0.9
    assert after.std() > 0.08


def test_a_prior_that_agrees_changes_nothing(textured):
    after = run(textured, ExactPrior(textured)).texture
    assert np.abs(after - textured.texture).mean() < 0.02


def test_same_seed_same_bits(textured, target, refined):
    assert run(textured, ExactPrior(target)).texture.tobytes() == refined.texture.tobytes()


def test_interrupted_run_equals_uninterrupted(textured, target, refined):
    """State is taken in the middle of a round, and put into a new job."""
    prior = ExactPrior(target)
    job = R.TextureJob(textured, "a ball", SETTINGS)
    job.start(prior, lambda: None, torch.device("cpu"))
    _steps(job, prior, 5)
    assert job.phase != 0
    state = job.state()
    _steps(job, prior, 2)  # what comes after the state must not leak into it
    other = R.TextureJob(textured, "a ball", SETTINGS)
    other.start(prior, lambda: None, torch.device("cpu"))
    other.restore(*state)
    _steps(other, prior, other.steps - 5)
    assert other.done and other.fingerprint == job.fingerprint
    assert other.result().texture.tobytes() == refined.texture.tobytes()


def _steps(job, prior, count):
    """The engine's step, without the engine."""
    for _ in range(count):
        images = job.draw()
        small = (
            None
            if images is None
            else torch.nn.functional.interpolate(images, (32, 32), mode="bilinear", antialias=True)
        )
        query = job.ask(None if small is None else prior.encode(small)).image
        eps = prior.predict(query.latents, query.t, query.embeddings, (query.azimuth, query.elevation))
        wanted = job.receive(eps, None)
        job.loss(None if wanted is None else prior.decode(wanted))
        job.update()


def test_a_texture_and_gaussians_share_one_batch_and_change_nothing(textured, target, refined, gaussians):
    """Both kinds of job in the same calls; each result is that of the job alone, while the other comes and goes."""
    stage = Distill(steps=6, views=2, resolution=((1.0, 32),), guidance_scale=1.0, t_max=(0.5, 0.3), t_min=(0.2, 0.1))
    stage = stage.model_copy(update={"densify": Densify(every=0)})
    few = Gaussians(**{name: value[::25] for name, value in gaussians.tensors().items()})
    alone = DistillationEngine(ExactPrior(target))
    want, _ = alone.submit(GaussianJob(few, "a ball", stage, seed=2)).result(timeout=60)
    alone.close()
    prior = ExactPrior(target)
    engine = DistillationEngine(prior, max_active=2)
    with engine._wake:
        texture = engine.submit(R.TextureJob(textured, "a ball", SETTINGS))
        shape = engine.submit(GaussianJob(few, "a ball", stage, seed=2))
    got, _ = shape.result(timeout=60)
    assert np.abs(texture.result(timeout=60).texture - refined.texture).max() < 1e-3
    for name, value in want.tensors().items():
        torch.testing.assert_close(got.tensors()[name], value, rtol=1e-3, atol=1e-4)
    assert prior.calls == engine.steps == 12  # of which the first six were shared
    engine.close()


def test_cancelling_a_texture_keeps_its_checkpoint(textured, target, refined, tmp_path):
    path, futures = tmp_path / "job.safetensors", []

    def cancel_at_5(step, steps, report):
        if step == 5:
            futures[0].cancel()

    engine = DistillationEngine(ExactPrior(target), progress_seconds=0)
    job = R.TextureJob(textured, "a ball", SETTINGS, checkpoint_path=path, on_progress=cancel_at_5)
    with engine._wake:
        futures.append(engine.submit(job))
    with pytest.raises(CancelledError):
        futures[0].result(timeout=60)
    engine.close()
    seen = []
    again = run(
        textured, ExactPrior(target), checkpoint_path=path, on_progress=lambda step, *_: seen.append(step)
    )  # fmt: skip
    assert again.texture.tobytes() == refined.texture.tobytes() and not path.exists()
    assert seen[-1] == job.steps


def test_steps_are_counted_and_no_steps_is_the_identity(textured, target):
    job = R.TextureJob(textured, "x", SETTINGS)
    assert [len(levels) for levels in job.rounds] == [4, 3, 3, 2]
    assert job.steps == 12
    lit = replace(textured, lightmap_uvs=textured.uvs / 2)
    same = run(lit, ExactPrior(target), SETTINGS.model_copy(update={"steps": 0}))
    assert np.array_equal(same.texture, textured.texture) and same.lightmap_uvs is lit.lightmap_uvs


def test_nan_is_an_error_of_this_asset(textured, target):
    with pytest.raises(DivergedError, match="round 1 are not finite"):
        run(textured, ExactPrior(target, broken=True))


@pytest.mark.parametrize("kind", [R.TextureJob, FitJob])
def test_the_prior_is_shown_the_textures_own_field_of_view(textured, target, kind):
    job = kind(textured, "a ball", SETTINGS.model_copy(update={"fovy": 60.0}))
    job.start(ExactPrior(target), lambda: None, torch.device("cpu"))
    shown = job.draw().detach().permute(0, 2, 3, 1)
    apart = {}
    for fovy in (40.0, 60.0):
        wanted, _ = render_mesh(textured, orbit(*job.angles, size=64, fovy=fovy), supersample=2)
        apart[fovy] = float((shown - wanted).abs().mean())
    assert apart[60.0] < 0.02 < 0.05 < apart[40.0], apart


def test_a_multiview_prior_needs_groups_of_four(textured, target):
    prior = ExactPrior(target)
    prior.num_views = 4
    with pytest.raises(DataError, match=r"texture\.views=3"):
        run(textured, prior, SETTINGS.model_copy(update={"views": 3}))


def test_unseen_texels_change_like_the_most_alike():
    before = torch.tensor([[0.2, 0.2, 0.2], [0.8, 0.8, 0.8], [0.2, 0.2, 0.2], [0.8, 0.8, 0.8]])
    after = before + torch.tensor([[0.1, 0, 0], [0, 0, -0.3], [0, 0, 0], [0, 0, 0]])
    position = torch.tensor([[0.0, 0, 0], [0, 0, 0.1], [0, -0.2, 0], [0, -0.2, 0]])
    many = [torch.cat([t[:1].expand(8, 3), t[1:2].expand(8, 3), t[2:]]) for t in (before, after, position)]
    share = torch.tensor([1.0] * 16 + [0.0, 0.5])
    spread = R.spread_change(*many, share)
    torch.testing.assert_close(spread[16], torch.tensor([0.3, 0.2, 0.2]))
    torch.testing.assert_close(spread[17], torch.tensor([0.8, 0.8, 0.65]))
    assert torch.equal(spread[:16], many[1][:16])


def test_one_texel_alone_may_be_known():
    before, after = torch.zeros(3, 3), torch.tensor([[0.5, 0.5, 0.5], [0, 0, 0], [0, 0, 0]])
    spread = R.spread_change(before, after, torch.eye(3), torch.tensor([1.0, 0.0, 0.0]))
    torch.testing.assert_close(spread, torch.full((3, 3), 0.5))


def test_views_rasterised_ahead_change_nothing(textured, target, refined, monkeypatch):
    threads = set()
    look = R.visibility

    def watched(*args, **options):
        threads.add(threading.current_thread().name.rpartition("_")[0])
        return look(*args, **options)

    monkeypatch.setattr(R, "visibility", watched)
    monkeypatch.setattr(R, "looks_ahead", lambda device: True)
    assert run(textured, ExactPrior(target)).texture.tobytes() == refined.texture.tobytes()
    assert "splatmill-soon" in threads
    test_interrupted_run_equals_uninterrupted(textured, target, refined)


def test_what_processes_of_their_own_rasterise_and_spread_is_the_same(textured, target, refined, monkeypatch):
    children = Children(2, threads=thread_count())
    monkeypatch.setattr(aside, "feeds_a_gpu", lambda: True)
    for name in ("_prompt", "_thorough"):
        monkeypatch.setattr(aside, name, lambda: children)
    monkeypatch.setattr(R, "looks_ahead", lambda device: True)
    assert run(textured, ExactPrior(target)).texture.tobytes() == refined.texture.tobytes()
    assert children._idle, "nothing was done there"


def test_a_gpu_gathers_what_the_cpu_does(textured, target, refined, monkeypatch):
    """There every texel has a weight, of 0 where it is not seen: nobody waits to know how many are."""
    monkeypatch.setattr(bake, "where", lambda mask: torch.arange(len(mask)))
    np.testing.assert_allclose(run(textured, ExactPrior(target)).texture, refined.texture, atol=1e-6)
