"""Whether an asset shows its prompt, by a judge that never guided it.

    metrics = fidelity.score(images, azimuth, elevation, "a red mushroom with white spots", points=xyz)
    metrics = fidelity.score_mesh(textured, prompt)          # renders and points made here
    metrics = fidelity.score_gaussians(gaussians, prompt)    # the same for a splat, or for an initial cloud

What is reported for one asset (0 or 1 unless said otherwise; mean them over assets for rates):

===================  ================================================================================================
judged               0: the prompt is outside the judge's vocabulary, and nothing else is reported
r_precision          the true caption is the first of 32 (hard negatives among them), by the mean of the views
r_precision_views    share of views that put it first by themselves
view_agreement       how surely a view by itself puts it first, the mean of the views: 0 to 1
caption_rank         its rank by the mean of the views, 1 to 32
caption_margin       its similarity minus the best other one's; ranks assets of one judge
category_correct     first among all categories in the prompt's colour
colour_correct       first among all body colours of the prompt's thing
view_consistency     mean cosine between what the judge sees from one side and from the others together
front_found          views of the front are taken for the front (categories with a front only, as the next two)
front_repeated       a view from beside or behind is taken for the front as well
janus                1 unless the front is found and not repeated: a featureless thing is no success
janus_score          how surely the front is seen where it belongs, and once more from beside or behind: 0 to 1
f_score              F-score of the points at 5 % of the height, against the best of 32 procedural instances
chamfer              mean nearest distance, both ways, to that instance, over its height
===================  ================================================================================================
"""

from __future__ import annotations

import functools
from dataclasses import replace

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor
from torch.nn import functional as F

from pipeline_core.cameras import Cameras, orbit
from pipeline_core.metrics.judge import Judge, load_judge
from pipeline_core.metrics.judges import caption_of, judged_categories
from pipeline_core.metrics.negatives import candidates, free_candidates, full
from pipeline_core.metrics.views import render_gaussians
from pipeline_core.priors.wording import plain
from pipeline_core.props.captions import caption
from pipeline_core.props.primitives import Prop
from pipeline_core.props.props import COLOURS, FRONTED, PropSpec, build
from pipeline_core.props.raycast import render, sample_points
from pipeline_core.rendering.mesh import render_mesh
from pipeline_core.types import Gaussians, TexturedMesh

AnyJudge = str | Judge
"""A model reference, or a judge that is loaded already."""

AZIMUTH = tuple(45.0 * i for i in range(8))
ELEVATION = (12.0, 28.0) * 4
"""Degrees, of the views that assets are judged by: quarter turns from low, diagonals from higher up."""
SIZE = 64
POINTS = 4096
INSTANCES = 32
"""Procedural instances whose best F-score counts."""
TAU = 0.05
"""Distance threshold of the F-score as a share of the instance's height."""
FRONT_WITHIN, BESIDE_FROM = 25.0, 85.0
"""Degrees from azimuth 0: up to the first a view must show the front, from the second on it must not."""


def evaluation_cameras(size: int = SIZE) -> Cameras:
    """The eight cameras of :data:`AZIMUTH` and :data:`ELEVATION`."""
    return orbit(torch.tensor(AZIMUTH), torch.tensor(ELEVATION), size=size)


def score_mesh(textured: TexturedMesh, prompt: str, *, judge: AnyJudge = "starter") -> dict[str, float]:
    """:func:`score` of a textured mesh in object units, its colours as they are on white."""
    judge = load_judge(judge) if isinstance(judge, str) else judge
    cameras = evaluation_cameras(_render_size(judge))
    images, _ = render_mesh(textured, cameras)
    points = surface_points(textured.vertices, textured.faces, POINTS, np.random.default_rng(0))
    return score(images.permute(0, 3, 1, 2), cameras.azimuth, cameras.elevation, prompt, points=points, judge=judge)


def score_gaussians(
    gaussians: Gaussians, prompt: str, *, judge: AnyJudge = "starter", shape: bool = True
) -> dict[str, float]:
    """:func:`score` of Gaussians on white; the points are means of those that are not nearly transparent.

    At most :data:`POINTS` of them, as many as meshes are judged by: twice as many points find 1 to 4 % more of a thing.
    Without ``shape`` only what they look like is judged.
    """
    judge = load_judge(judge) if isinstance(judge, str) else judge
    cameras = evaluation_cameras(_render_size(judge))
    images, _ = render_gaussians(gaussians, cameras)
    points = None
    if shape:
        points = gaussians.means[gaussians.opacities.sigmoid() > 0.3].detach().numpy()
        points = np.random.default_rng(0).permutation(points)[:POINTS]
    return score(images.permute(0, 3, 1, 2), cameras.azimuth, cameras.elevation, prompt, points=points, judge=judge)


