"""The metrics of one asset, by the names under which the catalogue keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline_core.spec import AssetSpec

if TYPE_CHECKING:
    from pipeline_core.types import Gaussians, TexturedMesh


def measure(spec: AssetSpec, gaussians: Gaussians, textured: TexturedMesh) -> dict[str, float]:
    """Counts and health of the mesh; counts of the splat."""
    return {
        "faces": float(len(textured.faces)),
        "vertices": float(len(textured.vertices)),
        "texture_size": float(textured.texture.shape[0]),
        "gaussians": float(len(gaussians)),
    }
