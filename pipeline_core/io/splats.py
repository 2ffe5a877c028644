"""What the formats for splats share: the table of them, what is refused, the order that packs well.

    SPLAT_FORMATS["spz"].write(path, gaussians, provenance=provenance)      # gaussians: metres, +Y up

Every module has ``write(path, gaussians, *, provenance)`` and ``read(path)``. Both speak of Gaussians as they stand
beside ``asset.glb``; each format turns them into the frame that its readers expect, and back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline_core.errors import DataError
from pipeline_core.types import Gaussians


@dataclass(frozen=True)
class SplatFormat:
    """One row.

    Args:
        suffix: how its files end.
        module: in ``io/``.
        media_type: IANA's, or what is customary.
        text: what it is, in a word or two.
        lossless: whether every number is kept.
    """

    suffix: str
    module: str
    media_type: str
    text: str
    lossless: bool = False

    def write(self, path: Path, gaussians: Gaussians, *, provenance: Mapping[str, Any]) -> None:
        """Write ``gaussians``, of metres and +Y up. Raises :class:`DataError` for what :func:`check` refuses."""
        check(path, gaussians)
        import_module(f"pipeline_core.io.{self.module}").write(path, gaussians, provenance=provenance)

    def read(self, path: Path) -> Gaussians:
        """The Gaussians of a file, in metres and +Y up. Raises :class:`DataError` that says what is wrong with it."""
        found: Gaussians = import_module(f"pipeline_core.io.{self.module}").read(path)
        return found


# fmt: off
SPLAT_FORMATS = {
    "ply": SplatFormat(".ply", "ply", "application/x-ply", "3DGS PLY", lossless=True),
    "compressed-ply": SplatFormat(".compressed.ply", "compressed_ply", "application/x-ply", "SuperSplat's packed PLY"),
    "spz": SplatFormat(".spz", "spz", "application/octet-stream", "SPZ 2"),
    "sog": SplatFormat(".sog", "sog", "application/zip", "SOG 2"),
    "splat-glb": SplatFormat(".splat.glb", "splat_glb", "model/gltf-binary", "GLB with KHR_gaussian_splatting",
                             lossless=True),
}
# fmt: on


def check(path: Path, gaussians: Gaussians) -> None:
    """Raises :class:`DataError` that names the file and the field where there is nothing to write, or a value that is
    no number."""
    if not len(gaussians):
        raise DataError(f"{path}: there are no Gaussians to write; the splat is empty")
    for name, value in gaussians.tensors().items():
        bad = int((~value.isfinite()).reshape(len(value), -1).any(dim=1).sum()) if value.numel() else 0
        if bad:
            raise DataError(f"{path}: {bad} of {len(value)} Gaussians have NaN or infinite {name}; remove them first")


def about(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of its asset, as JSON: id, prompt and seed."""
    return {name: provenance[name] for name in ("asset_id", "prompt", "seed")}


def host(gaussians: Gaussians) -> dict[str, NDArray[np.float64]]:
    """The tensors as float64 arrays by name, quaternions normalised."""
    arrays = {name: value.detach().cpu().double().numpy() for name, value in gaussians.tensors().items()}
    length = np.linalg.norm(arrays["quats"], axis=1, keepdims=True)
    arrays["quats"] = np.where(length > 0, arrays["quats"] / np.maximum(length, 1e-300), [1.0, 0, 0, 0])
    return arrays


def morton_order(xyz: NDArray[np.float64]) -> NDArray[np.int64]:
    """Indices [N] that put points [N, 3] along a Z-order curve: neighbours in space become neighbours in the file."""
    extent = np.maximum(np.ptp(xyz, axis=0), 1e-12)
    cells = ((xyz - xyz.min(axis=0)) / extent * 1023).astype(np.int64)
    code = sum(((cells >> bit & 1) @ [1 << 3 * bit, 2 << 3 * bit, 4 << 3 * bit] for bit in range(10)), np.int64(0))
    return np.argsort(code, kind="stable")


def largest_first(quats: NDArray[np.float64]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of unit quaternions [N, 4]: which part is largest [N], and the other three [N, 3] where that one is positive."""
    largest = np.abs(quats).argmax(axis=1)
    signed = quats * np.where(np.take_along_axis(quats, largest[:, None], 1) < 0, -1.0, 1.0)
    rest = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest]
    return largest, np.take_along_axis(signed, rest, axis=1)


def from_largest(largest: NDArray[np.int64], rest: NDArray[np.float64]) -> NDArray[np.float64]:
    """The way back from :func:`largest_first`."""
    quats = np.empty((len(rest), 4))
    places = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest]
    np.put_along_axis(quats, places, rest, axis=1)
    missing = np.sqrt(np.maximum(1 - (rest**2).sum(axis=1), 0))
    np.put_along_axis(quats, largest[:, None], missing[:, None], axis=1)
    return quats


def sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Opacities of logits."""
    opacities: NDArray[np.float64] = 0.5 * (1 + np.tanh(logits / 2))
    return opacities


def logit(opacities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Logits of opacities, within 1e-6 of 0 and 1."""
    clipped = opacities.clip(1e-6, 1 - 1e-6)
    logits: NDArray[np.float64] = np.log(clipped / (1 - clipped))
    return logits


def build(
    means: NDArray[Any],
    quats: NDArray[Any],
    scales: NDArray[Any],
    opacities: NDArray[Any],
    sh0: NDArray[Any],
    shN: NDArray[Any],
) -> Gaussians:
    """Gaussians of arrays [N, 3], [N, 4], [N, 3], [N], [N, 3] and [N, K - 1, 3]."""
    import torch

    arrays = {"means": means, "quats": quats, "scales": scales, "opacities": opacities, "sh0": sh0[:, None], "shN": shN}
    return Gaussians(**{k: torch.from_numpy(np.ascontiguousarray(v, dtype=np.float32)) for k, v in arrays.items()})
