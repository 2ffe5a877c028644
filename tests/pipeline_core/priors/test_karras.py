"""The sampler against Gaussians, whose denoiser is known in closed form."""

import math

import numpy as np
import pytest
import torch

from pipeline_core.priors.karras import (
    guided_denoiser,
    karras_sigmas,
    sample_heun,
    sample_multistep,
    timestep_of_sigma,
)
from pipeline_core.priors.noise import row_noise, time_embedding
from pipeline_core.priors.points import cosine_schedule, linear_schedule

MEAN, SPREAD = 0.3, 0.15


def generators(*seeds):
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def gaussian_noise(schedule):
    """eps-model of x_0 ~ N(MEAN, SPREAD^2): eps = (x_t - sqrt(a) E[x_0 | x_t]) / sqrt(1 - a)."""

    def predict(x_t, t, condition):
        a = torch.tensor(schedule, dtype=x_t.dtype)[t].reshape(-1, 1, 1)
        variance = a * SPREAD**2 + 1 - a
        x_0 = MEAN + a.sqrt() * SPREAD**2 / variance * (x_t - a.sqrt() * MEAN)
        return (x_t - a.sqrt() * x_0) / (1 - a).sqrt()

    return predict


def test_sigmas_are_evenly_spaced_in_the_seventh_root():
    sigmas = karras_sigmas(64, 1e-3, 120.0)
    assert len(sigmas) == 65 and sigmas[-1] == 0
    assert math.isclose(sigmas[0], 120) and math.isclose(sigmas[63], 1e-3, rel_tol=1e-9)
    roots = np.array(sigmas[:-1]) ** (1 / 7)
    np.testing.assert_allclose(np.diff(roots), np.diff(roots)[0], rtol=1e-9)


@pytest.mark.parametrize("s_churn", [0.0, 3.0])
def test_samples_of_a_gaussian_have_its_mean_and_spread(s_churn):
    schedule = cosine_schedule()
    null = torch.zeros(4, 1)
    denoise = guided_denoiser(gaussian_noise(schedule), schedule, null, null, 0.0)
    x = row_noise((4, 6, 2000), generators(1, 2, 3, 4), "cpu").double() * 120
    sample = sample_heun(denoise, x, karras_sigmas(64, 1e-3, 120.0), generators(5, 6, 7, 8), s_churn)
    assert abs(sample.mean() - MEAN) < 0.005 and abs(sample.std() / SPREAD - 1) < 0.02


@pytest.mark.parametrize("solver", [sample_heun, sample_multistep])
def test_solvers_follow_the_exact_path_to_second_order(solver):
    """For N(0, s^2) the flow is x(sigma) = x(sigma_0) sqrt(s^2 + sigma^2) / sqrt(s^2 + sigma_0^2)."""

    def denoise(x, sigma):
        return x * SPREAD**2 / (SPREAD**2 + sigma**2)

    x = torch.randn(1, 6, 50, dtype=torch.float64, generator=generators(0)[0]) * 10
    errors = []
    for steps in (20, 40, 80):
        end = solver(denoise, x, karras_sigmas(steps, 1e-3, 10.0), [])
        errors.append(float((end - x * SPREAD / math.sqrt(SPREAD**2 + 100)).abs().max() / x.abs().max()))
    assert errors[0] / errors[1] > 3 and errors[1] / errors[2] > 3  # a first-order method would give 2


def test_calls_of_the_denoiser():
    levels = []

    def denoise(x, sigma):
        levels.append(sigma)
        return x * 0

    x = torch.ones(1, 6, 4)
    sigmas = karras_sigmas(64, 1e-3, 120.0)
    assert not sample_heun(denoise, x, sigmas, []).any()
    assert len(levels) == 127 and levels[0] == sigmas[0] and levels[1] == levels[2] == sigmas[1]
    levels.clear()
    sample_heun(denoise, x, sigmas, generators(0), s_churn=3.0)
    assert math.isclose(levels[0], sigmas[0] * (1 + 3 / 64)) and levels[1] == sigmas[1]


def test_the_multistep_solver_calls_once_a_step_and_takes_no_churn():
    levels = []

    def denoise(x, sigma):
        levels.append(sigma)
        return x * 0 + 0.5

    x, sigmas = torch.ones(1, 6, 4), karras_sigmas(12, 0.03, 10.0)
    assert bool((sample_multistep(denoise, x, sigmas, []) == 0.5).all())
    assert levels == sigmas[:-1]
    with pytest.raises(ValueError, match="s_churn = 3: the multistep solver adds no noise"):
        sample_multistep(denoise, x, sigmas, [], 3.0)


