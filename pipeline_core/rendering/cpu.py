"""The CPU backend: the kernels as three torch autograd functions, in the order of gsplat's own.

    project      means, quats, scales      -> means2d, depths, conics, covars2d (and radii, records)
    harmonics    means, coefficients       -> colours per view
    blend        all of the above          -> image, alphas

``covars2d`` is the link by which the gradient of shape travels from blend to project: through conics it would lose
digits for thin Gaussians. ``records`` carries the values themselves.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from pipeline_core.device import thread_count
from pipeline_core.rendering import blend, harmonics, projection, tiles
from pipeline_core.rendering.pool import parallel
from pipeline_core.rendering.projection import RECORD


def _array(tensor: Tensor) -> np.ndarray:
    """A contiguous numpy view (or copy) of a CPU tensor."""
    return tensor.detach().contiguous().numpy()


def _lines(rows: int) -> np.ndarray:
    """Uninitialised float32 [rows, 16] whose rows are cache lines."""
    raw = np.empty(rows * RECORD + RECORD, dtype=np.float32)
    start = -raw.ctypes.data % 64 // 4
    return raw[start : start + rows * RECORD].reshape(rows, RECORD)


_spare: deque[np.ndarray] = deque()


@contextmanager
def _scratch(rows: int) -> Iterator[np.ndarray]:
    """:func:`_lines` for the length of a call, from memory that is kept: the first touch of a fresh page costs as much
    as what is computed in it. As many buffers are kept as were ever in use at once, each as long as the longest asked
    of it."""
    try:
        lines = _spare.pop()  # a deque needs no lock, which a fork could leave locked
    except IndexError:
        lines = np.empty((0, RECORD), dtype=np.float32)
    if len(lines) < rows:
        lines = _lines(rows)
    try:
        yield lines[:rows]
    finally:
        _spare.append(lines)


class _Project(torch.autograd.Function):
    """EWA projection of N Gaussians into V views, see projection.py."""

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, views: np.ndarray,
        size: tuple[int, int], limits: tuple[float, float, float], records: np.ndarray,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        V, N = len(views), len(means)
        inputs = tuple(_array(t) for t in (means, quats, scales))
        means2d, depths, conics, covars2d = (torch.empty(V, N, *d) for d in ((2,), (), (3,), (3,)))
        radii = torch.empty(V, N, 2, dtype=torch.int32)
        outputs = tuple(t.numpy() for t in (means2d, depths, conics, covars2d, radii))
        o = _array(opacities)
        parallel(
            lambda part, parts: projection.project_forward(
                *inputs, o, views, *size, *limits, *outputs, records, part, parts
            )
        )
        ctx.mark_non_differentiable(radii)
        ctx.save_for_backward(means, quats, scales, radii)
        ctx.views, ctx.eps2d = views, limits[2]
        return means2d, depths, conics, covars2d, radii

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Any, ...]:
        means, quats, scales, radii = ctx.saved_tensors
        inputs = tuple(_array(t) for t in (means, quats, scales))
        given = tuple(_array(g) for g in grads[:4])
        out = tuple(np.empty(t.shape, dtype=np.float32) for t in (means, quats, scales))
        seen = radii.numpy()
        parallel(
            lambda part, parts: projection.project_backward(
                *inputs, ctx.views, ctx.eps2d, seen, *given, *out, part, parts
            )
        )
        return *(torch.from_numpy(a) for a in out), None, None, None, None, None


class _Harmonics(torch.autograd.Function):
    """Colours [V, N, 3] of spherical harmonics [N, K, 3] seen from camera ``positions`` [V, 3]."""

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, coefficients: Tensor, degree: int, positions: np.ndarray, radii: Tensor
    ) -> Tensor:
        colors = torch.empty(*radii.shape[:2], 3)
        arguments = (degree, _array(means), positions, _array(coefficients), radii.numpy(), colors.numpy())
        parallel(lambda part, parts: harmonics.harmonics_forward(*arguments, part, parts))
        ctx.save_for_backward(means, coefficients, radii, colors)
        ctx.degree, ctx.positions = degree, positions
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_colors: Tensor) -> tuple[Any, ...]:
        means, coefficients, radii, colors = ctx.saved_tensors
        v_means, v_coefficients = torch.empty(means.shape), torch.empty(coefficients.shape)
        arguments = (
            ctx.degree, _array(means), ctx.positions, _array(coefficients), radii.numpy(), _array(colors),
            _array(v_colors), v_means.numpy(), v_coefficients.numpy(),
        )  # fmt: skip
        parallel(lambda part, parts: harmonics.harmonics_backward(*arguments, part, parts))
        return v_means, v_coefficients, None, None, None


class _Blend(torch.autograd.Function):
    """Tile lists and alpha blending, see tiles.py and blend.py. ``depth`` adds a channel."""

    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, depths: Tensor, covars2d: Tensor, opacities: Tensor, colors: Tensor,
        backgrounds: Tensor, radii: Tensor, records: np.ndarray, size: tuple[int, int], depth: str | None,
        absgrad: bool,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        V, N = depths.shape
        width, height = size
        tiles_x, tiles_y = -(-width // tiles.TILE_X), -(-height // tiles.TILE_Y)
        painted = _array(colors if colors.ndim == 3 else colors.unsqueeze(0))
        parallel(lambda part, parts: blend.paint(records, painted, part, parts))
        lists = _list_tiles(records, radii.numpy(), depths.detach().numpy(), tiles_x, tiles_y)
        image = torch.empty(V, height, width, 3 if depth is None else 4)
        alphas = torch.empty(V, height, width, 1)
        total = V * tiles_x * tiles_y
        state = (
            _lines(total * blend.PLANE // RECORD).reshape(total, blend.PLANE),
            _lines(total * blend.PLANE // RECORD).reshape(total, blend.PLANE),
            np.empty(total, dtype=np.int64),
            np.empty((total if depth == "expected" else 0, 2 * blend.PLANE), dtype=np.float32),
        )
        common = (
            records,
            lists["members"],
            lists["starts"],
            lists["blocks"],
            tiles_x,
            tiles_y,
            _array(backgrounds),
            tiles.PATTERNS,
            (width, height, image.shape[-1]),
            depth == "expected",
        )
        outputs = (*state, image.numpy().reshape(-1), alphas.numpy().reshape(-1))
        parallel(lambda part, parts: blend.blend_forward(*common, *outputs, part, parts))
        ctx.save_for_backward(means2d, colors, alphas)
        ctx.common, ctx.state, ctx.lists, ctx.absgrad = common, state, lists, absgrad
        return image, alphas

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_image: Tensor, v_alphas: Tensor) -> tuple[Any, ...]:
        means2d, colors, alphas = ctx.saved_tensors
        records, pairs = ctx.common[0], len(ctx.lists["members"])
        V, N = means2d.shape[:2]
        given = (_array(v_image).reshape(-1), _array(v_alphas).reshape(-1))
        absgrad = torch.empty(V, N, 2) if ctx.absgrad else None
        absolute2d = None if absgrad is None else absgrad.numpy()
        per_view = colors.ndim == 3
        out = tuple(torch.empty(*shape) for shape in ((V, N, 2), (V, N), (V, N, 3), (N,), (V if per_view else 1, N, 3)))
        arrays = (*(t.numpy() for t in out), absolute2d)
        with _scratch(pairs) as sums:
            state = (*ctx.common, *ctx.state, *given, sums, absolute2d)
            parallel(lambda part, parts: blend.blend_backward(*state, part, parts))
            index = (records, ctx.lists["slots"], ctx.lists["positions"], sums, per_view)
            parallel(lambda part, parts: blend.reduce_sums(*index, *arrays, part, parts))
        if ctx.absgrad:
            means2d.absgrad = absgrad
        v_means2d, v_depths, v_covars2d, v_opacities, v_colors = out
        v_backgrounds = (v_image[..., :3] * (1 - alphas)).sum((1, 2)) if ctx.needs_input_grad[5] else None
        v_colors = v_colors.reshape(colors.shape)
        return v_means2d, v_depths, v_covars2d, v_opacities, v_colors, v_backgrounds, None, None, None, None, None


def _list_tiles(
    records: np.ndarray, radii: np.ndarray, depths: np.ndarray, tiles_x: int, tiles_y: int
) -> dict[str, np.ndarray]:
    """``members`` and ``blocks`` [pairs] of the lists that begin at ``starts`` [V * tiles + 1]; ``slots`` [V * N + 1]
    and ``positions`` [pairs] find the pairs of a Gaussian."""
    V, N = depths.shape
    order = np.empty((V, N), dtype=np.int32)
    drawn = np.empty(V, dtype=np.int64)
    parallel(lambda part, parts: projection.depth_order(radii, depths, order, drawn, part, parts))
    # A view's Gaussians are shared out by depth, and the shares' pairs appended in that order.
    shares = -(-thread_count() // V)
    slots = np.zeros(V * N + 1, dtype=np.int64)
    lengths = np.zeros((V, shares, tiles_x * tiles_y), dtype=np.int64)
    jobs = [
        (v, share, drawn[v] * share // shares, drawn[v] * (share + 1) // shares) for v, share in np.ndindex(V, shares)
    ]
    pairs: list[np.ndarray] = [np.empty(0, dtype=np.int64)] * len(jobs)

    def find(part: int, parts: int) -> None:
        for k in range(part, len(jobs), parts):
            v, share, first, last = jobs[k]
            pairs[k] = tiles.find_pairs(
                records, order, tiles.PATTERNS, tiles_x, tiles_y, v, first, last, slots[1:], lengths[v, share]
            )

    parallel(find)
    np.cumsum(slots, out=slots)
    starts = np.zeros(V * tiles_x * tiles_y + 1, dtype=np.int64)
    np.cumsum(lengths.sum(1).reshape(-1), out=starts[1:])
    total = int(starts[-1])
    if total >= 2**31:
        raise ValueError(f"scales are too large: {N} Gaussians touch {total} tiles in {V} views, the limit is 2^31 - 1")
    cursors = starts[:-1].reshape(V, 1, -1) + np.cumsum(lengths, axis=1) - lengths
    members, blocks, positions = (np.empty(total, dtype=kind) for kind in (np.int32, np.uint32, np.int32))

    def fill(part: int, parts: int) -> None:
        for k in range(part, len(jobs), parts):
            v, share, first, last = jobs[k]
            tiles.fill_lists(pairs[k], order, v, first, last, slots, cursors[v, share], members, blocks, positions)

    parallel(fill)
    return {"members": members, "blocks": blocks, "positions": positions, "starts": starts, "slots": slots}


def rasterize_cpu(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, colors: Tensor, viewmats: Tensor, Ks: Tensor,
    width: int, height: int, *, near_plane: float, far_plane: float, eps2d: float, sh_degree: int | None,
    backgrounds: Tensor | None, absgrad: bool, depth: str | None,
) -> tuple[Tensor, Tensor, dict[str, Any]]:  # fmt: skip
    """Arguments as :func:`pipeline_core.rendering.rasterize.rasterize`, ``depth`` None, "accumulated" or "expected".

    Returns the image [V, H, W, 3 or 4], alphas [V, H, W, 1] and info.
    """
    V, N = len(viewmats), len(means)
    records = _lines(V * N)
    rotations, translations = viewmats[:, :3, :3].double(), viewmats[:, :3, 3:].double()
    views = projection.view_rows(_array(viewmats), _array(Ks), width, height)
    limits = (near_plane, far_plane, eps2d)
    means2d, depths, conics, covars2d, radii = _Project.apply(
        means, quats, scales, opacities, views, (width, height), limits, records
    )
    if sh_degree is not None:
        positions = _array(torch.linalg.solve(rotations, -translations)[..., 0])
        colors = _Harmonics.apply(means, colors, sh_degree, positions, radii)
    ground = torch.zeros(V, 3) if backgrounds is None else backgrounds
    image, alphas = _Blend.apply(
        means2d, depths, covars2d, opacities, colors, ground, radii, records, (width, height), depth, absgrad
    )
    info = {"radii": radii, "means2d": means2d, "depths": depths, "conics": conics, "opacities": opacities.expand(V, N)}
    return image, alphas, info
