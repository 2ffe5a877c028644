"""An autoencoder that is one orthonormal matrix: image patches against a PCA basis.

Encoding costs one small matrix product, its gradient is its transpose, and because the rows of the basis are
orthonormal, white noise on the latents is white noise on the pixels (of the subspace): a diffusion model on these
latents behaves as one on pixels, at 1/16 of the positions.

    vae = fit_patch_autoencoder(images, patch=4, channels=16)       # images [N, 3, H, W] in [-1, 1]
    latents = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor
from torch.nn import functional as F


class PointMass:
    """The posterior of a deterministic encoder, with the three names diffusers' callers use."""

    def __init__(self, mean: Tensor) -> None:
        self.mean = mean

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """The mean: there is nothing to draw."""
        return self.mean

    def mode(self) -> Tensor:
        """The mean."""
        return self.mean


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Orthonormal linear autoencoder of ``patch_size`` x ``patch_size`` patches.

    ``encode`` maps images [B, 3, H, W] in [-1, 1] to latents [B, C, H / p, W / p] *before* ``scaling_factor``, as
    diffusers' AutoencoderKL does; ``decode`` is the transpose. Latent channels are in order of falling variance.

    Args:
        patch_size: pixels a side of a patch
        latent_channels: rows of the basis, at most 3 * patch_size^2
        scaling_factor: multiply latents by this before adding noise, so that their mean square is 1
        sample_size: pixels a side of the images it was fitted on
    """

    @register_to_config
    def __init__(
        self, patch_size: int = 4, latent_channels: int = 16, scaling_factor: float = 1.0, sample_size: int = 64
    ) -> None:
        super().__init__()
        size = 3 * patch_size**2
        if not 0 < latent_channels <= size:
            raise ValueError(
                f"latent_channels={latent_channels} must be between 1 and {size} for patch_size={patch_size}"
            )
        self.register_buffer("basis", torch.eye(size)[:latent_channels].clone())  # [C, 3 p^2], orthonormal rows
        self.register_buffer("mean", torch.zeros(size))  # [3 p^2], colour-major as conv weights are

    def _kernel(self) -> Tensor:
        p = self.config.patch_size
        return self.basis.reshape(-1, 3, p, p)

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        """Images [B, 3, H, W] in [-1, 1] to a point mass over latents [B, C, H / p, W / p]."""
        bias = -(self.basis @ self.mean)
        posterior = PointMass(F.conv2d(x, self._kernel(), bias, stride=self.config.patch_size))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(self, z: Tensor, return_dict: bool = True, generator: torch.Generator | None = None) -> Any:
        """Latents [B, C, h, w] (already divided by ``scaling_factor``) to images [B, 3, h p, w p]."""
        p = self.config.patch_size
        mean = self.mean.reshape(1, 3, p, p).repeat(1, 1, z.shape[-2], z.shape[-1])
        sample = F.conv_transpose2d(z, self._kernel(), stride=p) + mean
        return DecoderOutput(sample=sample) if return_dict else (sample,)


def fit_patch_autoencoder(images: Tensor, *, patch: int = 4, channels: int = 16) -> PatchAutoencoder:
    """PCA of the patches of ``images`` [N, 3, H, W] in [-1, 1]; float64 inside, signs fixed, so it is reproducible."""
    n, _, height, width = images.shape
    assert height % patch == 0 and width % patch == 0, images.shape
    patches = F.unfold(images, patch, stride=patch).transpose(1, 2).reshape(-1, 3 * patch**2).double()
    mean = patches.mean(0)
    centred = patches - mean
    variance, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))  # ascending
    basis = vectors.flip(-1)[:, :channels].T
    # An eigenvector's sign is arbitrary: make its largest entry positive.
    largest = basis.gather(1, basis.abs().argmax(1, keepdim=True))
    basis = basis * largest.sign()
    power = variance.flip(-1)[:channels].mean()
    vae = PatchAutoencoder(patch, channels, scaling_factor=float(power.rsqrt()), sample_size=height)
    vae.basis.copy_(basis)
    vae.mean.copy_(mean)
    return vae.requires_grad_(False).eval()
