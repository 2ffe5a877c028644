"""Every noise process on pictures that are one Gaussian: what is implied, what distillation reaches, what is drawn."""

import pytest
import torch

from pipeline_core.priors.image import load_image_prior
from pipeline_core.priors.interface import ImagePrior
from pipeline_core.priors.points import cosine_schedule
from pipeline_core.priors.process import PREDICTION_TYPES, Diffusion, RectifiedFlow
from tests.gaussian_toy import GaussianPrior, believe, distill, errors, gaussian, samples
from tests.pipeline_core.priors.test_guiding import KINDS
from tests.pipeline_core.priors.test_zero123 import picture

TABLES = {
    "cosine": torch.tensor(cosine_schedule(1000), dtype=torch.float32),
    "Stable Diffusion": (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000).square()).cumprod(0),
}
PROCESSES = {
    **{f"{name}, {kind}": Diffusion(table, kind) for name, table in TABLES.items() for kind in PREDICTION_TYPES},
    **{f"flow, shift {shift}": RectifiedFlow(shift) for shift in (1.0, 3.0, 6.0)},
}


@pytest.fixture(params=PROCESSES)
def prior(request):
    return GaussianPrior(PROCESSES[request.param], {"": gaussian(1), "a mug": gaussian(0)})


def test_the_implied_noise_and_x0_are_the_posterior_means(prior):
    assert isinstance(prior, ImagePrior)
    t = prior.nearest(torch.linspace(0.02, 0.98, 25))
    x0, noise = torch.randn(2, 25, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    x_t = prior.add_noise(x0, noise, t)
    prediction = prior.predict(x_t, t, prior.encode_prompts(["a mug"]).expand(25, -1, -1))
    signal, sigma = prior.process.signal_and_sigma(t)
    true_x0, true_noise = prior.gaussians["a mug"].posterior(x_t, signal, sigma)
    implied_x0, implied = prior.x0_and_noise(x_t, prediction, t)
    assert (implied - true_noise).abs().max() < 1e-5
    rows = signal.reshape(-1, 1, 1, 1)
    assert (rows * (implied_x0 - true_x0)).abs().max() < 1e-5  # what is all but noise tells x0 no better
    torch.testing.assert_close(prior.noise_of(x_t, implied_x0, t), implied, rtol=0, atol=1e-5)
    earlier = prior.nearest(t / 2)
    torch.testing.assert_close(
        prior.step(x_t, prediction, t, earlier), prior.add_noise(implied_x0, implied, earlier), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("weighting", "scale"), [("x0", 1.0), ("sds", 7.5), ("uniform", 7.5), ("velocity", 7.5)])
def test_distillation_reaches_the_mode(prior, weighting, scale):
    start = 3 * torch.randn(1, 4, 2, 2, generator=torch.Generator().manual_seed(0))
    reached = distill(prior, "a mug", start, scale=scale, weighting=weighting, steps=80)[0]
    torch.testing.assert_close(reached, prior.mode("a mug", scale), rtol=0, atol=1e-4)


def test_the_sampler_draws_the_mean_and_the_covariance(prior):
    data = prior.gaussians["a mug"]
    mean, covariance = samples(prior, "a mug", 100)
    torch.testing.assert_close(mean, data.mean.flatten().float(), rtol=0, atol=0.02)
    torch.testing.assert_close(covariance, data.covariance().float(), rtol=0, atol=0.05)


@pytest.mark.parametrize("kind", [*KINDS, "sd-sample", "zero123-xl"])
def test_every_family_reaches_the_mode_that_its_network_believes_in(checkpoint, kind):
    """All of a loaded prior but the network's weights: its scheduler, its time, its prediction, its views and rows."""
    prior, shown = load_image_prior(str(checkpoint(kind))), picture() if kind == "zero123-xl" else None
    data = gaussian(0, (prior.latent_channels, prior.latent_size, prior.latent_size))
    believe(prior, data)
    row = prior.encode_image(shown) if shown else prior.encode_prompts(["a mug"])[0]
    assert max(errors(prior, data, row)) < 1e-5
    reached = distill(prior, "a mug", torch.zeros(1, *data.mean.shape), picture=shown)[0]
    torch.testing.assert_close(reached, data.mean.float(), rtol=0, atol=1e-5)
