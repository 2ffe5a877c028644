"""A prior in closed form: where pictures are one Gaussian, the best prediction, the mode and all samples are known.

    prior = GaussianPrior(RectifiedFlow(3.0), {"a red mug": gaussian(0)})
    torch.testing.assert_close(distill(prior, "a red mug", torch.zeros(1, 4, 2, 2))[0], prior.mode("a red mug"))

A loaded prior of any family comes to know the same by :func:`believe`. Tests and ``tests/bench/priors.py`` ask both;
nothing here is learned, and nothing is by chance.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline_core.guidance.prompts import encode_text
from pipeline_core.guidance.sds import implied_noise, sds_gradient, sds_loss
from pipeline_core.picture import Picture
from pipeline_core.priors.interface import ImagePrior, NoiseProcess, Weighting
from pipeline_core.priors.process import OwnsNoise, RectifiedFlow


@dataclass(frozen=True)
class Gaussian:
    """N(``mean`` [C, h, w], ``basis`` diag(``variances``) ``basis``^T), N = C h w; all float64."""

    mean: Tensor
    variances: Tensor  # [N]
    basis: Tensor  # [N, N], orthonormal columns

    def covariance(self) -> Tensor:
        """[N, N]."""
        return self.basis * self.variances @ self.basis.T

    def posterior(self, x_t: Tensor, signal: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
        """E[x_0 | x_t] and E[noise | x_t] [B, C, h, w] float64 of x_t = ``signal`` x_0 + ``sigma`` noise (both [B])."""
        signal, sigma = signal.double()[:, None], sigma.double()[:, None]
        seen = (x_t.double().flatten(1) - signal * self.mean.flatten()) @ self.basis
        seen = seen / (signal.square() * self.variances + sigma.square())
        x0 = self.mean.flatten() + signal * (seen * self.variances) @ self.basis.T
        return x0.reshape(x_t.shape), (sigma * seen @ self.basis.T).reshape(x_t.shape)


def gaussian(seed: int, shape: tuple[int, int, int] = (4, 2, 2)) -> Gaussian:
    """A mean of its own, and the covariance of all of that shape: deviations between 0.2 and 0.8, along directions
    that no pixel has to itself."""
    count = shape[0] * shape[1] * shape[2]
    mean = torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    turn = torch.randn(count, count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
    basis = torch.linalg.qr(turn)[0]
    return Gaussian(mean, torch.linspace(0.2, 0.8, count, dtype=torch.float64).square(), basis)


def network_says(process: NoiseProcess, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
    """What a network of ``process`` would predict that knows ``x0`` and ``noise`` [B, ...]."""
    signal, sigma = (value.reshape(-1, *[1] * (x0.ndim - 1)) for value in process.signal_and_sigma(t))
    kind = getattr(process, "prediction_type", "flow")
    return {"epsilon": noise, "v_prediction": signal * noise - sigma * x0, "sample": x0, "flow": noise - x0}[kind]


class GaussianPrior(OwnsNoise):
    """An ``interface.ImagePrior`` that draws ``gaussians[prompt]``, and encodes pictures as they are."""

    model_id, dtype, background, camera = "gaussian", torch.float32, None, "none"

    def __init__(self, process: NoiseProcess, gaussians: dict[str, Gaussian]) -> None:
        super().__init__(process)
        self.gaussians = gaussians
        self.latent_channels, self.latent_size = next(iter(gaussians.values())).mean.shape[:2]
        self.size = self.latent_size

    def mode(self, prompt: str, scale: float = 1.0) -> Tensor:
        """What distillation with that guidance must reach [C, h, w]: u + scale (c - u), where covariances are alike."""
        conditional = self.gaussians[prompt].mean
        unconditional = self.gaussians[""].mean if scale != 1.0 else conditional
        return (unconditional + scale * (conditional - unconditional)).float()

    def encode_prompts(self, prompts: list[str]) -> Tensor:
        return torch.tensor([[[float(list(self.gaussians).index(prompt))]] for prompt in prompts])

    def encode(self, images: Tensor) -> Tensor:
        return images * 2 - 1

    def decode(self, latents: Tensor) -> Tensor:
        return (latents / 2 + 0.5).clamp(0, 1)

    def predict(self, x_t: Tensor, t: Tensor, embeddings: Tensor, cameras: object = None) -> Tensor:
        levels = self.process.signal_and_sigma(t)
        answers = [each.posterior(x_t, *levels) for each in self.gaussians.values()]  # each row takes its prompt's
        chosen = (embeddings[:, 0, 0].long(), torch.arange(len(x_t)))
        x0, noise = (torch.stack(values)[chosen].float() for values in zip(*answers, strict=True))
        return network_says(self.process, x0, noise, t)


def believe(prior: Any, data: Gaussian) -> None:
    """Exchange the network of a loaded prior for one that knows that latents are ``data``.

    A U-Net is told integer timesteps and answers as its scheduler says; of a flow it is a family's ``velocity``.
    """

    def answer(x: Tensor, process: NoiseProcess, t: Tensor) -> Tensor:
        x0, noise = data.posterior(x, *process.signal_and_sigma(t))
        return network_says(process, x0.float(), noise.float(), t)

    def unet(x: Tensor, timesteps: Tensor, *rest: Any, **more: Any) -> Any:
        process, channels = prior._network_process, prior.unet.config.out_channels
        said = answer(x[:, : prior.latent_channels], process, timesteps / len(process))
        said = torch.cat([said, said.new_zeros(len(said), channels - said.shape[1], *said.shape[2:])], dim=1)
        return said if prior.camera == "mvdream" else (said,)

    if hasattr(prior, "velocity"):
        prior.velocity = lambda x, s, embeddings: answer(x, RectifiedFlow(), s)
    else:
        prior.unet.forward = unet


def errors(prior: ImagePrior, data: Gaussian, row: Tensor) -> tuple[float, float]:
    """The largest errors of the noise and of the x_0 that its predictions imply, over the schedule from 0.02 to 0.98.

    ``row`` [L, D]: what rows are conditioned on. Where noise is louder than signal, x_0 counts as much less.
    """
    t = prior.nearest(torch.linspace(0.02, 0.98, 24)).reshape(-1, prior.num_views)[:, :1]
    t = t.expand(-1, prior.num_views).flatten()
    generator, shape = torch.Generator().manual_seed(0), (len(t), *data.mean.shape)
    x_t = prior.add_noise(torch.randn(shape, generator=generator), torch.randn(shape, generator=generator), t)
    angle = torch.zeros(len(t))
    prediction = prior.predict(x_t, t, row.expand(len(t), -1, -1), (angle, angle))
    signal, sigma = prior.process.signal_and_sigma(t)
    pairs = zip(prior.x0_and_noise(x_t, prediction, t), data.posterior(x_t, signal, sigma), strict=True)
    x0, noise = ((implied - true).abs().flatten(1).amax(1) for implied, true in pairs)
    return float(noise.max()), float((x0 * signal / sigma.clamp(min=signal)).max())


def distill(
    prior: ImagePrior, prompt: str, start: Tensor, *, scale: float = 1.0, steps: int = 80,
    weighting: Weighting = "x0", picture: Picture | None = None,
) -> Tensor:  # fmt: skip
    """``start`` [1, C, h, w] after score distillation by gradient descent, as the engine does it to a render's latents.

    Noise comes in pairs of opposite sign: a Gaussian's gradient is linear in it, so what chance would leave cancels.
    """
    negative = "" if scale != 1.0 else prompt
    text, views = encode_text(prior, prompt, negative, picture=picture, view_prompts=False), 2 * prior.num_views
    generator = torch.Generator().manual_seed(0)
    latents = start.clone().requires_grad_()
    optimiser = torch.optim.SGD([latents], lr=0.4 if weighting == "velocity" else 1.0)
    angle = torch.zeros(views)
    for _ in range(steps):
        t = prior.draw_t(0.3, 0.9, 1, generator)[:1].expand(views)
        drawn = torch.randn((views // 2, *start.shape[1:]), generator=generator)
        noise = torch.cat([drawn, -drawn])
        x_t = prior.add_noise(latents.detach(), noise, t)
        rows = text.rows(x_t, t, angle, angle, scale=scale)
        predicted = prior.predict(rows.latents, rows.t, rows.embeddings, (rows.azimuth, rows.elevation))
        guided, conditional = text.guide(predicted, angle, angle, scale=scale)
        eps = implied_noise(prior, x_t, t, guided, conditional)
        gradient, _ = sds_gradient(eps, noise, prior.weight(t, weighting))
        optimiser.zero_grad()
        sds_loss(latents.expand(views, -1, -1, -1), gradient).backward()
        optimiser.step()
    return latents.detach()


def samples(prior: GaussianPrior, prompt: str, steps: int) -> tuple[Tensor, Tensor]:
    """Mean [N] and covariance [N, N] of what DDIM, or Euler's method, draws in ``steps`` steps.

    It starts from what data are at the first level. A sampler is an affine map of its noise there: what becomes of zero
    is the mean, what becomes of the unit vectors is a root of the covariance.
    """
    data, levels = prior.gaussians[prompt], prior.nearest(torch.linspace(1, 0, steps + 1))
    signal, sigma = prior.process.signal_and_sigma(levels[:1].double())
    root = data.basis * (signal.square() * data.variances + sigma.square()).sqrt() @ data.basis.T
    x = (signal * data.mean.flatten() + torch.cat([torch.zeros_like(root[:1]), root])).float()
    x = x.unflatten(1, data.mean.shape)
    embeddings = prior.encode_prompts([prompt]).expand(len(x), -1, -1)
    for now, then in itertools.pairwise(levels):
        t = now.expand(len(x))
        x = prior.step(x, prior.predict(x, t, embeddings), t, then.expand(len(x)))
    mean, *others = x.flatten(1)
    linear = torch.stack(others, dim=1) - mean[:, None]
    return mean, linear @ linear.T
