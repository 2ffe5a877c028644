"""Growing and pruning Gaussians during an optimisation.

The state is gsplat's: ``params`` is a dict of leaf tensors with N rows each (``means``, ``quats`` wxyz, ``scales`` log,
``opacities`` logit, ``sh0``, ``shN``) and ``optimizers`` a dict of Adam, one per trainable key with one parameter
group. New rows start with zero moments; the others keep theirs (GSGen's release loses all of them at every event).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from torch import Tensor

from pipeline_core.config import Densify
from pipeline_core.errors import DivergedError
from pipeline_core.gaussians.initialise import neighbour_distance
from pipeline_core.types import rotation_matrices

Params = dict[str, Tensor]
Optimizers = dict[str, torch.optim.Optimizer]


@dataclass
class GradientStats:
    """Running 2D gradient of each Gaussian: ``total`` [N] in NDC units, over ``visible`` [N] renders."""

    total: Tensor
    visible: Tensor

    @classmethod
    def zeros(cls, count: int, device: torch.device | str = "cpu") -> GradientStats:
        """Nothing seen yet."""
        return cls(torch.zeros(count, device=device), torch.zeros(count, device=device))

    def accumulate(self, info: dict[str, Any]) -> None:
        """Add one render's ``info`` (gsplat's fields, unpacked) after the backward.

        The pixel gradient of ``means2d`` [V, N, 2] becomes NDC by width / 2 and height / 2, and is multiplied by the
        number of views because the loss is a mean over them: DreamGaussian's 0.01 and gsplat's defaults apply as
        they stand, at every resolution and batch size.
        """
        gradient = info["means2d"].grad
        if gradient is None:
            return
        half = 0.5 * gradient.shape[0]
        in_ndc = torch.hypot(gradient[..., 0] * (info["width"] * half), gradient[..., 1] * (info["height"] * half))
        seen = (info["radii"] > 0).all(-1)
        self.total += torch.where(seen, in_ndc, 0.0).sum(0)
        self.visible += seen.sum(0)

    def mean(self) -> Tensor:
        """Mean 2D gradient [N] over the renders in which each was visible; 0 where never."""
        return self.total / self.visible.clamp(min=1)


def ellipsoid_radius(quats: Tensor, log_scales: Tensor, direction: Tensor) -> Tensor:
    """Distance [N] from centre to 1-sigma surface along unit ``direction`` [N, 3]: 1 / |S^-1 R^T u|.

    GSGen's release squares one term twice, which shrinks the radius in the xy plane.
    """
    local = (rotation_matrices(quats).transpose(1, 2) @ direction.unsqueeze(-1)).squeeze(-1)
    return 1.0 / (local / log_scales.exp()).norm(dim=-1).clamp(min=1e-12)


@torch.no_grad()
def replace_rows(params: Params, optimizers: Optimizers, keep: Tensor, new: Params | None = None) -> None:
    """Keep the rows ``keep`` (bool [N] or int64 indices), append ``new``; Adam's moments follow, zero for new rows."""
    for name, old in list(params.items()):
        added = old.new_zeros(0, *old.shape[1:]) if new is None else new[name]
        leaf = torch.nn.Parameter(torch.cat([old.detach()[keep], added]), requires_grad=old.requires_grad)
        params[name] = leaf
        optimizer = optimizers.get(name)
        if optimizer is None:
            continue
        state = optimizer.state.pop(old, {})
        for key, value in state.items():
            if isinstance(value, Tensor) and value.shape == old.shape:
                state[key] = torch.cat([value[keep], torch.zeros_like(added)])
        optimizer.state[leaf] = state
        optimizer.param_groups[0]["params"] = [leaf]


@torch.no_grad()
def grow(
    params: Params, optimizers: Optimizers, gradient: Tensor, settings: Densify, generator: torch.Generator
) -> dict[str, int]:
    """Clone small and split large Gaussians whose mean 2D ``gradient`` [N] is above the threshold (DreamGaussian).

    Each adds one row net, so the count cap and ``grow_share`` admit the largest gradients first. A split samples two
    children from the parent's own distribution, 1.6 times smaller; a clone is an exact copy.
    """
    count = len(gradient)
    room = max(min(settings.max_gaussians - count, int(settings.grow_share * count)), 0)
    chosen = (gradient > settings.grad_threshold).nonzero().squeeze(1)
    chosen = chosen[gradient[chosen].argsort(descending=True, stable=True)[:room]].sort().values
    large = params["scales"][chosen].exp().amax(1) > settings.split_scale
    split, clone = chosen[large], chosen[~large]
    parts = {name: [value.detach()[clone]] + [value.detach()[split]] * 2 for name, value in params.items()}
    parts["scales"][1:] = [part - float(np.log(1.6)) for part in parts["scales"][1:]]
    rotation = rotation_matrices(params["quats"][split])
    for child in (1, 2):
        sample = torch.randn(len(split), 3, generator=generator).to(rotation) * params["scales"][split].exp()
        parts["means"][child] = parts["means"][child] + (rotation @ sample.unsqueeze(-1)).squeeze(-1)
    keep = torch.ones(count, dtype=torch.bool, device=gradient.device)
    keep[split] = False
    replace_rows(params, optimizers, keep, {name: torch.cat(part) for name, part in parts.items()})
    return {"cloned": len(clone), "split": len(split)}


