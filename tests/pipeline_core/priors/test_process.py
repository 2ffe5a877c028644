"""Noise processes: what they say of a known x_0 and noise, and the levels that are drawn."""

import itertools

import pytest
import torch

from pipeline_core.priors.points import cosine_schedule
from pipeline_core.priors.process import Diffusion, OwnsNoise, RectifiedFlow
from tests.gaussian_toy import network_says

TABLE = torch.tensor(cosine_schedule(1000), dtype=torch.float32)
T = torch.tensor([0.05, 0.3, 0.6, 0.9])


PROCESSES = [
    *(Diffusion(TABLE, kind) for kind in ("epsilon", "v_prediction", "sample")),
    RectifiedFlow(),
    RectifiedFlow(shift=3.0),
]


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: f"{type(p).__name__} {vars(p).get('prediction_type', '')}")
def test_the_implied_x0_and_noise_are_those_that_were_mixed(process):
    x0, noise = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(0))
    x_t = process.add_noise(x0, noise, T)
    prediction = network_says(process, x0, noise, T)
    got = process.x0_and_noise(x_t, prediction, T)
    torch.testing.assert_close(got, (x0, noise), rtol=0, atol=1e-5)
    torch.testing.assert_close(process.noise_of(x_t, x0, T), noise, rtol=0, atol=1e-5)
    earlier = process.nearest(T / 2)
    stepped = process.step(x_t, prediction, T, earlier)
    torch.testing.assert_close(stepped, process.add_noise(x0, noise, earlier), rtol=0, atol=1e-5)


@pytest.mark.parametrize("process", PROCESSES, ids=lambda p: type(p).__name__)
def test_the_best_prediction_for_a_gaussian_implies_its_posterior_means(process):
    """x_0 ~ N(m, s^2): E[x_0 | x_t] and E[noise | x_t] in closed form, and steps that carry N(m, s^2) to itself."""
    mean, deviation = 0.7, 0.4
    signal, sigma = (value[:, None] for value in process.signal_and_sigma(T))
    x_t = torch.randn(4, 256, generator=torch.Generator().manual_seed(1))
    spread = (signal * deviation).square() + sigma.square()
    x0 = mean + signal * deviation**2 / spread * (x_t - signal * mean)
    noise = sigma / spread * (x_t - signal * mean)
    prediction = network_says(process, x0, noise, T)
    torch.testing.assert_close(process.x0_and_noise(x_t, prediction, T), (x0, noise), rtol=1e-5, atol=1e-5)


def test_a_flow_walks_back_to_the_gaussian_it_was_made_of():
    mean, deviation, flow = 0.7, 0.4, RectifiedFlow()
    x = torch.randn(1, 20_000, generator=torch.Generator().manual_seed(2))
    levels = flow.nearest(torch.linspace(1, 0, 200))
    for now, then in itertools.pairwise(levels):
        signal, sigma = flow.signal_and_sigma(now)
        slope = (x - signal * mean) / ((signal * deviation).square() + sigma.square())
        x0, noise = mean + signal * deviation**2 * slope, sigma * slope
        x = flow.step(x, noise - x0, now.reshape(1), then.reshape(1))
    torch.testing.assert_close(x.mean(), torch.tensor(mean), atol=0.01, rtol=0)
    torch.testing.assert_close(x.std(), torch.tensor(deviation), atol=0.01, rtol=0)


def test_weights_depend_on_the_ratio_of_signal_to_noise_alone():
    flow = RectifiedFlow(shift=2.0)
    signal, sigma = flow.signal_and_sigma(T)
    twin = Diffusion(signal.square() / (signal.square() + sigma.square()))
    same = torch.arange(4) / 4
    for kind in ("sds", "uniform", "x0"):
        torch.testing.assert_close(flow.weight(T, kind), twin.weight(same, kind))
    torch.testing.assert_close(Diffusion(TABLE).weight(T, "sds"), 1 - TABLE[(T * 1000).long()])


