"""``rasterize`` on the CPU: against float64 autograd of the reference, gsplat's own projection, and bad input.

The class at the end needs a CUDA device and gsplat, and is skipped elsewhere.
"""

from __future__ import annotations

import os
import threading

import pytest
import torch
from torch import Tensor

from pipeline_core.cameras import orbit
from pipeline_core.rendering import rasterize as rasterize_module
from pipeline_core.rendering.rasterize import rasterize
from pipeline_core.rendering.sh import sh_basis, sh_colors
from tests.pipeline_core.rendering.scenes import NAMES, SCENES, cameras, cloud, scene

BOUND = 1e-5


def run(
    parameters: dict[str, Tensor], views, dtype: torch.dtype, backend: str | None = None, **options
) -> dict[str, Tensor]:
    """Image, alphas, and every gradient of a loss with random weights."""
    leaves = {k: v.to(dtype).clone().requires_grad_() for k, v in parameters.items()}
    generator = torch.Generator().manual_seed(3)
    backgrounds = torch.rand(len(views), 3, generator=generator).to(dtype).requires_grad_()
    options = {"render_mode": "RGB+ED", "absgrad": True, "backgrounds": backgrounds, **options}
    image, alphas, info = rasterize(
        **leaves, viewmats=views.viewmats.to(dtype), Ks=views.Ks.to(dtype), width=views.width, height=views.height,
        backend=backend, **options,
    )  # fmt: skip
    info["means2d"].retain_grad()
    weights = (
        torch.randn(image.shape, generator=generator).to(dtype),
        torch.randn(alphas.shape, generator=generator).to(dtype),
    )
    ((image * weights[0]).sum() + (alphas * weights[1]).sum()).backward()
    out = {
        "image": image.detach(),
        "alphas": alphas.detach(),
        "radii": info["radii"].double(),
        "means2d": info["means2d"].grad,
    }
    out |= {k: v.grad for k, v in leaves.items()}
    if options["backgrounds"] is not None:
        out["backgrounds"] = options["backgrounds"].grad
    if options["absgrad"]:
        out["absgrad"] = info["means2d"].absgrad
    return out


def assert_close(got: dict[str, Tensor], want: dict[str, Tensor], bound: float = BOUND) -> None:
    for name, expected in want.items():
        error = (got[name].double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-12)
        assert error < bound, f"{name}: relative L2 error {error:.2e}"


@pytest.mark.parametrize("name", SCENES)
def test_image_and_every_gradient_match_float64_autograd(name: str) -> None:
    parameters, views, options = scene(name)
    got = run(parameters, views, torch.float32, **options)
    want = run(parameters, views, torch.float64, "reference", **options)
    assert torch.equal(got.pop("radii"), want.pop("radii"))
    assert want["alphas"].max() > 0.02
    assert_close(got, want)


