"""Gaussians as an optimisation sees them: raw parameters, activated, rasterised; one, or all of a step together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pipeline_core.cameras import Cameras
from pipeline_core.device import upload
from pipeline_core.engine.shading import Shading
from pipeline_core.gaussians.strategies import gradient_sums
from pipeline_core.rendering.rasterize import Part, rasterize, rasterize_batch
from pipeline_core.types import sh0_to_rgb

DEGREES = {0: None, 3: 1, 8: 2, 15: 3}
"""Degree of the harmonics by the number of rows in ``shN``; None = a colour that is the same from everywhere."""
FILLER = {"means": 0.0, "quats": 1.0, "scales": -10.0, "opacities": -40.0, "sh0": 0.0, "shN": 0.0}
"""Raw values of a Gaussian that nobody sees: it makes scenes equally long."""


Answer = tuple[Tensor, dict[str, Any]]
"""Images [V, 3, H, W] of a scene, and the info of its Gaussians."""


@dataclass(frozen=True)
class Scene:
    """What one job wants to see: raw ``params`` by name; V ``cameras``, ``backgrounds`` [V, 3] and lights on the CPU.

    With ``shading`` colours depend on the view, and there may be no harmonics. ``groups``, where not every view sees
    all: the Gaussians [M] int64 that some views see (None = all), and which views these are; every view is in one.
    """

    params: dict[str, Tensor]
    cameras: Cameras
    backgrounds: Tensor
    shading: Shading | None = None
    groups: tuple[tuple[Tensor | None, list[int]], ...] = ()

    @property
    def kind(self) -> tuple[int, int, int, int, str]:
        """Scenes of one kind can share a launch: views, width, height, rows of ``shN``, how they are shaded."""
        cameras, shading = self.cameras, self.shading
        shown = "" if shading is None else shading.kind
        return len(cameras), cameras.width, cameras.height, self.params["shN"].shape[1], shown

    def apart(self) -> list[Scene]:
        """A scene for each of the groups."""

        return [
            Scene(
                self.params if rows is None else {name: value[rows] for name, value in self.params.items()},
                self.cameras.chosen(views),
                self.backgrounds[views],
                self.shading and replace(self.shading, lights=self.shading.lights[views]),
            )
            for rows, views in self.groups
        ]

    def together(self, shown: Sequence[Answer]) -> Answer:
        """One answer again of those to :meth:`apart`, whose Gaussians are not seen where they were left out."""
        order = [view for _, views in self.groups for view in views]
        drawn = torch.cat([each for each, _ in shown]).unbind()
        images = torch.stack([drawn[order.index(view)] for view in range(len(order))])
        infos, count = [info for _, info in shown], len(self.params["means"])

        def spread(values: Sequence[Tensor]) -> Tensor:
            """[V, N, ...] of each group's own."""
            whole = values[0].new_zeros(len(order), count, *values[0].shape[2:])
            for (rows, views), value in zip(self.groups, values, strict=True):
                for view, row in zip(views, value, strict=True):
                    whole[view][slice(None) if rows is None else rows] = row
            return whole

        means2d = Spread([info["means2d"] for info in infos], spread)
        whole = {name: spread([info[name] for info in infos]) for name in ("radii", "conics")}
        size = {name: infos[0][name] for name in ("width", "height")}
        return images, {"means2d": means2d, **whole, **size}


@dataclass(frozen=True)
class Spread:
    """``means2d`` of a scene's groups, for who looks at its gradient as that of one tensor."""

    pieces: list[Any]
    spread: Callable[[Sequence[Tensor]], Tensor]
    requires_grad = False  # the pieces keep theirs

    @property
    def grad(self) -> Tensor | None:
        """[V, N, 2]; None before the backward."""
        grads = [piece.grad for piece in self.pieces]
        return None if any(grad is None for grad in grads) else self.spread(grads)


def render_together(scenes: Sequence[Scene]) -> list[Answer]:
    """Images [V, 3, H, W] and info of each scene, with one rasterisation for all of a kind.

    Shorter scenes are filled up with Gaussians that nobody sees. The fields of an info are ``means2d`` (whose ``grad``
    is there after the backward), ``radii``, ``conics``, ``width`` and ``height``, for the scene's own Gaussians only.
    """
    if any(scene.groups for scene in scenes):
        pieces = [scene.apart() if scene.groups else [scene] for scene in scenes]
        shown = iter(render_together([piece for each in pieces for piece in each]))
        own = [[next(shown) for _ in each] for each in pieces]
        return [scene.together(each) if scene.groups else each[0] for scene, each in zip(scenes, own, strict=True)]
    kinds: dict[tuple[int, int, int, int, str], list[int]] = {}
    for number, scene in enumerate(scenes):
        kinds.setdefault(scene.kind, []).append(number)
    answers: dict[int, Answer] = {}
    for numbers in kinds.values():
        answers |= zip(numbers, _render_alike([scenes[number] for number in numbers]), strict=True)
    return [answers[number] for number in range(len(scenes))]