def score(
    images: Tensor,
    azimuth: Tensor,
    elevation: Tensor,
    prompt: str,
    *,
    points: Tensor | np.ndarray | None = None,
    judge: AnyJudge = "starter",
) -> dict[str, float]:
    """The metrics of the module's docstring, for one asset.

    Args:
        images: [V, 3, H, W] in [0, 1], on white, from :func:`~pipeline_core.cameras.orbit` with its default distance
        azimuth, elevation: [V] degrees of the views
        points: [N, 3] points of the asset's surface in object units; without them there is no F-score
        judge: "starter", or a CLIP folder or hub id, or a judge

    Returns:
        names and values; with the starter judge and a prompt outside its words, ``{"judged": 0.0}`` alone. CLIP ranks
        such a prompt among what its words become when one is changed, and leaves out what needs the grammar.
    """
    judge = load_judge(judge) if isinstance(judge, str) else judge
    prompt, spec = plain(prompt), caption_of(prompt)
    spec = full(spec) if spec is not None else None
    if spec is None and not judge.knows_any_text:
        return {"judged": 0.0}
    pictures = judge.embed_images(images)
    metrics = {"judged": 1.0} | _ranking(judge, pictures, prompt, spec) | {"view_consistency": _consistency(pictures)}
    fronts = {"janus_score": 0.0}  # what has no front cannot have two
    if spec is None or spec.category in FRONTED:
        fronts = _fronts(_sides(judge, images, pictures, prompt), azimuth, elevation)
    if spec is None:  # who knows whether it has one
        return metrics | {name: value for name, value in fronts.items() if name == "janus_score"}
    metrics |= fronts | _naming(judge, pictures, spec)
    if points is not None:
        metrics |= geometry(np.asarray(points, np.float32), spec)
    return metrics


def truth_images(spec: PropSpec, size: int = SIZE) -> Tensor:
    """Images [8, 3, size, size] of the procedural thing itself, from the same cameras on white: the ceiling."""
    rgba = render([build(spec)], np.array([AZIMUTH]), np.array([ELEVATION]), size=size)[0]
    pixels = torch.from_numpy(rgba).permute(0, 3, 1, 2).float() / 255
    return pixels[:, :3] * pixels[:, 3:] + 1 - pixels[:, 3:]


def _render_size(judge: Judge) -> int:
    return max(SIZE, judge.size)


# -------------------------------------------------------------------------------------------------------- captions


def _ranking(judge: Judge, pictures: Tensor, prompt: str, spec: PropSpec | None) -> dict[str, float]:
    texts = (candidates(spec) if spec is not None else free_candidates(prompt))[0]
    similarity = pictures @ judge.embed_texts(texts).T  # [V, 32]
    mean = similarity.mean(0)
    best_other = mean[1:].max()
    return {
        "r_precision": float(mean[0] > best_other),
        "r_precision_views": float((similarity[:, 0] > similarity[:, 1:].amax(1)).float().mean()),
        "view_agreement": float((judge.scale * similarity).softmax(1)[:, 0].mean()),
        "caption_rank": float((mean >= mean[0]).sum()),
        "caption_margin": float(mean[0] - best_other),
    }


def _naming(judge: Judge, pictures: Tensor, spec: PropSpec) -> dict[str, float]:
    """Category among all of them, colour among all of them, each with the rest of the caption as the prompt has it."""
    names = judged_categories()
    categories = [caption(PropSpec(name, spec.colour)) for name in names]
    plain = replace(spec, material=None) if spec.material == "golden" else spec
    colours = [name for name in COLOURS if name != spec.colour2]
    tinted = [caption(spec if name == spec.colour else replace(plain, colour=name)) for name in colours]
    similarity = pictures.mean(0) @ judge.embed_texts([*categories, *tinted]).T
    category, colour = similarity[: len(categories)].argmax(), similarity[len(categories) :].argmax()
    return {
        "category_correct": float(names[int(category)] == spec.category),
        "colour_correct": float(colours[int(colour)] == spec.colour),
    }


