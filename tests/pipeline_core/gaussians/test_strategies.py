"""Growing and pruning against closed forms, and Adam's moments through both."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from pipeline_core.config import RECIPES, Densify
from pipeline_core.errors import DivergedError
from pipeline_core.gaussians.initialise import ball, from_points, neighbour_distance
from pipeline_core.gaussians.strategies import (
    GradientStats,
    ellipsoid_radius,
    fill_gaps,
    floaters,
    grow,
    prune,
    replace_rows,
)
from pipeline_core.types import rotation_matrices


def make(means, scales=0.02, opacity=0.8):
    n = len(means)
    params = {
        "means": torch.as_tensor(means, dtype=torch.float32),
        "quats": torch.tensor([1.0, 0, 0, 0]).repeat(n, 1),
        "scales": torch.full((n, 3), math.log(scales)),
        "opacities": torch.full((n,), math.log(opacity / (1 - opacity))),
        "sh0": torch.arange(n * 3, dtype=torch.float32).reshape(n, 1, 3),
        "shN": torch.zeros(n, 0, 3),
    }
    params = {k: torch.nn.Parameter(v) for k, v in params.items()}
    optimizers = {k: torch.optim.Adam([v], lr=1e-3) for k, v in params.items() if v.numel()}
    for name, optimizer in optimizers.items():
        weight = torch.arange(1.0, n + 1).reshape(-1, *[1] * (params[name].ndim - 1))
        (params[name] * weight).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    return params, optimizers


def moments(params, optimizers, name="means"):
    return optimizers[name].state[params[name]]["exp_avg"]


def line(n, spacing=0.1):
    return [[i * spacing, 0.0, 0.0] for i in range(n)]


def generator():
    return torch.Generator().manual_seed(0)


def test_rows_keep_their_moments_and_new_ones_start_at_zero():
    params, optimizers = make(line(4))
    before = {name: moments(params, optimizers, name).clone() for name in optimizers}
    new = {name: value.detach()[:1] for name, value in params.items()}
    replace_rows(params, optimizers, torch.tensor([True, False, True, True]), new)
    for name in optimizers:
        assert len(params[name]) == 4
        torch.testing.assert_close(moments(params, optimizers, name)[:3], before[name][[0, 2, 3]])
        assert moments(params, optimizers, name)[3].abs().sum() == 0
        assert optimizers[name].param_groups[0]["params"][0] is params[name]
    params["means"].sum().backward()
    optimizers["means"].step()  # the optimiser still works on the new leaves


def test_small_ones_are_cloned_and_large_ones_split():
    params, optimizers = make(line(4))
    params["scales"].data[2] = math.log(0.1)
    gradient = torch.tensor([0.0, 0.02, 0.02, 0.005])
    before = {k: v.detach().clone() for k, v in params.items()}
    counts = grow(params, optimizers, gradient, Densify(grad_threshold=0.01, split_scale=0.04), generator())
    assert counts == {"cloned": 1, "split": 1}
    assert len(params["means"]) == 6
    torch.testing.assert_close(params["means"][:3], before["means"][[0, 1, 3]])
    torch.testing.assert_close(params["means"][3], before["means"][1])  # the clone
    torch.testing.assert_close(params["scales"][4:].exp(), torch.full((2, 3), 0.1 / 1.6))
    assert ((params["means"][4:] - before["means"][2]).norm(dim=1) > 0).all()
    torch.testing.assert_close(params["sh0"][4:], before["sh0"][[2, 2]])


def test_children_of_a_split_follow_the_parents_distribution():
    """Many splits of one rotated, stretched Gaussian: the children's covariance is R S S^T R^T."""
    n = 4000
    params, optimizers = make([[0.0, 0.0, 0.0]] * n)
    half = math.sqrt(0.5)
    params["quats"].data[:] = torch.tensor([half, 0.0, 0.0, half])  # a quarter turn about z: x becomes y
    params["scales"].data[:] = torch.tensor([0.3, 0.1, 0.05]).log()
    grow(params, optimizers, torch.ones(n), Densify(grad_threshold=0.01, split_scale=0.04), generator())
    covariance = torch.cov(params["means"].detach().T)
    torch.testing.assert_close(covariance.diag().sqrt(), torch.tensor([0.1, 0.3, 0.05]), rtol=0.05, atol=0)


