"""Padding to a few batch sizes, and on a GPU replaying them, must change nothing but the time."""

import pytest
import torch

from pipeline_core.engine.engine import DistillationEngine
from pipeline_core.engine.fixed_sizes import SIZES, FixedSizes, bucket
from pipeline_core.engine.gaussian_job import GaussianJob

CPU = torch.device("cpu")


def test_buckets_waste_at_most_a_third_and_are_few():
    sizes = {bucket(rows) for rows in range(1, 257)}
    assert sizes == set(SIZES)
    assert all(rows <= bucket(rows) <= 1.5 * rows for rows in range(1, 257))
    assert {bucket(rows, 4) for rows in range(4, 97, 4)} == {4, 8, 12, 16, 24, 32, 48, 64, 96}
    assert bucket(1000) == 1000


class Counted:
    """x -> 2 x + shift, row by row, and the sizes it was called with."""

    def __init__(self):
        self.sizes = []

    def __call__(self, x, shift):
        self.sizes.append(len(x))
        return 2 * x + shift[:, None]


def test_rows_are_answered_as_if_alone():
    function = Counted()
    fixed = FixedSizes(function, CPU)
    for rows in (5, 3, 6, 1, 5):
        x, shift = torch.randn(rows, 4), torch.randn(rows)
        assert torch.equal(fixed(x, shift), 2 * x + shift[:, None])
    assert function.sizes == [6, 3, 6, 1, 6]


def test_an_answer_survives_the_next_call_and_padding_may_be_broken():
    fixed = FixedSizes(Counted(), CPU)
    first = fixed(torch.full((6, 2), torch.nan), torch.zeros(6))
    second = fixed(torch.ones(5, 2), torch.zeros(5))  # the sixth row still holds NaN
    assert first.isnan().all() and torch.equal(second, torch.full((5, 2), 2.0))


def test_other_shapes_get_buffers_of_their_own():
    fixed = FixedSizes(Counted(), CPU)
    for width in (2, 3, 2):
        assert fixed(torch.ones(2, width), torch.ones(2)).shape == (2, width)
    assert len(fixed._slots) == 2
    fixed.forget()
    assert not fixed._slots


def test_what_cannot_be_recorded_runs_as_it_is(monkeypatch):
    def refuse(self, buffers):
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(FixedSizes, "_record", refuse)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    fixed = FixedSizes(Counted(), CPU, graphs=True)
    assert torch.equal(fixed(torch.ones(2, 2), torch.ones(2)), torch.full((2, 2), 3.0))
    assert not fixed.graphs
    fixed.graphs = True
    monkeypatch.setattr(FixedSizes, "_record", lambda self, buffers: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        fixed(torch.ones(1, 2), torch.ones(1))
    assert torch.equal(fixed(torch.ones(60, 2), torch.ones(60)), torch.full((60, 2), 3.0))  # too large to be recorded


def test_a_job_on_padded_batches_equals_itself_without(exact_prior, stage, make_gaussians):
    """Three jobs of two views make 6 rows, then 4, then 2; with guidance 12, 8 and 4: padding comes and goes."""
    start = make_gaussians(9, (0.5, 0.5, 0.5))
    results = {}
    for fixed in (False, True):
        engine = DistillationEngine(exact_prior, max_active=3, fixed_sizes=fixed)
        jobs = [GaussianJob(start, "red", stage(steps=n, views=5, guidance_scale=2.0), seed=n) for n in (3, 5, 8)]
        with engine._wake:
            futures = [engine.submit(job) for job in jobs]
        results[fixed] = [future.result(timeout=60)[0].tensors() for future in futures]
        engine.close()
    assert exact_prior.rows[-8:] == [32, 32, 32, 24, 24, 12, 12, 12]
    for plain, padded in zip(results[False], results[True], strict=True):
        for name, value in plain.items():
            torch.testing.assert_close(padded[name], value, rtol=1e-4, atol=1e-5)


def test_a_recording_that_fails_leaves_no_stream_behind(monkeypatch):
    """torch stays on the stream of the recording when that ends by an error."""
    current = ["mine"]

    class Stream:
        def __init__(self, device):
            pass

        def wait_stream(self, other):
            pass

    class Here(Stream):
        pass

    here = Here(CPU)
    current[0] = here

    class On:
        def __init__(self, stream):
            self.stream = stream

        def __enter__(self):
            self.before, current[0] = current[0], self.stream

        def __exit__(self, *error):
            current[0] = self.before

    class Recording:
        def __init__(self, graph, **options):
            pass

        def __enter__(self):
            current[0] = "the recording's"

        def __exit__(self, *error):
            raise RuntimeError("operation not permitted when stream is capturing")

    for name, fake in {
        "current_stream": lambda device: current[0], "set_stream": lambda stream: current.__setitem__(0, stream),
        "Stream": Stream, "stream": On, "CUDAGraph": object, "graph": Recording, "synchronize": lambda device: None,
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, fake)
    fixed = FixedSizes(Counted(), CPU, graphs=True)
    assert torch.equal(fixed(torch.ones(2, 2), torch.ones(2)), torch.full((2, 2), 3.0))
    assert current[0] is here and not fixed.graphs
