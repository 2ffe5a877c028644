"""Pictures sampled from a prior: the same as diffusers' pipelines make, and the same in any company."""

import numpy as np
import pytest
import torch

from pipeline_core.priors.sampling import sample_images

ARGUMENTS = {"guidance_scale": 5.0, "steps": 4}


def seeds(*values):
    return [torch.Generator().manual_seed(value) for value in values]


@pytest.mark.parametrize(("kind", "more"), [("sd3", {}), ("sana", {"use_resolution_binning": False})])
def test_a_flow_samples_what_its_pipeline_samples(prior, pipeline, kind, more):
    """By Euler's steps, up to the first level, which is 1 there and 0.999 here."""
    from diffusers import FlowMatchEulerDiscreteScheduler

    p, pipe = prior(kind), pipeline(kind)
    shape, size = (1, p.latent_channels, p.latent_size, p.latent_size), {"height": p.size, "width": p.size}
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    own, pipe.scheduler = pipe.scheduler, FlowMatchEulerDiscreteScheduler(shift=3.0)
    pipe.set_progress_bar_config(disable=True)
    theirs = pipe(
        "a red mug", negative_prompt="a mug", sigmas=list(np.linspace(1, 0, 5)[:-1]), guidance_scale=5.0,
        latents=latents, output_type="pt", **size, **more,
    ).images  # fmt: skip
    pipe.scheduler = own
    ours = sample_images(p, ["a red mug"], torch.Generator().manual_seed(0), negative_prompt="a mug", **ARGUMENTS)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=5e-3)
    assert not torch.allclose(ours, sample_images(p, ["a red mug"], torch.Generator().manual_seed(0), **ARGUMENTS))


@pytest.mark.parametrize("kind", ["sd", "mvdream", "starter-image", "sd3", "sana", "flux2", "z-image"])
def test_a_picture_is_the_same_in_any_company(prior, kind):
    p = prior(kind)
    cameras = (torch.arange(8) * 45.0, torch.full((8,), 15.0)) if p.camera != "none" else None
    many = sample_images(p, ["a red mug", "a mug"] * 4, seeds(*range(8)), cameras=cameras, **ARGUMENTS)
    few = cameras and tuple(angle[:4] for angle in cameras)
    alone = sample_images(p, ["a red mug", "a mug"] * 2, seeds(*range(4)), cameras=few, **ARGUMENTS)
    assert many.shape == (8, 3, p.size, p.size) and many.std() > 0.01 and many.min() >= 0 and many.max() <= 1
    torch.testing.assert_close(alone, many[:4], rtol=1e-3, atol=1e-3)
