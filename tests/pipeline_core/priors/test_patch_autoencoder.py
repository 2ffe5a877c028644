"""The patch autoencoder is an orthonormal map; everything it promises follows from that."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from pipeline_core.priors.patch_autoencoder import PatchAutoencoder, fit_patch_autoencoder


def smooth_images(count: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 6, 6, generator=generator) * 2 - 1
    return torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(-1, 1)


def test_basis_is_orthonormal_and_every_channel_counts_once():
    vae = fit_patch_autoencoder(smooth_images(16), patch=4, channels=12)
    assert_close(vae.basis @ vae.basis.T, torch.eye(12), atol=1e-5, rtol=0)


def test_full_basis_reconstructs_exactly():
    images = smooth_images(4)
    vae = fit_patch_autoencoder(images, patch=4, channels=48)
    assert_close(vae.decode(vae.encode(images).latent_dist.mean).sample, images, atol=1e-5, rtol=0)


def test_truncated_error_is_the_variance_left_out():
    images = smooth_images(64)
    vae = fit_patch_autoencoder(images, patch=4, channels=6)
    patches = torch.nn.functional.unfold(images, 4, stride=4).transpose(1, 2).reshape(-1, 48).double()
    eigenvalues = torch.linalg.eigvalsh(torch.cov(patches.T, correction=0)).flip(0)
    error = vae.decode(vae.encode(images).latent_dist.mean).sample - images
    assert_close(error.double().square().mean() * 48, eigenvalues[6:].sum(), rtol=1e-3, atol=1e-7)


def test_scaled_latents_have_unit_power_and_falling_variance():
    images = smooth_images(64)
    vae = fit_patch_autoencoder(images, patch=4, channels=8)
    latents = vae.encode(images).latent_dist.mean * vae.config.scaling_factor
    assert_close(latents.square().mean(), torch.tensor(1.0), rtol=1e-3, atol=0)
    power = latents.square().mean(dim=(0, 2, 3))
    assert bool((power.diff() <= 1e-6).all())


def test_encoding_a_decoded_latent_gives_it_back():
    vae = fit_patch_autoencoder(smooth_images(8), patch=4, channels=5)
    latents = torch.randn(2, 5, 8, 8, generator=torch.Generator().manual_seed(1))
    assert_close(vae.encode(vae.decode(latents).sample).latent_dist.sample(), latents, atol=1e-4, rtol=0)


def test_folder_round_trip(tmp_path):
    vae = fit_patch_autoencoder(smooth_images(8), patch=4, channels=5)
    vae.save_pretrained(tmp_path)
    twin = PatchAutoencoder.from_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.bin"))
    assert twin.config.scaling_factor == vae.config.scaling_factor
    assert_close(twin.basis, vae.basis, atol=0, rtol=0)
    assert_close(twin.mean, vae.mean, atol=0, rtol=0)


def test_too_many_channels_are_refused():
    with pytest.raises(ValueError, match="latent_channels=49"):
        PatchAutoencoder(patch_size=4, latent_channels=49)