@pytest.mark.parametrize("process", [Diffusion(TABLE), RectifiedFlow(shift=3.0)], ids=lambda p: type(p).__name__)
def test_the_velocitys_weight_makes_of_the_noises_residual_the_velocitys(process):
    """Wherever implied x_0 and noise mix to the same x_t; of a diffusion, v = signal noise - sigma x_0."""
    x0, noise, implied = torch.randn(3, 4, 8, generator=torch.Generator().manual_seed(0))
    x_t, (signal, sigma) = process.add_noise(x0, noise, T), (v[:, None] for v in process.signal_and_sigma(T))
    implied_x0 = (x_t - sigma * implied) / signal
    kind = RectifiedFlow() if isinstance(process, RectifiedFlow) else Diffusion(TABLE, "v_prediction")
    residual = network_says(kind, implied_x0, implied, T) - network_says(kind, x0, noise, T)
    torch.testing.assert_close(
        process.weight(T, "velocity")[:, None] * (implied - noise), residual, rtol=1e-4, atol=1e-4
    )


# ------------------------------------------------------------------------------------------------------------ levels


def steps(t, total):
    return (t * total).round().long()


def test_levels_are_the_timesteps_that_were_always_drawn():
    """Recorded: a seed's noise levels, and with them every asset, stay what they were."""
    g = torch.Generator().manual_seed(7)
    first = Diffusion(torch.linspace(0.99, 0.01, 1000)).draw_t(0.02, 0.98, 12, g)
    assert steps(first, 1000).tolist() == [534, 211, 653, 651, 243, 428, 219, 625, 371, 837, 841, 549]
    second = Diffusion(torch.linspace(0.99, 0.01, 1024)).draw_t(0.02, 0.98, 12, g)
    assert steps(second, 1024).tolist() == [302, 223, 458, 374, 729, 92, 974, 126, 888, 427, 765, 704]
    shares = torch.tensor([0.0625, 0.0635, 0.4305, 0.3, 0.0, 1.0, 0.2 * 0.75], dtype=torch.float64)
    assert steps(Diffusion(TABLE).nearest(shares), 1000).tolist() == [62, 64, 430, 300, 1, 999, 150]


@pytest.mark.parametrize("total", [10, 1000, 1024, 4000])
def test_a_level_says_its_timestep_exactly(total):
    process = Diffusion(torch.linspace(0.99, 0.01, total))
    every = torch.arange(total)
    assert torch.equal(process.timestep(every / total), every)
    assert torch.equal(process.nearest(every / total), every.clamp(min=1) / total)


def test_annealing_leaves_no_choice_and_a_window_is_uniform():
    process, generator = Diffusion(TABLE), torch.Generator().manual_seed(0)
    assert steps(process.draw_t(0.5, 0.5, 3, generator), 1000).tolist() == [500, 500, 500]
    wide = process.draw_t(0.02, 0.98, 20_000, generator) * 1000
    assert wide.min() >= 20 and wide.max() <= 980
    torch.testing.assert_close(wide.mean(), torch.tensor(500.0), atol=8, rtol=0)
    torch.testing.assert_close(wide.std(), torch.tensor(960 / 12**0.5), atol=5, rtol=0)


def test_levels_stay_inside_the_schedule():
    process, generator = Diffusion(TABLE), torch.Generator().manual_seed(0)
    assert steps(process.draw_t(1.0, 1.0, 1, generator), 1000).item() == 999
    assert steps(process.draw_t(0.0, 0.0, 1, generator), 1000).item() == 1
    ends = RectifiedFlow().nearest(torch.tensor([0.0, 1.0]))
    assert 0 < ends[0] < ends[1] < 1


def test_the_generator_advances_alike_with_and_without_a_window():
    states = []
    for low in (0.1, 0.5):
        generator = torch.Generator().manual_seed(3)
        Diffusion(TABLE).draw_t(low, 0.5, 4, generator)
        states.append(generator.get_state())
    assert torch.equal(*states)


def test_views_that_are_one_sample_share_their_level():
    prior = OwnsNoise(Diffusion(TABLE))
    alone = prior.draw_t(0.1, 0.9, 8, torch.Generator().manual_seed(4))
    prior.num_views = 4
    together = prior.draw_t(0.1, 0.9, 8, torch.Generator().manual_seed(4))
    assert torch.equal(together, alone[[0, 0, 0, 0, 4, 4, 4, 4]])