@pytest.mark.parametrize("mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
def test_every_render_mode(mode: str) -> None:
    parameters, views, options = scene("sparse")
    got = run(parameters, views, torch.float32, render_mode=mode, absgrad=False, **options)
    want = run(parameters, views, torch.float64, "reference", render_mode=mode, absgrad=False, **options)
    assert got["image"].shape == (2, 48, 48, {"RGB": 3, "D": 1, "ED": 1}.get(mode, 4))
    if mode in ("D", "ED"):
        for name in ("colors", "backgrounds"):
            for gradient in (got.pop(name), want.pop(name)):
                assert gradient is None or not gradient.any(), name
    assert_close(got, want)


@pytest.mark.parametrize("backend", ["numba", "reference"])
def test_info_has_what_gsplats_strategies_read(backend: str) -> None:
    parameters, views, _ = scene("sparse")
    n = len(parameters["means"])
    *_, info = rasterize(**parameters, viewmats=views.viewmats, Ks=views.Ks, width=48, height=40, backend=backend)
    shapes = {name: tuple(value.shape) for name, value in info.items() if isinstance(value, Tensor)}
    assert shapes == {
        "radii": (2, n, 2), "means2d": (2, n, 2), "depths": (2, n), "conics": (2, n, 3), "opacities": (2, n),
    }  # fmt: skip
    assert {name: value for name, value in info.items() if name not in shapes} == {
        "width": 48, "height": 40, "n_cameras": 2, "n_batches": 1, "tile_size": 16,
        "batch_ids": None, "camera_ids": None, "gaussian_ids": None,
    }  # fmt: skip
    assert info["radii"].dtype == torch.int32


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_colours_that_depend_on_the_view(degree: int) -> None:
    parameters, views, options = scene("sparse", coefficients=16)
    got = run(parameters, views, torch.float32, sh_degree=degree, **options)
    want = run(parameters, views, torch.float64, "reference", sh_degree=degree, **options)
    assert_close(got, want)
    assert not got["colors"][:, (degree + 1) ** 2 :].any()


def test_colours_per_view() -> None:
    parameters, views, options = scene("sparse")
    parameters["colors"] = torch.rand(2, len(parameters["means"]), 3, generator=torch.Generator().manual_seed(1))
    assert_close(
        run(parameters, views, torch.float32, **options), run(parameters, views, torch.float64, "reference", **options)
    )


def test_harmonics_are_orthonormal_and_degree_0_is_the_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    directions = torch.nn.functional.normalize(
        torch.randn(200_000, 3, generator=generator, dtype=torch.float64), dim=-1
    )
    basis = sh_basis(3, directions)
    gram = 4 * torch.pi * basis.T @ basis / len(basis)
    assert torch.allclose(gram, torch.eye(16, dtype=torch.float64), atol=0.03)
    assert torch.allclose(
        sh_colors(0, directions[:1], torch.ones(1, 1, 3).double()), torch.tensor(0.78209479177387814).double()
    )


def test_harmonics_and_projection_are_gsplats() -> None:
    implementation = pytest.importorskip("gsplat.cuda._torch_impl")
    parameters, views, _ = scene("sparse", coefficients=16)
    _, _, info = rasterize(**parameters, viewmats=views.viewmats, Ks=views.Ks, width=48, height=48, sh_degree=3)
    covariances, _ = implementation._quat_scale_to_covar_preci(parameters["quats"], parameters["scales"], True, False)
    radii, means2d, depths, conics, _ = implementation._fully_fused_projection(
        parameters["means"], covariances, views.viewmats, views.Ks, 48, 48
    )
    drawn = (info["radii"] > 0).all(-1) & (radii > 0).all(-1)
    assert drawn.any()
    for name, want in (("means2d", means2d), ("depths", depths), ("conics", conics)):
        assert torch.allclose(info[name][drawn], want[drawn], rtol=1e-4, atol=1e-4), name
    directions = parameters["means"] - torch.linalg.inv(views.viewmats)[0, :3, 3]
    want = implementation._spherical_harmonics(3, directions, parameters["colors"])
    assert torch.allclose(sh_colors(3, directions, parameters["colors"]), (want + 0.5).clamp_min(0), atol=1e-5)


def test_one_gaussian_in_closed_form() -> None:
    """A sphere on the optical axis: alpha at the centre is o, its profile has variance (f s / z)^2 + eps2d."""
    c = orbit(torch.tensor([0.0]), torch.tensor([0.0]), size=33)
    K = c.Ks.clone()
    image, alphas, info = rasterize(
        torch.zeros(1, 3), torch.tensor([[1.0, 0, 0, 0]]), torch.full((1, 3), 0.1), torch.tensor([0.6]),
        torch.ones(1, 3), c.viewmats, K, 33, 33, render_mode="RGB+ED",
    )  # fmt: skip
    variance = (K[0, 0, 0] * 0.1 / 2.5) ** 2 + 0.3
    d = torch.arange(33) + 0.5 - 16.5
    r2 = d[:, None] ** 2 + d**2
    want = 0.6 * torch.exp(-0.5 * r2 / variance)
    want = torch.where(want >= 1 / 255, want, 0)
    assert torch.allclose(alphas[0, ..., 0], want, atol=2e-6)
    assert torch.allclose(image[0, ..., 3], torch.where(want > 0, 2.5, 0.0), atol=1e-5)
    assert (
        info["radii"][0, 0].tolist()
        == [int(torch.ceil((2 * torch.log(torch.tensor(153.0))).sqrt() * variance.sqrt()))] * 2
    )


@pytest.mark.parametrize("eps2d", [0.3, 0.0])
def test_needles_across_a_large_image_lose_no_block(eps2d: float) -> None:
    """A block wrongly left out would miss by the alpha there; a pixel at the threshold may miss by 1/255."""
    parameters, views = cloud(12, torch.Generator().manual_seed(0), spread=0.4), cameras(2, 701, 499)
    parameters["scales"] = torch.tensor([0.5, 0.002, 0.0005]).repeat(12, 1)
    with torch.no_grad():
        got, want = (
            rasterize(
                **{k: v.to(dtype) for k, v in parameters.items()}, viewmats=views.viewmats.to(dtype),
                Ks=views.Ks.to(dtype), width=701, height=499, eps2d=eps2d, backend=backend,
            )[1].double()
            for dtype, backend in ((torch.float32, "numba"), (torch.float64, "reference"))
        )  # fmt: skip
    assert (got - want).abs().max() < 1.001 / 255
    assert ((got - want).abs() > 1e-4).sum() < 5 and (want > 0.1).sum() > 10_000


@pytest.mark.parametrize("threads", [2, 3, 7])
def test_bit_identical_for_any_number_of_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    parameters, views = cloud(300, generator, coefficients=9), cameras(2, 70, 50)
    monkeypatch.setenv("SPLATMILL_THREADS", "1")
    want = run(parameters, views, torch.float32, sh_degree=2)
    monkeypatch.setenv("SPLATMILL_THREADS", str(threads))
    got = run(parameters, views, torch.float32, sh_degree=2)
    assert all(torch.equal(got[k], want[k]) for k in want)


def test_many_python_threads_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLATMILL_THREADS", "2")
    parameters, views = cloud(100, torch.Generator().manual_seed(0)), cameras(2, 40, 40)
    want = run(parameters, views, torch.float32)
    results: list[dict[str, Tensor]] = []
    workers = [threading.Thread(target=lambda: results.append(run(parameters, views, torch.float32))) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 6
    assert all(torch.equal(got[k], want[k]) for got in results for k in want)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_renders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLATMILL_THREADS", "2")
    parameters, views = cloud(100, torch.Generator().manual_seed(0)), cameras(2, 40, 40)

    def render() -> Tensor:
        with torch.no_grad():
            return rasterize(**parameters, viewmats=views.viewmats, Ks=views.Ks, width=40, height=40)[0]

    want = render()
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(render(), want) else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_nothing_to_draw_is_the_background_with_zero_gradients() -> None:
    views = cameras(2, 20, 18)
    for parameters in (cloud(0, torch.Generator()), cloud(5, torch.Generator().manual_seed(0))):
        parameters["means"] = parameters["means"] + 100.0
        got = run(parameters, views, torch.float32)
        assert torch.equal(got["image"][..., :3], got["image"][:, :1, :1, :3].expand(2, 18, 20, 3))
        assert not got["alphas"].any()
        assert not any(got[k].any() for k in NAMES)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_a_gaussian_that_is_not_finite_is_not_drawn(name: str, value: float) -> None:
    parameters, views = cloud(30, torch.Generator().manual_seed(0)), cameras(1, 32, 32)
    want = run({k: v[1:] for k, v in parameters.items()}, views, torch.float32)
    parameters[name].view(30, -1)[0, 0] = value
    got = run(parameters, views, torch.float32)
    assert torch.equal(got["image"], want["image"])
    for k in NAMES:
        assert not got[k][0].any()
        assert torch.equal(got[k][1:], want[k])


def test_a_quaternion_of_zeros_is_not_drawn() -> None:
    parameters, views = cloud(3, torch.Generator().manual_seed(0)), cameras(1, 32, 32)
    parameters["quats"][:] = 0
    got = run(parameters, views, torch.float32)
    assert not got["alphas"].any() and not got["quats"].any()


def good() -> dict:
    views = cameras(2, 16, 16)
    return {
        **cloud(4, torch.Generator().manual_seed(0)),
        "viewmats": views.viewmats,
        "Ks": views.Ks,
        "width": 16,
        "height": 16,
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"means": torch.zeros(4, 2)}, r"means has shape \[4, 2\], expected \[4, 3\]"),
        ({"means": torch.zeros(3)}, r"means must be \[N, 3\], got \[3\]"),
        ({"quats": torch.zeros(4, 3)}, r"quats has shape \[4, 3\], expected \[4, 4\]"),
        ({"scales": torch.zeros(3, 3)}, r"scales has shape \[3, 3\], expected \[4, 3\]"),
        ({"opacities": torch.zeros(4, 1)}, r"opacities has shape \[4, 1\], expected \[4\]"),
        ({"colors": torch.zeros(4, 4)}, r"colors has shape \[4, 4\], expected \[4, 3\] or \[2, 4, 3\]"),
        ({"colors": torch.zeros(4, 4, 3), "sh_degree": 2}, r"colors has shape \[4, 4, 3\], expected \[4, 9, 3\]"),
        ({"colors": torch.zeros(4, 3), "sh_degree": 1}, r"colors has shape \[4, 3\], expected \[4, 4, 3\]"),
        ({"sh_degree": 4}, "sh_degree=4 must be"),
        ({"viewmats": torch.zeros(4, 4)}, r"viewmats must be \[V, 4, 4\], got \[4, 4\]"),
        ({"viewmats": torch.zeros(0, 4, 4), "Ks": torch.zeros(0, 3, 3)}, "at least one view"),
        ({"viewmats": torch.full((2, 4, 4), float("nan"))}, "viewmats .* must be finite"),
        ({"viewmats": torch.eye(4).repeat(2, 1, 1).requires_grad_()}, "viewmats .* require a gradient"),
        ({"Ks": torch.zeros(1, 3, 3)}, r"Ks has shape \[1, 3, 3\], expected \[2, 3, 3\]"),
        ({"Ks": torch.zeros(2, 3, 3)}, "Ks .* positive focal lengths"),
        ({"backgrounds": torch.zeros(3)}, r"backgrounds has shape \[3\], expected \[2, 3\]"),
        ({"means": torch.zeros(4, 3, dtype=torch.float64)}, "quats must have the dtype and device of means"),
        ({"opacities": torch.zeros(4, dtype=torch.int64)}, "opacities must have the dtype"),
        ({"colors": [[0, 0, 0]]}, "colors must be a torch tensor, got list"),
        ({"width": 0}, "width=0 must be a whole number"),
        ({"height": -3}, "height=-3"),
        ({"height": 16.5}, "height=16.5"),
        ({"width": 10**6}, "width=1000000"),
        ({"near_plane": 2.0, "far_plane": 1.0}, "near_plane=2.0"),
        ({"eps2d": float("nan")}, "eps2d=nan"),
        ({"render_mode": "depth"}, "render_mode='depth' must be one of"),
        ({"backend": "opengl"}, "backend='opengl' must be one of"),
        ({"backend": "gsplat"}, "backend 'gsplat' takes torch.float32 tensors on cuda"),
    ],
)
def test_bad_input_is_named(change: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        rasterize(**{**good(), **change})


def test_float64_is_pointed_to_the_reference() -> None:
    arguments = {k: v.double() if isinstance(v, Tensor) else v for k, v in good().items()}
    with pytest.raises(ValueError, match="backend='reference' takes any float dtype"):
        rasterize(**arguments)
    assert rasterize(**arguments, backend="reference")[0].dtype == torch.float64


def test_gsplats_own_strategy_runs_on_the_cpu_backend() -> None:
    strategy_module = pytest.importorskip("gsplat.strategy")
    raw = cloud(50, torch.Generator().manual_seed(0))
    raw["scales"], raw["opacities"] = raw["scales"].log(), torch.logit(raw["opacities"])
    params = torch.nn.ParameterDict({k: torch.nn.Parameter(v) for k, v in raw.items()})
    optimizers = {k: torch.optim.Adam([v], lr=1e-3) for k, v in params.items()}
    strategy = strategy_module.DefaultStrategy(
        refine_start_iter=0, refine_every=2, grow_grad2d=1e-6, absgrad=True, prune_opa=0.1
    )
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state(scene_scale=1.0)
    views = cameras(2, 32, 32)
    before = len(params["means"])
    for step in range(1, 5):
        image, _, info = rasterize(
            params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid(), params["colors"],
            views.viewmats, views.Ks, 32, 32, absgrad=True,
        )  # fmt: skip
        strategy.step_pre_backward(params, optimizers, state, step, info)
        image.square().mean().backward()
        for optimizer in optimizers.values():
            optimizer.step()
            optimizer.zero_grad()
        strategy.step_post_backward(params, optimizers, state, step, info)
    assert len(params["means"]) != before


class TestAgainstGsplat:
    """Needs a CUDA device and the gsplat package."""

    @pytest.fixture(autouse=True)
    def _device(self) -> None:
        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
        pytest.importorskip("gsplat")

    @pytest.mark.parametrize("name", SCENES)
    def test_parity(self, name: str) -> None:
        parameters, views, options = scene(name)
        got = run(parameters, views, torch.float32, **options)
        cuda = run(
            {k: v.cuda() for k, v in parameters.items()}, views.to("cuda"), torch.float32, backgrounds=None, **options
        )
        ours = run(parameters, views, torch.float32, backgrounds=None, **options)
        cuda = {k: v.cpu() for k, v in cuda.items()}
        assert torch.equal((ours["radii"] > 0).all(-1), (cuda["radii"] > 0).all(-1))
        assert (ours["image"] - cuda["image"]).abs().max() < 1e-4
        assert_close({k: ours[k] for k in NAMES}, {k: cuda[k] for k in NAMES}, bound=1e-3)
        assert got["image"].shape == cuda["image"].shape


@pytest.mark.parametrize("mode", ["RGB", "ED", "RGB+D"])
def test_no_gaussians_never_reach_gsplat(monkeypatch, mode):
    """gsplat 1.5.3 divides by their number on the host: the process would end by SIGFPE."""
    cameras = orbit(torch.tensor([0.0, 90.0]), torch.tensor([0.0]), size=8)
    empty = [torch.zeros(0, *shape, requires_grad=True) for shape in ((3,), (4,), (3,), (), (3,))]
    background = torch.rand(2, 3)
    options = {"backgrounds": background, "render_mode": mode}
    wanted, none, info = rasterize(*empty, cameras.viewmats, cameras.Ks, 8, 8, **options)
    monkeypatch.setattr(rasterize_module, "_choose", lambda backend, means: "gsplat")
    monkeypatch.setattr(rasterize_module, "_gsplat", lambda *arguments, **options: pytest.fail("gsplat was called"))
    image, alphas, found = rasterize(*empty, cameras.viewmats, cameras.Ks, 8, 8, **options)
    assert torch.equal(image, wanted) and torch.equal(alphas, none)
    for name in ("means2d", "radii", "depths", "conics", "opacities"):
        assert found[name].shape == info[name].shape, name
    found["means2d"].retain_grad()
    image.sum().backward()
    assert empty[0].grad.shape == (0, 3)