def test_growth_is_capped_by_count_and_share_and_takes_the_largest_gradients():
    gradient = torch.tensor([0.1, 0.5, 0.3, 0.2, 0.4])
    for settings, expected in [
        (Densify(grad_threshold=0.01, max_gaussians=64), 10),
        (Densify(grad_threshold=0.01, grow_share=0.4), 7),
        (Densify(grad_threshold=0.25), 8),
    ]:
        params, optimizers = make(line(5))
        grow(params, optimizers, gradient, settings, generator())
        assert len(params["means"]) == expected
    params, optimizers = make(line(70))
    grow(params, optimizers, torch.ones(70), Densify(grad_threshold=0.01, max_gaussians=64), generator())
    assert len(params["means"]) == 70
    params, optimizers = make(line(5))
    grow(params, optimizers, gradient, Densify(grad_threshold=0.01, grow_share=0.4), generator())
    assert sorted(params["means"][5:, 0].tolist()) == pytest.approx([0.1, 0.4], abs=0.01)


def test_ellipsoid_radius_is_the_distance_to_the_surface():
    quats = torch.randn(200, 4, dtype=torch.float64)
    log_scales = torch.randn(200, 3, dtype=torch.float64)
    direction = torch.nn.functional.normalize(torch.randn(200, 3, dtype=torch.float64), dim=-1)
    point = ellipsoid_radius(quats, log_scales, direction).unsqueeze(-1) * direction
    rotation = rotation_matrices(quats)
    covariance = rotation @ torch.diag_embed((2 * log_scales).exp()) @ rotation.transpose(1, 2)
    mahalanobis = (point.unsqueeze(1) @ torch.linalg.inv(covariance) @ point.unsqueeze(-1)).squeeze()
    torch.testing.assert_close(mahalanobis, torch.ones(200, dtype=torch.float64))
    round_one = ellipsoid_radius(quats, torch.full((200, 3), math.log(0.02), dtype=torch.float64), direction)
    torch.testing.assert_close(round_one, torch.full((200,), 0.02, dtype=torch.float64))


def test_gaps_are_filled_once_each_in_the_middle():
    """Nine in a square of side 2, sigma 0.1: twelve edges and eight diagonals, each counted once, gap d - 0.2."""
    params, optimizers = make([[x, y, 0.0] for x in range(3) for y in range(3)], scales=0.1)
    params["means"].data = torch.tensor([[x, y, 0.0] for x in range(3) for y in range(3)])
    params["scales"].data[:] = math.log(0.1)
    assert fill_gaps(params, optimizers, Densify(fill_share=1.0)) == 9  # the widest first: all diagonals, one edge
    new = params["means"].detach()[9:]
    assert {tuple((2 * m[:2]).round().tolist()) for m in new} >= {(x, y) for x in (1.0, 3.0) for y in (1.0, 3.0)}
    torch.testing.assert_close(params["scales"].detach()[9:].exp(), torch.full((9, 3), 0.1))  # as their neighbours
    assert moments(params, optimizers)[9:].abs().sum() == 0


def test_touching_gaussians_leave_no_gap_and_the_caps_hold():
    for scales, settings, filled in [
        (0.06, Densify(), 0),  # neighbours touch, and between second neighbours is the first
        (0.001, Densify(fill_share=1.0), 5),
        (0.001, Densify(fill_share=0.34), 2),
        (0.001, Densify(max_gaussians=64), 1),
        (0.04, Densify(fill_share=1.0), 0),  # gaps of a quarter of the radii
        (0.04, Densify(fill_share=1.0, gap_smallest=0.2), 5),
        (0.001, Densify(fill_share=1.0, gap_largest=0.9), 0),
    ]:
        params, optimizers = make(line(6), scales=scales)
        params["means"].data, params["scales"].data[:] = torch.tensor(line(6)), math.log(scales)
        assert fill_gaps(params, optimizers, settings) == filled, (scales, settings)
    params, optimizers = make(line(64), scales=0.001)
    assert fill_gaps(params, optimizers, Densify(max_gaussians=64)) == 0


