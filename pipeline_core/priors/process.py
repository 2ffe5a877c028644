"""How a prior adds noise and takes it away: diffusion over a table of levels, and rectified flow.

Both say x_t = signal x_0 + sigma noise. They differ in how signal and sigma follow from t, the share of the schedule in
(0, 1) that callers speak of, and in what a network's prediction means. Nobody outside of ``priors/`` needs to know.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, get_args

import torch
from torch import Tensor

from pipeline_core.priors.interface import NoiseProcess, Weighting

PredictionType = Literal["epsilon", "v_prediction", "sample"]
PREDICTION_TYPES: tuple[PredictionType, ...] = get_args(PredictionType)
SMALLEST = 1e-4
"""Signal and sigma are kept above it where they divide: a schedule may end at 0."""


class _Linear(ABC):
    """What follows from signal and sigma alone."""

    @abstractmethod
    def signal_and_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """Both [B]."""

    @abstractmethod
    def x0_and_noise(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> tuple[Tensor, Tensor]: ...

    @abstractmethod
    def nearest(self, t: Tensor) -> Tensor: ...

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        signal, sigma = self._rows(x0, t)
        return signal * x0 + sigma * noise

    def noise_of(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        signal, sigma = self._rows(x_t, t)
        return (x_t - signal * x0) / sigma.clamp(min=SMALLEST)

    def step(self, x_t: Tensor, prediction: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        return self.add_noise(*self.x0_and_noise(x_t, prediction, t), t_next)

    def draw_t(self, low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
        return self.nearest(low + (high - low) * torch.rand(count, generator=generator))

    def _rows(self, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        """Signal and sigma, shaped to multiply ``x`` [B, ...]."""
        signal, sigma = self.signal_and_sigma(t)
        shape = (-1, *[1] * (x.ndim - 1))
        return signal.reshape(shape), sigma.reshape(shape)


class Diffusion(_Linear):
    """signal = sqrt(a), sigma = sqrt(1 - a), a = ``alphas_cumprod`` [T] at the integer timestep nearest to t T.

    ``prediction_type`` says what a network predicts: ``epsilon``, the noise; ``v_prediction`` (Salimans and Ho 2022),
    v = sqrt(a) eps - sqrt(1 - a) x_0; ``sample``, x_0.
    """

    def __init__(self, alphas_cumprod: Tensor, prediction_type: PredictionType = "epsilon") -> None:
        self.alphas_cumprod, self.prediction_type = alphas_cumprod, prediction_type

    def __len__(self) -> int:
        """T, the number of timesteps."""
        return len(self.alphas_cumprod)

    def to(self, device: torch.device | str) -> Diffusion:
        """The same process with its table on ``device``."""
        return Diffusion(self.alphas_cumprod.to(device), self.prediction_type)

    def timestep(self, t: Tensor) -> Tensor:
        """What the network is told of ``t``: int64 timesteps [B]."""
        return (t * len(self)).round().long().clamp(0, len(self) - 1)

    def nearest(self, t: Tensor) -> Tensor:
        return self.timestep(t).clamp(min=1).float() / len(self)

    def signal_and_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_bar = self._alpha_bar(t)
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def weight(self, t: Tensor, kind: Weighting) -> Tensor:
        alpha_bar = self._alpha_bar(t)
        if kind == "sds":
            return 1 - alpha_bar
        if kind == "uniform":
            return torch.ones_like(alpha_bar)
        if kind == "velocity":
            return alpha_bar.clamp(min=SMALLEST).rsqrt()
        return ((1 - alpha_bar) / alpha_bar.clamp(min=SMALLEST)).sqrt()

    def x0_and_noise(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        if self.prediction_type == "sample":
            return prediction, self.noise_of(x_t, prediction, t)
        signal, sigma = self._rows(x_t, t)
        if self.prediction_type == "v_prediction":
            return signal * x_t - sigma * prediction, signal * prediction + sigma * x_t
        return (x_t - sigma * prediction) / signal.clamp(min=SMALLEST), prediction

    def _alpha_bar(self, t: Tensor) -> Tensor:
        return self.alphas_cumprod[self.timestep(t).to(self.alphas_cumprod.device)]


class RectifiedFlow(_Linear):
    """signal = 1 - s, sigma = s, and the prediction is the velocity noise - x_0.

    ``shift`` moves the schedule towards noise, as models for large pictures are trained: s = shift t / (1 + (shift - 1)
    t) (Esser et al. 2024, eq. 23). Weights are those of the diffusion that has the same ratio of signal to noise, but
    for that of the velocity, which is this one's own.
    """

    def __init__(self, shift: float = 1.0) -> None:
        self.shift = shift

    def timestep(self, t: Tensor) -> Tensor:
        """What the network is told of ``t``: s [B] in (0, 1)."""
        return self.shift * t / (1 + (self.shift - 1) * t)

    def nearest(self, t: Tensor) -> Tensor:
        return t.float().clamp(1e-3, 1 - 1e-3)

    def signal_and_sigma(self, t: Tensor) -> tuple[Tensor, Tensor]:
        s = self.timestep(t)
        return 1 - s, s

    def weight(self, t: Tensor, kind: Weighting) -> Tensor:
        signal, sigma = self.signal_and_sigma(t)
        if kind == "sds":
            return sigma.square() / (signal.square() + sigma.square())
        if kind == "uniform":
            return torch.ones_like(sigma)
        if kind == "velocity":
            return 1 / signal.clamp(min=SMALLEST)
        return sigma / signal.clamp(min=SMALLEST)

    def x0_and_noise(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        signal, sigma = self._rows(x_t, t)
        return x_t - sigma * prediction, x_t + signal * prediction


class OwnsNoise:
    """Base of the priors: their own noise ``process`` answers for them. ``num_views``: see ``interface.ImagePrior``."""

    num_views = 1

    def __init__(self, process: NoiseProcess) -> None:
        self.process = process

    def add_noise(self, x0: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        return self.process.add_noise(x0, noise, t)

    def x0_and_noise(self, x_t: Tensor, prediction: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        return self.process.x0_and_noise(x_t, prediction, t)

    def noise_of(self, x_t: Tensor, x0: Tensor, t: Tensor) -> Tensor:
        return self.process.noise_of(x_t, x0, t)

    def weight(self, t: Tensor, kind: Weighting) -> Tensor:
        return self.process.weight(t, kind)

    def nearest(self, t: Tensor) -> Tensor:
        return self.process.nearest(t)

    def draw_t(self, low: float, high: float, count: int, generator: torch.Generator) -> Tensor:
        """Views that the network looks at together are one sample: they share their t."""
        t = self.process.draw_t(low, high, count, generator)
        return t[:: self.num_views].repeat_interleave(self.num_views)

    def step(self, x_t: Tensor, prediction: Tensor, t: Tensor, t_next: Tensor) -> Tensor:
        return self.process.step(x_t, prediction, t, t_next)
