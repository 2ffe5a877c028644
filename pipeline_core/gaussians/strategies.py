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
from pipeline_core.device import upload
from pipeline_core.errors import DivergedError
from pipeline_core.gaussians.initialise import neighbour_distance
from pipeline_core.rendering.jit import kernel
from pipeline_core.types import rotation_matrices

ROUNDING = 1e-5
"""An opacity kept as a float32 logit comes back this much smaller, relatively: one of 0.01 is not below 0.01."""

SPLIT = 1.6
"""A child of a split is so many times smaller than its parent: 0.8 times 2 children (3DGS, and both papers)."""
NEAR = 96
"""Nearest neighbours among whom a Gaussian looks for those that it faces: half a disc of eight spacings."""
BETWEEN = 0.7
"""Two face each other where no third is in the middle of them: in a sphere of this share of their distance.
With 32 neighbours and the whole distance a round hole stays open, with 96 and 0.7 it closes (docs/LOG.md)."""
LINKED = 4.0
"""Gaussians within this many median neighbour distances are one cluster. At 2 what grew from a ball is torn
(normals 0.06 lower), at 8 crumbs hang on (F-score at 2 % 0.005 lower; docs/LOG.md: Constants at half and double)."""

Params = dict[str, Tensor]
Optimizers = dict[str, torch.optim.Optimizer]


@dataclass
class GradientStats:
    """Running 2D gradient of each Gaussian: ``total`` [N] in NDC units, over ``visible`` [N] renders.

    ``spread`` [N], where it is wanted: the largest variance that each had in an image plane at distance 1 (GSGen).
    """

    total: Tensor
    visible: Tensor
    spread: Tensor | None = None

    @classmethod
    def zeros(cls, count: int, device: torch.device | str = "cpu", *, spread: bool = False) -> GradientStats:
        """Nothing seen yet."""
        return cls(*(torch.zeros(count, device=device) for _ in range(2 + spread)))

    def tensors(self) -> dict[str, Tensor]:
        """What is kept, by name."""
        return {name: value for name, value in vars(self).items() if value is not None}

    def keep(self, rows: Tensor) -> None:
        """Forget all but the ``rows`` (bool [N])."""
        vars(self).update({name: value[rows] for name, value in self.tensors().items()})

    def accumulate(self, info: dict[str, Any]) -> None:
        """Add one render's ``info`` (gsplat's fields, unpacked; with ``spread`` also the ``Ks``) after the backward.

        The pixel gradient of ``means2d`` [V, N, 2] becomes NDC by width / 2 and height / 2, and is multiplied by the
        number of views because the loss is a mean over them: DreamGaussian's 0.01 and gsplat's defaults apply as
        they stand, at every resolution and batch size.
        """
        gradient = info["means2d"].grad
        if gradient is None:
            return
        if self.spread is not None:
            a, b, c = info["conics"].detach().unbind(-1)
            narrowest = (a + c) / 2 - torch.hypot((a - c) / 2, b)  # of the inverse covariance, in pixels
            variance = 1 / (narrowest.clamp(min=1e-12) * upload(info["Ks"][:, 0, 0], a.device).square()[:, None])
            seen = (info["radii"] > 0).all(-1)
            self.spread = torch.maximum(self.spread, torch.where(seen, variance, 0.0).amax(0))
        launch = info.get("launch")  # what many scenes of one rasterisation add up together (engine/scenes.py)
        total, visible = launch() if launch else gradient_sums(gradient, info["radii"], info["width"], info["height"])
        self.total += total
        self.visible += visible

    def mean(self) -> Tensor:
        """Mean 2D gradient [N] over the renders in which each was visible; 0 where never."""
        return self.total / self.visible.clamp(min=1)


def gradient_sums(gradient: Tensor, radii: Tensor, width: int, height: int) -> tuple[Tensor, Tensor]:
    """What :meth:`GradientStats.accumulate` adds, total and visible [..., N], of the pixel ``gradient`` and ``radii``
    [..., V, N, 2]."""
    half = 0.5 * gradient.shape[-3]
    in_ndc = torch.hypot(gradient[..., 0] * (width * half), gradient[..., 1] * (height * half))
    seen = (radii > 0).all(-1)
    return torch.where(seen, in_ndc, 0.0).sum(-2), seen.sum(-2)


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


