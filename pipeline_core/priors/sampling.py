"""Pictures of an image prior itself, without any asset: what it knows of a prompt.

images = sample_images(prior, ["a red mug"] * 4, torch.Generator(), guidance_scale=5.0, steps=25)
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from pipeline_core.priors.interface import ImagePrior, Negative
from pipeline_core.priors.noise import Generators, row_noise


@torch.no_grad()
def sample_images(
    prior: ImagePrior,
    prompts: list[str],
    generators: Generators,
    *,
    guidance_scale: float,
    steps: int,
    negative_prompt: str = "",
    cameras: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """Images [B, 3, size, size] in [0, 1], one a prompt: steps of the prior's own noise down from pure noise (DDIM,
    Euler's of a flow), with classifier-free guidance u + s (c - u).

    ``generators``: one for all, or one a row, which makes a picture the same in any company. ``cameras``: (azimuth,
    elevation), [B] degrees each; without, rows have none. ``num_views`` rows in a row are views of one object.
    """
    count = len(prompts)
    embeddings = prior.encode_prompts([*prompts, *[Negative(negative_prompt)] * count])
    if cameras is not None:  # unconditional rows have no camera where one may be left out, as in training
        nothing = torch.full((count,), torch.nan)
        without = (nothing, nothing) if prior.camera == "angles" else cameras
        cameras = torch.cat([cameras[0], without[0]]), torch.cat([cameras[1], without[1]])
    shape = (count, prior.latent_channels, prior.latent_size, prior.latent_size)
    x = clean = row_noise(shape, generators, embeddings.device)
    times = prior.nearest(torch.linspace(1, 0, steps + 1)).to(embeddings.device)
    for now, then in itertools.pairwise(times):
        t = now.expand(count)
        conditional, unconditional = prior.predict(x.repeat(2, 1, 1, 1), t.repeat(2), embeddings, cameras).chunk(2)
        guided = unconditional + guidance_scale * (conditional - unconditional)
        clean, _ = prior.x0_and_noise(x, guided, t)
        x = prior.step(x, guided, t, then.expand(count))
    return prior.decode(clean)
