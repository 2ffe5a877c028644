"""What image priors share: prompts that are encoded once, and the autoencoder between images and latents.

A family is a subclass that says how a prompt becomes one row (``_encode_prompt``) and what its network predicts
(``predict``): ``image.py`` has the U-Nets, ``flow.py`` the rectified-flow transformers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline_core.priors.compiled import compile_when_it_pays
from pipeline_core.priors.gradient_scale import GradientScale
from pipeline_core.priors.interface import Camera, Negative, NoiseProcess
from pipeline_core.priors.lora import DENOISERS
from pipeline_core.priors.noise import Generators, row_noise
from pipeline_core.priors.patch_autoencoder import PatchAutoencoder
from pipeline_core.priors.process import OwnsNoise
from pipeline_core.priors.text import Encoder

PROMPT_CACHE = 1024
"""Prompt embeddings kept per prior (SD 1.5: 118 KB each in half precision, SD 3.5: 2.7 MB)."""
PROMPT_BYTES = 1 << 30
"""Bytes that they may take in all (FLUX.2-klein: 7.9 MB each)."""
COMPILED_VIEWS = 6
"""Views of the encoder from which on compiling pays: below, the GPU waits for launches."""


class LatentPrior(OwnsNoise, ABC):
    """Base of the families of image priors.

    Args:
        process: the noise that :meth:`predict` speaks of
        model_id, device, dtype, size, background: see ``interface.ImagePrior``
        encoders: the text encoders in the order of their folders, each with the tokenizer and length that it reads
        vae: diffusers' autoencoder, None where the prior works on pixels
        latent_channels: C of the latents
    """

    camera: Camera = "none"

    def __init__(
        self,
        process: NoiseProcess,
        *,
        model_id: str,
        device: torch.device | str,
        dtype: torch.dtype,
        encoders: Sequence[Encoder],
        vae: Any | None,
        latent_channels: int,
        size: int,
        background: tuple[float, float, float] | None,
    ) -> None:
        super().__init__(process)
        self.model_id, self.device, self.dtype = model_id, torch.device(device), dtype
        self.encoders, self.vae, self.size, self.background = encoders, vae, size, background
        self.latent_channels = latent_channels
        self.latent_size = size // (vae_factor(vae) if vae is not None else 1)
        self._factor, self._shift = latent_scale(vae, device) if vae is not None else (1.0, 0.0)
        self.distilled: Any | None = None
        self._prompts: OrderedDict[str, Tensor] = OrderedDict()

    def speed_up(self) -> None:
        """On a GPU: exchange what is slow in networks of known make (frozen.py), in place."""
        from diffusers import AutoencoderKL

        from pipeline_core.priors.frozen import speed_up

        if isinstance(self.vae, AutoencoderKL):
            speed_up(self.vae)
            compile_when_it_pays(self.vae.encoder, COMPILED_VIEWS, differentiated=True)

    def networks(self) -> dict[str, Any]:
        """The networks that LoRAs change, by the names of their folders."""
        denoiser = {name: getattr(self, name) for name in DENOISERS if hasattr(self, name)}
        texts = {f"text_encoder_{i}" if i > 1 else "text_encoder": e.model for i, e in enumerate(self.encoders, 1)}
        return denoiser | texts

    def use_encoder(self, encoder: Any) -> None:
        """From now on :meth:`encode` asks the distilled ``encoder``; :meth:`decode` stays with the full autoencoder."""
        self.distilled = encoder.to(self.device).requires_grad_(False).eval()
        if self.device.type == "cuda":
            compile_when_it_pays(
                self.distilled.to(memory_format=torch.channels_last).encoder, COMPILED_VIEWS, differentiated=True
            )

    # ------------------------------------------------------------------------------------------------- prompts

    def encode_prompts(self, prompts: list[str]) -> Tensor:
        """Embeddings [B, L, D] of ``prompts`` in the denoiser's precision; each prompt is encoded once and kept.

        Prompts are encoded one at a time, so an embedding depends on others only where these are longer: then it is
        filled up (:meth:`_filled`). What else the network wants (pooled vectors, a mask) travels as the last token(s),
        see :func:`pack_pooled`: a row stays a row.
        """
        rows = []
        for prompt in prompts:
            key = f"not: {prompt}" if isinstance(prompt, Negative) else prompt
            if key not in self._prompts:
                self._prompts[key] = self._encode_prompt(prompt).to(self.device, self.dtype)
                if len(self._prompts) > min(PROMPT_CACHE, PROMPT_BYTES // self._prompts[key].nbytes):
                    self._prompts.popitem(last=False)
            self._prompts.move_to_end(key)
            rows.append(self._prompts[key])
        longest = max(map(len, rows))
        return torch.stack([self._filled(row, longest) for row in rows])

    def _filled(self, row: Tensor, length: int) -> Tensor:
        """``row`` made ``length`` tokens long; only a family whose rows [L, D] differ in L has anything to do."""
        return row

    @abstractmethod
    def _encode_prompt(self, prompt: str) -> Tensor:
        """The row [L, D] of one prompt, of the same D for all prompts."""

    # ------------------------------------------------------------------------------------------------- latents

    def encode(self, images: Tensor, generator: Generators | None = None) -> Tensor:
        """Latents [B, C, h, w] float32 of ``images`` [B, 3, H, W] in [0, 1]; differentiable.

        Images of another size are resized (bilinear, antialiased when shrinking). ``generator``: one a row, or one
        for all, to sample the encoder's posterior; None for its mean. The draw is done in float32 whatever the
        encoder's precision, because half-precision noise would go straight into the distillation gradient.
        """
        if images.shape[-2:] != (self.size, self.size):
            shrink = max(images.shape[-2:]) > self.size
            images = F.interpolate(images.float(), (self.size, self.size), mode="bilinear", antialias=shrink)
        x = images.float() * 2 - 1
        if self.vae is None:
            return x
        encoder = self.distilled or self.vae
        dtype, layout = form_of(encoder)
        scale = GradientScale() if dtype == torch.float16 else None
        x = x if scale is None else scale.out(x)
        encoded = encoder.encode(x.to(self.device, dtype, memory_format=layout))
        if hasattr(encoded, "latent_dist"):
            posterior = encoded.latent_dist
            z = posterior.mean.float()
            if generator is not None and hasattr(posterior, "std"):
                z = z + posterior.std.float() * row_noise(z.shape, generator, z.device)
        else:  # AutoencoderTiny says latents, AutoencoderDC says latent
            z = (encoded.latents if hasattr(encoded, "latents") else encoded.latent).float()
        latents = self._normalise(z) if self.distilled is None else z * self.distilled.config.scaling_factor
        return latents if scale is None else scale.into(latents)

    def decode(self, latents: Tensor) -> Tensor:
        """Images [B, 3, S, S] float32 in [0, 1] of ``latents`` [B, C, h, w]."""
        x = latents
        if self.vae is not None:
            x = self.vae.decode(self._for_network(self._denormalise(latents.float()), self.vae)).sample
        return (x.float() * 0.5 + 0.5).clamp(0, 1)

    def _normalise(self, z: Tensor) -> Tensor:
        """The latents that the denoiser was trained on, of the autoencoder's codes ``z``."""
        return (z - self._shift) * self._factor

    def _denormalise(self, latents: Tensor) -> Tensor:
        """Inverse of :meth:`_normalise`."""
        return latents / self._factor + self._shift

    def _for_network(self, x: Tensor, network: Any) -> Tensor:
        dtype, layout = form_of(network)
        return x.to(self.device, dtype, memory_format=layout)


