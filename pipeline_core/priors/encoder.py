"""A distilled encoder (diffusers' AutoencoderTiny) in the place of an image prior's full one.

Distillation encodes every render and differentiates through it: the small network gives about the same latents in a
tenth of the time. It only encodes; images are decoded by the prior's own autoencoder.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from pipeline_core.errors import RequestError
from pipeline_core.priors.latents import LatentPrior, vae_factor
from pipeline_core.priors.resolve import resolve_model
from pipeline_core.priors.text import load_pretrained, read_json

DISTILLED_FROM = {"taesd": 0.18215, "taesdxl": 0.13025, "taesd3": 1.5305, "taef1": 0.3611}
"""``scaling_factor`` of the full autoencoder that each of madebyollin's published ones was distilled from."""


def load_encoder(ref: str, prior: LatentPrior) -> Any:
    """The distilled encoder ``ref``, checked to give the latents that ``prior`` was trained on, in its precision.

    Raises :class:`RequestError` where it is of another class, or of another family of latents.
    """
    from diffusers import AutoencoderTiny

    folder = resolve_model(ref, "encoder")
    said = read_json(folder / "config.json").get("_class_name")
    if said != AutoencoderTiny.__name__:
        raise RequestError(
            f"image_encoder {ref!r}: {folder / 'config.json'} is of class {said!r}; a distilled encoder is an "
            "AutoencoderTiny, such as madebyollin/taesd"
        )
    if prior.vae is None:
        raise RequestError(f"image_encoder {ref!r}: {prior.model_id} works on pixels and needs no encoder")
    encoder = load_pretrained(AutoencoderTiny, folder, "diffusion_pytorch_model", prior.dtype)
    full = float(getattr(prior.vae.config, "scaling_factor", None) or 1.0)
    source = DISTILLED_FROM.get(Path(ref).name.lower().partition("@")[0], full)
    given = int(encoder.config.latent_channels), prior.size // vae_factor(encoder)
    wanted = prior.latent_channels, prior.latent_size
    if given != wanted or not math.isclose(source, full, rel_tol=1e-3):
        fits = [name for name, factor in DISTILLED_FROM.items() if math.isclose(factor, full, rel_tol=1e-3)]
        raise RequestError(
            f"image_encoder {ref!r}: it gives {given[0]} channels of {given[1]} x {given[1]} as the autoencoder with "
            f"scaling_factor {source:g} does, but {prior.model_id} was trained on {wanted[0]} channels of {wanted[1]} "
            f"x {wanted[1]} of the one with {full:g}" + "".join(f"; use madebyollin/{name}" for name in fits)
        )
    return encoder
