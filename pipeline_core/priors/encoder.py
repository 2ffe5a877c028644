"""A distilled encoder (diffusers' AutoencoderTiny) in the place of an image prior's full one.

Distillation encodes every render and differentiates through it: the small network gives about the same latents in a
tenth of the time. It only encodes; images are decoded by the prior's own autoencoder.
"""

from __future__ import annotations

from typing import Any

from pipeline_core.errors import RequestError
from pipeline_core.priors.checks import check_encoder
from pipeline_core.priors.latents import LatentPrior
from pipeline_core.priors.resolve import resolve_model
from pipeline_core.priors.text import load_pretrained, read_json


def load_encoder(ref: str, prior: LatentPrior) -> Any:
    """The distilled encoder ``ref``, checked to give the latents that ``prior`` was trained on, in its precision.

    Raises :class:`RequestError` where it is of another class, or of another family of latents.
    """
    from diffusers import AutoencoderTiny

    folder = resolve_model(ref, "encoder")
    vae = None if prior.vae is None else prior.vae.config
    check_encoder(ref, read_json(folder / "config.json"), vae, prior.model_id)
    encoder = load_pretrained(AutoencoderTiny, folder, "diffusion_pytorch_model", prior.dtype)
    if encoder.config.latent_channels != prior.latent_channels:
        raise RequestError(
            f"image_encoder {ref!r}: {prior.model_id} packs its latents into {prior.latent_channels} channels, and the "
            f"encoder gives {encoder.config.latent_channels}: this prior needs its own autoencoder"
        )
    return encoder