def on_a_sphere(count):
    i = np.arange(count) + 0.5
    height, turn = 1 - 2 * i / count, math.pi * (1 + 5**0.5) * i
    return np.stack([np.cos(turn) * np.sqrt(1 - height**2), np.sin(turn) * np.sqrt(1 - height**2), height], axis=1)


def widest_hole(params, probe):
    return cKDTree(params["means"].detach().numpy()).query(probe)[0].max()


def test_a_hole_closes_in_a_few_events_and_the_surface_beside_it_is_left():
    """1500 on a sphere, 0.09 apart, without those within 0.35 rad of one direction."""
    axis = np.array([0.6, 0.0, 0.8])
    hole, sphere = (np.arccos(x @ axis) < 0.35 for x in (on_a_sphere(20_000), on_a_sphere(1500)))
    probe = on_a_sphere(20_000)[hole]
    params, _ = make(on_a_sphere(1500)[~sphere])
    params["means"].data = torch.tensor(on_a_sphere(1500)[~sphere], dtype=torch.float32)
    distance = neighbour_distance(params["means"].detach().numpy())
    params["scales"].data = torch.tensor(distance, dtype=torch.float32).log()[:, None].repeat(1, 3)
    before, count = widest_hole(params, probe), len(params["means"])
    for _ in range(8):
        fill_gaps(params, {}, Densify())
    assert before > 0.34 and widest_hole(params, probe) < 0.15  # 0.353 by the 3 nearest; one is 0.09 wide
    new = params["means"].detach().numpy()[count:]
    assert len(new) < 0.25 * count
    assert (new / np.linalg.norm(new, axis=1, keepdims=True) @ axis > math.cos(0.45)).all()


def test_what_was_just_cloned_hides_no_gap_and_gaps_run_out():
    """The same cloud with every Gaussian twice, 0.2 apart and 0.06 wide: no gap is filled twice."""
    means = np.repeat(on_a_sphere(300), 2, axis=0)
    params, _ = make(means, scales=0.06)
    params["means"].data = torch.tensor(means, dtype=torch.float32)
    params["scales"].data[:] = math.log(0.06)
    counts = []
    for _ in range(14):
        fill_gaps(params, {}, Densify())
        counts.append(len(params["means"]))
    distinct = np.unique(params["means"].detach().numpy()[600:].round(5), axis=0)
    assert len(distinct) == counts[-1] - 600
    assert counts[-1] == counts[-2] < 3000


def test_a_ball_of_the_papers_opacity_is_not_pruned():
    """The release has 0.1; a recipe may have 0.01, which as a float32 logit is 0.0099999998 again."""
    recipe = RECIPES["dreamgaussian"].override({"init.opacity": 0.01})
    start = from_points(ball(recipe.init.num_points, generator()), recipe.init, generator())
    params = {name: torch.nn.Parameter(value) for name, value in start.tensors().items()}
    assert recipe.geometry.densify.prune_opacity == 0.01 and (params["opacities"].sigmoid() < 0.01).any()
    assert all(prune(params, {}, recipe.geometry.densify, last=last) == 0 for last in (False, True))


def test_a_threshold_may_be_a_quantile_of_what_was_seen():
    gradient = torch.tensor([0.0, 0.0, 0.0, 1.0, 2.0, 3.0, 4.0, 5.0])
    for settings, grown in [(Densify(grad_quantile=0.5), 2), (Densify(grad_quantile=1.0), 0), (Densify(), 5)]:
        params, optimizers = make(line(8))
        grow(params, optimizers, gradient, settings, generator())
        assert len(params["means"]) == 8 + grown
    params, optimizers = make(line(8))
    assert grow(params, optimizers, torch.zeros(8), Densify(grad_quantile=0.5), generator()) == {
        "cloned": 0,
        "split": 0,
    }


