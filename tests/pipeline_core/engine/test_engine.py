"""The engine against a prior whose answer is known: convergence, independence, isolation, resumption."""

import threading
import weakref
from concurrent.futures import CancelledError
from dataclasses import replace

import pytest
import torch

from pipeline_core import models
from pipeline_core.cameras import orbit
from pipeline_core.config import RECIPES, LearningRates
from pipeline_core.engine import engine as engine_module
from pipeline_core.engine.calls import ModelCalls, resize
from pipeline_core.engine.checkpoint import load_checkpoint, save_checkpoint
from pipeline_core.engine.clock import PARTS, Clock
from pipeline_core.engine.distill import distill
from pipeline_core.engine.engine import DistillationEngine, default_active, finishers
from pipeline_core.engine.gaussian_job import GaussianJob, digest, render
from pipeline_core.engine.jobs import Judged
from pipeline_core.errors import DataError, DivergedError, OutOfMemory, StageError, is_out_of_memory
from pipeline_core.priors.interface import ImagePrior, PointPrior
from pipeline_core.priors.noise import row_noise

GREY = (0.5, 0.5, 0.5)
EVERY_PROCESS = pytest.mark.parametrize("exact_prior", ["diffusion", "flow"], indirect=True)


@pytest.fixture
def engine(exact_prior):
    engine = DistillationEngine(exact_prior, max_active=8, progress_seconds=0)
    yield engine
    engine.close()


def held_out_error(prior, prompt, gaussians):
    """Mean squared error of renders at cameras that no seed draws exactly."""
    cameras = orbit(torch.tensor([10.0, 100.0, 190.0, 280.0]), torch.tensor([5.0]), size=prior.size, fovy=40.0)
    image, _, _ = render(gaussians.tensors(), cameras, torch.ones(4, 3))
    target, _, _ = render(prior.targets[prompt].tensors(), cameras, torch.ones(4, 3))
    return float((image - target).square().mean())


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.tensors().values(), second.tensors().values(), strict=True))


def block_until(engine, jobs):
    """Submit ``jobs`` so that they all enter the same step."""
    with engine._wake:
        return [engine.submit(job) for job in jobs]


@EVERY_PROCESS
def test_distillation_reproduces_what_the_prior_believes(engine, exact_prior, stage, make_gaussians):
    start = make_gaussians(9, GREY, (0.35, 0.35, 0.35))
    result, curves = distill(start, "red", "", stage(steps=150, densify={"every": 50}), engine, seed=0)
    before, after = held_out_error(exact_prior, "red", start), held_out_error(exact_prior, "red", result)
    assert after < 0.05 * before
    assert curves["loss_image"][-1] < 0.1 * curves["loss_image"][0]
    assert len(curves["step"]) == 50 and curves["step"][-1] == 150


@EVERY_PROCESS
def test_guidance_scale_extrapolates_from_the_unconditional_picture(engine, exact_prior, stage, make_gaussians):
    """With scale s the optimum is u + s (c - u); u is grey, so the red asset's white surroundings are overshot too:
    the clamp holds them, and the asset turns purer red than the target."""
    start = make_gaussians(9, GREY)
    plain, _ = distill(start, "red", "", stage(steps=80), engine, seed=0)
    guided, _ = distill(start, "red", "", stage(steps=80, guidance_scale=3.0), engine, seed=0)
    assert guided.sh0[:, 0, 1].mean() < plain.sh0[:, 0, 1].mean() - 0.05


def test_one_model_call_per_step_for_all_jobs(engine, exact_prior, stage, make_gaussians):
    jobs = [
        GaussianJob(make_gaussians(9, GREY), p, stage(steps=5), seed=i) for i, p in enumerate(["red", "blue", "green"])
    ]
    for future in block_until(engine, jobs):
        future.result(timeout=60)
    assert exact_prior.calls == engine.steps == 5
    assert exact_prior.rows == [6] * 5  # three jobs of two views; guidance scale 1 needs no unconditional rows


