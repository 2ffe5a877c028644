import pytest
import torch

from pipeline_core.guidance.schedules import draw_timesteps, linear, log_linear, resolution


def test_linear_and_log_linear_meet_their_ends():
    assert [linear((0.8, 0.2), p) for p in (0, 0.5, 1)] == pytest.approx([0.8, 0.5, 0.2])
    assert log_linear(1e-2, 1e-4, 0.0) == pytest.approx(1e-2)
    assert log_linear(1e-2, 1e-4, 0.5) == pytest.approx(1e-3)
    assert log_linear(1e-2, 1e-4, 0.3, until=0.6) == pytest.approx(1e-3)
    assert log_linear(1e-2, 1e-4, 0.9, until=0.6) == pytest.approx(1e-4)


def test_resolution_steps_up():
    table = ((0.3, 128), (1.0, 512))
    assert [resolution(table, p) for p in (0, 0.299, 0.3, 1.0)] == [128, 128, 512, 512]


def test_annealing_leaves_no_choice_and_a_window_is_uniform():
    generator = torch.Generator().manual_seed(0)
    assert draw_timesteps((0.98, 0.02), (0.98, 0.02), 0.5, 3, 1000, generator).tolist() == [500, 500, 500]
    wide = draw_timesteps((0.02, 0.02), (0.98, 0.98), 0.3, 20_000, 1000, generator).float()
    assert wide.min() >= 20 and wide.max() <= 980
    torch.testing.assert_close(wide.mean(), torch.tensor(500.0), atol=8, rtol=0)
    torch.testing.assert_close(wide.std(), torch.tensor(960 / 12**0.5), atol=5, rtol=0)


def test_timesteps_stay_inside_the_schedule():
    generator = torch.Generator().manual_seed(0)
    assert draw_timesteps((1.0, 1.0), (1.0, 1.0), 0, 1, 1000, generator).item() == 999
    assert draw_timesteps((0.0, 0.0), (0.0, 0.0), 0, 1, 1000, generator).item() == 1


def test_the_generator_advances_alike_with_and_without_a_window():
    states = []
    for low in (0.1, 0.5):
        generator = torch.Generator().manual_seed(3)
        draw_timesteps((low, low), (0.5, 0.5), 0, 4, 1000, generator)
        states.append(generator.get_state())
    assert torch.equal(*states)
