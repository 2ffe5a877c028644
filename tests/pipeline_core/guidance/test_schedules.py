import pytest

from pipeline_core.guidance.schedules import linear, log_linear, resolution


def test_linear_and_log_linear_meet_their_ends():
    assert [linear((0.8, 0.2), p) for p in (0, 0.5, 1)] == pytest.approx([0.8, 0.5, 0.2])
    assert log_linear(1e-2, 1e-4, 0.0) == pytest.approx(1e-2)
    assert log_linear(1e-2, 1e-4, 0.5) == pytest.approx(1e-3)
    assert log_linear(1e-2, 1e-4, 0.3, until=0.6) == pytest.approx(1e-3)
    assert log_linear(1e-2, 1e-4, 0.9, until=0.6) == pytest.approx(1e-4)


def test_resolution_steps_up():
    table = ((0.3, 128), (1.0, 512))
    assert [resolution(table, p) for p in (0, 0.299, 0.3, 1.0)] == [128, 128, 512, 512]
