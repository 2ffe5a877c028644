"""SuperSplat's compressed PLY: a splat in about a quarter of its PLY, four words a Gaussian, bounds for each 256.

    write("splat.compressed.ply", gaussians, provenance=provenance)

Y-down, as every PLY of a splat; the header's comments say so.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline_core.errors import DataError
from pipeline_core.files import write_bytes
from pipeline_core.frame import flipped
from pipeline_core.io.ply import comments, elements_of
from pipeline_core.io.splats import build, from_largest, host, largest_first, logit, morton_order, sigmoid
from pipeline_core.types import SH_C0, Gaussians

CHUNK = 256
_BOUNDS = [f"{end}_{axis}" for axes in (("x", "y", "z"), ("scale_x", "scale_y", "scale_z"), ("r", "g", "b"))
           for end in ("min", "max") for axis in axes]  # fmt: skip
_WORDS = ["packed_position", "packed_rotation", "packed_scale", "packed_color"]
_ROOT = math.sqrt(2)


def write(path: Path, gaussians: Gaussians, *, provenance: Mapping[str, Any]) -> None:
    """Write ``gaussians``, of metres and +Y up."""
    data = host(flipped(gaussians))
    count, harmonics = len(gaussians), data["shN"].shape[1]
    order = morton_order(data["means"])
    filled = np.concatenate([order, np.full(-count % CHUNK, order[-1])])
    data = {name: value[filled] for name, value in data.items()}
    colours = data["sh0"][:, 0] * SH_C0 + 0.5
    bounds, packed = [], []
    for values in (data["means"], data["scales"].clip(-20, 20), colours):
        chunks = values.reshape(-1, CHUNK, 3)
        low, high = (end(chunks, axis=1).astype("<f4") for end in (np.min, np.max))
        bounds += [low, high]
        extent = (high - low)[:, None].astype(np.float64)
        packed.append(np.where(extent < 1e-5, 0.0, (chunks - low[:, None]) / np.maximum(extent, 1e-5)).reshape(-1, 3))
    position, scale, colour = packed
    # 1 to 254 of 255: 0 and 255 would be read as infinite logits
    alpha = sigmoid(data["opacities"]).clip(1 / 255, 254 / 255)[:, None]
    largest, rest = largest_first(data["quats"])
    words = [
        _pack(position, (11, 10, 11)),
        largest.astype(np.uint32) << 30 | _pack(rest / _ROOT + 0.5, (10, 10, 10)),
        _pack(scale, (11, 10, 11)),
        _pack(np.concatenate([colour, alpha], axis=1), (8, 8, 8, 8)),
    ]
    lines = ["ply", "format binary_little_endian 1.0", *(f"comment {each}" for each in comments(provenance))]
    lines += [f"element chunk {len(filled) // CHUNK}", *(f"property float {name}" for name in _BOUNDS)]
    lines += [f"element vertex {count}", *(f"property uint {name}" for name in _WORDS)]
    lines += [f"element sh {count}"] * (harmonics > 0) + [f"property uchar f_rest_{i}" for i in range(3 * harmonics)]
    channels = data["shN"][:count].transpose(0, 2, 1).reshape(count, -1)
    body = np.concatenate(bounds, axis=1).astype("<f4").tobytes()
    body += np.stack(words, axis=1)[:count].astype("<u4").tobytes()
    body += np.trunc((channels / 8 + 0.5) * 256).clip(0, 255).astype(np.uint8).tobytes()
    write_bytes(Path(path), "\n".join([*lines, "end_header", ""]).encode("ascii") + body)


def read(path: Path) -> Gaussians:
    """Read a compressed PLY, in metres and +Y up. Raises :class:`DataError`."""
    parts = elements_of(Path(path))
    chunk, vertex = parts.get("chunk", {}), parts.get("vertex", {})
    missing = [name for name in _BOUNDS if name not in chunk] + [name for name in _WORDS if name not in vertex]
    if missing:
        raise DataError(f"{path} is not a compressed splat: {', '.join(missing)} are missing")
    position, rotation, scale, colour = (vertex[name].astype(np.uint32) for name in _WORDS)
    count = len(position)
    if len(chunk[_BOUNDS[0]]) * CHUNK < count:
        raise DataError(f"{path}: {count} Gaussians need bounds for each {CHUNK}, {len(chunk[_BOUNDS[0]])} are there")
    ends = np.stack([chunk[name].astype(np.float64) for name in _BOUNDS], axis=1).reshape(-1, 3, 2, 3)
    low, high = np.moveaxis(np.repeat(ends, CHUNK, axis=0)[:count], 2, 0)
    units = [_unpack(position, (11, 10, 11)), _unpack(scale, (11, 10, 11)), _unpack(colour, (8, 8, 8, 8))]
    means, scales, colours = (low[:, i] + (high - low)[:, i] * unit[:, :3] for i, unit in enumerate(units))
    rest = (_unpack(rotation, (10, 10, 10)) - 0.5) * _ROOT
    quats = from_largest((rotation >> 30).astype(np.int64), rest)
    names = sorted(parts.get("sh", {}), key=lambda name: int(name.removeprefix("f_rest_")))
    stored = np.stack([parts["sh"][name] for name in names], axis=1) if names else np.zeros((count, 0))
    channels = np.where(stored == 0, 0.0, np.where(stored == 255, 1.0, (stored + 0.5) / 256))
    shN = ((channels - 0.5) * 8).reshape(count, 3, len(names) // 3).transpose(0, 2, 1)
    return flipped(build(means, quats, scales, logit(units[2][:, 3]), (colours - 0.5) / SH_C0, shN))


def _pack(values: NDArray[np.float64], bits: tuple[int, ...]) -> NDArray[np.uint32]:
    """Values [N, len(bits)] of 0 to 1 in one word, the first in the highest bits."""
    word = np.zeros(len(values), np.uint32)
    for column, size in zip(values.T, bits, strict=True):
        top = (1 << size) - 1
        word = word << np.uint32(size) | np.floor(column * top + 0.5).clip(0, top).astype(np.uint32)
    return word


def _unpack(word: NDArray[np.uint32], bits: tuple[int, ...]) -> NDArray[np.float64]:
    columns, below = [], sum(bits)
    for size in bits:
        below -= size
        columns.append((word >> np.uint32(below) & np.uint32((1 << size) - 1)) / ((1 << size) - 1))
    return np.stack(columns, axis=1)
