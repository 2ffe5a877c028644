"""SOG files (PlayCanvas): a splat in about a fifth of its PLY, lossless WebP pictures and a ``meta.json`` in one zip.

    write("splat.sog", gaussians, provenance=provenance)

Y-down, as a PLY of a splat is. Positions have 16 bits of their logarithm, quaternions 26, all else is an index into 256
values that fit it best.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from pipeline_core.errors import DataError
from pipeline_core.files import write_bytes
from pipeline_core.frame import flipped
from pipeline_core.io.splats import about, build, from_largest, host, largest_first, logit, morton_order, sigmoid
from pipeline_core.types import Gaussians

_ROOT = math.sqrt(2)
_PALETTE = 1 << 16
"""Most sets of harmonics; Gaussians beyond so many share the nearest."""
_ACROSS = 64
_WIDTHS = {1: 3, 2: 8, 3: 15}
_EPOCH = (1980, 1, 1, 0, 0, 0)


def write(path: Path, gaussians: Gaussians, *, provenance: Mapping[str, Any]) -> None:
    """Write ``gaussians``, of metres and +Y up. The same Gaussians always give the same bytes."""
    data = host(flipped(gaussians))
    order = morton_order(data["means"])
    data = {name: value[order] for name, value in data.items()}
    count, pictures = len(order), {}
    width = math.ceil(math.sqrt(count) / 4) * 4
    size = (width, math.ceil(count / width / 4) * 4)

    logs = np.sign(data["means"]) * np.log1p(np.abs(data["means"]))
    low, high = logs.min(axis=0), logs.max(axis=0)
    steps = np.rint((logs - low) / np.where(high > low, high - low, 1.0) * 65535).astype(np.int64)
    pictures["means_l.webp"] = _picture(steps & 255, size)
    pictures["means_u.webp"] = _picture(steps >> 8, size)
    largest, rest = largest_first(data["quats"])
    turns = np.concatenate([np.rint((rest * _ROOT * 0.5 + 0.5) * 255), 252 + largest[:, None]], axis=1)
    pictures["quats.webp"] = _picture(turns, size)
    scales, scale_index = _codebook(data["scales"])
    pictures["scales.webp"] = _picture(scale_index, size)
    colours, colour_index = _codebook(data["sh0"][:, 0])
    alpha = np.rint(sigmoid(data["opacities"]) * 255)[:, None]
    pictures["sh0.webp"] = _picture(np.concatenate([colour_index, alpha], axis=1), size)
    meta: dict[str, Any] = {
        "version": 2,
        "asset": {"generator": "splatmill", "extras": about(provenance)},
        "count": count,
        "means": {"mins": low.tolist(), "maxs": high.tolist(), "files": ["means_l.webp", "means_u.webp"]},
        "scales": {"codebook": scales, "files": ["scales.webp"]},
        "quats": {"files": ["quats.webp"]},
        "sh0": {"codebook": colours, "files": ["sh0.webp"]},
    }
    if gaussians.sh_degree:
        palette, labels = _palette(data["shN"])
        values, value_index = _codebook(palette)
        rows = -(-len(palette) // _ACROSS)
        blank = np.zeros((rows * _ACROSS - len(palette), *palette.shape[1:]))
        centroids = np.concatenate([value_index, blank]).reshape(-1, 3)
        pictures["shN_centroids.webp"] = _picture(centroids, (_ACROSS * palette.shape[1], rows))
        pictures["shN_labels.webp"] = _picture(np.stack([labels & 255, labels >> 8, labels * 0], axis=1), size)
        files = ["shN_centroids.webp", "shN_labels.webp"]
        meta["shN"] = {"count": len(palette), "bands": gaussians.sh_degree, "codebook": values, "files": files}
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, content in {"meta.json": json.dumps(meta).encode(), **pictures}.items():
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), content)
    write_bytes(Path(path), buffer.getvalue())


def read(path: Path) -> Gaussians:
    """Read a SOG file of version 2, in metres and +Y up. Raises :class:`DataError`."""
    try:
        with zipfile.ZipFile(path) as archive:
            meta = json.loads(archive.read("meta.json"))
            if meta.get("version") != 2:
                raise DataError(f"{path}: SOG version {meta.get('version')}, want 2")
            count = int(meta["count"])

            def pixels(part: str, file: int = 0) -> NDArray[np.int64]:
                with Image.open(io.BytesIO(archive.read(meta[part]["files"][file]))) as image:
                    return np.asarray(image.convert("RGBA"), dtype=np.int64)

            def texels(part: str, file: int = 0) -> NDArray[np.int64]:
                flat = pixels(part, file).reshape(-1, 4)
                if len(flat) < count:
                    raise DataError(f"{path}: {meta[part]['files'][file]} has {len(flat)} texels for {count} Gaussians")
                return flat[:count]

            low, high = (np.array(meta["means"][end], dtype=np.float64) for end in ("mins", "maxs"))
            steps = texels("means")[:, :3] | texels("means", 1)[:, :3] << 8
            logs = low + (high - low) * steps / 65535
            turns, colours = texels("quats"), texels("sh0")
            scales = np.array(meta["scales"]["codebook"], dtype=np.float64)[texels("scales")[:, :3]]
            sh0 = np.array(meta["sh0"]["codebook"], dtype=np.float64)[colours[:, :3]]
            shN = np.zeros((count, 0, 3))
            if "shN" in meta:
                wide = _WIDTHS[meta["shN"]["bands"]]
                labels = texels("shN", 1)
                palette = pixels("shN").reshape(-1, wide, 4)[labels[:, 0] | labels[:, 1] << 8, :, :3]
                shN = np.array(meta["shN"]["codebook"], dtype=np.float64)[palette]
    except FileNotFoundError:
        raise DataError(f"{path} does not exist") from None
    except (zipfile.BadZipFile, KeyError, IndexError, TypeError, ValueError, OSError, UnidentifiedImageError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{path} is not a whole SOG file: {error!r}") from None
    means = np.sign(logs) * np.expm1(np.abs(logs))
    quats = from_largest((turns[:, 3] - 252).clip(0, 3), (turns[:, :3] / 255 * 2 - 1) / _ROOT)
    return flipped(build(means, quats, scales, logit(colours[:, 3] / 255), sh0, shN))


def _picture(values: NDArray[Any], size: tuple[int, int]) -> bytes:
    """Values [N, 3 or 4] of 0 to 255 as the bytes of a lossless WebP; hidden colours are kept."""
    width, height = size
    texels = np.zeros((width * height, 4), np.uint8)
    texels[:, 3] = 255
    texels[: len(values), : values.shape[1]] = values
    buffer = io.BytesIO()
    Image.fromarray(texels.reshape(height, width, 4)).save(buffer, "WEBP", lossless=True, exact=True, quality=80)
    return buffer.getvalue()


def _codebook(values: NDArray[np.float64]) -> tuple[list[float], NDArray[np.int64]]:
    """256 values that fit ``values`` of any shape best (Lloyd's, from their quantiles), ascending, and the index of the
    nearest for each."""
    flat = np.sort(values.ravel())
    total = np.concatenate([[0.0], flat.cumsum()])
    book = np.unique(np.concatenate([np.quantile(flat, np.linspace(0, 1, 128)), np.linspace(flat[0], flat[-1], 128)]))
    for _ in range(20):
        ends = np.concatenate([[0], np.searchsorted(flat, (book[1:] + book[:-1]) / 2), [len(flat)]])
        held = np.diff(ends)
        book = np.where(held > 0, np.diff(total[ends]) / np.maximum(held, 1), book)
    index = np.searchsorted((book[1:] + book[:-1]) / 2, values)
    return [*book.tolist(), *([float(book[-1])] * (256 - len(book)))], index


def _palette(shN: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sets of harmonics [P, K - 1, 3], and which of them each Gaussian has [N]."""
    count = len(shN)
    if count <= _PALETTE:
        return shN, np.arange(count)
    chosen = torch.from_numpy(shN[np.linspace(0, count - 1, _PALETTE).astype(np.int64)]).float().flatten(1)
    rows = torch.from_numpy(shN).float().flatten(1).split(1024)
    labels = torch.cat([torch.cdist(each, chosen).argmin(dim=1) for each in rows])
    return chosen.double().numpy().reshape(_PALETTE, *shN.shape[1:]), labels.numpy()
