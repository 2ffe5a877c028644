"""What an asset looks like, in 192 bits: assets whose bits differ in few places look alike.

    metrics |= look(textured)          # {"look_0": 1.4e14, ...}: four whole numbers below 2**48
    distance(look(one), look(other))   # 0 to 192; at most NEAR = near-duplicates

The bits are the sides of 192 fixed planes on which a few numbers lie (Charikar 2002, "Similarity estimation techniques
from rounding algorithms"): the coarse cosine waves of six small views around the asset, as luma and colours. So the
share of bits that differ is the angle between two looks over 180 degrees. Twelve bands of 16 bits are what the
catalogue's view ``duplicates`` finds pairs by: two looks at most :data:`NEAR` apart have a band in common.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from scipy.fft import dctn

from pipeline_core.cameras import orbit
from pipeline_core.rendering.mesh import render_mesh
from pipeline_core.types import TexturedMesh

NAMES = ("look_0", "look_1", "look_2", "look_3")
"""The metrics that hold a look: 48 bits each, which a float64 holds exactly."""
BITS = 48 * len(NAMES)
BAND = 16
NEAR = BITS // BAND - 1
"""Near-duplicates differ in at most so many bits (10 degrees)."""
SIZE, VIEWS, ELEVATION = 32, 6, 20.0
LUMA, COLOURS = 6, 3
"""Waves a side that are kept of a view's luma, and of each of its two colour differences."""
COLOUR_WEIGHT = 2.0
COMMON = (0.65, 0.3)
"""Ink and squared width of a grey blob in the middle of each view: what all looks have in common, and is taken off."""


def look(textured: TexturedMesh) -> dict[str, float]:
    """The look of a textured mesh in object units, by :data:`NAMES`."""
    azimuth = torch.arange(VIEWS) * (360.0 / VIEWS)
    cameras = orbit(azimuth, torch.full((VIEWS,), ELEVATION), size=SIZE)
    return pack(render_mesh(textured, cameras, supersample=3)[0].numpy())


def pack(images: np.ndarray) -> dict[str, float]:
    """The look of views [VIEWS, SIZE, SIZE, 3] on white."""
    bits = _planes() @ (_waves(images) - _common()) > 0
    words = bits.reshape(len(NAMES), 48) @ (1 << np.arange(48, dtype=np.int64))
    return {name: float(word) for name, word in zip(NAMES, words, strict=True)}


def distance(one: Mapping[str, float], other: Mapping[str, float]) -> int:
    """How many of the 192 bits differ."""
    return sum((int(one[name]) ^ int(other[name])).bit_count() for name in NAMES)


def _waves(images: np.ndarray) -> np.ndarray:
    """The coarse cosine waves of views, as one vector."""
    ink = 1 - images.astype(np.float64)
    luma = ink @ (0.299, 0.587, 0.114)
    colours = np.stack([0.564 * (ink[..., 2] - luma), 0.713 * (ink[..., 0] - luma)])
    waves = dctn(luma, axes=(-2, -1), norm="ortho")[:, :LUMA, :LUMA]
    tints = dctn(colours, axes=(-2, -1), norm="ortho")[..., :COLOURS, :COLOURS]
    return np.concatenate([waves.reshape(-1), COLOUR_WEIGHT * tints.reshape(-1)])


@functools.lru_cache(maxsize=1)
def _common() -> np.ndarray:
    ink, width = COMMON
    at = (np.arange(SIZE) + 0.5) / SIZE * 2 - 1
    blob = 1 - ink * np.exp(-(at[:, None] ** 2 + at**2) / width)
    return _waves(np.broadcast_to(blob[:, :, None], (VIEWS, SIZE, SIZE, 3)))


@functools.lru_cache(maxsize=1)
def _planes() -> np.ndarray:
    """Normals [192, D] of the planes, of plus and minus ones: the same on every machine, for all time."""
    width = len(_common())
    drawn = np.frombuffer(hashlib.shake_256(b"splatmill look").digest(BITS * width // 8), np.uint8)
    return np.unpackbits(drawn).reshape(BITS, width) * 2.0 - 1
