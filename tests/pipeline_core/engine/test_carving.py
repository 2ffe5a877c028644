"""A stage takes away at its end what its prior's pictures see through; where they cannot tell it is refused."""

import pytest
import torch

from pipeline_core.engine import carving
from pipeline_core.engine.carving import CarvingJob
from pipeline_core.engine.distill import distill
from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.types import Gaussians, rgb_to_sh0


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


def test_what_would_open_something_else_is_left_whole_and_soon(engine, stage, monkeypatch):
    start = disc(0.0)
    job = CarvingJob(start, start, "ring", settings(stage))
    plain = carving.openings
    monkeypatch.setattr(carving, "openings", lambda *rest: plain(*rest).roll(30, dims=-1))
    monkeypatch.setattr(job, "_note", _beside(job))
    left, gone = engine.submit(job).result(timeout=60)
    assert gone == 0 and len(left) == len(start)
    assert engine.steps == carving.LOOK * carving.STEPS


def _beside(job):
    """A look that takes the hole to be where it is, and the pictures to see through beside it."""
    plain = type(job)._note

    def note(pictures):
        plain(job, pictures)
        around = job.after.means.norm(dim=1) < 0.2
        job.opened[job.round], job.closed[job.round] = around.expand_as(job.opened[0]), ~around.expand_as(job.opened[0])

    return note


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