def pack_pooled(hidden: Tensor, pooled: Tensor) -> Tensor:
    """[L, D] hidden states with ``pooled`` [P] appended as ceil(P / D) more tokens, padded with zeros."""
    tokens = -(-len(pooled) // hidden.shape[-1])
    extra = F.pad(pooled, (0, tokens * hidden.shape[-1] - len(pooled))).reshape(tokens, -1)
    return torch.cat([hidden, extra])


def unpack_pooled(embeddings: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Inverse of :func:`pack_pooled` for rows [B, L + k, D]: hidden states [B, L, D] and pooled [B, width]."""
    tokens = -(-width // embeddings.shape[-1])
    return embeddings[:, :-tokens], embeddings[:, -tokens:].flatten(1)[:, :width]


def vae_factor(vae: Any) -> int:
    """Pixels a side per latent."""
    if isinstance(vae, PatchAutoencoder):
        return int(vae.config.patch_size)
    widths = getattr(vae.config, "encoder_block_out_channels", None) or vae.config.block_out_channels
    return 2 ** (len(widths) - 1)


def latent_scale(vae: Any, device: torch.device | str) -> tuple[float | Tensor, float | Tensor]:
    """(factor, shift) of latents = (z - shift) * factor: numbers, or [1, C, 1, 1] where channels differ.

    A configuration says ``scaling_factor`` and ``shift_factor``, or a mean and a deviation of each channel
    (``latents_mean``, ``latents_std``), which a scaling factor may follow.
    """

    def per_channel(values: Any) -> Tensor:
        return torch.tensor(values, dtype=torch.float32, device=device).reshape(1, -1, 1, 1)

    config = vae.config
    factor = float(getattr(config, "scaling_factor", None) or 1.0)
    shift = float(getattr(config, "shift_factor", None) or 0.0)
    mean, std = getattr(config, "latents_mean", None), getattr(config, "latents_std", None)
    if mean is None or std is None:
        return factor, shift
    return factor / per_channel(std), per_channel(mean)


def form_of(network: Any) -> tuple[torch.dtype, torch.memory_format]:
    """Precision and layout of images that the network wants: those of its first convolution's weights.

    diffusers' own ``dtype`` looks at every module each time: a GPU waits 0.3 ms for it, twice a step (docs/LOG.md).
    """
    weight = next((p for p in network.parameters() if p.ndim == 4 and p.shape[1] > 1 and p.shape[-1] > 1), None)
    if weight is None:
        return network.dtype, torch.contiguous_format
    last = weight.is_contiguous(memory_format=torch.channels_last)
    return weight.dtype, torch.channels_last if last else torch.contiguous_format