def threshold(gradient: Tensor, settings: Densify) -> Tensor:
    """The mean 2D gradient above which a Gaussian grows: as published, or a quantile of those that were seen.

    Published numbers belong to their prior and its guidance; the size of a gradient is that of the prior's answer.
    """
    if not settings.grad_quantile:
        return gradient.new_tensor(settings.grad_threshold)
    seen = gradient[gradient > 0]
    return torch.quantile(seen, settings.grad_quantile) if len(seen) else gradient.new_tensor(torch.inf)


@torch.no_grad()
def grow(
    params: Params, optimizers: Optimizers, gradient: Tensor, settings: Densify, generator: torch.Generator
) -> dict[str, int]:
    """Clone small and split large Gaussians whose mean 2D ``gradient`` [N] is above the threshold (DreamGaussian).

    Each adds one row net, so the count cap and ``grow_share`` admit the largest gradients first. A split samples two
    children from the parent's own distribution, :data:`SPLIT` times smaller; a clone is an exact copy.
    """
    count = len(gradient)
    room = max(min(settings.max_gaussians - count, int(settings.grow_share * count)), 0)
    chosen = (gradient > threshold(gradient, settings)).nonzero().squeeze(1)
    chosen = chosen[gradient[chosen].argsort(descending=True, stable=True)[:room]].sort().values
    large = params["scales"][chosen].exp().amax(1) > settings.split_scale
    split, clone = chosen[large], chosen[~large]
    parts = {name: [value.detach()[clone]] + [value.detach()[split]] * 2 for name, value in params.items()}
    parts["scales"][1:] = [part - float(np.log(SPLIT)) for part in parts["scales"][1:]]
    rotation = rotation_matrices(params["quats"][split])
    for child in (1, 2):
        sample = torch.randn(len(split), 3, generator=generator).to(rotation) * params["scales"][split].exp()
        parts["means"][child] = parts["means"][child] + (rotation @ sample.unsqueeze(-1)).squeeze(-1)
    keep = torch.ones(count, dtype=torch.bool, device=gradient.device)
    keep[split] = False
    replace_rows(params, optimizers, keep, {name: torch.cat(part) for name, part in parts.items()})
    return {"cloned": len(clone), "split": len(split)}


def facing(means: np.ndarray) -> np.ndarray:
    """Pairs [P, 2] of ``means`` [N, 3] with nobody in between: of the ``NEAR`` nearest, those whose sphere over the
    line between the two as its diameter holds no other (Gabriel and Sokal 1969).

    They reach across a hole, whose rims face each other. The 3 nearest, as published, are all on one side of it. Of
    Gaussians at one place, as clones are at first, one counts.
    """
    places, chosen = np.unique(means, axis=0, return_index=True)
    _, nearest = cKDTree(places).query(places, k=min(NEAR + 1, len(places)))
    row, column = nobody_between(places, nearest).nonzero()
    return chosen[np.unique(np.sort(np.stack([row, nearest[row, column]], axis=1), axis=1), axis=0)]


@kernel
def nobody_between(means: np.ndarray, nearest: np.ndarray) -> np.ndarray:
    """Mask [N, K]: whether Gaussian i faces the k-th of its ``nearest`` [N, K], itself first, the farthest last."""
    free = np.zeros(nearest.shape, dtype=np.bool_)
    for i in range(len(means)):
        for k in range(1, nearest.shape[1]):
            far = means[nearest[i, k]] - means[i]
            reach = (1 - BETWEEN**2) / 4 * (far**2).sum()
            free[i, k] = True
            for between in range(1, k):  # whoever is in the sphere is nearer
                near = means[nearest[i, between]] - means[i]
                if (near * (near - far)).sum() < -reach:
                    free[i, k] = False
                    break
    return free


def crowded(means: Tensor, scales: Tensor) -> Tensor:
    """Mask [N] of ``means`` [N, 3] within a scale (of ``scales`` [N]) of one before them, as where two gaps cross."""
    places, reach = means.cpu().numpy(), scales.cpu().numpy()
    pairs = cKDTree(places).query_pairs(reach.max(initial=0.0), output_type="ndarray")
    near = np.linalg.norm(places[pairs[:, 0]] - places[pairs[:, 1]], axis=1) < reach[pairs].max(axis=1)
    mask = torch.zeros(len(means), dtype=torch.bool)
    mask[torch.from_numpy(pairs[near].max(axis=1))] = True
    return mask.to(means.device)


