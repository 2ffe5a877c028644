"""3D score distillation: the point prior judges the centres and colours of the Gaussians (GSGen).

Two defects of the release are mended: the cloud goes back in the prior's own axes and scale
(``PointPrior.to_model``), and the gradient is chained through that change of scale.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pipeline_core.device import upload
from pipeline_core.guidance.rows import PointRows
from pipeline_core.priors.interface import NoiseProcess
from pipeline_core.rendering.jit import kernel

MOST = 16_384
"""Gaussians among which the farthest are looked for."""


def subset(weights: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` int64 indices, drawn without replacement where there are enough rows, in proportion to ``weights`` [N].

    Weights are the opacities: a Gaussian that nobody sees should not be judged as a point. Only random numbers move
    from the generator's device to that of ``weights``: the host does not wait.
    """
    weights = weights.detach().float().clamp(min=1e-4)
    if len(weights) < count:
        draws = upload(torch.rand(count, generator=generator), weights.device)
        total = weights.cumsum(0)
        return torch.searchsorted(total, draws * total[-1]).clamp(max=len(weights) - 1)
    # The largest of log w - log E, E exponential, are such a sample (Efraimidis and Spirakis 2006).
    exponential = upload(torch.empty(len(weights)).exponential_(generator=generator), weights.device)
    return (weights.log() - exponential.clamp(min=1e-30).log()).topk(count).indices


def farthest(means: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """``count`` int64 indices into ``means`` [N, 3]: a random one, then each the farthest from all before it (GSGen).

    They cover the shape evenly, as the point prior's own clouds do. Of more than ``MOST`` rows a random part is
    looked at, which bounds the work; of fewer than ``count`` some come twice. Waits for the device.
    """
    some = torch.randperm(len(means), generator=generator)[:MOST]
    chosen = _farthest(means.detach().float().cpu()[some].numpy(), min(count, len(some)))
    indices = some[torch.from_numpy(chosen)]
    return upload(indices.repeat(-(-count // len(indices)))[:count], means.device)


@kernel
def _farthest(points: np.ndarray, count: int) -> np.ndarray:
    chosen = np.zeros(count, dtype=np.int64)
    nearest = np.full(len(points), np.inf, dtype=np.float32)
    for k in range(1, count):
        last, best = points[chosen[k - 1]], 0
        for i in range(len(points)):
            x, y, z = points[i, 0] - last[0], points[i, 1] - last[1], points[i, 2] - last[2]
            nearest[i] = min(nearest[i], x * x + y * y + z * z)
            if nearest[i] > nearest[best]:
                best = i
        chosen[k] = best
    return chosen


def point_rows(prior: NoiseProcess, x: Tensor, t: Tensor, noise: Tensor, condition: Tensor, scale: float) -> PointRows:
    """Rows of B noisy clouds ``x`` [B, C, N] (model space): B conditional, then B unconditional unless scale is 1.

    ``t`` [B] shares of the prior's schedule; ``condition`` [2, ...]: the prompt, then the empty prompt.
    """
    x_t = prior.add_noise(x.detach(), noise, t)
    groups = 1 if scale == 1.0 else 2
    conditions = condition[:groups].repeat_interleave(x.shape[0], dim=0)
    return PointRows(x_t.repeat(groups, 1, 1), t.repeat(groups), conditions)


def point_guide(predictions: Tensor, scale: float) -> Tensor:
    """Guided prediction [B, C, N] of the answer to :func:`point_rows`."""
    if scale == 1.0:
        return predictions
    conditional, unconditional = predictions.chunk(2)
    return unconditional + scale * (conditional - unconditional)
