"""The splat of an asset, small enough for a page: what our viewer (``web/splat.js``) unpacks.

    packed = pack(Path("splat.ply").read_bytes())      # None where it is no splat.ply as assets have it
    packed.data, packed.about                          # 17 bytes a Gaussian before gzip, and how to read them

Plain numpy, as the catalogue loads no torch.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np

SH_C0 = 0.28209479177387814
NEEDED = [*"xyz", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4)), *(f"f_dc_{i}" for i in range(3))]


@dataclass(frozen=True)
class Packed:
    """``data`` is column after column of ``about["count"]`` Gaussians: x, y, z in 16 bits, little-endian, then in 8
    bits log scales, rotation (wxyz), red, green, blue and opacity; each from ``low`` to ``high`` of its column."""

    data: bytes
    about: dict[str, Any]


def pack(ply: bytes) -> Packed | None:
    """A delivered ``splat.ply`` (float32, Y-down, metres) as the page holds it: +Y up, where the mesh stands.

    Gaussians that nothing would show (opacity below 1/255) are left out. Colours are those without harmonics.
    """
    head, _, body = ply.partition(b"end_header\n")
    names = [name.decode() for name in re.findall(rb"^property float (\w+)$", head, re.MULTILINE)]
    if b"comment frame y-down\n" not in head or not {*NEEDED, "opacity"} <= {*names} or len(body) % (4 * len(names)):
        return None
    table = dict(zip(names, np.frombuffer(body, "<f4").reshape(-1, len(names)).T.astype(np.float64), strict=True))
    columns = np.stack([table[name] for name in NEEDED] + [1 / (1 + np.exp(-table["opacity"]))])
    columns[[1, 2, 8, 9]] *= -1  # half a turn about X: y, z of places and of rotations
    columns[6:10] /= np.maximum(np.linalg.norm(columns[6:10], axis=0), 1e-12)
    columns[10:13] = (columns[10:13] * SH_C0 + 0.5).clip(min=0)
    columns = columns[:, columns[13] >= 1 / 255]
    if not columns.size or not np.isfinite(columns).all():
        return None
    low, high = columns.min(axis=1, keepdims=True), columns.max(axis=1, keepdims=True)
    share = (columns - low) / np.maximum(high - low, 1e-12)
    data = np.rint(share[:3] * 65535).astype("<u2").tobytes() + np.rint(share[3:] * 255).astype("u1").tobytes()
    about = {"count": columns.shape[1], "low": low[:, 0].tolist(), "high": high[:, 0].tolist()}
    return Packed(data, about)
