"""The host never waits for the device inside a step: whole steps run on the ``meta`` device, whose tensors have no
values, so that any ``item()``, ``tolist()``, ``nonzero()``, ``bool()`` or copy to the CPU raises; and every copy of a
CPU tensor to the device must be an asynchronous one."""

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline_core.benchmark.gpu import sphere
from pipeline_core.benchmark.random_priors import random_prior
from pipeline_core.config import Distill, Texture
from pipeline_core.engine import gaussian_job
from pipeline_core.engine.calls import ModelCalls
from pipeline_core.engine.clock import Clock
from pipeline_core.engine.gaussian_job import GaussianJob
from pipeline_core.engine.judging import Judges
from pipeline_core.priors.point_e import PointEBase
from pipeline_core.priors.points import DiffusionPointPrior, Schedule, Space, cosine_schedule
from pipeline_core.texturing import fit, refine

META = torch.device("meta")


class Copies(TorchDispatchMode):
    """Copies between devices: operation and whether it waits."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = function(*args, **kwargs)
        name = function.overloadpacket.__name__
        if name in ("_to_copy", "copy_") and isinstance(result, torch.Tensor):
            source = args[0] if name == "_to_copy" else args[1]
            if source.device != result.device and source.numel():
                asynchronous = kwargs.get("non_blocking") or (name == "copy_" and len(args) > 2 and args[2])
                self.seen.append((name, tuple(source.shape), bool(asynchronous)))
        return result


class Made(TorchFunctionMode):
    """Adds to those copies what ``torch.tensor`` makes on the device of the host's numbers: it waits too."""

    def __init__(self, copies):
        super().__init__()
        self.seen = copies.seen

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function is torch.tensor and result.device.type != "cpu":
            self.seen.append(("tensor", tuple(result.shape), False))
        return result


def meta_render(params, cameras, backgrounds, shading=None):
    """Shapes and gradients of the renderer."""
    views, count = len(cameras), len(params["means"])
    assert cameras.viewmats.device == backgrounds.device == META
    tint = sum(value.sum() for value in params.values())
    image = tint.expand(views, cameras.height, cameras.width, 3) + backgrounds[:, None, None]
    means2d = torch.zeros(views, count, 2, device=META) + params["means"][:, :2]
    image = image + means2d.sum()
    radii = torch.ones(views, count, 2, dtype=torch.int32, device=META)
    info = {"means2d": means2d, "radii": radii, "width": cameras.width, "height": cameras.height}
    return image, image[..., :1], info


@pytest.fixture(scope="module")
def prior():
    return random_prior("tiny", META, torch.float32)


@pytest.fixture(scope="module")
def points():
    return DiffusionPointPrior(
        PointEBase(64, 1, 24).to(META), lambda prompt, generator: torch.zeros(24), Space(), Schedule(cosine_schedule()),
        model_id="meta", num_points=64, device=META,
    )  # fmt: skip


def steps(jobs, calls, count):
    judges = Judges(share=True)
    for _ in range(count):
        images = [job.draw() for job in jobs]
        latents = calls.encode(images).split([len(each) for each in images])
        queries = dict(zip(jobs, (job.ask(each) for job, each in zip(jobs, latents, strict=True)), strict=True))
        judged = {}
        for owners in judges.groups({job: query.views for job, query in queries.items()}):
            judging = judges.begin(owners, [queries[job].views for job in owners])
            while judging.rows is not None:
                judged |= judging.send(calls.predict_image([judging.rows]))
        for job, query in queries.items():
            job.receive(judged[job], None if query.points is None else calls.predict_points([query.points]))
        torch.stack([job.loss(None) for job in jobs]).sum().backward()
        for job in jobs:
            job.update()


@pytest.mark.parametrize(
    "features",
    [
        {},
        {"perp_neg": True, "point_weight": 1.0, "guidance_rescale": 0.5},
        {"guidance": "sdi", "inversion_stride": 1.0},
    ],
)
def test_nothing_in_a_step_waits(monkeypatch, prior, points, make_gaussians, features):
    monkeypatch.setattr(gaussian_job, "render", meta_render)
    stage = Distill(steps=1000, views=2, resolution=((1.0, 32),), background="random", grad_clip=1.0, **features)
    jobs = [GaussianJob(make_gaussians(1, (0.5, 0.5, 0.5)), name, stage) for name in ("a red mug", "a blue mug")]
    calls = ModelCalls(prior, points, META, Clock(META), fixed_sizes=True)
    for job in jobs:
        job.start(prior, lambda: points, META)
    with Copies() as copies, Made(copies):
        steps(jobs, calls, 2)
    assert copies.seen, "the watch is not looking"
    assert [copy for copy in copies.seen if not copy[2]] == []


@pytest.mark.parametrize("method", ["paint", "fit"])
def test_nothing_in_a_round_of_textures_waits(monkeypatch, prior, method):
    """But for the numbers of a step, which are asked for when the backward of all jobs is queued."""
    asked, looked = [], 0
    for module in (refine, fit):
        monkeypatch.setattr(module, "values_of", lambda them: lambda: [asked.append(each) or [0.0] for each in them])
    monkeypatch.setattr(refine, "looks_ahead", lambda device: True)
    settings = Texture(method=method, steps=refine.GROUP, views=2, resolution=32, denoise_steps=10)
    job = refine.texture_job(sphere(64), "a red mug", settings)
    calls = ModelCalls(prior, None, META, Clock(META), fixed_sizes=True)
    job.start(prior, lambda: None, META)
    with Copies() as copies, Made(copies):
        while not job.done:
            images = job.draw()
            latents = None if images is None else calls.encode([images])
            wanted = job.receive(calls.predict_image([job.ask(latents).image]), None)
            loss = job.loss(None if wanted is None else calls.decode([wanted]))
            if loss is not None:
                loss.backward()
            before = len(asked)
            job.update()
            looked += len(asked) - before
    assert looked == len(asked) == (1 if method == "paint" else refine.GROUP)
    assert copies.seen, "the watch is not looking"
    assert [copy for copy in copies.seen if not copy[2]] == []


def test_the_watch_sees_what_waits(prior):
    value = torch.zeros(3, device=META)
    waits = [
        value.sum().item, value.tolist, value.nonzero, value.cpu, value.isfinite().all().__bool__,
        lambda: value[value > 0],
    ]  # fmt: skip
    for look in waits:
        with pytest.raises((NotImplementedError, RuntimeError)):
            look()
    with Copies() as copies, Made(copies):
        torch.zeros(3).to(META)
        torch.tensor([1.0, 2.0], device=META)
    assert copies.seen == [("_to_copy", (3,), False), ("tensor", (2,), False)]