def _consistency(pictures: Tensor) -> float:
    """Mean over the views of the cosine between a view's embedding and the mean embedding of the others."""
    if len(pictures) < 2:
        return 1.0
    others = F.normalize(pictures.sum(0, keepdim=True) - pictures, dim=-1)
    return float((pictures * others).sum(-1).mean())


def _sides(judge: Judge, images: Tensor, pictures: Tensor, prompt: str) -> Tensor:
    """Probabilities [V, 3 or 4] of the sides that views show, the front first: by the judge's head, else by words."""
    told = judge.sides(images)
    if told is not None:
        return told
    texts = [f"{prompt}, {side} view" for side in ("front", "side", "back")]
    return (judge.scale * pictures @ judge.embed_texts(texts).T).softmax(1)


def _fronts(sides: Tensor, azimuth: Tensor, elevation: Tensor) -> dict[str, float]:
    """Whether the front is found where it belongs, and only there; {} without views of both kinds."""
    turn = ((torch.as_tensor(azimuth) + 180) % 360 - 180).abs()
    level = torch.as_tensor(elevation).abs() < 50
    ahead, beside = (turn <= FRONT_WITHIN) & level, (turn >= BESIDE_FROM) & level
    if not ahead.any() or not beside.any():
        return {}
    front = sides.argmax(1) == 0
    found, repeated = bool(front[ahead].all()), bool(front[beside].any())
    return {
        "front_found": float(found),
        "front_repeated": float(repeated),
        "janus": float(not found or repeated),
        "janus_score": float(sides[ahead, 0].mean() * sides[beside, 0].max()),
    }


# -------------------------------------------------------------------------------------------------------- geometry


def surface_points(vertices: np.ndarray, faces: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` points [count, 3] float32, uniform by area on the triangles."""
    corners = vertices[faces].astype(np.float64)
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1)
    total = area.sum()
    if not total > 0:
        return np.zeros((0, 3), np.float32)
    pick = corners[rng.choice(len(faces), count, p=area / total)]
    u, v = rng.random((2, count, 1))
    flip = u + v > 1
    u, v = np.where(flip, 1 - u, u), np.where(flip, 1 - v, v)
    return (pick[:, 0] + u * (pick[:, 1] - pick[:, 0]) + v * (pick[:, 2] - pick[:, 0])).astype(np.float32)


def f_score(points: cKDTree, reference: cKDTree, tau: float) -> tuple[float, float]:
    """F-score at distance ``tau`` (Knapitsch et al. 2017) and mean nearest distance, both ways, of two point sets."""
    forth = reference.query(points.data)[0]
    back = points.query(reference.data)[0]
    precision, recall = float((forth < tau).mean()), float((back < tau).mean())
    return 2 * precision * recall / max(precision + recall, 1e-12), float(forth.mean() + back.mean()) / 2


def geometry(points: np.ndarray, spec: PropSpec, instances: int = INSTANCES) -> dict[str, float]:
    """F-score and Chamfer distance to the best of ``instances`` procedural things of the spec's kind; no alignment."""
    points = points[np.isfinite(points).all(1)]
    if len(points) == 0:
        return {"f_score": 0.0, "chamfer": 1.0}
    tree, best, nearest = cKDTree(points), -1.0, 1.0
    for reference, height in instances_of(spec.category, spec.part, spec.material, instances):
        value, distance = f_score(tree, reference, TAU * height)
        if value > best:
            best, nearest = value, distance / height
    return {"f_score": best, "chamfer": nearest}


@functools.lru_cache(maxsize=64)
def instances_of(category: str, part: str | None, material: str | None, count: int) -> list[tuple[cKDTree, float]]:
    """Trees over POINTS points of ``count`` instances, and their heights. Colours do not matter; parts add geometry."""
    found = []
    for seed in range(count):
        prop = instance(category, part, material, seed)
        xyz, _ = sample_points(prop, POINTS, np.random.default_rng(seed))
        found.append((cKDTree(xyz), float(np.ptp(prop.bounds[:, 1]))))
    return found


def instance(category: str, part: str | None, material: str | None, seed: int) -> Prop:
    """The procedural thing of a number; colours do not matter."""
    return build(PropSpec(category, "yellow", "blue" if part else None, part, material, None, seed))
