"""The density field against the dense float64 sum over all Gaussians."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from pipeline_core.rendering.density import density_grid
from pipeline_core.rendering.reference import covariances
from tests.pipeline_core.rendering.scenes import cloud

LOW, HIGH = (-0.9, -0.8, -0.7), (0.9, 0.8, 0.7)


def dense(p: dict[str, Tensor], points: Tensor) -> Tensor:
    d = points.double()[:, None] - p["means"].double()
    precision = torch.linalg.inv(covariances(p["quats"].double(), p["scales"].double()))
    return (p["opacities"].double() * torch.exp(-0.5 * torch.einsum("pni,nij,pnj->pn", d, precision, d))).sum(1)


def grid_points(shape: tuple[int, int, int]) -> Tensor:
    axes = [torch.linspace(a, b, n, dtype=torch.float64) for a, b, n in zip(LOW, HIGH, shape, strict=True)]
    return torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


@pytest.fixture
def gaussians() -> dict[str, Tensor]:
    p = cloud(200, torch.Generator().manual_seed(0), spread=0.3, size=0.05)
    del p["colors"]
    return p


def test_the_grid_is_the_sum_over_every_gaussian_s_whole_support(gaussians: dict[str, Tensor]) -> None:
    gaussians["scales"][:3] = 0.6  # reach far beyond any block of the grid
    shape = (21, 18, 33)
    got = density_grid(**gaussians, low=LOW, high=HIGH, shape=shape)
    want = dense(gaussians, grid_points(shape)).reshape(shape)
    assert (got - want).abs().max() < 2e-5 < 1e-5 * 200
    assert (got - want).abs().max() < 1e-5 * want.max()


def test_tolerance_bounds_the_error(gaussians: dict[str, Tensor]) -> None:
    points = grid_points((9, 7, 8))
    got = density_grid(**gaussians, low=LOW, high=HIGH, shape=(9, 7, 8), tolerance=1e-2)
    error = dense(gaussians, points) - got.reshape(-1)
    assert error.min() > -1e-5
    assert error.max() < 1e-2 * len(gaussians["means"])


def test_needles_do_not_cancel() -> None:
    p = {
        "means": torch.zeros(1, 3),
        "quats": torch.tensor([[0.9, 0.3, -0.2, 0.4]]),
        "scales": torch.tensor([[0.5, 0.5, 1e-3]]),
        "opacities": torch.ones(1),
    }
    points = grid_points((31, 31, 31))
    got = density_grid(**p, low=LOW, high=HIGH, shape=(31, 31, 31)).reshape(-1)
    assert (got - dense(p, points)).abs().max() < 1e-5


def test_bit_identical_for_any_number_of_threads(gaussians: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for threads in ("1", "3"):
        monkeypatch.setenv("SPLATMILL_THREADS", threads)
        results.append(density_grid(**gaussians, low=LOW, high=HIGH, shape=(20, 20, 20)))
    assert torch.equal(*results)


def test_what_cannot_count_counts_for_nothing(gaussians: dict[str, Tensor]) -> None:
    want = density_grid(**{k: v[4:] for k, v in gaussians.items()}, low=LOW, high=HIGH, shape=(12, 12, 12))
    gaussians["means"][0, 0] = float("nan")
    gaussians["scales"][1] = 0
    gaussians["opacities"][2] = -1
    gaussians["quats"][3] = 0
    assert torch.equal(density_grid(**gaussians, low=LOW, high=HIGH, shape=(12, 12, 12)), want)
    none = {k: v[:0] for k, v in gaussians.items()}
    assert not density_grid(**none, low=LOW, high=HIGH, shape=(3, 4, 5)).any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"quats": torch.zeros(2, 4)}, r"quats has shape \[2, 4\], expected \[200, 4\]"),
        ({"shape": (0, 3, 3)}, "three counts"),
        ({"low": (1.0, 1.0)}, "three finite numbers"),
        ({"tolerance": 0.0}, "tolerance"),
    ],
)
def test_bad_input_is_named(gaussians: dict[str, Tensor], change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        density_grid(**{**gaussians, "low": LOW, "high": HIGH, "shape": (4, 4, 4), **change})