def _render_alike(scenes: list[Scene]) -> list[Answer]:
    """Of scenes of one kind."""
    counts = [len(scene.params["means"]) for scene in scenes]
    rows = max(*counts, 1)
    raw = {name: _filled([scene.params[name] for scene in scenes], rows, FILLER[name]) for name in FILLER}
    degree = DEGREES[raw["shN"].shape[1]]
    colors = _colors(raw, degree)
    values = (raw["means"], raw["quats"], raw["scales"].exp(), raw["opacities"].sigmoid(), colors)
    cameras, device = [scene.cameras for scene in scenes], raw["means"].device
    means, quats, scales, opacities, colors = (value.unflatten(0, (len(scenes), rows)) for value in values)
    viewmats, Ks, backgrounds = (
        upload(torch.stack(each), device)
        for each in zip(*((one.cameras.viewmats, one.cameras.Ks, one.backgrounds) for one in scenes), strict=True)
    )
    shadings = [scene.shading for scene in scenes if scene.shading is not None]
    if shadings:  # all of one kind
        together = replace(shadings[0], lights=upload(torch.stack([each.lights for each in shadings]), device))
        colors = together.colours(colors, quats, scales, means, viewmats)
    images, drawn = rasterize_batch(
        means, quats, scales, opacities, colors,
        viewmats, Ks, cameras[0].width, cameras[0].height, sh_degree=degree, backgrounds=backgrounds,
    )  # fmt: skip
    images = images if degree is None else _clamp(images)
    if isinstance(drawn, dict):
        launch = Launch(drawn)
        own = [launch.shown(j, count) for j, count in enumerate(counts)]
    else:
        own = [Shown(each, (slice(None), slice(count))) for each, count in zip(drawn, counts, strict=True)]
    return list(zip(images.permute(0, 1, 4, 2, 3), own, strict=True))


class Shown(dict[str, Any]):
    """The info of one scene: of the Gaussians of ``whole`` those at ``index``, which are cut out when they are asked
    for. Most never are, and a GPU waits for whoever cuts before it encodes."""

    def __init__(self, whole: dict[str, Any], index: Any) -> None:
        super().__init__(means2d=Part(whole["means2d"], index), width=whole["width"], height=whole["height"])
        self._whole, self._index = whole, index

    def __missing__(self, name: str) -> Any:
        self[name] = self._whole[name][self._index]
        return self[name]


class Launch:
    """One rasterisation of J scenes, whose gradients are added up for all of them at once.

    ``info`` is gsplat's, ``means2d`` and ``radii`` [J, V, N, 2].
    """

    def __init__(self, info: dict[str, Any]) -> None:
        self._info = info
        self._sums: tuple[Tensor, Tensor] | None = None

    def shown(self, scene: int, count: int) -> Shown:
        """The info of the first ``count`` Gaussians of a ``scene``."""
        own = Shown(self._info, (scene, slice(None), slice(count)))
        own["launch"] = partial(self.sums, scene, count)
        return own

    def sums(self, scene: int, count: int) -> tuple[Tensor, Tensor]:
        """Of the first ``count`` Gaussians of a ``scene``, after the backward: see :func:`gradient_sums`."""
        if self._sums is None:
            info = self._info
            self._sums = gradient_sums(info["means2d"].grad, info["radii"], info["width"], info["height"])
        total, visible = self._sums
        return total[scene, :count], visible[scene, :count]


def _filled(parts: list[Tensor], rows: int, filler: float) -> Tensor:
    """[J * rows, ...]: each part, filled up to ``rows``. One copy, whose gradient is a view for every part."""
    pieces = []
    nothing = parts[0].new_full((), filler)
    for part in parts:
        pieces += [part, nothing.expand(rows - len(part), *part.shape[1:])]
    return torch.cat(pieces)


def _colors(params: dict[str, Tensor], degree: int | None) -> Tensor:
    """Colours [N, 3], or harmonics [N, K, 3]."""
    if degree is None:
        return _clamp(sh0_to_rgb(params["sh0"]))
    return torch.cat([params["sh0"], params["shN"]], 1)


class _Clamp(torch.autograd.Function):
    """Clamp to [0, 1] that lets a gradient through where a descent step would lead back inside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        stuck = ((x < 0) & (gradient > 0)) | ((x > 1) & (gradient < 0))
        return torch.where(stuck, torch.zeros_like(gradient), gradient)


def _clamp(x: Tensor) -> Tensor:
    clamped: Tensor = _Clamp.apply(x)  # type: ignore[no-untyped-call]  # torch says nothing of its type
    return clamped


def render(
    params: dict[str, Tensor], cameras: Cameras, backgrounds: Tensor, shading: Shading | None = None
) -> tuple[Tensor, Tensor, dict[str, Any]]:
    """Colours [V, H, W, 3] in [0, 1], alphas [V, H, W, 1] and gsplat's info; ``params`` raw, ``backgrounds`` [V, 3].

    Colours are clamped with a gradient that can still leave saturation; the plain clamp of the releases freezes it.
    """
    degree = DEGREES[params["shN"].shape[1]]
    means, quats, scales, colors = params["means"], params["quats"], params["scales"].exp(), _colors(params, degree)
    if shading is not None:
        colors = shading.colours(colors, quats, scales, means, cameras.viewmats)
    image, alphas, info = rasterize(
        means, quats, scales, params["opacities"].sigmoid(), colors,
        cameras.viewmats, cameras.Ks, cameras.width, cameras.height, sh_degree=degree, backgrounds=backgrounds,
    )  # fmt: skip
    return (image if degree is None else _clamp(image)), alphas, info
