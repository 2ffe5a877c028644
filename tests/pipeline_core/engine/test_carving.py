"""A stage takes away at its end what its prior's pictures see through; where they cannot tell it is refused."""

import threading
import time
from concurrent.futures import Future
from dataclasses import replace

import pytest
import torch

from pipeline_core import aside
from pipeline_core.children import Children
from pipeline_core.engine import carving
from pipeline_core.engine.carving import CarvingJob
from pipeline_core.engine.distill import distill
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.engine.gaussian_job import GaussianJob
from pipeline_core.errors import TransientError
from pipeline_core.types import Gaussians, rgb_to_sh0, sh0_to_rgb


def disc(hole: float, step: float = 0.035) -> Gaussians:
    """A red disc that faces the front, of radius 0.6, with a round hole."""
    line = torch.arange(-0.6, 0.6, step)
    means = torch.cartesian_prod(line, line, torch.tensor([0.0]))
    radius = means.norm(dim=1)
    means = means[(radius < 0.6) & (radius >= hole)]
    n = len(means)
    return Gaussians(
        means, torch.tensor([1.0, 0, 0, 0]).repeat(n, 1), torch.full((n, 3), step).log(), torch.full((n,), 3.0),
        rgb_to_sh0(torch.tensor([[0.8, 0.1, 0.1]]).expand(n, 3)), torch.zeros(n, 0, 3),
    )  # fmt: skip


@pytest.fixture
def engine(exact_prior):
    """Of a prior to which a ring has a hole; its pictures are on white."""
    exact_prior.targets["ring"] = disc(0.25)
    exact_prior.names.append("ring")
    exact_prior.num_views = 1
    with_engine = DistillationEngine(exact_prior, max_active=1)
    yield with_engine
    with_engine.close()


def settings(stage, **changes):
    return stage(steps=1, **changes).model_copy(update={"carve": 0.3})


@pytest.mark.parametrize("background,changes", [(None, {}), ((1.0, 1.0, 1.0), {"shown": "lit"})])
def test_it_is_not_done_where_it_cannot_be_told(engine, exact_prior, stage, monkeypatch, background, changes):
    monkeypatch.setattr(exact_prior, "background", background, raising=False)
    found, curves = distill(disc(0.0), "ring", "", settings(stage, **changes), engine, seed=0)
    assert "carved" not in curves["events"] and len(found) == len(disc(0.0))


def test_a_hole_that_the_prior_sees_is_there_at_the_end(engine, stage):
    start = disc(0.0)
    found, curves = distill(start, "ring", "", settings(stage), engine, seed=0)
    assert curves["events"]["carved"] == len(start) - len(found) > 0
    ring, gone = engine.submit(CarvingJob(start, start, "ring", settings(stage))).result(timeout=60)
    radius, first = ring.means.norm(dim=1), start.means.norm(dim=1)
    assert gone == len(start) - len(ring) and radius.min() > 0.1
    assert (radius > 0.33).sum() == (first > 0.33).sum()


def test_what_turned_to_the_background_and_stays_has_its_first_colours(engine, exact_prior, stage, monkeypatch):
    """Whether or not something is carved, and only where the prior has a background."""
    whole = disc(0.0)
    stained = replace(whole, sh0=rgb_to_sh0(torch.where(whole.means[:, :1] > 0.3, 0.95, sh0_to_rgb(whole.sh0))))
    monkeypatch.setattr(GaussianJob, "result", lambda self: (stained, {"events": {}}))
    for background, first in (((1.0, 1.0, 1.0), True), (None, False)):
        monkeypatch.setattr(exact_prior, "background", background, raising=False)
        for each in (stage(steps=1), settings(stage)):
            found, _ = distill(whole, "ring", "", each.model_copy(update={"destain": True}), engine, seed=0)
            assert (sh0_to_rgb(found.sh0)[:, 1].max() < 0.2) == first
    found, _ = distill(whole, "ring", "", stage(steps=1), engine, seed=0)
    assert torch.equal(found.sh0, stained.sh0)


def test_what_would_open_something_else_is_left_whole_and_soon(engine, stage, monkeypatch):
    """The hole is taken to be where it is, and the pictures to see through beside it."""
    start, plain, noted = disc(0.0), carving.openings, carving.noted

    def beside(thing, words, number, images):
        words = noted(thing, words, number, images)
        around = thing.after.means.norm(dim=1) < 0.2
        words.opened[number], words.closed[number] = around, ~around
        return words

    monkeypatch.setattr(carving, "openings", lambda *rest: plain(*rest).roll(30, dims=-1))
    monkeypatch.setattr(carving, "noted", beside)
    left, gone = engine.submit(CarvingJob(start, start, "ring", settings(stage))).result(timeout=60)
    assert gone == 0 and len(left) == len(start)
    assert engine.steps == carving.LOOK * carving.STEPS