@torch.no_grad()
def fill_gaps(params: Params, optimizers: Optimizers, max_gaussians: int) -> int:
    """Compactness densification (GSGen): one Gaussian into each gap between a Gaussian and its 3 nearest.

    With r_i, r_j the ellipsoid radii along the line of centres at distance d, a gap is r_i + r_j < d; the new centre
    is its middle, the scale a sixth of its width, the rest copied from i. Pairs are counted once (the release counts
    them from both ends); the widest gaps come first where ``max_gaussians`` leaves too little room. Returns how many.
    """
    means = params["means"].detach()
    if len(means) < 4 or len(means) >= max_gaussians:
        return 0
    _, neighbour = cKDTree(means.cpu().numpy()).query(means.cpu().numpy(), k=4)
    pairs = np.stack([np.repeat(np.arange(len(means)), 3), neighbour[:, 1:].ravel()], axis=1)
    pairs = np.unique(np.sort(pairs, axis=1), axis=0)
    first, second = torch.from_numpy(pairs).to(means.device).unbind(1)
    offset = means[second] - means[first]
    distance = offset.norm(dim=-1)
    direction = offset / distance.clamp(min=1e-12).unsqueeze(-1)
    quats, scales = params["quats"].detach(), params["scales"].detach()
    radius_first = ellipsoid_radius(quats[first], scales[first], direction)
    radius_second = ellipsoid_radius(quats[second], scales[second], direction)
    gap = distance - radius_first - radius_second
    order = gap.argsort(descending=True, stable=True)
    order = order[gap[order] > 0][: max_gaussians - len(means)]
    new = {name: value.detach()[first[order]] for name, value in params.items()}
    middle = (distance + radius_first - radius_second)[order] / 2
    new["means"] = new["means"] + direction[order] * middle.unsqueeze(-1)
    new["scales"] = (gap[order] / 6).log().unsqueeze(-1).expand(-1, 3)
    replace_rows(params, optimizers, torch.ones(len(means), dtype=torch.bool, device=means.device), new)
    return len(order)


def floaters(means: np.ndarray, share: float) -> np.ndarray:
    """Mask [N] of ``means`` [N, 3] in detached clusters that hold less than ``share`` of them.

    Points within four times the median neighbour distance are linked; the largest cluster is never a floater.
    """
    if len(means) < 4 or share == 0.0:
        return np.zeros(len(means), dtype=bool)
    reach = 4 * float(np.median(neighbour_distance(means)))
    pairs = cKDTree(means).query_pairs(reach, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(means),) * 2)
    _, label = connected_components(links, directed=False)
    size = np.bincount(label)
    return (size[label] < share * len(means)) & (size[label] < size.max())


@torch.no_grad()
def prune(params: Params, optimizers: Optimizers, settings: Densify, *, last: bool = False) -> int:
    """Drop Gaussians that are faint, too large, or adrift (:func:`floaters`); returns how many.

    ``last`` applies ``prune_scale_last``. Raises DivergedError where nothing would remain.
    """
    limit = settings.prune_scale_last if last else settings.prune_scale
    bad = params["opacities"].sigmoid() < settings.prune_opacity
    bad |= params["scales"].exp().amax(1) > limit
    visible = (~bad).nonzero().squeeze(1)
    adrift = floaters(params["means"].detach()[visible].cpu().numpy(), settings.floater_share)
    bad[visible[torch.from_numpy(adrift).to(visible.device)]] = True
    dropped = int(bad.sum())
    if dropped == len(bad):
        raise DivergedError(
            f"all {dropped} Gaussians were pruned (opacity < {settings.prune_opacity} or larger than {limit}): "
            "try another seed, or lower densify.prune_opacity"
        )
    if dropped:
        replace_rows(params, optimizers, ~bad)
    return dropped
