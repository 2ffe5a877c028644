"""Gaussians lit by their own normals: what geometry is judged by, where colours alone would hide a dent.

    light = Shading("lit", side_lights(len(cameras), generator))
    colours = light.colours(rgb, quats, scales, means, viewmats)        # [V, N, 3]

A Gaussian's normal is its shortest axis, on the side that the camera sees. Light is that of the renders that the
starter is trained on (props/textures.py), or DreamFusion's (Poole et al. 2022); its direction is in the camera's frame:
x right, y up, z towards the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline_core.props.textures import SIDE_AMBIENT, SIDE_DIFFUSE
from pipeline_core.types import rotation_matrices

TOWARDS_CAMERA, BESIDE_CAMERA = 0.5, 1.25
"""Added to the z of a normal draw in every direction: a third of the lights stand behind the object, or a tenth, as of
lights about the camera, which DreamFusion has at a distance of 1 to 1.5."""
AMBIENT, DIFFUSE = 0.1, 0.9
"""Lambert's shading: AMBIENT + DIFFUSE * max(0, n . l) (DreamFusion's release of threestudio)."""


@dataclass(frozen=True)
class Shading:
    """How a scene's Gaussians are shown: ``lit`` from the directions ``lights`` [V, 3], or as their ``normals``.

    Light is that of the starter's renders, or ``lambert``: for a prior that is told no kind.
    """

    kind: Literal["lit", "normals"]
    lights: Tensor
    lambert: bool = False

    def colours(self, rgb: Tensor, quats: Tensor, scales: Tensor, means: Tensor, viewmats: Tensor) -> Tensor:
        """Colours [..., V, N, 3] in [0, 1] of Gaussians of colours ``rgb`` [..., N, 3] for ``viewmats`` [..., V, 4, 4].

        ``quats``, ``scales`` and ``means`` are [..., N, 4], [..., N, 3] and [..., N, 3]; the gradient reaches all that
        turns a Gaussian, and its colour.
        """
        normals = facing_normals(quats, scales, means, viewmats)
        if self.kind == "normals":
            return 0.5 + 0.5 * normals
        towards = (normals * self.lights.unsqueeze(-2)).sum(-1, keepdim=True)
        if self.lambert:
            return rgb.unsqueeze(-3) * (AMBIENT + DIFFUSE * towards.clamp(min=0))
        return rgb.unsqueeze(-3) * (SIDE_AMBIENT + SIDE_DIFFUSE * (0.5 + 0.5 * towards))


def facing_normals(quats: Tensor, scales: Tensor, means: Tensor, viewmats: Tensor) -> Tensor:
    """Unit normals [..., V, N, 3] in each camera's frame (x right, y up, z towards it), turned to face the camera."""
    axes = rotation_matrices(quats.flatten(0, -2)).unflatten(0, quats.shape[:-1])  # columns
    shortest = scales.argmin(-1)[..., None, None].expand(*scales.shape[:-1], 3, 1)
    normals = axes.gather(-1, shortest).squeeze(-1)
    rotation, position = viewmats[..., :3, :3], viewmats[..., :3, 3]
    seen = normals.unsqueeze(-3) @ rotation.transpose(-1, -2)  # OpenCV's axes: x right, y down, z away
    with torch.no_grad():
        place = means.unsqueeze(-3) @ rotation.transpose(-1, -2) + position.unsqueeze(-2)
        side = torch.where((place * seen).sum(-1, keepdim=True) > 0, -1.0, 1.0)
    x, y, z = (seen * side).unbind(-1)
    return torch.stack([x, -y, -z], dim=-1)


def side_lights(count: int, generator: torch.Generator, towards: float = TOWARDS_CAMERA) -> Tensor:
    """Directions [count, 3] towards a light, unit vectors on the CPU."""
    light = torch.randn(count, 3, generator=generator) + torch.tensor((0.0, 0.0, towards))
    return torch.nn.functional.normalize(light, dim=1)