@torch.no_grad()
def fill_gaps(params: Params, optimizers: Optimizers, settings: Densify) -> int:
    """Compactness densification (GSGen): one Gaussian into each gap between two that face each other (:func:`facing`).

    With r_i, r_j the ellipsoid radii along the line of centres at distance d, a gap is g = d - r_i - r_j > 0; the new
    centre is its middle, the scale the mean of r_i and r_j, the rest copied from i: wide gaps close in several events.
    (The release's scale of g / 6 leaves two thirds open, for ever smaller ones, and it counts pairs from both ends.)
    Gaps up to ``gap_smallest`` times r_i + r_j stay, and those wider than ``gap_largest`` times the median d: a mug is
    open. The widest come first where ``fill_share`` or ``max_gaussians`` leave too little room. Returns how many were
    added.
    """
    means = params["means"].detach()
    room = min(settings.max_gaussians - len(means), int(settings.fill_share * len(means)))
    if len(means) < 4 or room <= 0:
        return 0
    first, second = torch.from_numpy(facing(means.cpu().double().numpy())).to(means.device).unbind(1)
    offset = means[second] - means[first]
    distance = offset.norm(dim=-1)
    direction = offset / distance.clamp(min=1e-12).unsqueeze(-1)
    quats, scales = params["quats"].detach(), params["scales"].detach()
    radius_first = ellipsoid_radius(quats[first], scales[first], direction)
    radius_second = ellipsoid_radius(quats[second], scales[second], direction)
    gap = distance - radius_first - radius_second
    open_ = (gap > settings.gap_smallest * (distance - gap)) & (gap < settings.gap_largest * distance.median())
    order = gap.argsort(descending=True, stable=True)
    order = order[open_[order]]
    middle = means[first] + direction * ((distance + radius_first - radius_second) / 2).unsqueeze(-1)
    scale = (distance - gap) / 2
    order = order[~crowded(middle[order], scale[order])][:room]
    new = {name: value.detach()[first[order]] for name, value in params.items()}
    new["means"], new["scales"] = middle[order], scale[order].log().unsqueeze(-1).expand(-1, 3)
    replace_rows(params, optimizers, torch.ones(len(means), dtype=torch.bool, device=means.device), new)
    return len(order)


def floaters(means: np.ndarray, share: float) -> np.ndarray:
    """Mask [N] of ``means`` [N, 3] in detached clusters (:func:`clusters`) that hold less than ``share`` of them.

    The largest cluster is never a floater.
    """
    if len(means) < 4 or share == 0.0:
        return np.zeros(len(means), dtype=bool)
    label = clusters(means)
    size = np.bincount(label)
    return (size[label] < share * len(means)) & (size[label] < size.max())


def clusters(means: np.ndarray) -> np.ndarray:
    """Number [N] of the cluster that each of ``means`` [N, 3] belongs to: those within :data:`LINKED` median
    neighbour distances are linked."""
    if len(means) < 4:
        return np.zeros(len(means), dtype=np.int32)
    return linked(means, LINKED * float(np.median(neighbour_distance(means))))


def linked(means: np.ndarray, reach: float) -> np.ndarray:
    """Number [N] of the cluster of each of ``means`` [N, 3]: those within ``reach`` of each other are linked."""
    pairs = cKDTree(means).query_pairs(reach, output_type="ndarray")
    links = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(means),) * 2)
    label: np.ndarray = connected_components(links, directed=False)[1]
    return label


@torch.no_grad()
def prune(
    params: Params, optimizers: Optimizers, settings: Densify, *, last: bool = False, stats: GradientStats | None = None
) -> int:
    """Drop Gaussians that are faint, too large, or adrift (:func:`floaters`), in ``stats`` too; returns how many.

    ``last`` applies ``prune_scale_last``. Raises DivergedError where nothing would remain.
    """
    limit = settings.prune_scale_last if last else settings.prune_scale
    bad = params["opacities"].sigmoid() < settings.prune_opacity * (1 - ROUNDING)
    axes = params["scales"].exp()
    bad |= (axes.amax(1) if settings.prune_axis == "largest" else axes.amin(1)) > limit
    if stats is not None and stats.spread is not None:
        bad |= stats.spread > settings.prune_spread
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
        if stats is not None:
            stats.keep(~bad)
    return dropped
