import pytest

from pipeline_core.guidance.schedules import linear, log_linear, resolution, window


def test_linear_and_log_linear_meet_their_ends():
    assert [linear((0.8, 0.2), p) for p in (0, 0.5, 1)] == pytest.approx([0.8, 0.5, 0.2])
    assert log_linear(1e-2, 1e-4, 0.0) == pytest.approx(1e-2)
    assert log_linear(1e-2, 1e-4, 0.5) == pytest.approx(1e-3)
    assert log_linear(1e-2, 1e-4, 0.3, until=0.6) == pytest.approx(1e-3)
    assert log_linear(1e-2, 1e-4, 0.9, until=0.6) == pytest.approx(1e-4)


def test_resolution_steps_up():
    table = ((0.3, 128), (1.0, 512))
    assert [resolution(table, p) for p in (0, 0.299, 0.3, 1.0)] == [128, 128, 512, 512]


def test_the_noise_window_moves_by_a_line_or_a_root_and_is_held():
    assert window((0.98, 0.2), (0.98, 0.5), 0.25, "linear", None) == pytest.approx((0.785, 0.86))
    assert window((0.98, 0.2), (0.98, 0.2), 0.25, "sqrt", None) == pytest.approx((0.59, 0.59))  # 0.98 - 0.78 sqrt(p)
    assert window((0.0, 0.0), (1.0, 1.0), 0.5, "linear", (0.02, 0.98)) == (0.02, 0.98)
    assert window((0.5, 0.02), (0.98, 0.4), 0.7, "uniform", None) == (0.02, 0.98)