def test_it_is_off_unless_asked_for_and_only_at_the_end(engine, stage):
    for each, until in ((stage(steps=2), None), (settings(stage).model_copy(update={"steps": 2}), 1)):
        found, curves = distill(disc(0.0), "ring", "", each, engine, seed=0, until=until)
        assert len(found) == len(disc(0.0)) and "carved" not in curves["events"]


def test_where_nothing_may_go_it_says_so(engine, stage, monkeypatch):
    monkeypatch.setattr(carving, "share_open", lambda opened, closed: torch.ones(opened.shape[1]))  # all of it
    found, curves = distill(disc(0.0), "ring", "", settings(stage), engine, seed=0)
    assert len(found) == len(disc(0.0)) and curves["events"]["carved"] == 0


def test_an_interrupted_job_goes_on_to_the_same_result(exact_prior, engine, stage):
    start = disc(0.0)
    jobs = [CarvingJob(start, start, "ring", settings(stage), seed=3) for _ in range(2)]
    whole, _ = engine.submit(jobs[0]).result(timeout=60)
    jobs[1].steps = 2 * carving.STEPS + 2  # in the middle of a round
    engine.submit(jobs[1]).result(timeout=60)
    again = CarvingJob(start, start, "ring", settings(stage), seed=3)
    begin = again.start
    again.start = lambda *given: (begin(*given), again.restore(*jobs[1].state()))
    assert torch.equal(engine.submit(again).result(timeout=60)[0].means, whole.means)


@pytest.mark.parametrize("checkpoint_seconds", [1e9, 0.0])
def test_what_comes_between_rounds_keeps_no_other_job_waiting_beside_a_gpu(
    engine, exact_prior, stage, monkeypatch, checkpoint_seconds
):
    """It is done elsewhere, to the same bits; a checkpoint waits for it."""
    start, threads = disc(0.0), set()
    whole, _ = engine.submit(CarvingJob(start, start, "ring", settings(stage), seed=3)).result(timeout=60)
    assert engine.steps == carving.SWEEPS * len(carving.ROUNDS) * carving.STEPS
    children = Children(1)

    def slowly(function, *args, **named):
        threads.add(threading.current_thread().name.rpartition("_")[0])
        time.sleep(0.02)
        return children(function, *args, **named)

    monkeypatch.setattr(aside, "feeds_a_gpu", lambda: True)
    for name in ("_prompt", "_thorough"):
        monkeypatch.setattr(aside, name, lambda: slowly)
    beside = DistillationEngine(exact_prior, max_active=2, checkpoint_seconds=checkpoint_seconds)
    with beside._wake:
        carving_one = beside.submit(CarvingJob(start, start, "ring", settings(stage), seed=3))
        other = beside.submit(GaussianJob(disc(0.0, 0.1), "ring", stage(steps=100, views=1)))
    assert torch.equal(carving_one.result(timeout=60)[0].means, whole.means)
    assert len(other.result(timeout=60)[0])
    beside.close()
    assert threads == {"splatmill-soon", "splatmill-result"}
    if checkpoint_seconds:
        assert beside.steps > engine.steps  # those that it sat out


def test_cameras_are_made_once_and_are_those_of_each_round(stage, monkeypatch):
    made, plain = [], carving.orbit
    monkeypatch.setattr(carving, "orbit", lambda *given, **named: made.append(1) or plain(*given, **named))
    job = CarvingJob(disc(0.0), disc(0.0), "ring", settings(stage))
    (low, high), number = job.stage.elevation, 3
    azimuth = torch.tensor(carving.ROUNDS[number] * len(carving.TILTS), dtype=torch.float32)
    elevation = torch.tensor([low + (high - low) * tilt for tilt in carving.TILTS]).repeat_interleave(2)
    own = plain(azimuth, elevation, size=carving.SIZE, distance=job.stage.distance, fovy=job.stage.fovy)
    assert made == [1] and torch.equal(job.thing.views(number).viewmats, own.viewmats)
    assert all(map(torch.equal, job.angles[number], (own.azimuth, own.elevation)))


def test_a_process_that_fails_ends_its_own_job_only(engine, stage, monkeypatch):
    def failing(*given, **named):
        future = Future()
        future.set_exception(TransientError("the process for carving ended"))
        return future

    monkeypatch.setattr(carving, "soon", failing)
    with pytest.raises(TransientError, match="carving ended"):
        engine.submit(CarvingJob(disc(0.0), disc(0.0), "ring", settings(stage))).result(timeout=60)
    engine.submit(GaussianJob(disc(0.0, 0.1), "ring", stage(steps=1))).result(timeout=60)
