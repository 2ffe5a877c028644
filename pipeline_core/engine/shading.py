"""Gaussians lit by their own normals: what geometry is judged by, where colours alone would hide a dent.

    light = Shading("lit", side_lights(len(cameras), generator))
    colours = light.colours(rgb, quats, scales, means, viewmats)        # [V, N, 3]

A Gaussian's normal is its shortest axis, on the side that the camera sees. Light is that of the renders that the
starter is trained on (props/textures.py); its direction is in the camera's frame: x right, y up, z towards the camera.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pipeline_core.props.textures import SIDE_AMBIENT, SIDE_DIFFUSE
from pipeline_core.types import rotation_matrices

TOWARDS_CAMERA = 0.5
"""Added to the z of a normal draw in every direction: a third of the lights stand behind the object."""


@dataclass(frozen=True)
class Shading:
    """How a scene's Gaussians are shown: ``lit`` from the directions ``lights`` [V, 3], or as their ``normals``."""

    kind: Literal["lit", "normals"]
    lights: Tensor

    def colours(self, rgb: Tensor, quats: Tensor, scales: Tensor, means: Tensor, viewmats: Tensor) -> Tensor:
        """Colours [..., V, N, 3] in [0, 1] of Gaussians of colours ``rgb`` [..., N, 3] for ``viewmats`` [..., V, 4, 4].

        ``quats``, ``scales`` and ``means`` are [..., N, 4], [..., N, 3] and [..., N, 3]; the gradient reaches all that
        turns a Gaussian, and its colour.
        """
        normals = facing_normals(quats, scales, means, viewmats)
        if self.kind == "normals":
            return 0.5 + 0.5 * normals
        towards = (normals * self.lights.unsqueeze(-2)).sum(-1, keepdim=True)
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


def side_lights(count: int, generator: torch.Generator) -> Tensor:
    """Directions [count, 3] towards a light, unit vectors on the CPU."""
    light = torch.randn(count, 3, generator=generator) + torch.tensor((0.0, 0.0, TOWARDS_CAMERA))
    return torch.nn.functional.normalize(light, dim=1)
