"""SPZ files (Niantic): a splat in about a fifth of its PLY, gzip about whole columns of bytes.

    write("splat.spz", gaussians, provenance=provenance)

Written as version 2, which every viewer reads; +Y up (RUB), as the format says, so without a turn. Positions have 24
bits, of which as many are a fraction as the size of the asset leaves; all else has 8. Version 2 keeps x, y and z of a
quaternion, which is coarse where w is small, so each Gaussian's axes are renamed first until w is large: the ellipsoid
stays what it is.
"""

from __future__ import annotations

import gzip
import math
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.transform import Rotation

from pipeline_core.errors import DataError
from pipeline_core.files import write_bytes
from pipeline_core.io.splats import build, host, logit, morton_order, sigmoid
from pipeline_core.types import Gaussians

MAGIC, VERSION = 0x5053474E, 2
_HEADER = struct.Struct("<IIIBBBB")
_COLOUR = 0.15
"""Range of the constant harmonic in the file."""
_MOST = 10_000_000
_WIDTHS = {0: 0, 1: 3, 2: 8, 3: 15}
_TURNS = Rotation.create_group("O")
_AXES = _TURNS.as_matrix().round().astype(int)


def write(path: Path, gaussians: Gaussians, *, provenance: Mapping[str, Any]) -> None:
    """Write ``gaussians``, of metres and +Y up. The format has no place for ``provenance``."""
    data = host(gaussians)
    order = morton_order(data["means"])
    data = {name: value[order] for name, value in data.items()}
    largest = float(np.abs(data["means"]).max())
    bits = min(20, 22 - max(0, math.ceil(math.log2(max(largest, 1e-9)))))
    fixed = np.rint(data["means"] * 2.0**bits).astype("<i4")
    quats, scales = _upright(data["quats"], data["scales"])
    sh0, shN = data["sh0"][:, 0], data["shN"]
    columns = [
        fixed.view(np.uint8).reshape(-1, 3, 4)[:, :, :3],
        _byte(sigmoid(data["opacities"]) * 255),
        _byte((sh0 * _COLOUR + 0.5) * 255),
        _byte((scales + 10) * 16),
        _byte((quats[:, 1:] + 1) * 127.5),
        _byte(shN * 128 + 128),
    ]
    body = b"".join(np.ascontiguousarray(column).tobytes() for column in columns)
    head = _HEADER.pack(MAGIC, VERSION, len(fixed), gaussians.sh_degree, bits, 0, 0)
    write_bytes(Path(path), gzip.compress(head + body, compresslevel=9, mtime=0))


def read(path: Path) -> Gaussians:
    """Read an SPZ file of version 2, in metres and +Y up. Raises :class:`DataError`."""
    try:
        data = gzip.decompress(Path(path).read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is not an SPZ file of version 1 to 3: {error}") from None
    if len(data) < _HEADER.size:
        raise DataError(f"{path} is cut short: {len(data)} bytes are no header")
    magic, version, count, degree, bits, _, _ = _HEADER.unpack_from(data)
    if magic != MAGIC or version != VERSION or degree not in _WIDTHS or count > _MOST:
        raise DataError(
            f"{path}: magic {magic:#x}, version {version}, {count} Gaussians, SH degree {degree}; "
            f"want {MAGIC:#x}, version {VERSION}, at most {_MOST}, degree 0 to 3"
        )
    widths = (9, 1, 3, 3, 3, 3 * _WIDTHS[degree])
    if len(data) != _HEADER.size + count * sum(widths):
        raise DataError(f"{path} is cut short: {count} Gaussians do not fit {len(data)} bytes")
    parts, at = [], _HEADER.size
    for width in widths:
        parts.append(np.frombuffer(data, np.uint8, count * width, at).reshape(count, width))
        at += count * width
    positions, alphas, colours, scales, rotations, harmonics = parts
    wide = np.zeros((count, 3, 4), np.uint8)
    wide[:, :, 1:] = positions.reshape(count, 3, 3)
    means = (wide.view("<i4")[:, :, 0] >> 8) / 2.0**bits
    xyz = rotations / 127.5 - 1
    quats = np.concatenate([np.sqrt(np.maximum(1 - (xyz**2).sum(1, keepdims=True), 0)), xyz], axis=1)
    sh0 = (colours / 255 - 0.5) / _COLOUR
    shN = (harmonics.reshape(count, _WIDTHS[degree], 3) - 128.0) / 128
    return build(means, quats, scales / 16 - 10, logit(alphas[:, 0] / 255), sh0, shN)


def _upright(
    quats: NDArray[np.float64], scales: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The same ellipsoids with their axes renamed so that w [N, 4] is as large as it can be, and positive."""
    rotations = Rotation.from_quat(np.roll(quats, -1, axis=1))
    turned = np.stack([(rotations * turn).as_quat() for turn in _TURNS])  # [24, N, 4] xyzw
    best = np.abs(turned[:, :, 3]).argmax(axis=0)
    chosen = np.take_along_axis(turned, best[None, :, None], axis=0)[0]
    chosen = chosen * np.where(chosen[:, 3:] < 0, -1.0, 1.0)
    places = np.abs(_AXES).argmax(axis=1)[best]  # new axis j is old axis places[j]
    return np.roll(chosen, 1, axis=1), np.take_along_axis(scales, places, axis=1)


def _byte(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.rint(values).clip(0, 255).astype(np.uint8)