@EVERY_PROCESS
def test_result_does_not_depend_on_company(exact_prior, stage, make_gaussians):
    """Alone, and in a batch of 8 with other lengths, prompts and guidance."""
    settings = stage(steps=12, guidance_scale=2.0, densify={"every": 5, "grad_threshold": 1e-6, "max_gaussians": 120})
    alone_engine, engine = DistillationEngine(exact_prior, max_active=1), DistillationEngine(exact_prior, max_active=8)
    start = make_gaussians(9, GREY)
    alone, _ = alone_engine.submit(GaussianJob(start, "red", settings, seed=3)).result(timeout=60)
    others = [
        GaussianJob(make_gaussians(i, GREY), ("red", "blue", "green")[i % 3], stage(steps=4 + 3 * i), seed=i)
        for i in range(7)
    ]
    futures = block_until(engine, [*others[:4], GaussianJob(start, "red", settings, seed=3), *others[4:]])
    together, _ = futures[4].result(timeout=60)
    for future in futures:
        future.result(timeout=60)
    for name, value in alone.tensors().items():
        torch.testing.assert_close(together.tensors()[name], value, rtol=1e-3, atol=1e-4, msg=name)
    alone_engine.close(), engine.close()


@EVERY_PROCESS
def test_variants_of_guidance_share_their_calls(exact_prior, stage, make_gaussians):
    """Inversions of different lengths go side by side, and nobody's result depends on the company but for rounding."""
    start = make_gaussians(9, GREY)
    fixed = {"steps": 2, "guidance_scale": 2.0, "t_max": (0.5, 0.5), "t_min": (0.5, 0.5), "views": 1}

    def jobs():
        return [GaussianJob(start, "red", stage(guidance=kind, **fixed)) for kind in ("sds", "csd", "ism", "sdi")]

    engine = DistillationEngine(exact_prior, max_active=4)
    alone, calls = [], []
    for job in jobs():
        before = exact_prior.calls
        alone.append(engine.submit(job).result(timeout=60)[0])
        calls.append((exact_prior.calls - before) // 2)
    assert calls == [1, 1, 5, 6]  # ism: to 0.2, to 0.4, to 0.42, to 0.5 and there; sdi: five tenths and there
    before = exact_prior.calls
    together = [future.result(timeout=60)[0] for future in block_until(engine, jobs())]
    assert exact_prior.calls - before == 2 * max(calls)
    for mine, ours in zip(alone, together, strict=True):
        for name, value in mine.tensors().items():
            torch.testing.assert_close(ours.tensors()[name], value, rtol=1e-3, atol=1e-4, msg=name)
    assert len({digest(each) for each in alone}) == 4
    engine.close()


def test_the_clip_grows_over_the_stage(engine, stage, make_gaussians):
    """Score debiasing: while the clip is small an asset keeps more of its start."""
    start, fixed = make_gaussians(9, GREY), {"steps": 4, "views": 1, "grad_clip": 1e-3}
    job = GaussianJob(start, "red", stage(grad_clip_last=1.0, **fixed))
    _, curves = engine.submit(job).result(timeout=60)
    _, held = engine.submit(GaussianJob(start, "red", stage(**fixed))).result(timeout=60)
    assert curves["loss_image"][0] == held["loss_image"][0]
    assert curves["loss_image"][-1] > 100 * held["loss_image"][-1]


def test_with_max_active_1_company_changes_no_bit(exact_prior, stage, make_gaussians, monkeypatch):
    """The promise of docs/REPRODUCING.md for several threads; the variable is what decides whether calls are shared."""
    monkeypatch.setattr(models, "image_prior", lambda ref: exact_prior)
    monkeypatch.setattr(models, "device", lambda: torch.device("cpu"))

    def made(active, *company):
        """What becomes of one asset in company, and the rows of the largest call."""
        monkeypatch.setenv(models.MAX_ACTIVE, active)
        exact_prior.rows.clear()
        try:
            settings = stage(steps=6, densify={"every": 3, "grad_threshold": 1e-6, "max_gaussians": 120})
            jobs = [GaussianJob(make_gaussians(9, GREY), "red", settings, seed=3)]
            jobs += [GaussianJob(make_gaussians(i, GREY), name, stage(steps=4), seed=i) for i, name in company]
            results = [each.result(timeout=60) for each in block_until(models.engine(RECIPES["factory"]), jobs)]
        finally:
            models.close_engines()
        return results[0][0], max(exact_prior.rows)

    company, threads = ((1, "blue"), (2, "green")), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        (alone, _), (one_by_one, most), (_, shared) = made("1"), made("1", *company), made("3", *company)
    finally:
        torch.set_num_threads(threads)
    assert same(alone, one_by_one) and (most, shared) == (2, 6)


def test_same_seed_same_bits_other_seed_other_bits(engine, stage, make_gaussians):
    runs = [distill(make_gaussians(9, GREY), "red", "", stage(steps=6), engine, seed=seed)[0] for seed in (0, 0, 1)]
    assert same(runs[0], runs[1])
    assert not same(runs[0], runs[2])


def test_jobs_join_and_leave_at_step_boundaries(exact_prior, stage, make_gaussians):
    engine = DistillationEngine(exact_prior, max_active=2)
    jobs = [GaussianJob(make_gaussians(9, GREY), "red", stage(steps=n), seed=n) for n in (2, 6, 3)]
    for future in block_until(engine, jobs):
        future.result(timeout=60)
    assert [rows // 2 for rows in exact_prior.rows] == [2, 2, 2, 2, 2, 1]  # 2+6 until step 2, then 6+3, then 6 alone
    engine.close()


@pytest.mark.parametrize("poison", ["prediction", "parameters"])
def test_nan_ends_its_own_job_only(engine, exact_prior, stage, make_gaussians, poison):
    start = make_gaussians(9, GREY)
    expected, _ = distill(start, "red", "", stage(steps=8), engine, seed=0)
    broken = make_gaussians(9, GREY)
    if poison == "prediction":
        exact_prior.poison = "blue"
    else:
        broken.means[5] = torch.nan
    good = GaussianJob(start, "red", stage(steps=8), seed=0)
    futures = block_until(engine, [GaussianJob(broken, "blue", stage(steps=8), seed=0), good])
    with pytest.raises(DivergedError, match=r"blue: at step 1 of 8 .* another seed"):
        futures[0].result(timeout=60)
    result, _ = futures[1].result(timeout=60)
    for name, value in expected.tensors().items():
        torch.testing.assert_close(result.tensors()[name], value, rtol=1e-3, atol=1e-4)


def test_an_exception_in_one_job_leaves_the_others(engine, stage, make_gaussians):
    def fail(step, steps, report):
        raise ValueError("display is gone")

    job = GaussianJob(make_gaussians(9, GREY), "red", stage(steps=5), on_progress=fail)
    futures = block_until(engine, [job, GaussianJob(make_gaussians(9, GREY), "blue", stage(steps=5))])
    with pytest.raises(ValueError, match="display is gone"):
        futures[0].result(timeout=60)
    futures[1].result(timeout=60)


def test_interrupted_run_equals_uninterrupted_bit_for_bit(exact_prior, stage, make_gaussians, tmp_path):
    settings = stage(
        steps=30,
        guidance_scale=2.0,
        densify={"every": 4, "grad_threshold": 1e-6, "compactness": True, "max_gaussians": 120},
    )
    start = make_gaussians(9, GREY)
    engine = DistillationEngine(exact_prior, progress_seconds=0)
    whole, whole_curves = distill(start, "red", "", settings, engine, seed=5)

    path = tmp_path / "job.safetensors"
    futures = []

    def cancel_at_13(step, steps, report):
        if step == 13:
            futures[0].cancel()

    job = GaussianJob(start, "red", settings, seed=5, checkpoint_path=path, on_progress=cancel_at_13)
    with engine._wake:
        futures.append(engine.submit(job))
    with pytest.raises(CancelledError):
        futures[0].result(timeout=60)
    engine.close()
    assert path.exists()

    seen = []
    second = DistillationEngine(exact_prior, progress_seconds=0)
    resumed, curves = distill(
        start, "red", "", settings, second, seed=5, checkpoint_path=path, on_progress=lambda step, *_: seen.append(step)
    )
    assert seen[0] == 14
    assert same(resumed, whole) and curves == whole_curves
    assert not path.exists()
    second.close()


def test_a_job_that_leaves_early_goes_on_bit_for_bit(exact_prior, stage, make_gaussians, tmp_path):
    """It leaves at a step at which Gaussians are cloned and pruned, and between two looks at the numbers."""
    settings = stage(steps=110, densify={"every": 3, "grad_threshold": 1e-6, "max_gaussians": 120})
    start, path = make_gaussians(9, GREY), tmp_path / "job.safetensors"
    whole, whole_curves = distill(start, "red", "", settings, engine := DistillationEngine(exact_prior), seed=5)
    early, curves = distill(start, "red", "", settings, engine, seed=5, until=33, checkpoint_path=path)
    assert path.exists() and curves["step"][-1] == 32 and len(early) > len(start) and not same(early, whole)
    again, _ = distill(start, "red", "", settings, engine, seed=5, until=33, checkpoint_path=path)
    assert same(again, early) and engine.steps == 110 + 33
    resumed, curves = distill(start, "red", "", settings, engine, seed=5, checkpoint_path=path)
    assert engine.steps == 110 + 110 and same(resumed, whole) and curves == whole_curves and not path.exists()

    def poisoned(step, steps, report):
        job.params["means"].data[0] = torch.nan

    job = GaussianJob(start, "red", settings, until=1, checkpoint_path=path, on_progress=poisoned)
    with pytest.raises(DivergedError, match="at step 1 of 110 means of the Gaussians are not finite"):
        engine.submit(job).result(timeout=60)
    assert not path.exists()
    engine.close()


def test_a_checkpoint_of_another_job_is_not_used(exact_prior, stage, make_gaussians, tmp_path):
    path = tmp_path / "job.safetensors"
    engine = DistillationEngine(exact_prior, checkpoint_seconds=0)
    job = GaussianJob(make_gaussians(9, GREY), "red", stage(steps=3), seed=1)
    engine.submit(job).result(timeout=60)
    save_checkpoint(path, job.fingerprint, job.state())
    assert load_checkpoint(path, job.fingerprint) is not None
    assert load_checkpoint(path, "another") is None
    path.write_bytes(b"cut off")
    assert load_checkpoint(path, job.fingerprint) is None
    fresh, _ = distill(make_gaussians(9, GREY), "red", "", stage(steps=3), engine, seed=1, checkpoint_path=path)
    assert same(fresh, job.result()[0])
    engine.close()


def test_checkpoints_follow_the_time_budget(exact_prior, stage, make_gaussians, tmp_path):
    path = tmp_path / "job.safetensors"
    present = []
    engine = DistillationEngine(exact_prior, checkpoint_seconds=0, progress_seconds=0)
    distill(
        make_gaussians(9, GREY), "red", "", stage(steps=4), engine, seed=0, checkpoint_path=path,
        on_progress=lambda *_: present.append(path.exists()),
    )  # fmt: skip
    assert present == [False, True, True, True]
    engine.close()


def test_out_of_memory_saves_memory_then_halves_the_batch_and_keeps_the_results(exact_prior, stage, make_gaussians):
    starts = [make_gaussians(i, GREY) for i in range(4)]
    roomy = DistillationEngine(exact_prior, max_active=1)
    expected = [distill(s, "red", "", stage(steps=6), roomy, seed=i)[0] for i, s in enumerate(starts)]
    predict, tried = exact_prior.predict, []

    def small_device(latents_t, *rest):
        tried.append((len(latents_t), engine.saves_memory))
        if len(latents_t) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return predict(latents_t, *rest)

    exact_prior.predict = small_device
    engine = DistillationEngine(exact_prior, max_active=4)
    futures = block_until(engine, [GaussianJob(s, "red", stage(steps=6), seed=i) for i, s in enumerate(starts)])
    for future, want in zip(futures, expected, strict=True):
        got, _ = future.result(timeout=60)
        for name, value in want.tensors().items():
            torch.testing.assert_close(got.tensors()[name], value, rtol=1e-3, atol=1e-4)
    assert tried[:3] == [(8, False), (8, True), (4, True)] and engine.max_active == 2
    with pytest.raises(OutOfMemory, match="alone does not fit"):
        distill(starts[0], "red", "", stage(steps=2, views=8), engine, seed=0)
    distill(starts[0], "red", "", stage(steps=2), engine, seed=0)  # the engine goes on
    roomy.close(), engine.close()


def test_one_asset_that_does_not_fit_gets_a_second_chance(exact_prior, stage, make_gaussians):
    """The encoder's activations are given up before the asset is."""
    encode = exact_prior.encode

    def encode_at_most_one(images, generator=None):
        if len(images) > 1 and images.requires_grad:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return encode(images)

    roomy = DistillationEngine(exact_prior)
    start = make_gaussians(9, GREY)
    want, _ = distill(start, "red", "", stage(steps=4), roomy, seed=0)
    exact_prior.encode = encode_at_most_one
    engine = DistillationEngine(exact_prior)
    got, _ = distill(start, "red", "", stage(steps=4), engine, seed=0)
    assert engine.saves_memory and same(got, want)
    roomy.close(), engine.close()


class Held:
    """What a step's graph holds."""


class Full(torch.autograd.Function):
    """The identity, with something that lives as long as the graph; in the backward of it memory runs out."""

    runs_out, held = True, []

    @staticmethod
    def forward(ctx, x):
        ctx.held = Held()
        Full.held.append(weakref.ref(ctx.held))
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        if Full.runs_out:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return gradient


@pytest.mark.parametrize("share", [False, True])
def test_memory_that_runs_out_in_the_backward_is_free_for_the_next_try(
    exact_prior, stage, make_gaussians, monkeypatch, share
):
    """Also that of jobs which wait for their turn, with half of them at work."""
    encode, release, judged, alive = exact_prior.encode, ModelCalls.release, [], []
    monkeypatch.setattr(Full, "runs_out", True)
    monkeypatch.setattr(Full, "held", [])

    class Watched(GaussianJob):
        def receive(self, image, points):
            judged.append(weakref.ref(image))
            return super().receive(image, points)

    def released(calls):
        alive.append([sum(each() is not None for each in known) for known in (judged, Full.held)])
        Full.runs_out = len(alive) < 2
        release(calls)

    exact_prior.encode = lambda images, *rest: encode(Full.apply(images), *rest)
    monkeypatch.setattr(ModelCalls, "release", released)
    engine = DistillationEngine(exact_prior, max_active=2, share_launches=share)
    jobs = [Watched(make_gaussians(9, GREY), name, stage(steps=2)) for name in ("red", "blue")]
    assert all(len(future.result(timeout=60)[0]) for future in block_until(engine, jobs))
    assert engine.saves_memory and engine.max_active == 1 and len(judged) == 2 + 2 + 2 * 2
    assert alive[0] == [0, 0] and alive[1][0] == 0  # on a CPU torch keeps rows that it did not come to in its queue
    engine.close()


def test_a_job_that_is_put_back_has_nothing_of_the_step(exact_prior, stage, make_gaussians):
    job = GaussianJob(make_gaussians(9, GREY), "red", stage(steps=2))
    job.start(exact_prior, lambda: None, torch.device("cpu"))
    state = job.state()
    job.judged, job.point_prediction = Judged(torch.ones(()), torch.ones(())), torch.ones(1)
    job.info, job.x = {"means2d": torch.ones(1)}, torch.ones(1)
    job.restore(*state)
    assert job.info == {} and job.judged is None and job.point_prediction is None and not len(job.x)


def test_less_memory_costs_another_encoding_and_nothing_else(exact_prior):
    """The encoder runs again in the backward, view by view, and the gradient is the same."""
    layer, rows = torch.nn.Conv2d(3, 4, 3).requires_grad_(False), []

    def encode(images, generator=None):
        rows.append(len(images))
        return layer(images).tanh()

    exact_prior.encode = encode
    gradients = []
    for frugal in (False, True):
        calls = ModelCalls(exact_prior, None, torch.device("cpu"), Clock(torch.device("cpu")))
        if frugal:
            calls.save_memory()
        images = [torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(i)) for i in range(2)]
        leaves = [image.requires_grad_() for image in images]
        calls.encode(images).square().sum().backward()
        gradients.append([leaf.grad for leaf in leaves])
    assert rows == [4] + [1] * 8
    for plain, frugal in zip(*gradients, strict=True):
        torch.testing.assert_close(frugal, plain)


def test_images_are_rendered_at_the_scheduled_size_and_encoded_at_the_priors(exact_prior, stage, make_gaussians):
    sizes = []
    encode = exact_prior.encode
    exact_prior.encode = lambda images: sizes.append(images.shape[-1]) or encode(images)
    rendered = []

    class Watched(GaussianJob):
        def draw(self):
            images = super().draw()
            rendered.append(images.shape[-1])
            return images

    engine = DistillationEngine(exact_prior)
    table = ((0.3, 12), (0.6, 16), (1.0, 24))
    engine.submit(Watched(make_gaussians(9, GREY), "red", stage(steps=11, resolution=table))).result(timeout=60)
    assert rendered == [12] * 3 + [16] * 3 + [24] * 5 and set(sizes) == {24}
    engine.close()


def test_a_clock_that_is_read_while_it_marks_loses_nothing(monkeypatch):
    """The engine's thread marks on while another waits for what is marked: that is of the next look."""

    class Event:
        made = []

        def __init__(self, enable_timing):
            self.made.append(self)
            self.at, self.done = len(self.made), False

        def record(self):
            pass

        def synchronize(self):
            for event in self.made:
                event.done = event.done or event.at <= self.at
            if len(self.made) < 6:
                clock.mark("render")
                clock.mark("unet")

        def elapsed_time(self, other):
            if not (self.done and other.done):
                raise RuntimeError("Both events must be completed before calculating elapsed time.")
            return 1000.0 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    clock = Clock(torch.device("cuda"))
    clock.start()
    clock.mark("render")
    assert clock.seconds["render"] == 1 and clock.seconds["unet"] == 1
    assert clock.seconds == dict.fromkeys(PARTS, 0.0) | {"render": 3, "unet": 2}


def test_the_clock_tells_every_part_and_the_curves_the_precision(engine, stage, make_gaussians):
    _, curves = distill(make_gaussians(9, GREY), "red", "", stage(steps=3), engine, seed=0)
    seconds = engine.clock.seconds
    assert list(seconds) == list(PARTS) and curves["precision"] == "float32"
    assert all(seconds[part] > 0 for part in PARTS if part not in ("points", "decode"))


def test_default_batch_follows_device_precision_and_threads(exact_prior, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert default_active(exact_prior, torch.device("cuda")) == 8
    assert default_active(exact_prior, torch.device("cpu")) == 1
    exact_prior.dtype = torch.bfloat16
    assert default_active(exact_prior, torch.device("cpu")) == 4
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)  # the same bytes in any company
    assert default_active(exact_prior, torch.device("cpu")) == 1


def test_a_checkpoint_of_another_precision_is_not_used(exact_prior, stage, make_gaussians):
    jobs = []
    for dtype in (torch.float32, torch.bfloat16):
        exact_prior.dtype = dtype
        jobs.append(GaussianJob(make_gaussians(9, GREY), "red", stage(steps=3)))
        jobs[-1].start(exact_prior, lambda: None, torch.device("cpu"))
    assert jobs[0].fingerprint != jobs[1].fingerprint
    first = jobs[1].fingerprint
    jobs[1].start(exact_prior, lambda: None, torch.device("cpu"))  # once more, as after running out of memory
    assert jobs[1].fingerprint == first


def test_a_failing_model_call_fails_its_batch_and_the_engine_goes_on(engine, exact_prior, stage, make_gaussians):
    predict = exact_prior.predict
    exact_prior.predict = lambda *_: 1 / 0
    with pytest.raises(ZeroDivisionError):
        distill(make_gaussians(9, GREY), "red", "", stage(steps=2), engine, seed=0)
    exact_prior.predict = predict
    distill(make_gaussians(9, GREY), "red", "", stage(steps=2), engine, seed=0)


def test_cancelling_a_waiting_job_never_starts_it(exact_prior, stage, make_gaussians):
    engine = DistillationEngine(exact_prior, max_active=1)
    with engine._wake:
        first = engine.submit(GaussianJob(make_gaussians(9, GREY), "red", stage(steps=3)))
        second = engine.submit(GaussianJob(make_gaussians(9, GREY), "blue", stage(steps=3)))
        assert second.cancel()
    first.result(timeout=60)
    assert engine.steps == 3
    engine.close()


def test_close_cancels_and_refuses(exact_prior, stage, make_gaussians, tmp_path):
    entered, path = threading.Event(), tmp_path / "job.safetensors"
    engine = DistillationEngine(exact_prior, progress_seconds=0)
    job = GaussianJob(
        make_gaussians(9, GREY), "red", stage(steps=100_000), checkpoint_path=path, on_progress=lambda *_: entered.set()
    )
    future = engine.submit(job)
    entered.wait(60)
    engine.close()
    assert future.cancelled() and path.exists()
    with pytest.raises(StageError, match="closed"):
        engine.submit(job)


def test_no_steps_returns_the_pruned_start(engine, stage, make_gaussians):
    start = make_gaussians(9, GREY)
    start.opacities[:5] = -10.0
    result, curves = distill(start, "red", "", stage(steps=0), engine, seed=0)
    torch.testing.assert_close(result.means, start.means[5:])
    assert curves["events"]["pruned"] == 5 and curves["step"] == []


@pytest.mark.parametrize(
    "own",
    [{}, {"point_t_max": (0.3, 0.05), "point_t_min": (0.3, 0.05), "point_draws": 2, "point_subset": "farthest"}],
    ids=["as the images", "its own window and draws"],
)
def test_the_point_prior_moves_the_centres(exact_prior, exact_points, stage, make_gaussians, own):
    """3D score distillation alone: the centres and colours go where the point prior's cloud has its mean."""
    cloud = torch.cat([torch.full((3, 64), 0.4), torch.full((3, 64), 0.5)])  # model space: xyz = 0.2, rgb = 0.75
    engine = DistillationEngine(exact_prior, lambda: exact_points(cloud))
    settings = stage(steps=200, image_weight=0.0, point_weight=1.0, point_guidance_scale=1.0, **own)
    result, curves = distill(make_gaussians(9, GREY), "red", "", settings, engine, seed=0)
    assert exact_prior.calls == 0
    torch.testing.assert_close(result.means.mean(0), torch.full((3,), 0.2), atol=0.03, rtol=0)
    torch.testing.assert_close(
        result.activated()["colors"].mean((0, 1)) * 0.2821 + 0.5, torch.full((3,), 0.75), atol=0.05, rtol=0
    )
    assert curves["loss_points"][-1] < curves["loss_points"][0]
    engine.close()


def test_the_point_prior_may_move_the_centres_alone(exact_prior, exact_points, stage, make_gaussians):
    engine = DistillationEngine(exact_prior, lambda: exact_points(torch.full((6, 64), 0.4)))
    settings = stage(steps=20, image_weight=0.0, point_weight=1.0, point_guidance_scale=1.0, point_colours=False)
    start = make_gaussians(9, GREY)
    result, _ = distill(start, "red", "", settings, engine, seed=0)
    engine.close()
    assert torch.equal(result.sh0, start.sh0)
    assert (result.means - start.means).abs().max() > 0.01


def test_the_point_prior_has_a_window_of_its_own(exact_prior, exact_points, stage, make_gaussians):
    asked, points = [], exact_points(torch.zeros(6, 64))
    predict = points.predict
    points.predict = lambda x, t, condition: asked.append(t) or predict(x, t, condition)
    engine = DistillationEngine(exact_prior, lambda: points)
    window = {"point_t_max": (0.3, 0.1), "point_t_min": (0.3, 0.1), "point_draws": 3}
    settings = stage(steps=3, image_weight=0.0, point_weight=1.0, point_guidance_scale=1.0, **window)
    distill(make_gaussians(9, GREY), "red", "", settings, engine, seed=0)
    engine.close()
    assert [len(t) for t in asked] == [3, 3, 3]
    torch.testing.assert_close(torch.stack(asked)[:, 0], torch.tensor([0.3, 0.2, 0.1]), atol=0.01, rtol=0)


def test_a_missing_point_prior_is_said(engine, stage, make_gaussians):
    with pytest.raises(StageError, match="no point prior"):
        distill(make_gaussians(9, GREY), "red", "", stage(steps=2, point_weight=0.1), engine, seed=0)


def test_a_multiview_prior_needs_groups_of_four(engine, exact_prior, stage, make_gaussians):
    exact_prior.num_views = 4
    with pytest.raises(DataError, match="views=2 must be a multiple of 4"):
        distill(make_gaussians(9, GREY), "red", "", stage(steps=2), engine, seed=0)


def test_out_of_memory_is_recognised():
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_resize_preserves_means_and_gradients():
    image = torch.rand(2, 3, 32, 32, requires_grad=True)
    small = resize(image, 16)
    torch.testing.assert_close(small.mean(), image.mean(), atol=5e-3, rtol=0)
    small.sum().backward()
    assert image.grad.abs().sum() > 0
    assert resize(image, 32) is image


def test_the_exact_priors_are_priors(exact_prior, exact_points):
    assert isinstance(exact_prior, ImagePrior) and isinstance(exact_points(torch.zeros(6, 8)), PointPrior)


def test_whatever_ends_the_thread_fails_every_job(exact_prior, stage, make_gaussians, monkeypatch):
    def ends(engine):
        raise SystemExit("the card fell off the bus")

    monkeypatch.setattr(DistillationEngine, "_admit", ends)
    engine = DistillationEngine(exact_prior, max_active=1)
    futures = block_until(
        engine, [GaussianJob(make_gaussians(9, GREY), name, stage(steps=2)) for name in ("red", "blue")]
    )
    for future, name in zip(futures, ("red", "blue"), strict=True):
        with pytest.raises(StageError, match=f"{name}: the engine ended with SystemExit: the card fell off the bus"):
            future.result(timeout=60)
    with pytest.raises(StageError, match="closed"):
        engine.submit(GaussianJob(make_gaussians(9, GREY), "red", stage(steps=2)))
    engine.close()


def test_a_result_that_takes_long_keeps_nobody_waiting(exact_prior, stage, make_gaussians):
    """The first job's result waits for the second job to be done, which it could not on the engine's own thread."""
    other = threading.Event()

    class Slow(GaussianJob):
        def result(self):
            assert other.wait(60)
            return super().result()

    engine = DistillationEngine(exact_prior, max_active=1)
    slow = engine.submit(Slow(make_gaussians(9, GREY), "red", stage(steps=1)))
    engine.submit(GaussianJob(make_gaussians(9, GREY), "blue", stage(steps=2))).result(timeout=60)
    other.set()
    assert len(slow.result(timeout=60)[0])
    engine.close()


def test_an_engine_on_a_gpu_starts_the_processes_that_it_will_wait_for(exact_prior, monkeypatch):
    told = []
    monkeypatch.setattr(engine_module, "feed_a_gpu", lambda: told.append("feeds"))
    monkeypatch.setattr(engine_module, "warm_up", lambda: told.append("warm"))
    monkeypatch.setattr(torch.cuda, "set_device", told.append)
    DistillationEngine(exact_prior).close()
    assert not told
    DistillationEngine(exact_prior, device="cuda:1").close()
    assert told == ["feeds", torch.device("cuda", 1), "warm"]


def test_a_closed_engine_gives_its_memory_back(exact_prior, monkeypatch):
    released = []
    monkeypatch.setattr(ModelCalls, "release", lambda calls: released.append(calls))
    engine = DistillationEngine(exact_prior)
    engine.close()
    assert released == [engine._calls]


def test_a_result_is_made_even_when_no_thread_starts_any_more(exact_prior, stage, make_gaussians):
    engine = DistillationEngine(exact_prior, max_active=1)
    engine._finishing.shutdown()  # as at the end of the interpreter
    result, _ = engine.submit(GaussianJob(make_gaussians(9, GREY), "red", stage(steps=1))).result(timeout=60)
    assert len(result)
    engine.close()


def test_results_beside_a_gpu_wait_for_children_all_at_once():
    assert finishers(torch.device("cpu"), 16) == 2
    assert finishers(torch.device("cuda"), 16) == 16
    assert finishers(torch.device("cuda"), 1) == 2


def test_a_point_prior_that_is_callable_too_is_not_called(exact_points):
    class Network(exact_points):
        def __call__(self, cloud):
            raise AssertionError("a prior is asked to predict")

    prior, cpu = Network.__new__(Network), torch.device("cpu")
    for given in (prior, lambda: prior):
        assert ModelCalls(None, given, cpu, Clock(cpu), fixed_sizes=False).point_prior() is prior


def test_samples_of_the_posterior_are_a_jobs_own():
    """Rows of a job that wants means have no noise; a sample is the same alone, in company and computed again."""

    class Prior:
        size, num_views = 8, 1

        def encode(self, images, generator=None):
            noise = 0.0 if generator is None else row_noise(images.shape, generator, "cpu")
            return images * 2 - 1 + 0.5 * noise

    calls = ModelCalls(Prior(), None, torch.device("cpu"), Clock(torch.device("cpu")))
    images = torch.rand(3, 3, 8, 8, requires_grad=True)
    whole = calls.encode([images[:1], images[1:]], [None, 7, 8])
    torch.testing.assert_close(whole[:1], images[:1] * 2 - 1)
    assert not torch.allclose(whole[1:], images[1:] * 2 - 1)
    torch.testing.assert_close(calls.encode([images[1:]], [7, 8]), whole[1:])
    calls.save_memory()
    again = calls.encode([images], [None, 7, 8])
    torch.testing.assert_close(again, whole)
    (gradient,) = torch.autograd.grad(again.square().sum(), images)
    torch.testing.assert_close(gradient, 4 * whole.detach())


def test_colours_of_degree_one_learn_what_depends_on_the_view(exact_prior, stage, make_gaussians):
    """The prior's asset is red from one side and dark from the other; what starts with degree 0 can only be between."""
    target = exact_prior.targets["red"]
    shN = torch.zeros(len(target), 3, 3)
    shN[:, 2, 0] = 0.8  # along x
    exact_prior.targets["red"] = replace(target, shN=shN)
    rates = LearningRates(means=1e-4, means_final=1e-4, sh0=0.05, shN=0.05)
    errors = []
    for rows in (0, 3):
        engine = DistillationEngine(exact_prior)
        start = replace(target, shN=torch.zeros(len(target), rows, 3))
        result, _ = distill(start, "red", "", stage(steps=60).model_copy(update={"lr": rates}), engine, seed=0)
        engine.close()
        errors.append(held_out_error(exact_prior, "red", result))
        assert result.sh_degree == (1 if rows else 0)
    assert errors[1] < 0.2 * errors[0]
