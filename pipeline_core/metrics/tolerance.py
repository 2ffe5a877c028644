"""By how much measures of an asset may differ where only the rounding of sums does: another number of threads, or other
assets in the engine's batch. The evidence is in docs/REPRODUCING.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

TOLERANCES = {
    "gaussians": (0.0, 0.01), "faces": (0.0, 0.01), "vertices": (0.0, 0.25), "watertight": (0.0, 0.0),
    "size_x": (0.005, 0.0), "size_y": (0.005, 0.0), "size_z": (0.005, 0.0),
    "area": (0.0, 0.005), "volume": (0.0, 0.005), "texel_density": (0.0, 0.10), "uv_utilisation": (0.0, 0.15),
    "chamfer": (0.01, 0.0), "f_score": (0.01, 0.0), "mesh_iou": (0.01, 0.0), "mesh_psnr": (0.1, 0.0),
    "judged": (0.0, 0.0), "r_precision": (0.0, 0.0), "caption_margin": (0.02, 0.0), "fidelity": (0.02, 0.0),
    "consistency": (0.005, 0.0), "view_consistency": (0.005, 0.0),
}  # fmt: skip
"""By a metric's name: how far it may lie away, absolute and as a share of what it was; the larger of the two counts.
Others are told by the record and are not held to anything."""


@dataclass(frozen=True)
class Change:
    """A metric that is not what it was: ``allowed`` is how far it may lie away."""

    name: str
    was: float
    now: float
    allowed: float


def beyond(was: Mapping[str, float], now: Mapping[str, float]) -> list[Change]:
    """The metrics of both that lie farther apart than their tolerance."""
    both = [Change(name, was[name], now[name], max(absolute, share * abs(was[name])))
            for name, (absolute, share) in TOLERANCES.items() if name in was and name in now]  # fmt: skip
    return [each for each in both if not abs(each.now - each.was) <= each.allowed]
