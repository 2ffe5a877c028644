"""``rasterize``: 3D Gaussians to images, differentiable, on any machine.

The arguments, the semantics and the ``info`` fields are those of ``gsplat.rasterization`` (unpacked), so a
densification strategy written for gsplat runs on either backend:

    numba       CPU float32: compiled kernels, bit-identical for any number of threads
    gsplat      CUDA float32: the gsplat package
    reference   any device and float dtype: a page of torch (reference.py)

    >>> g = gaussians.activated()
    >>> image, alpha, info = rasterize(**g, viewmats=c.viewmats, Ks=c.Ks, width=64, height=64, sh_degree=0)
"""

from __future__ import annotations

from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from pipeline_core.cameras import Cameras
from pipeline_core.rendering.cpu import rasterize_cpu
from pipeline_core.rendering.reference import rasterize_reference
from pipeline_core.types import Gaussians

RenderMode = Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"]
Backend = Literal["numba", "gsplat", "reference"]
MAX_SIZE = 16384
"""Largest image side in pixels."""


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    backgrounds: Tensor | None = None,
    render_mode: RenderMode = "RGB",
    absgrad: bool = False,
    backend: Backend | None = None,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Render N Gaussians in V views.

    Args:
        means: [N, 3] world positions.
        quats: [N, 4] wxyz, any length but zero.
        scales: [N, 3] standard deviations > 0 (activated, not log).
        opacities: [N] in [0, 1] (activated, not logit).
        colors: [N, 3] or [V, N, 3]; with ``sh_degree`` [N, K, 3] harmonics, K >= (sh_degree + 1)^2, see harmonics.py.
        viewmats: [V, 4, 4] world to camera, OpenCV axes.
        Ks: [V, 3, 3] intrinsics in pixels; the centre of the first pixel is (0.5, 0.5). No gradient.
        near_plane, far_plane: Gaussians whose centre is nearer or farther are not drawn.
        eps2d: pixels^2 added to the 2D variances, so nothing is thinner than a pixel.
        backgrounds: [V, 3] colour where nothing is in front; None is black.
        render_mode: D is the accumulated depth sum(w z), ED the expected depth sum(w z) / sum(w), last channel.
        absgrad: also sum the gradient of ``info["means2d"]`` over pixels by absolute value (AbsGS, Ye et al. 2024)
            into ``info["means2d"].absgrad`` [V, N, 2] during the backward pass.
        backend: None takes gsplat for CUDA tensors and numba for CPU tensors.

    Returns:
        colours [V, height, width, C] with C = 3, 1 (D, ED) or 4, alphas [V, height, width, 1], and info: ``radii``
        [V, N, 2] int32 pixels (0 = not drawn), ``means2d`` [V, N, 2] pixels (``retain_grad()`` before the backward
        pass), ``depths`` [V, N], ``conics`` [V, N, 3], ``opacities`` [V, N], ``width``, ``height``, ``n_cameras`` ...

    No Gaussians, or none in view, is an image of the background with zero gradients. On numba, a Gaussian with a NaN or
    infinite parameter or a zero quaternion is not drawn and gets zero gradients, ``info`` is zero for what is not
    drawn, and viewmats have no gradient (gsplat and reference give one). Raises ValueError for anything malformed.
    """
    _check(means, quats, scales, opacities, colors, viewmats, Ks, width, height, sh_degree, backgrounds, render_mode)
    if not 0 <= near_plane < far_plane:
        raise ValueError(f"near_plane={near_plane} and far_plane={far_plane} must be 0 <= near_plane < far_plane")
    if not 0 <= eps2d < float("inf"):
        raise ValueError(f"eps2d={eps2d} must be finite and >= 0")
    backend = _choose(backend, means)
    if backend == "numba" and viewmats.requires_grad:
        raise ValueError(
            f"viewmats of shape {list(viewmats.shape)} require a gradient, which the CPU kernels do not give; "
            "detach them, or use backend='reference'"
        )
    options: dict[str, Any] = {
        "near_plane": float(near_plane),
        "far_plane": float(far_plane),
        "eps2d": float(eps2d),
        "sh_degree": sh_degree,
        "backgrounds": backgrounds,
        "absgrad": absgrad,
    }
    arguments = (means, quats, scales, opacities, colors, viewmats, Ks, int(width), int(height))
    if backend == "gsplat":
        if not len(means):
            return _nothing(means, viewmats, width, height, backgrounds, render_mode)
        return _gsplat(*arguments, render_mode=render_mode, **options)
    if backend == "numba":
        depth = None if render_mode == "RGB" else "expected" if render_mode.endswith("ED") else "accumulated"
        image, alphas, info = rasterize_cpu(*arguments, depth=depth, **options)
        image = image[..., 3:] if render_mode in ("D", "ED") else image
    else:
        image, alphas, info = rasterize_reference(*arguments, **options)
        image = _channels(image, alphas, render_mode)
    info |= {"width": int(width), "height": int(height), "n_cameras": len(viewmats), "n_batches": 1, "tile_size": 16}
    info |= {"batch_ids": None, "camera_ids": None, "gaussian_ids": None}
    return image, alphas, info


@torch.no_grad()
def rasterize_views(
    gaussians: Gaussians, cameras: Cameras, *, backgrounds: Tensor | None = None, render_mode: RenderMode = "RGB"
) -> tuple[Tensor, Tensor]:
    """Colours [V, H, W, C], as ``render_mode`` says, and alphas [V, H, W, 1] of ``gaussians`` from ``cameras``, without
    a graph."""
    image, alphas, _ = rasterize(
        **gaussians.activated(), viewmats=cameras.viewmats, Ks=cameras.Ks, width=cameras.width, height=cameras.height,
        sh_degree=gaussians.sh_degree, backgrounds=backgrounds, render_mode=render_mode,
    )  # fmt: skip
    return image, alphas


def rasterize_batch(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    *,
    sh_degree: int | None = None,
    backgrounds: Tensor,
) -> tuple[Tensor, list[dict[str, Any]] | dict[str, Any]]:
    """:func:`rasterize` of J scenes of N > 0 Gaussians in V views each, on a GPU in one launch.

    Every tensor has J in front: means [J, N, 3], colors [J, N, 3] or [J, N, K, 3], viewmats [J, V, 4, 4], backgrounds
    [J, V, 3] ... Returns colours [J, V, height, width, 3] and each scene's ``info``, or where it was one launch that of
    all [J, V, N, ...]; ``means2d`` keeps its gradient. A Gaussian of opacity 0 is not drawn and gets no gradient:
    scenes of different sizes are filled up with them.
    """
    scenes = means, quats, scales, opacities, colors, viewmats, Ks
    if _choose(None, means) == "gsplat":
        images, _, info = _gsplat(
            *scenes, width, height, render_mode="RGB", sh_degree=sh_degree, backgrounds=backgrounds, absgrad=False
        )
        _keep_gradient(info)
        return images, info | {"width": width, "height": height}
    drawn = [
        rasterize(m, q, s, o, c, view, K, width, height, sh_degree=sh_degree, backgrounds=background)
        for m, q, s, o, c, view, K, background in zip(*scenes, backgrounds, strict=True)
    ]
    for _, _, info in drawn:
        _keep_gradient(info)
    return torch.stack([image for image, _, _ in drawn]), [info for _, _, info in drawn]


def _keep_gradient(info: dict[str, Any]) -> None:
    if info["means2d"].requires_grad:
        info["means2d"].retain_grad()


class Part:
    """``whole[index]`` of a tensor that keeps its gradient: what of it this part has, once it is there."""

    def __init__(self, whole: Tensor, index: Any) -> None:
        self._whole, self._index = whole, index

    @property
    def grad(self) -> Tensor | None:
        """The gradient of this part, None before the backward."""
        return None if self._whole.grad is None else self._whole.grad[self._index]


def _nothing(
    means: Tensor, viewmats: Tensor, width: int, height: int, backgrounds: Tensor | None, render_mode: RenderMode
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """No Gaussians: gsplat divides by their number on the host and ends the process."""
    views = len(viewmats)
    alphas = means.sum() * 0 + torch.zeros(views, height, width, 1, device=means.device, dtype=means.dtype)
    colour = 0 if backgrounds is None else backgrounds[:, None, None]
    image = _channels(torch.cat([alphas.expand(-1, -1, -1, 3) + colour, alphas], dim=-1), alphas, render_mode)
    pairs = means.new_zeros(views, 0, 2, requires_grad=means.requires_grad) + 0
    info: dict[str, Any] = {"means2d": pairs, "radii": pairs.detach().int(), "depths": pairs[..., 0]}
    info |= {"opacities": pairs[..., 0], "conics": means.new_zeros(views, 0, 3), "n_cameras": views}
    return image, alphas, info | {"width": width, "height": height}


def _channels(image: Tensor, alphas: Tensor, render_mode: RenderMode) -> Tensor:
    """The channels of ``render_mode`` from colour and accumulated depth [V, H, W, 4]."""
    rgb, depth = image[..., :3], image[..., 3:]
    if render_mode == "RGB":
        return rgb
    if render_mode.endswith("ED"):
        depth = depth / alphas.clamp_min(1e-10)
    return torch.cat([rgb, depth], dim=-1) if render_mode.startswith("RGB") else depth


def _choose(backend: Backend | None, means: Tensor) -> Backend:
    """The backend to run, checked against the device and dtype of ``means``."""
    if backend is None:
        backend = "gsplat" if means.device.type == "cuda" else "numba"
    device, dtype = {"numba": ("cpu", torch.float32), "gsplat": ("cuda", torch.float32)}.get(backend, (None, None))
    if backend not in get_args(Backend):
        raise ValueError(f"backend={backend!r} must be one of {', '.join(get_args(Backend))}, or None")
    if device is not None and (means.device.type != device or means.dtype != dtype):
        raise ValueError(
            f"backend {backend!r} takes {dtype} tensors on {device}, got means {means.dtype} on {means.device}; "
            "backend='reference' takes any float dtype on any device"
        )
    return backend


def _check(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    sh_degree: int | None,
    backgrounds: Tensor | None,
    render_mode: str,
) -> None:
    """Raise a ValueError that names the first argument of the wrong kind, shape, dtype, device or value."""
    named = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "colors": colors}
    named |= {"viewmats": viewmats, "Ks": Ks}
    if backgrounds is not None:
        named["backgrounds"] = backgrounds
    for name, value in named.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"{name} must be a torch tensor, got {type(value).__name__}")
        if value.dtype != means.dtype or not value.is_floating_point() or value.device != means.device:
            raise ValueError(
                f"{name} must have the dtype and device of means and be floating point, "
                f"got {value.dtype} on {value.device} beside means {means.dtype} on {means.device}"
            )
    if render_mode not in get_args(RenderMode):
        raise ValueError(f"render_mode={render_mode!r} must be one of {', '.join(get_args(RenderMode))}")
    if sh_degree is not None and sh_degree not in (0, 1, 2, 3):
        raise ValueError(f"sh_degree={sh_degree!r} must be None, 0, 1, 2 or 3")
    for name, size in (("width", width), ("height", height)):
        if not isinstance(size, (int, np.integer)) or not 1 <= size <= MAX_SIZE:
            raise ValueError(f"{name}={size!r} must be a whole number from 1 to {MAX_SIZE}")
    if means.ndim != 2 or viewmats.ndim != 3:
        name, value, want = ("means", means, "[N, 3]") if means.ndim != 2 else ("viewmats", viewmats, "[V, 4, 4]")
        raise ValueError(f"{name} must be {want}, got {list(value.shape)}")
    n, v = means.shape[0], viewmats.shape[0]
    shapes: dict[str, list[tuple[int, ...]]] = {
        "means": [(n, 3)],
        "quats": [(n, 4)],
        "scales": [(n, 3)],
        "opacities": [(n,)],
        "colors": [(n, 3), (v, n, 3)],
        "viewmats": [(v, 4, 4)],
        "Ks": [(v, 3, 3)],
        "backgrounds": [(v, 3)],
    }
    if sh_degree is not None:
        least = (sh_degree + 1) ** 2
        k = colors.shape[1] if colors.ndim == 3 else least
        shapes["colors"] = [(n, max(k, least), 3)]
    for name, value in named.items():
        if tuple(value.shape) not in shapes[name]:
            expected = " or ".join(str(list(shape)) for shape in shapes[name])
            raise ValueError(
                f"{name} has shape {list(value.shape)}, expected {expected} "
                f"for {n} Gaussians (means) and {v} views (viewmats)"
                + (f" with sh_degree={sh_degree}" if name == "colors" and sh_degree is not None else "")
            )
    if v == 0:
        raise ValueError("viewmats has shape [0, 4, 4], expected at least one view")
    if means.device.type != "cpu":
        return  # to look at values on a GPU would be to wait for it
    for name in ("viewmats", "Ks", "backgrounds"):
        if name in named and not bool(torch.isfinite(named[name]).all()):
            raise ValueError(f"{name} of shape {list(named[name].shape)} must be finite, it holds NaN or infinity")
    if not bool((Ks[:, [0, 1], [0, 1]] > 0).all()):
        raise ValueError(f"Ks of shape {list(Ks.shape)} must have positive focal lengths Ks[:, 0, 0] and Ks[:, 1, 1]")


def _gsplat(
    *arguments: Any,
    render_mode: RenderMode,
    sh_degree: int | None,
    backgrounds: Tensor | None,
    absgrad: bool,
    **options: float,
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """The same on CUDA through the gsplat package."""
    try:
        from gsplat import rasterization
    except ImportError as error:
        raise ImportError(
            f"CUDA tensors are rasterized by gsplat, which cannot be imported ({error}); "
            "`pip install gsplat==1.5.3`, or move the tensors to the CPU"
        ) from error
    if backgrounds is not None and render_mode in ("D", "ED"):
        backgrounds = None  # depth has no background
    return rasterization(
        *arguments,
        packed=False,
        sh_degree=sh_degree,
        backgrounds=backgrounds,
        render_mode=render_mode,
        absgrad=absgrad,
        **options,
    )