def test_rows_do_not_depend_on_each_other():
    schedule = cosine_schedule()

    def run(*seeds):
        null = torch.zeros(len(seeds), 1)
        denoise = guided_denoiser(gaussian_noise(schedule), schedule, null, null, 0.0)
        gens = generators(*seeds)
        x = row_noise((len(seeds), 6, 32), gens, "cpu") * 120
        return sample_heun(denoise, x, karras_sigmas(8, 1e-3, 120.0), gens, 3.0)

    torch.testing.assert_close(run(1, 2, 3)[1:2], run(2))


def test_timestep_is_interpolated_held_at_the_ends_and_truncated():
    table = cosine_schedule()
    sigma = lambda alpha_bar: math.sqrt(1 / alpha_bar - 1)  # noqa: E731
    assert timestep_of_sigma(1e-5, table) == 0 and timestep_of_sigma(1e6, table) == 1023
    between = 0.3 * table[500] + 0.7 * table[501]  # 70 % of the way: still 500
    assert timestep_of_sigma(sigma(between), table) == 500
    assert timestep_of_sigma(sigma(table[500] - 1e-9), table) == 500


def test_guidance_acts_on_the_clamped_prediction():
    schedule = cosine_schedule()
    a = schedule[200]
    target = torch.tensor([2.0, 0.5])  # of the conditional and unconditional row; the first is clamped to 1

    def predict(x_t, t, condition):
        x_0 = torch.where(condition[:, :1, None] > 0, target[0], target[1])
        return (x_t - math.sqrt(a) * x_0) / math.sqrt(1 - a)

    one, zero = torch.ones(1, 3), torch.zeros(1, 3)
    x, sigma = torch.randn(1, 6, 5), math.sqrt(1 / a - 1) * (1 + 1e-9)
    for scale, want in ((3.0, 0.5 + 3 * (1 - 0.5)), (1.0, 1.0), (0.0, 1.0)):
        got = guided_denoiser(predict, schedule, one, zero, scale)(x, sigma)
        torch.testing.assert_close(got, torch.full_like(x, want), rtol=1e-4, atol=1e-4)
    for least, want in ((sigma, 0.5 + 3 * (1 - 0.5)), (1.01 * sigma, 1.0)):  # below the interval: the condition alone
        got = guided_denoiser(predict, schedule, one, zero, 3.0, guidance_sigma_min=least)(x, sigma)
        torch.testing.assert_close(got, torch.full_like(x, want), rtol=1e-4, atol=1e-4)
    wide = guided_denoiser(predict, schedule, one, zero, 0.0, limits=torch.full((6, 1), 3.0))(x, sigma)
    torch.testing.assert_close(wide, torch.full_like(x, 2.0), rtol=1e-4, atol=1e-4)


def test_tables_equal_diffusers():
    from diffusers import DDPMScheduler

    cosine = DDPMScheduler(1024, beta_schedule="squaredcos_cap_v2").alphas_cumprod.numpy()
    np.testing.assert_allclose(cosine_schedule(), cosine, atol=1e-6)
    scale = 1000 / 1024
    linear = DDPMScheduler(1024, beta_start=1e-4 * scale, beta_end=0.02 * scale).alphas_cumprod.numpy()
    np.testing.assert_allclose(linear_schedule(), linear, atol=1e-6)


def test_row_noise_is_that_of_each_generator():
    rows = row_noise((2, 3, 5), generators(1, 2), "cpu")
    assert torch.equal(rows[1], torch.randn(3, 5, generator=generators(2)[0]))
    assert torch.equal(row_noise((2, 3), generators(1)[0], "cpu"), torch.randn(2, 3, generator=generators(1)[0]))
    assert row_noise((0, 6, 4), [], "cpu").shape == (0, 6, 4)
    with pytest.raises(AssertionError, match="1 generators for 2 rows"):
        row_noise((2, 3), generators(1), "cpu")


def test_time_embedding_is_cosines_then_sines():
    e = time_embedding(torch.tensor([0, 7]), 8)
    assert torch.equal(e[0], torch.tensor([1.0, 1, 1, 1, 0, 0, 0, 0]))
    frequencies = 10000 ** (-torch.arange(4) / 4)
    torch.testing.assert_close(e[1], torch.cat([(7 * frequencies).cos(), (7 * frequencies).sin()]))
