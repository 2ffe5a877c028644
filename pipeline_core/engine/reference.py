"""The picture that a row gives, as a view of the asset: what is rendered there must look like it (DreamGaussian)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import mse_loss

from pipeline_core.cameras import orbit
from pipeline_core.config import Distill
from pipeline_core.engine.scenes import render
from pipeline_core.picture import SIZE, Picture


class ReferenceView:
    """The loss of one picture against renders at azimuth 0 and the picture's elevation, on white."""

    def __init__(self, picture: Picture, stage: Distill, device: torch.device) -> None:
        azimuth, elevation = torch.zeros(1), torch.tensor([picture.elevation])
        cameras = orbit(azimuth, elevation, size=SIZE, distance=stage.distance, fovy=stage.fovy)
        self.stage, self.cameras = stage, cameras.to(device)
        self.colours = torch.from_numpy(picture.on_white())[None].to(device)  # [1, H, W, 3]
        self.alpha = torch.from_numpy(picture.alpha)[None, ..., None].to(device)

    def loss(self, params: dict[str, Tensor], share: float) -> Tensor:
        """Scalar: weighted mean squared distances of colours and of alpha; ``share`` of the stage's steps is done."""
        colours, alpha, _ = render(params, self.cameras, self.colours.new_ones(1, 3))
        distance = self.stage.reference_weight * mse_loss(colours, self.colours)
        distance = distance + self.stage.reference_mask_weight * mse_loss(alpha, self.alpha)
        return distance * (share if self.stage.reference_ramp else 1.0)