def test_prune_drops_faint_and_oversized():
    params, optimizers = make(line(6))
    params["opacities"].data[1] = -8.0
    params["scales"].data[4, 2] = math.log(0.5)
    x = params["means"].detach()[[0, 2, 3, 5]]
    assert prune(params, optimizers, Densify(prune_opacity=0.01, prune_scale=0.4)) == 2
    torch.testing.assert_close(params["means"].detach(), x)


def test_the_last_prune_has_its_own_size_limit():
    params, optimizers = make(line(6), scales=0.2)
    settings = Densify(prune_scale=0.4, prune_scale_last=0.1)
    assert prune(params, optimizers, settings) == 0
    with pytest.raises(DivergedError, match="all 6 Gaussians were pruned"):
        prune(params, optimizers, settings, last=True)


def test_floaters_are_small_detached_clusters():
    rng = np.random.default_rng(0)
    body = rng.normal(size=(500, 3)) * 0.05
    stray = rng.normal(size=(3, 3)) * 0.001 + 0.6
    mask = floaters(np.concatenate([body, stray]), 0.02)
    assert mask[500:].all() and mask[:500].mean() < 0.02
    assert not floaters(np.concatenate([body, stray]), 0.0).any()
    assert not floaters(body + 0.0, 1.0).all()  # the largest cluster always stays


def test_statistics_are_in_ndc_and_independent_of_batch_and_resolution():
    """One Gaussian with pixel gradient (g / V) in each of V views of W pixels: the mean is g W / 2, as for one view."""
    for views, width in [(1, 64), (4, 64), (2, 256)]:
        stats = GradientStats.zeros(2)
        means2d = torch.zeros(views, 2, 2, requires_grad=True)
        means2d.grad = torch.tensor([3.0, 4.0]).expand(views, 2, 2) / views / (width / 2)
        radii = torch.ones(views, 2, 2, dtype=torch.int32)
        radii[:, 1] = 0
        for _ in range(3):
            stats.accumulate({"means2d": means2d, "radii": radii, "width": width, "height": width})
        torch.testing.assert_close(stats.mean(), torch.tensor([5.0, 0.0]))
        assert stats.visible.tolist() == [3 * views, 0]


def test_gsplats_own_operations_accept_the_state():
    ops = pytest.importorskip("gsplat.strategy.ops")
    params, optimizers = make(line(5))
    del params["shN"]
    params = torch.nn.ParameterDict(params)
    ops.duplicate(params=params, optimizers=optimizers, state={}, mask=torch.tensor([True, False, False, False, False]))
    ops.remove(
        params=params, optimizers=optimizers, state={}, mask=torch.tensor([False, True, False, False, False, False])
    )
    assert len(params["means"]) == 5


def test_gsgens_three_rules_of_pruning():
    """Faint; too large in all three axes; too wide in a render's image plane, whose distance is 1."""
    params, optimizers = make(line(5))
    params["opacities"].data[0] = -8.0
    params["scales"].data[1] = math.log(0.7)
    params["scales"].data[2, 0] = math.log(0.7)  # one axis alone
    stats = GradientStats.zeros(5, spread=True)
    conics = torch.tensor([[1.0, 0.0, 1.0]]).repeat(2, 5, 1)  # one pixel
    conics[1, 3] = torch.tensor([1e-4, 0.0, 1.0])  # a hundred pixels along x, in one of two views
    means2d = torch.zeros(2, 5, 2, requires_grad=True)
    means2d.grad = torch.zeros(2, 5, 2)
    seen = {"means2d": means2d, "radii": torch.ones(2, 5, 2), "width": 64, "height": 64}
    stats.accumulate(seen | {"conics": conics, "Ks": 64 * torch.eye(3).repeat(2, 1, 1)})
    assert stats.spread.tolist() == pytest.approx([1 / 64**2] * 3 + [100**2 / 64**2] + [1 / 64**2], rel=1e-3)
    settings = Densify(prune_opacity=0.05, prune_scale=0.6, prune_axis="smallest", prune_spread=1.0)
    kept = params["means"].detach()[[2, 4]]
    assert prune(params, optimizers, settings, stats=stats) == 3
    torch.testing.assert_close(params["means"].detach(), kept)
    assert len(stats.total) == len(stats.visible) == len(stats.spread) == 2
