"""What the starter judge is trained on: renders of procedural props that look unlike the prior's training data.

Other lights, tints, texture scales, cameras and backgrounds; a quarter of the props as Gaussians at sampled points,
as blurred as an unfinished asset; and hard negative captions for every image. A chunk is a function of (seed, index)
and a batch of (seed, step), so a run that is interrupted goes on with the same pictures.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline_core.cameras import orbit
from pipeline_core.config import Init
from pipeline_core.files import replaced
from pipeline_core.gaussians.initialise import from_points
from pipeline_core.metrics.negatives import draw, full
from pipeline_core.props.captions import caption
from pipeline_core.props.primitives import COLOUR1, FREQUENCY, METAL, SEED, Prop
from pipeline_core.props.props import CATEGORIES, COLOURS, FRONTED, PropSpec, build, sample_spec
from pipeline_core.props.raycast import render, sample_points
from pipeline_core.props.textures import Lighting
from pipeline_core.rendering.rasterize import rasterize_views
from pipeline_core.types import PointCloud

CHUNK = 1024
VIEWS = 4
"""Cameras per prop in a chunk."""
SPLATS = 0.25
"""Share of the props that are rendered as Gaussians."""
FRONTS = 0.35
"""Share of the props drawn from categories with a front; the rest are of any category."""
WINDOW = 12
"""The newest chunks that a step draws from."""
HARD = (("colour",), ("category",), ("swapped", "colour2"))
"""Kinds of the negatives that every image brings along, beside the captions of the batch: one of each group."""
FIELDS = ("category", "colour", "colour2", "part", "material")


def perturbed(prop: Prop, rng: np.random.Generator) -> Prop:
    """The prop with other paint: texture phase and scale, tints of every piece, sheen."""
    rows = prop.rows.copy()
    n = len(rows)
    rows[:, SEED] = rng.integers(0, 1000, n)
    rows[:, FREQUENCY : FREQUENCY + 3] *= rng.uniform(0.75, 1.35)
    tint = rng.normal(0, 0.02, (1, 3)) + rng.normal(0, 0.015, (n, 3))
    rows[:, COLOUR1 : COLOUR1 + 6] = (rows[:, COLOUR1 : COLOUR1 + 6] + np.tile(tint, 2)).clip(0, 1)
    rows[:, METAL] *= rng.uniform(0, 1.3)
    return Prop(rows, prop.bounds)


def random_light(rng: np.random.Generator) -> Lighting:
    """A light from anywhere above; never so dim that white would pass for grey."""
    ambient = rng.uniform(0.68, 1.0)
    direction = rng.normal(size=3)
    direction[1] = abs(direction[1]) + 0.3
    direction /= np.linalg.norm(direction)
    return Lighting(ambient, rng.uniform(0, 1.12 - ambient), tuple(direction), rng.uniform(0, 0.25))


def _splat(prop: Prop, angles: np.ndarray, light: Lighting, rng: np.random.Generator, size: int) -> np.ndarray:
    """[V, size, size, 4] uint8, straight alpha: the prop as isotropic Gaussians at 600 to 3000 of its points."""
    xyz, rgb = sample_points(prop, int(rng.integers(600, 3000)), rng, lighting=light)
    xyz += rng.normal(0, rng.uniform(0, 0.02), xyz.shape).astype(np.float32)
    settings = Init(num_points=len(xyz), opacity=rng.uniform(0.5, 0.95), scale_factor=rng.uniform(0.6, 1.4))
    cloud = from_points(PointCloud(torch.from_numpy(xyz), torch.from_numpy(rgb)), settings, torch.Generator())
    az, el = torch.from_numpy(angles.astype(np.float32)).unbind(-1)
    cameras = orbit(az, el, size=size)
    image, alpha = rasterize_views(cloud, cameras)
    straight = torch.cat([image / alpha.clamp_min(1e-4), alpha], -1).clamp(0, 1)
    return (straight * 255).round().to(torch.uint8).numpy()


def make_chunk(path: Path, *, seed: int, index: int, count: int = CHUNK, size: int = 64) -> None:
    """Write one chunk: rgba [count, size, size, 4] uint8, angles [count, 2] degrees, specs as JSON."""
    rng = np.random.default_rng([seed, 11, index])
    images, angles = [], []
    specs: list[PropSpec] = []
    while len(specs) < count:
        light = random_light(rng)
        group = [full(sample_spec(rng, split="all", category=_category(rng), composed=0.0)) for _ in range(16)]
        props = [perturbed(build(spec), rng) for spec in group]
        view = np.stack([rng.uniform(-180, 180, (16, VIEWS)), rng.uniform(-20, 55, (16, VIEWS))], -1)
        fovy = rng.uniform(22, 60, (16, VIEWS))
        span = rng.uniform(0.62, 0.95, (16, VIEWS))  # share of the image that the object's sphere takes
        distance = 0.7 / np.sin(np.arctan(np.tan(np.radians(fovy) / 2) * span))
        picture = render(
            props, view[..., 0], view[..., 1], size=size, distance=distance, fovy=fovy, lighting=light, threads=1
        )
        for i in np.flatnonzero(rng.random(16) < SPLATS):
            picture[i] = _splat(props[i], view[i], light, rng, size)
        images.append(picture.reshape(-1, size, size, 4))
        angles.append(view.reshape(-1, 2))
        specs += [spec for spec in group for _ in range(VIEWS)]
    rows = json.dumps([[getattr(s, f) for f in FIELDS] for s in specs[:count]])
    arrays: dict[str, Any] = {
        "rgba": np.concatenate(images)[:count],
        "angles": np.concatenate(angles)[:count].astype(np.float32),
        "specs": np.frombuffer(rows.encode(), np.uint8),
    }
    with replaced(path) as scratch, scratch.open("wb") as file:
        np.savez(file, **arrays)


def _category(rng: np.random.Generator) -> str | None:
    return sorted(FRONTED)[int(rng.integers(len(FRONTED)))] if rng.random() < FRONTS else None


class Chunks:
    """Chunks by index, made when first asked for, the newest :data:`WINDOW` kept in memory."""

    def __init__(self, folder: Path, seed: int, count: int = CHUNK) -> None:
        self.folder, self.seed, self.count = folder, seed, count
        self._open: dict[int, tuple[np.ndarray, np.ndarray, list[PropSpec]]] = {}

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray, list[PropSpec]]:
        if index not in self._open:
            path = self.folder / f"{index:05d}.npz"
            if not path.exists():
                make_chunk(path, seed=self.seed, index=index, count=self.count)
            with np.load(path, allow_pickle=False) as data:
                specs = [PropSpec(**dict(zip(FIELDS, row))) for row in json.loads(data["specs"].tobytes())]
                self._open[index] = data["rgba"], data["angles"], specs
            for old in [i for i in self._open if i <= index - WINDOW]:
                del self._open[old]
        return self._open[index]


@dataclass(frozen=True)
class Batch:
    """``images`` [B, 3, S, S]; ``codes`` [B, 4] category, colour, colour2, part; ``side`` [B], -1 = not to be said;
    ``texts`` B captions, then B * len(HARD) negatives of image 0, 1, ..., None where there is none of that kind."""

    images: Tensor
    codes: Tensor
    side: Tensor
    texts: list[str | None]


_COLOUR = {name: i for i, name in enumerate(COLOURS)}
_CATEGORY = {name: i for i, name in enumerate(CATEGORIES)}


def _codes(spec: PropSpec) -> tuple[int, int, int, int]:
    if spec.colour2 is None:
        return _CATEGORY[spec.category], _COLOUR[spec.colour], len(COLOURS), 0
    assert spec.part is not None  # negatives.full
    return _CATEGORY[spec.category], _COLOUR[spec.colour], _COLOUR[spec.colour2], 1 + hash_word(spec.part)


def hash_word(word: str) -> int:
    """A stable code of a word (Python's own hash changes from process to process)."""
    return int.from_bytes(hashlib.sha256(word.encode()).digest()[:4], "little")


def side_label(azimuth: float, flipped: bool, margin: float = 8.0) -> int:
    """Index in SIDES of the quarter turn about ``azimuth`` degrees; -1 within ``margin`` of a diagonal."""
    azimuth = (-azimuth if flipped else azimuth) % 360
    if abs(azimuth % 90 - 45) < margin:
        return -1
    return int(((azimuth + 45) // 90) % 4)


def make_batch(chunks: Chunks, step: int, *, size: int, reuse: float, seed: int) -> Batch:
    """The batch of ``size`` images of one step; every image is seen about ``reuse`` times over a run."""
    rng = np.random.default_rng([seed, 13, step])
    newest = int((step + 1) * size / (reuse * chunks.count))
    picks = rng.integers(max(0, newest - WINDOW + 1), newest + 1, size), rng.integers(0, chunks.count, size)
    rgba, specs, side = [], [], []
    flipped = rng.random(size) < 0.5
    for chunk, row, flip in zip(*picks, flipped):
        images, angles, all_specs = chunks[int(chunk)]
        rgba.append(images[row])
        specs.append(all_specs[row])
        fronted = all_specs[row].category in FRONTED and angles[row, 1] < 50
        side.append(side_label(float(angles[row, 0]), bool(flip)) if fronted else -1)
    texts: list[str | None] = [caption(spec, rng) for spec in specs]
    for spec in specs:
        for kinds in HARD:
            negative = draw(kinds[int(rng.integers(len(kinds)))], spec, rng, CATEGORIES)
            unfair = negative is None or codes_agree(_codes(negative), _codes(spec))
            texts.append(None if negative is None or unfair else caption(negative, rng))
    pixels = torch.from_numpy(np.stack(rgba)).permute(0, 3, 1, 2).float() / 255
    seen = augment(pixels, torch.from_numpy(flipped), torch.Generator().manual_seed(int(rng.integers(2**62))))
    return Batch(seen, torch.tensor([_codes(s) for s in specs]), torch.tensor(side), texts)


_CHECKS = 1 + hash_word("checks")


def codes_agree(said: tuple[int, ...], thing: tuple[int, ...]) -> bool:
    """`negatives.also_true` on the codes of two specs."""
    if said[0] != thing[0]:
        return False
    if said[3] == thing[3] == _CHECKS and {said[1], said[2]} == {thing[1], thing[2]}:
        return True
    return said[1] == thing[1] and (said[3] == 0 or said[2:] == thing[2:])


def augment(rgba: Tensor, flip: Tensor, generator: torch.Generator) -> Tensor:
    """Images [B, 3, S, S] from straight RGBA [B, 4, S, S]: placement, blur, light, background, noise, holes."""

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    b, size = len(rgba), rgba.shape[-1]
    gain = uniform(0.93, 1.07, b, 1, 1, 1) * uniform(0.97, 1.03, b, 3, 1, 1)
    alpha = rgba[:, 3:]
    premultiplied = torch.cat([(rgba[:, :3] * gain).clamp(0, 1) * alpha, alpha], 1)
    angle, zoom, aspect = uniform(-0.07, 0.07, b), uniform(0.85, 1.3, b), uniform(0.92, 1.09, b)
    mirror = torch.where(flip, -1.0, 1.0)
    theta = torch.zeros(b, 2, 3)
    theta[:, 0, 0], theta[:, 0, 1] = angle.cos() * zoom * aspect * mirror, -angle.sin() * zoom
    theta[:, 1, 0], theta[:, 1, 1] = angle.sin() * zoom * mirror, angle.cos() * zoom / aspect
    theta[:, :, 2] = uniform(-0.1, 0.1, b, 2)
    moved = F.grid_sample(
        premultiplied, F.affine_grid(theta, list(rgba.shape), align_corners=False), align_corners=False
    )
    coarse = int(torch.randint(18, 49, (1,), generator=generator))
    blurred = F.interpolate(
        F.interpolate(moved, size=(coarse, coarse), mode="area"),
        size=(size, size),
        mode="bilinear",
        align_corners=False,
    )
    moved = torch.where(torch.rand(b, 1, 1, 1, generator=generator) < 0.35, blurred, moved)
    hole = uniform(-1, 1, b, 2, 1)
    extent = uniform(0.0, 0.3, b, 2, 1) * (torch.rand(b, 1, 1, generator=generator) < 0.2)
    inside = (torch.linspace(-1, 1, size) - hole).abs() < extent  # [B, 2, S]
    moved = moved * ~(inside[:, 0, :, None] & inside[:, 1, None, :])[:, None]
    solid, other = uniform(0, 1, b, 3, 1, 1), uniform(0, 1, b, 3, 1, 1)
    ramp = torch.linspace(0, 1, size)[None, None, :, None]
    patches = F.interpolate(uniform(0, 1, b, 3, 5, 5), size=(size, size), mode="bilinear", align_corners=False)
    kind = torch.rand(b, 1, 1, 1, generator=generator)
    back = torch.where(kind < 0.6, torch.ones(1, 3, 1, 1), solid).expand(b, 3, size, size)
    back = torch.where(kind > 0.8, solid + (other - solid) * ramp, back)
    back = torch.where(kind > 0.9, patches, back)
    noise = torch.randn(b, 3, size, size, generator=generator) * uniform(0, 0.03, b, 1, 1, 1)
    return (moved[:, :3] + (1 - moved[:, 3:]) * back + noise).clamp(0, 1)
